"""The way back to Pattern 1: by itself, verified, and ended as failed; or what to do by hand."""

from __future__ import annotations

from typing import NoReturn

from llmd_runbook.analysis.cutover import OLD
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import (
    ApiError,
    DeadlineExceeded,
    GateFailed,
    LockLost,
    NotFound,
    RollbackFailed,
    RolledBack,
    RunbookError,
    ToolError,
    Unreachable,
)
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.swap import by_hand as swap_by_hand
from llmd_runbook.stages.swap import steps
from llmd_runbook.stages.swap.probe import LAST, SwapProbe
from llmd_runbook.verdicts import declare

REASONS = (DeadlineExceeded, GateFailed, ToolError, ApiError, NotFound, Unreachable)
"""What says that Pattern 3 does not hold. A refusal, a conflict or an interruption says nothing of it: nothing is
changed on their account, and a later attempt goes on."""

SERVES = declare(
    "rollback.serves",
    "after the way back Pattern 1 has all its replicas, the HTTPRoute points at it, and a request was answered",
    "run the commands that the stage shows, then stage 01",
)


def go_back(stage: StageRun, probe: SwapProbe, cause: RunbookError) -> NoReturn:
    """Bring Pattern 1 back where the profile allows it, and end the stage as failed in any case.

    Raises:
        RolledBack: Pattern 1 serves.
        RollbackFailed: it does not; with the cluster's state and the commands that bring it back.
        LockLost: it does not, and somebody else changes the cluster.
        RunbookError: the cause itself, where the profile forbids a way back.
    """
    kube, profile = site.kubernetes(stage.profile), stage.profile
    by_hand = swap_by_hand.commands(profile, kube.context)
    if profile.swap.rollback == "never":
        text = f"{swap_by_hand.state(stage, kube)}.\nTo go back by hand:\n" + "\n".join(by_hand)
        stage.note("Stopped where it failed (swap.rollback: never)", text)
        raise cause
    probe.mark("rolling back")
    try:
        _restore(stage, kube)
        probe.mark("restored")
        probe.wait_for(OLD, LAST, since="restored")  # its record ends with what clients meet now
    except RunbookError as error:
        now = swap_by_hand.state(stage, kube)
        stage.check(SERVES.judge(False, expected="Pattern 1 serves", observed=f"{error.what}; {now}"))
        if isinstance(error, LockLost):  # somebody else changes this cluster: nobody is to type commands beside them
            raise
        raise RollbackFailed(
            "Pattern 3 did not hold, and the way back to Pattern 1 failed",
            where=f"state: {now}",
            reason=f"{_words(cause)}; then: {_words(error)}",
            remedy="bring Pattern 1 back by hand:\n" + "\n".join(by_hand),
        ) from cause
    stage.check(
        SERVES.judge(
            True,
            expected=f"{profile.pattern1.replicas} replicas, the route, an answer of {profile.pattern1.model}",
            observed=swap_by_hand.state(stage, kube),
        )
    )
    raise RolledBack(
        "Pattern 3 did not hold; Pattern 1 serves again",
        where=cause.where,
        reason=_words(cause),
        remedy=f"{cause.remedy or 'see the reason'}; then run stages 02 and 03 again. "
        "The GPU pool keeps its size: stage 07 shrinks it",
    ) from cause


def _restore(stage: StageRun, kube: Kubernetes) -> None:
    """Route first where Pattern 1 still has its replicas; else Pattern 3 goes first, for its GPUs."""
    profile = stage.profile
    pods = steps.pods_of(stage, kube, profile.pattern1)
    ready = [pod for pod in pods if pod.ready and not pod.terminating]
    whole = len(ready) == profile.pattern1.replicas
    if whole:
        steps.install(stage, profile.pattern1)
    with stage.step("remove the route of our own") as step:
        traffic.close_own(kube, profile, profile.pattern3, step)
    if steps.releases_of(stage, profile.pattern3):
        steps.remove(stage, profile.pattern3)
    if not whole:
        steps.install(stage, profile.pattern1)


def _words(error: RunbookError) -> str:
    return error.what + (f": {error.reason}" if error.reason else "")
