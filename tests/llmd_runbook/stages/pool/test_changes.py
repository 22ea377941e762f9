"""Changes of a node pool on a scripted GKE: what runs is waited for, what was begun is never begun again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmd_runbook.clients.gke import GkePool, OperationState
from llmd_runbook.errors import ApiError, Conflict, Unreachable
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages.pool import changes
from llmd_runbook.stages.pool.changes import Reached, reach
from llmd_runbook.verdicts import StepStatus

BEGUN = "2026-11-25T01:00:00Z"


def running(name: str, kind: str = "SET_NODE_POOL_SIZE") -> OperationState:
    return OperationState(name, kind, "RUNNING", "nodePools/pool", BEGUN, "")


class Gke(GkePool):
    """A pool of `size` nodes whose operations end when they are waited for, each doing what it was begun for."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.listed: list[OperationState] = []
        self.does: dict[str, Callable[[], None]] = {}
        self.refusals: list[Exception] = []
        self.calls = 0

    def under_way(self, name: str, does: Callable[[], None] = lambda: None, **other: Any) -> None:
        self.listed.append(running(name, **other))
        self.does[name] = does

    def operations(self) -> list[OperationState]:
        return list(self.listed)

    def operation(self, name: str) -> OperationState:
        return next(item for item in self.listed if item.name == name)

    def wait(self, name: str, timeout_s: float, on_progress: Any = None) -> OperationState:
        found = self.operation(name)
        if on_progress:
            on_progress(found, 0.0)
        if not found.done:
            self.does[name]()
            found = replace(found, status="DONE", error="ZONE_RESOURCE_POOL_EXHAUSTED" if name == "broken" else "")
            self.listed = [found if item.name == name else item for item in self.listed]
        if found.error:
            raise ApiError("it ended with an error", reason=found.error)
        return found

    def set_size(self, node_count: int) -> str:
        self.calls += 1
        if self.refusals:
            raise self.refusals.pop(0)
        self.under_way("ours", lambda: self.resize(node_count))
        return "ours"

    def resize(self, size: int) -> None:
        self.size = size


@pytest.fixture
def step(open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> StepHandle:
    monkeypatch.setattr(changes, "_LOOK_UP_S", 0.0)
    return StepHandle(open_stage("02_scale_pool"), "resize")


def three(gke: Gke, step: StepHandle) -> StepHandle:
    """Reach three nodes; how the step ended."""
    reached = reach(gke, step, 60, missing=lambda: gke.size < 3, change=lambda: gke.set_size(3))
    reached.say(step, "to 3 nodes", "3 nodes already")
    return step


def test_what_is_missing_is_begun_once(step: StepHandle) -> None:
    gke = Gke()
    ended = three(gke, step)
    assert (ended.status, ended.detail, gke.size, gke.calls) == (StepStatus.CHANGED, "to 3 nodes (ours)", 3, 1)


def test_where_nothing_is_missing_nothing_is_begun(step: StepHandle) -> None:
    gke = Gke(size=3)
    ended = three(gke, step)
    assert (ended.status, ended.detail, gke.calls) == (StepStatus.OK, "3 nodes already", 0)


def test_an_operation_that_does_it_already_is_waited_for_and_not_repeated(step: StepHandle) -> None:
    gke = Gke()
    gke.under_way("earlier", lambda: gke.resize(3))
    ended = three(gke, step)
    assert (ended.status, gke.calls) == (StepStatus.OK, 0)
    assert ended.detail == f"3 nodes already (after SET_NODE_POOL_SIZE earlier of {BEGUN})"


def test_after_somebody_elses_operation_it_is_looked_again(step: StepHandle) -> None:
    gke = Gke()
    gke.under_way("upgrade", kind="UPGRADE_NODES")
    ended = three(gke, step)
    assert (ended.status, gke.size, gke.calls) == (StepStatus.CHANGED, 3, 1)
    assert ended.detail == f"to 3 nodes (ours, after UPGRADE_NODES upgrade of {BEGUN})"


def test_that_another_operation_failed_is_its_own_business(step: StepHandle) -> None:
    gke = Gke()
    gke.under_way("broken")
    assert (three(gke, step).status, gke.size) == (StepStatus.CHANGED, 3)


def test_our_own_failure_is_ours(step: StepHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    gke = Gke()

    def begin(_: int) -> str:
        gke.under_way("broken")
        return "broken"

    monkeypatch.setattr(gke, "set_size", begin)
    with pytest.raises(ApiError, match="ended with an error"):
        three(gke, step)


def test_one_that_begins_in_between_is_waited_for_too(step: StepHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    gke = Gke()
    real, first = gke.set_size, [True]

    def between(count: int) -> str:
        if first.pop() if first else False:
            gke.under_way("autoscaler", lambda: gke.resize(2))
            raise Conflict("cannot resize", reason="Cluster is running incompatible operation autoscaler.")
        return real(count)

    monkeypatch.setattr(gke, "set_size", between)
    ended = three(gke, step)
    assert ended.detail == f"to 3 nodes (ours, after SET_NODE_POOL_SIZE autoscaler of {BEGUN})"


def test_a_refusal_that_names_nothing_to_wait_for_is_told(step: StepHandle) -> None:
    gke = Gke()
    gke.refusals = [Conflict("cannot resize"), Conflict("cannot resize")]
    with pytest.raises(Conflict):
        three(gke, step)
    assert gke.calls == 2


def test_a_call_without_an_answer_is_looked_up_and_not_repeated(
    step: StepHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gke = Gke()
    real = gke.set_size

    def answer_lost(count: int) -> str:
        real(count)
        raise Unreachable("no answer", reason="timed out")

    monkeypatch.setattr(gke, "set_size", answer_lost)
    ended = three(gke, step)
    assert (ended.status, ended.detail, gke.size, gke.calls) == (StepStatus.CHANGED, "to 3 nodes (ours)", 3, 1)


def test_a_call_without_an_answer_that_began_nothing_fails(step: StepHandle) -> None:
    gke = Gke()
    gke.under_way("old", lambda: gke.resize(1))
    gke.refusals = [Unreachable("no answer", reason="timed out")]
    with pytest.raises(Unreachable):
        three(gke, step)
    assert gke.calls == 1


def test_two_changes_in_a_step_name_both_operations_and_what_each_waited_for() -> None:
    bounds = Reached("bounds", [running("theirs")])
    for later, said in ((Reached("size", []), "bounds, size"), (Reached("", [running("other")]), "bounds")):
        both = bounds.then(later)
        assert both.operation == said
        assert [item.name for item in both.after] == ["theirs", *(item.name for item in later.after)]
    assert Reached("", []).then(Reached("", [])) == Reached("", [])
