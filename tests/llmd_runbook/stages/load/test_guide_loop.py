"""The guide's Test 4: what its loop shows, by the replicas' counters and by whether the engine is simulated."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.analysis.guide_tests import Outcome
from llmd_runbook.clients.curl import Timed
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.run import StageRun
from llmd_runbook.stages.load import guide_loop
from llmd_runbook.stages.routing.counters import Counters
from llmd_runbook.verdicts import StepStatus
from tests.llmd_runbook.clients.server import Reply, Server, serving


@pytest.mark.parametrize(
    ("ended_s", "answered", "simulated", "verdict", "why"),
    [
        (20.0, 50, False, Outcome.HOLDS, "at once"),
        (2.0, 50, False, Outcome.FAILS, "batched by each replica"),
        (60.0, 50, False, Outcome.FAILS, "at once"),
        (20.0, 50, True, Outcome.NOTHING, "simulated"),
        (20.0, 49, False, Outcome.NOTHING, "49 answers for 50 requests"),
        (20.0, 53, False, Outcome.NOTHING, "53 answers for 50 requests"),
    ],
)
def test_what_fifty_requests_at_once_show(
    ended_s: float, answered: int, simulated: bool, verdict: str, why: str
) -> None:
    rows = guide_loop.judged(Timed(0.1, ended_s), Timed(0.1, 0.3), answered, simulated=simulated)
    assert rows[1][2] == verdict
    assert why in str(rows[1][3])
    assert "0.30 s of which" in str(rows[1][1])
    assert [row[2] for row in (rows[0], rows[2])] == ["shows nothing"] * 2


class Replicas(Counters):
    """Counters that move by what the gateway answered with 200."""

    def __init__(self, gateway: Server, status: int) -> None:
        self.pods, self._gateway, self._status = [{}], gateway, status

    def served_while(self, send: Callable[[], int]) -> dict[str, int]:
        send()
        return {"a": len(self._gateway.asked("/v1/completions")) if self._status == 200 else 0}


def replayed(
    open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch, status: int, **more: Any
) -> StageRun:
    with serving() as gateway:
        gateway.on("/v1/completions", Reply(status, {"choices": []}))
        monkeypatch.setattr("llmd_runbook.stages.site.kubernetes", lambda _: None)
        monkeypatch.setattr(guide_loop, "endpoint", lambda *_: Endpoint(gateway.url, **more))
        monkeypatch.setattr(Counters, "of_pattern3", lambda _: Replicas(gateway, status))
        stage = open_stage("06_throughput_and_cost")
        guide_loop.replay(stage)
        sent = [json.loads(request.body) for request in gateway.asked("/v1/completions")]
        body = {"model": stage.profile.pattern3.model, "prompt": "Hello", "max_tokens": 10}
        assert sent == [body] * len(sent), "the guide's"
    return stage


def test_the_replayed_loop_is_kept_with_what_the_replicas_counted(
    open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = replayed(open_stage, monkeypatch, 200).finish()
    assert result.data["guide_loop"]["answered"] == 50
    assert result.tables[-1].rows[1][2] == "shows nothing"  # simulated


def test_errors_are_no_answers(open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> None:
    result = replayed(open_stage, monkeypatch, 503).finish()
    assert "counted 0 answers for 50 requests" in str(result.tables[-1].rows[1][3])


def test_what_cannot_be_replayed_is_skipped_and_said(
    open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = replayed(open_stage, monkeypatch, 200, bearer_variable="TOKEN").finish()
    assert [step.status for step in result.steps] == [StepStatus.SKIPPED]
    assert "for everybody to read" in result.notes[0].text
    assert result.tables == []
