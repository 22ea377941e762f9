"""Opt-in changes of a stage: one plan of several parts, approved as a whole, each done by its own module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmd_runbook.clients.kubernetes import NAMESPACES, Kubernetes
from llmd_runbook.errors import NotFound
from llmd_runbook.plans import Change, Intent, Plan, Preconditions, Price
from llmd_runbook.profile import Load, Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines, show
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside, gate
from llmd_runbook.stages.planning import parts as plan_parts
from llmd_runbook.topology import gpu_nodes

_KEY = "planned"
"""Where the parts lie in `stage.data` between the cell that plans and those that change."""


@dataclass(frozen=True)
class Part:
    """What one module would change; without a target there is nothing to do, or it cannot be done.

    Attributes:
        name: key of the part, and of the profile's option that asks for it.
        changes, warnings: for people.
        target: what is approved.
        facts: what it was computed from, compared right before the change.
        diffs: objects before and after, unified diffs.
        durations: its steps that may take long, each with its deadline (s) and where that comes from.
        not_previewed, not_undone: what the plan cannot show, and what cannot be taken back.
        why_not: why it cannot be done; empty where it can, or where nothing is to be done.
    """

    name: str
    changes: list[Change]
    warnings: list[str] = field(default_factory=list)
    target: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    diffs: list[str] = field(default_factory=list)
    durations: list[tuple[str, float, str]] = field(default_factory=list)
    not_previewed: list[str] = field(default_factory=list)
    not_undone: list[str] = field(default_factory=list)
    why_not: str = ""


def plan(stage: StageRun, options: Mapping[str, Callable[[Kubernetes, Profile], Part]]) -> None:
    """Show what is asked for, with its hash, and whether it is approved; nothing is changed.

    Args:
        options: by the name of the profile's option, what makes its part.

    Raises:
        NotFound: there is no Pattern 3 to change.
    """
    wanted = [make for name, make in options.items() if asked(stage, name)]
    parts, prices = [], []
    if wanted:
        beside.before(stage)
        with stage.step("compare the cluster with what is asked for"):
            kube = site.kubernetes(stage.profile)
            try:
                parts = [make(kube, stage.profile) for make in wanted]
                nodes = len(gpu_nodes(kube, stage.profile.pool.name))
                prices = plan_parts.prices(kube, stage.profile, nodes_now=nodes, nodes_then=nodes)
            except NotFound as error:
                if not stage.plan_only:
                    raise
                stage.wait_for("03_swap_patterns", str(error))
    show_plan(stage, parts, prices)
    if stage.plan_only:
        stage.finish()


def show_plan(stage: StageRun, parts: list[Part], prices: Sequence[Price] = ()) -> None:
    """Show the plan of all parts, ask whether it is approved, and keep it for the cells that change."""
    if not parts:
        show(lines(["Nothing is asked for: this stage changes nothing."]))
        return
    targets = {part.name: part.target for part in parts if part.target}
    intent = Intent(stage.stage, stage.cluster.kube_system_uid, targets) if targets else None
    plan = Plan(
        [change for part in parts for change in part.changes],
        [warning for part in parts for warning in part.warnings],
        intent,
        diffs=[text for part in parts for text in part.diffs],
        durations=plan_parts.durations(stage, [step for part in parts for step in part.durations]),
        prices=list(prices),
        prices_as_of=plan_parts.as_of(stage.profile),
        not_previewed=[text for part in parts for text in part.not_previewed],
        not_undone=[text for part in parts for text in part.not_undone],
    )
    gate.announce(stage, plan, {part.name: part.facts for part in parts})
    approved = intent is not None and stage.approved(plan) and not stage.plan_only
    stage.data[_KEY] = {
        part.name: {
            "approved": approved,
            "target": dict(part.target),
            "facts": dict(part.facts),
            "why_not": part.why_not,
        }
        for part in parts
    }


def permitted(stage: StageRun, name: str, step: str) -> Part | Shown:
    """The part as it was planned and approved; else what to show, with a skipped step where it was asked for."""
    if not asked(stage, name):
        return lines([f"Not asked for ({_section(name)}.{name})."])
    found = stage.data.get(_KEY, {}).get(name)
    if found and not found["target"] and not found["why_not"]:
        return lines(["Nothing to do: it is as it should be."])
    if why := why_not(stage, name):
        with stage.step(step) as handle:
            handle.skipped(why)
        return lines([f"Not done: {why}."])
    return Part(name, [], [], found["target"], found["facts"])


def why_not(stage: StageRun, name: str) -> str:
    """Why a part that was asked for is not done; empty where it may be."""
    found = stage.data.get(_KEY, {}).get(name, {})
    if found.get("why_not"):
        return str(found["why_not"])
    return beside.stops(stage) if found.get("approved") else "the plan is not approved"


def require(stage: StageRun, kube: Kubernetes, part: Part, now: Mapping[str, Any], *, where: str) -> None:
    """Right before the change: cluster and facts must be those that it was planned from.

    Raises:
        Conflict: something moved; it is named, and nothing is changed.
    """
    uid = kube.get(NAMESPACES, "kube-system")["metadata"]["uid"]
    then = Preconditions({"cluster: UID": stage.cluster.kube_system_uid, **part.facts})
    then.require(Preconditions({"cluster: UID": uid, **now}), where=where)


def renew(stage: StageRun, name: str, now: Mapping[str, Any]) -> None:
    """After a change of our own: later changes of that part are compared with what it made of the facts."""
    stage.data[_KEY][name]["facts"] = dict(now)


def done(stage: StageRun) -> bool:
    """Whether a part of the plan was approved and nothing kept it from being carried out."""
    approved = any(part["approved"] and part["target"] for part in stage.data.get(_KEY, {}).values())
    return approved and not beside.stops(stage)


def asked(stage: StageRun, name: str) -> bool:
    """Whether the profile asks for that part."""
    return bool(getattr(getattr(stage.profile, _section(name)), name))


def _section(name: str) -> str:
    """The profile's section that has the option."""
    return "load" if name in Load.model_fields else "affinity"
