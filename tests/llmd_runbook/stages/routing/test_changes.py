"""The opt-in changes of stage 05 without a cluster; on one they are in end_to_end/test_approved_changes.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, NAMESPACES
from llmd_runbook.errors import Conflict, NotFound, UsageError
from llmd_runbook.plans import Change, Price
from llmd_runbook.run import StageRun
from llmd_runbook.run.context import PLAN_ONLY_VARIABLE
from llmd_runbook.stages.planning.planned import Part, require, show_plan
from llmd_runbook.stages.routing import changes, picker_log_level, replica_failure
from llmd_runbook.stages.routing.picker_log_level import ANNOTATION
from tests.llmd_runbook.memory import Memory

CELLS = (
    changes.plan,
    picker_log_level.raise_level,
    replica_failure.measure,
    replica_failure.judge,
    replica_failure.plot,
    changes.restore,
)


def asking_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("the cluster was asked")

    monkeypatch.setattr("llmd_runbook.stages.site.kubernetes", refuse)


def test_what_is_not_asked_for_costs_nothing(
    open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    asking_nobody(monkeypatch)
    stage = open_stage("05_routing_affinity")
    said = [repr(cell(stage)) for cell in CELLS]
    assert said[1:4] == [f"Not asked for (affinity.{name})." for name in ("raise_log_level", *["kill_replica"] * 2)]
    result = stage.finish()
    assert (result.steps, result.checks, result.approvals, result.tables) == ([], [], [], [])


def test_what_is_asked_for_and_never_planned_is_not_done_and_not_passed(
    bench: Any, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    asking_nobody(monkeypatch)
    bench.profile_file.write_text(bench.profile_file.read_text() + "affinity: {kill_replica: true}\n")
    stage = open_stage("05_routing_affinity")
    for cell in CELLS[1:]:
        cell(stage)
    result = stage.finish()
    assert [check.id for check in result.checks] == [spec.id for spec in replica_failure.CHECKS]
    assert {check.verdict for check in result.checks} == {"inconclusive"}
    assert {check.remedy for check in result.checks} == {"approve the plan: set its hash"}
    assert [(step.name, step.status) for step in result.steps] == [("kill one replica during traffic", "skipped")]


def test_pictures_are_loaded_only_to_be_drawn() -> None:
    code = "import sys, llmd_runbook.stages.routing.replica_failure; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def deployment(*args: str, command: tuple[str, ...] = (), note: str | None = None) -> Memory:
    meta: dict[str, Any] = {"name": "epp", "namespace": "llm-d", "uid": "u", "generation": 3}
    if note is not None:
        meta["annotations"] = {ANNOTATION: note}
    container = {"name": "epp", "command": list(command), "args": list(args)}
    kube = Memory()
    kube.add(DEPLOYMENTS, {"metadata": meta, "spec": {"template": {"spec": {"containers": [container]}}}})
    return kube


@pytest.mark.parametrize(
    ("kube", "level", "before"),
    [
        (deployment("--v", "1"), 1, 1),
        (deployment("--pool-name", "p"), 2, None),
        (deployment(command=("epp", "-v=5")), 5, None),
        (deployment("--v=4", command=("epp", "-v=1")), 4, 4),
        (deployment("--v", "4", note="1"), 4, 1),
        (deployment("--v=4", note="absent"), 4, None),
    ],
)
def test_the_level_that_there_is_and_that_which_goes_back(kube: Memory, level: int, before: int | None) -> None:
    found = picker_log_level.read(kube, "llm-d", "epp")
    assert (found.level, found.before) == (level, before)
    assert found.facts["Deployment epp: generation"] == 3


@pytest.mark.parametrize(
    "kube", [deployment("--v=high"), deployment("--v=4", note="low"), deployment("--v=1", "--zap-log-level=info")]
)
def test_a_level_that_cannot_be_set(kube: Memory) -> None:
    with pytest.raises(UsageError, match="cannot read the picker's verbosity") as refused:
        picker_log_level.read(kube, "llm-d", "epp")
    assert refused.value.where == "deployment llm-d/epp"
    assert ANNOTATION in str(refused.value)


def test_plan_only_before_stage_03_says_that_nothing_can_be_planned_yet(
    bench: Any, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no InferencePool yet: no plan, no hash, and no word of nothing to change."""
    monkeypatch.setattr("llmd_runbook.stages.site.kubernetes", lambda _: Memory())
    bench.profile_file.write_text(bench.profile_file.read_text() + "affinity: {raise_log_level: true}\n")
    with pytest.raises(NotFound, match="no InferencePool"):
        changes.plan(open_stage("05_routing_affinity"))
    monkeypatch.setenv(PLAN_ONLY_VARIABLE, "1")
    stage = open_stage("05_routing_affinity")
    changes.plan(stage)
    (attempt,) = bench.store().read().stage("05_routing_affinity").attempts[-1:]
    assert (attempt.status, attempt.verdict) == ("finished", None)
    assert (attempt.result.plan_only, attempt.result.would_change) == (True, True)
    assert attempt.result.approvals == []
    (note,) = attempt.result.notes
    assert note.text.startswith("It depends on the result of stage 03_swap_patterns, so it cannot be approved before")


