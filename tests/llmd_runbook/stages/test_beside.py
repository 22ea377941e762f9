"""Pattern 2 is judged by its pods and by an answer, and neither alone suffices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmd_runbook.clients.kubernetes import INFERENCE_POOLS, PODS, Object
from llmd_runbook.profile import Beside, Profile, Route
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages import beside, site
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.clients.server import Reply, Server, serving
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.memory import Memory

NS = "llm-d"
ANSWER = {"choices": [{"text": "hello"}], "usage": {"prompt_tokens": 2, "completion_tokens": 8}}


class World:
    """A stage beside a Pattern 2 with one pod."""

    def __init__(self, bench: Bench, gateway: Server, ready: str = "True") -> None:
        self.kube, self.gateway = Memory(), gateway
        spec = {"selector": {"matchLabels": {"m": "phi"}}, "targetPorts": [{"number": 8000}]}
        pool: Object = {
            "metadata": {"name": "two", "namespace": NS},
            "spec": spec | {"endpointPickerRef": {"name": "e"}},
        }
        self.kube.add(INFERENCE_POOLS, pool)
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
        meta = {"name": "phi-0", "namespace": NS, "labels": {"m": "phi"}}
        self.kube.add(PODS, {"metadata": meta, "spec": {"containers": [], "nodeName": "n"}, "status": status})
        self.stage: StageRun = begin(
            "02_scale_pool",
            str(bench.profile_file),
            "new",
            identify=lambda _: bench.cluster,
            output=bench.output,
            notebooks=bench.notebooks,
        )
        route = Route(name="r", url=gateway.url, ready_timeout_s=0.01)
        wanted = Beside(model="phi", inference_pool="two", gateway="g2", route=route)
        self.stage.profile = self.stage.profile.model_copy(update={"pattern2": wanted})

    def judged(self) -> list[Check]:
        beside.before(self.stage)
        beside.after(self.stage)
        return self.stage.checks(["pattern2.before", "pattern2.after"])


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as made:
        made.on("/v1/completions", Reply(body=ANSWER))
        yield made


def world(bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch, ready: str = "True") -> World:
    made = World(bench, gateway, ready)

    def kubernetes(_: Profile) -> Memory:
        return made.kube

    monkeypatch.setattr(site, "kubernetes", kubernetes)
    return made


def test_it_answers(bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    found = world(bench, gateway, monkeypatch).judged()
    assert [(check.id, check.verdict) for check in found] == [
        ("pattern2.before", Verdict.PASS),
        ("pattern2.after", Verdict.PASS),
    ]
    assert "8 tokens" in found[0].evidence[0]


def test_a_gateway_that_refuses(bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.on("/v1/completions", Reply(503, "no healthy upstream"))
    found = world(bench, gateway, monkeypatch).judged()
    assert [check.verdict for check in found] == [Verdict.FAIL] * 2
    assert "503: no healthy upstream" in found[1].observed


def test_an_answer_without_a_ready_replica(bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    found = world(bench, gateway, monkeypatch, ready="False").judged()
    assert [check.verdict for check in found] == [Verdict.FAIL] * 2
    assert found[0].observed == "0 of 1 Ready; an answer"


def test_without_a_pattern_2_nothing_is_said(bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(bench, gateway, monkeypatch)
    made.stage.profile = bench.profile
    assert made.judged() == []
    assert gateway.requests == []
