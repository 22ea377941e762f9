"""Opt-in changes of a stage: one plan of several parts, approved as a whole, each done by its own module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmd_runbook.plans import Change, Intent, Plan
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines, show

_KEY = "planned"
"""Where the parts lie in `stage.data` between the cell that plans and those that change."""


@dataclass(frozen=True)
class Part:
    """What one module would change; without a target there is nothing to do.

    Attributes:
        name: key of the part, and of the profile's option that asks for it.
        changes, warnings: for people.
        target: what is approved.
        facts: what it was computed from, compared right before the change.
    """

    name: str
    changes: list[Change]
    warnings: list[str] = field(default_factory=list)
    target: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def show_plan(stage: StageRun, parts: list[Part]) -> None:
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
    )
    show(stage.plan(plan))
    approved = intent is not None and stage.approved(plan) and not stage.plan_only
    stage.data[_KEY] = {
        part.name: {"approved": approved, "target": dict(part.target), "facts": dict(part.facts)} for part in parts
    }


def permitted(stage: StageRun, name: str, step: str) -> Part | Shown:
    """The part as it was planned and approved; else what to show, with a skipped step where it was asked for."""
    if not asked(stage, name):
        return lines([f"Not asked for (affinity.{name})."])
    found = stage.data.get(_KEY, {}).get(name)
    if found and not found["target"]:
        return lines(["Nothing to do: it is as it should be."])
    if not found or not found["approved"]:
        with stage.step(step) as handle:
            handle.skipped("the plan is not approved")
        return lines(["Not done: the plan is not approved."])
    return Part(name, [], [], found["target"], found["facts"])


def asked(stage: StageRun, name: str) -> bool:
    """Whether the profile asks for that part."""
    return bool(getattr(stage.profile.affinity, name))
