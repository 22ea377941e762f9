"""Bugs planted one at a time, each such as a change might bring back: the random machine finds every one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings

from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.clients.releases import pending
from llmd_runbook.profile import Pattern
from llmd_runbook.run import StageRun, lock
from llmd_runbook.stages import cleanup, site
from llmd_runbook.stages.swap import patterns, rollback, steps, surge
from llmd_runbook.stages.swap.probe import SwapProbe
from tests.drills.model.invariants import Broken
from tests.drills.test_random_machine import RUNS, SEEDED, runs

BUDGET = 300
"""Runs until one fails."""
GENERATED = settings(SEEDED, phases=(Phase.generate,))
"""How to fail with fewer steps is not asked."""

Plant = Callable[[pytest.MonkeyPatch], None]


def shrink_before_the_drain(patch: pytest.MonkeyPatch) -> None:
    """Stage 07 shrinks the pool first: a resize takes nodes from under replicas that serve."""
    remove = patterns.remove

    def shrinks_first(stage: StageRun, pattern: Pattern) -> None:
        with stage.step("shrink the GPU pool") as step:
            cleanup._shrink(stage, site.kubernetes(stage.profile), step)
        remove(stage, pattern)

    patch.setattr(patterns, "remove", shrinks_first)


def the_lease_is_not_checked(patch: pytest.MonkeyPatch) -> None:
    """A change is made without asking whether the lock is still held."""
    patch.setattr(lock.Lock, "check", lambda _: None)


def a_resize_is_repeated(patch: pytest.MonkeyPatch) -> None:
    """What runs on GKE already is not looked for: the call of a killed attempt is made again beside it."""
    patch.setattr("llmd_runbook.clients.gke.GkePool.running_operations", lambda _: [])


def the_route_is_not_moved_back(patch: pytest.MonkeyPatch) -> None:
    """The way back installs Pattern 1 and forgets its traffic."""
    restore, install = rollback._restore, steps.install

    def without_the_route(stage: StageRun, kube: Kubernetes) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(steps, "install", steps.install_servers)
            restore(stage, kube)

    assert install is steps.install
    patch.setattr(rollback, "_restore", without_the_route)


def deleted_before_the_other_is_ready(patch: pytest.MonkeyPatch) -> None:
    """A surge that removes Pattern 1 first."""
    swap = surge.swap

    def removes_first(stage: StageRun, probe: SwapProbe) -> None:
        steps.remove(stage, stage.profile.pattern1)
        swap(stage, probe)

    patch.setattr(surge, "swap", removes_first)


def what_a_killed_helm_left_is_not_recovered(patch: pytest.MonkeyPatch) -> None:
    """A release that is half done stays so, and helm refuses every later change of it."""
    patch.setattr(pending, "recover", lambda binary, namespace, *_: (binary.releases(namespace), []))


PLANTED: list[Plant] = [
    shrink_before_the_drain,
    the_lease_is_not_checked,
    a_resize_is_repeated,
    the_route_is_not_moved_back,
    deleted_before_the_other_is_ready,
    what_a_killed_helm_left_is_not_recovered,
]


@pytest.mark.drills
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((Broken, ExceptionGroup)) as caught:
        runs(range(BUDGET // RUNS), GENERATED)
    assert caught.group_contains(Broken) if isinstance(caught.value, ExceptionGroup) else True
