"""Pattern 2 is judged by its pods and by an answer, and neither alone suffices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmd_runbook.clients.kubernetes import INFERENCE_POOLS, PODS, Object
from llmd_runbook.plans import Change, Plan
from llmd_runbook.profile import Affinity, Beside, Profile, Route
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside, gate, planned
from llmd_runbook.verdicts import Check, StepStatus, Verdict
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


def changing_calls(stage: StageRun) -> list[str]:
    """What both gates say to an approved plan."""
    plan = Plan([Change("nodes of the pool", "1", "4")], [])
    gate.propose(stage, lambda: plan, lambda: {"nodes": 4}, {})
    stage.profile = stage.profile.model_copy(update={"affinity": Affinity(kill_replica=True)})
    planned.show_plan(stage, [planned.Part("kill_replica", [Change("replicas", "3", "2")], target={"pods": 1})])
    said = [str(gate.permitted(stage, "scale the pool")), str(gate.refused(stage))]
    found = planned.permitted(stage, "kill_replica", "kill one")
    return [*said, "a part" if isinstance(found, planned.Part) else str(found), str(planned.done(stage))]


def test_an_approved_change_waits_until_pattern_2_answers(
    bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.profile_file.write_text(bench.profile_file.read_text() + "approval: self\n")
    gateway.on("/v1/completions", Reply(503, "no healthy upstream"))
    made = world(bench, gateway, monkeypatch)
    beside.before(made.stage)
    permitted, refused, part, done = changing_calls(made.stage)
    assert (permitted, done) == ("False", "False")
    assert "pattern2.before failed: 1 of 1 Ready; " in refused
    assert "503: no healthy upstream" in part
    result = made.stage.finish()
    assert [approval.by for approval in result.approvals] == ["self", "self"]
    skipped = [step for step in result.steps if step.status is StepStatus.SKIPPED]
    assert [step.name for step in skipped] == ["scale the pool", "kill one"]
    assert {step.detail.partition(":")[0] for step in skipped} == {"pattern2.before failed"}


def test_an_approved_change_goes_on_beside_a_pattern_2_that_answers(
    bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.profile_file.write_text(bench.profile_file.read_text() + "approval: self\n")
    made = world(bench, gateway, monkeypatch)
    beside.before(made.stage)
    assert changing_calls(made.stage) == ["True", "None", "a part", "True"]


def test_without_a_pattern_2_nothing_is_said(bench: Bench, gateway: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    made = world(bench, gateway, monkeypatch)
    made.stage.profile = bench.profile
    assert made.judged() == []
    assert gateway.requests == []
