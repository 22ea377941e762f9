"""The guide's Tests 2 and 3, replayed against a gateway that answers; who served is what the counters say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llmd_runbook.analysis.guide import TEST2_PROMPT, TEST3_PROMPTS
from llmd_runbook.analysis.routing_facts import Unread
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.run import StageRun
from llmd_runbook.stages.routing import guide_tests
from llmd_runbook.stages.routing.counters import Counters
from llmd_runbook.verdicts import Table
from tests.llmd_runbook.analysis.test_routing_lint import FACTS
from tests.llmd_runbook.clients.server import Reply, Server, serving

ANSWER = {"choices": [{"text": "4"}], "usage": {"prompt_tokens": 16, "completion_tokens": 20}}
ONE, SPREAD = {"a": 5, "b": 0, "c": 0}, {"a": 1, "b": 1, "c": 1}


class Replicas(Counters):
    """Counters that move as the test says, once a test of the guide."""

    def __init__(self, *moves: dict[str, int]) -> None:
        self.pods, self._moves = [{}, {}, {}], iter(moves)

    def served_while(self, send: Callable[[], int]) -> dict[str, int]:
        send()
        return next(self._moves)


class World:
    """A stage, the gateway, and what the counters say."""

    def __init__(self, stage: StageRun, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage, self.gateway, self._patch = stage, gateway, monkeypatch
        monkeypatch.setattr("llmd_runbook.stages.site.kubernetes", lambda _: None)
        monkeypatch.setattr(guide_tests, "endpoint", lambda *_: Endpoint(gateway.url))
        monkeypatch.setattr(guide_tests, "TEST2_PAUSE_S", 0)
        stage.kept["facts"] = FACTS

    def replayed(self, *moves: dict[str, int]) -> Table:
        self._patch.setattr(Counters, "of_pattern3", lambda _: Replicas(*moves))
        guide_tests.replay(self.stage)
        return self.stage.finish().tables[-1]


@pytest.fixture
def world(open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with serving() as gateway:
        gateway.on("/v1/completions", Reply(body=ANSWER))
        yield World(open_stage("05_routing_affinity"), gateway, monkeypatch)


def test_what_is_sent_is_what_the_guide_sends(world: World) -> None:
    world.replayed(ONE, SPREAD)
    model = world.stage.profile.pattern3.model
    sent = [json.loads(request.body) for request in world.gateway.requests]
    assert sent[:5] == [{"model": model, "prompt": TEST2_PROMPT, "max_tokens": 20}] * 5
    different = [{"model": model, "prompt": prompt, "max_tokens": 30} for prompt in TEST3_PROMPTS]
    assert sorted(sent[5:], key=lambda body: TEST3_PROMPTS.index(body["prompt"])) == different


def test_results_that_chance_explains_show_nothing(world: World) -> None:
    """The guide would call all of it passed."""
    table = world.replayed(ONE, SPREAD)
    assert [row[4] for row in table.rows] == ["shows nothing"] * 3
    assert [row[3] for row in table.rows] == ["1.2%", "20.0%", "22.2%"]
    assert table.rows[0][1] == "5/0/0 of 5 requests on 3 replicas"
    assert str(table.rows[0][2]).startswith("100% of runs; hashes of a prompt: 1")
    assert "2" in str(table.rows[2][2])


def test_a_picker_that_scatters_equal_prompts_does_not_hold(world: World) -> None:
    table = world.replayed({"a": 2, "b": 2, "c": 1}, {"a": 3, "b": 0, "c": 0})
    assert [row[4] for row in table.rows] == ["does not hold", "shows nothing", "shows nothing"]
    assert "a picker that works passes in 100% of runs" in str(table.rows[0][5])
    assert "of runs only" in str(table.rows[2][5])


def test_a_skewed_router_makes_chance_likelier(world: World) -> None:
    arm: dict[str, Any] = {
        "replicas": ["a", "b", "c"],
        "groups": ["label 0"],
        "counts": [[28, 1, 1]],
        "unclear": [],
        "cached_tokens": 0.0,
        "prompt_tokens": 1.0,
    }
    world.stage.data["independent"] = arm
    assert world.replayed(ONE, SPREAD).rows[0][3] == "70.8%"  # (28/30)^5 and a little


def test_traffic_of_somebody_else_makes_it_unknown(world: World) -> None:
    table = world.replayed({"a": 7, "b": 0, "c": 0}, SPREAD)
    assert table.rows[0][1] == "the replicas' counters moved by 7 for 5 requests"
    assert (table.rows[0][4], table.rows[0][5]) == ("shows nothing", "what happened is not known")


def test_requests_that_fail_are_said(world: World) -> None:
    world.gateway.on("/v1/completions", Reply(503, "no healthy upstream"))
    table = world.replayed(dict.fromkeys("abc", 0), dict.fromkeys("abc", 0))
    assert str(table.rows[0][1]).startswith("5 of 5 failed: the gateway answered 503")
    assert [row[4] for row in table.rows] == ["shows nothing"] * 3


def test_without_a_replica_nothing_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = Replicas()
    nobody.pods = []
    monkeypatch.setattr(Counters, "of_pattern3", lambda _: nobody)
    assert "no replica is Ready" in repr(guide_tests.replay(world.stage))
    assert world.gateway.requests == []


def test_without_the_pickers_rules_there_is_no_forecast(world: World) -> None:
    world.stage.kept["facts"] = Unread("forbidden")
    table = world.replayed({"a": 2, "b": 2, "c": 1}, SPREAD)
    assert table.rows[0][2] == "not known: forbidden"
    assert table.rows[0][4] == "shows nothing"
