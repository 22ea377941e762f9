"""A stage's plan and what may come of it: shown, approved as a whole, and looked at again right before each change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from llmd_runbook.clients.kubernetes import NAMESPACES
from llmd_runbook.errors import ApprovalNeeded, Conflict, UsageError
from llmd_runbook.plans import Intent, Plan, Preconditions
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines, show
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside
from llmd_runbook.stages.planning.facts import UNDER_WAY

_KEY = "proposal"
Facts = Mapping[str, Any]
Read = Callable[[], Facts]


@dataclass
class _Proposal:
    """A plan that was shown. `facts` are what each change was planned from, recorded anew after our own changes."""

    plan: Plan
    approved: bool
    intend: Callable[[], Mapping[str, Any]]
    readers: Mapping[str, Read]
    facts: dict[str, Facts]


def propose(
    stage: StageRun, make: Callable[[], Plan], intend: Callable[[], Mapping[str, Any]], readers: Mapping[str, Read]
) -> None:
    """Show a plan, ask whether it is approved, and keep it for `permitted` and `guarded`.

    A plan without a change needs no approval. With `--plan-only` the stage ends here.

    Args:
        stage: the stage.
        make: makes the plan, without its intent.
        intend: makes the target of the intent, from profile and charts as they are then.
        readers: by the name of a change, what reads the facts that it is planned from.
    """
    facts = {name: read() for name, read in readers.items()}  # first: what moves from here on is found
    plan = replace(make(), intent=Intent(stage.stage, stage.cluster.kube_system_uid, intend()))
    announce(stage, plan, facts)
    approved = plan.empty or stage.approved(plan)
    stage.kept[_KEY] = _Proposal(plan, approved and not stage.plan_only, intend, readers, facts)
    if stage.plan_only:
        stage.finish()


def announce(stage: StageRun, plan: Plan, facts: Mapping[str, Facts]) -> None:
    """Show a plan, keep its hash and facts; say what would change before it, or that nothing would be changed."""
    stage.data["plan"] = {"hash": plan.intent.hash if plan.intent else "", "empty": plan.empty}
    stage.data["preconditions"] = {name: dict(found) for name, found in facts.items()}
    show(stage.plan(plan))
    if before := stage.planned_before():
        said = (
            f"Planned on the cluster as it is; {', '.join(before)} would change it first. The hash holds all the same."
        )
        stage.note("Before you go on", said)
        show(lines([said]))
    if plan.empty:
        show(lines(["Nothing would change: this plan needs no approval."]))


def refused(stage: StageRun) -> Shown | None:
    """What to show instead of the verdict on a change that was planned and not made; None where there is none."""
    found: _Proposal | None = stage.kept.get(_KEY)
    if found is None:
        return None
    why = "" if found.approved else "the plan is not approved"
    why = why or beside.stops(stage)
    return lines([f"Not done, so not verified: {why}."]) if why else None


def permitted(stage: StageRun, what: str) -> bool:
    """Whether the plan may be carried out; a skipped step says why not: it is not approved, or Pattern 2 is down.

    Raises:
        UsageError: no plan was made in this attempt.
        Conflict: profile or charts are not what was approved any more.
    """
    found = _proposal(stage)
    if why := "the plan is not approved" if not found.approved else beside.stops(stage):
        with stage.step(what) as step:
            step.skipped(why)
        return False
    wanted = found.plan.intent
    now = Intent(stage.stage, stage.cluster.kube_system_uid, found.intend())
    if wanted is not None and wanted.hash != now.hash:
        raise Conflict(
            "what would be done is not what was approved; nothing was changed",
            where=f"stage {stage.stage}",
            reason="; ".join(Preconditions(flat(wanted.target)).moved(Preconditions(flat(now.target)))),
            remedy="run the stage again: its plan is made anew, and has another hash",
        )
    return True


def still_holds(stage: StageRun, name: str) -> None:
    """Right before one change: what it was planned from must still hold.

    Raises:
        UsageError: no plan was made in this attempt.
        ApprovalNeeded: nobody approved it.
        Conflict: something moved, or this is another cluster; it is named, and nothing is changed.
    """
    found = _proposal(stage)
    if not found.approved:
        raise ApprovalNeeded("the plan is not approved; nothing was changed", where=name, remedy="set its hash")
    uid = site.kubernetes(stage.profile).get(NAMESPACES, "kube-system")["metadata"]["uid"]
    now = found.readers[name]()
    recorded = found.facts.get(name, now)
    if UNDER_WAY in recorded:  # the client waits for its end, and then looks again what is missing
        recorded = now
    then = {"cluster: UID": stage.cluster.kube_system_uid, **recorded}
    Preconditions(then).require(Preconditions({"cluster: UID": uid, **now}), where=name)


@contextmanager
def guarded(stage: StageRun, name: str) -> Iterator[None]:
    """Around one change: `still_holds`, then `recorded`.

    Raises:
        UsageError, ApprovalNeeded, Conflict: of `still_holds`.
    """
    still_holds(stage, name)
    with recorded(stage, name):
        yield


@contextmanager
def recorded(stage: StageRun, name: str) -> Iterator[None]:
    """Around a change that asks `still_holds` itself, after a wait: what it makes of the facts counts afterwards.

    Raises:
        UsageError: no plan was made in this attempt.
    """
    found = _proposal(stage)
    try:
        yield
    except BaseException:
        found.facts.pop(name, None)  # how far the change came is unknown; the next try records what it finds
        raise
    found.facts[name] = found.readers[name]()


def flat(target: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested target as one level of names, so that what differs can be named."""
    found: dict[str, Any] = {}
    for key, value in target.items():
        inner = value if isinstance(value, Mapping) else None
        found |= flat(inner, f"{prefix}{key}: ") if inner else {f"{prefix}{key}": value}
    return found


def _proposal(stage: StageRun) -> _Proposal:
    found: _Proposal | None = stage.kept.get(_KEY)
    if found is None:
        raise UsageError(
            "no plan was made, so nothing may be changed",
            where=f"stage {stage.stage}",
            remedy="run the cell that shows the plan first",
        )
    return found