def picker_of_pattern_3(mark: dict[str, str], monkeypatch: pytest.MonkeyPatch, *args: str) -> Memory:
    """Its Deployment with these annotations and arguments."""
    kube = deployment(*args)
    item = kube.get(DEPLOYMENTS, "epp", "llm-d")
    item |= {"apiVersion": "apps/v1", "kind": "Deployment"}
    item["metadata"]["annotations"] = mark
    monkeypatch.setattr("llmd_runbook.stages.site.pattern3_pool", lambda *_: None)
    monkeypatch.setattr(picker_log_level, "picker", lambda *_: SimpleNamespace(deployment="epp"))
    return kube


ARGO = {"argocd.argoproj.io/tracking-id": "models:apps/Deployment:llm-d/epp"}


def test_a_picker_that_argo_cd_keeps_as_it_is_is_refused_with_the_patch(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = picker_of_pattern_3(ARGO, monkeypatch, "--v", "1")
    with pytest.raises(Conflict, match="in somebody else's care; nothing was changed") as refused:
        picker_log_level.planned(kube, bench.profile)
    assert refused.value.reason == "apps/v1 Deployment llm-d/epp: Argo CD application models"
    remedy = str(refused.value.remedy)
    assert "'1'" in remedy
    assert "'4'" in remedy
    assert ANNOTATION not in remedy  # that one is ours, and nobody commits it


def test_a_picker_that_its_owner_has_given_the_level_needs_no_change(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = picker_of_pattern_3(ARGO, monkeypatch, "--v", "4")
    assert not any(change.needed for change in picker_log_level.planned(kube, bench.profile).changes)


def test_a_picker_in_nobodys_care_is_planned(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kube = picker_of_pattern_3({}, monkeypatch, "--v", "1")
    assert picker_log_level.planned(kube, bench.profile).target["to"] == 4


PART = Part(
    "kill_replica",
    [Change("replicas", "3", "one fewer")],
    ["It hurts."],
    {"pods": 1},
    {"Deployment d: generation": 4},
    diffs=["--- d (now)\n+++ d (then)\n-a\n+b"],
    durations=[("wait for full strength", 60.0, "pattern3.ready_timeout_s")],
    not_previewed=["Which pod."],
    not_undone=["Its cache."],
)


def test_the_plan_of_the_parts_says_all_that_a_plan_must_say(
    open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr("llmd_runbook.stages.planning.gate.show", shown.append)
    stage = open_stage("05_routing_affinity")
    show_plan(stage, [PART], [Price("GPU nodes", 3, 3, 0.5)])
    result = stage.finish()
    assert [table.title.split(" (")[0] for table in result.tables] == ["Plan", "Dollars per hour", "How long"]
    assert result.tables[2].rows == [["wait for full strength", 60.0, "pattern3.ready_timeout_s", "not yet"]]
    said = "\n".join(note.text for note in result.notes)
    for text in ("It hurts.", "Which pod.", "Its cache."):
        assert text in said
    assert "~ d" in repr(shown[0])
    (waiting,) = result.unapproved
    assert result.data["plan"] == {"hash": waiting.hash, "empty": False}
    assert result.data["preconditions"] == {"kill_replica": {"Deployment d: generation": 4}}


def test_a_level_that_is_high_enough_needs_no_approval(
    open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr("llmd_runbook.stages.planning.gate.show", shown.append)
    stage = open_stage("05_routing_affinity")
    show_plan(stage, [Part("raise_log_level", [Change("log level of the picker (-v)", "4", "4")])])
    result = stage.finish()
    assert "Nothing would change: this plan needs no approval." in repr(shown)
    assert (result.approvals, result.data["plan"]) == ([], {"hash": "", "empty": True})


@pytest.mark.parametrize(
    ("uid", "generation", "said"),
    [("uid", 4, ""), ("uid", 5, "generation: 4 became 5"), ("other", 4, "cluster: UID: uid became other")],
)
def test_right_before_the_change_what_moved_is_named(
    open_stage: Callable[[str], StageRun], uid: str, generation: int, said: str
) -> None:
    kube, stage = Memory(), open_stage("05_routing_affinity")
    kube.add(NAMESPACES, {"metadata": {"name": "kube-system", "uid": uid}})
    now = {"Deployment d: generation": generation}
    if not said:
        require(stage, kube, PART, now, where="d")
        return
    with pytest.raises(Conflict) as refused:
        require(stage, kube, PART, now, where="d")
    assert said in (refused.value.reason or "")


def test_the_diff_of_the_pickers_deployment_shows_the_flag_and_the_note() -> None:
    found = picker_log_level.read(deployment("--v", "1"), "llm-d", "epp")
    (text,) = picker_log_level._diffs(found, "llm-d")
    added = [line[1:].strip() for line in text.splitlines() if line.startswith("+") and not line.startswith("+++")]
    assert f"{ANNOTATION}: '1'" in added
    assert any("4" in line for line in added)
    left = picker_log_level.read(deployment("--v", "4", note="1"), "llm-d", "epp")
    assert picker_log_level._diffs(left, "llm-d") == []  # an earlier attempt raised it: it is only put back
