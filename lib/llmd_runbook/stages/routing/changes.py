"""05: what this stage changes, where the profile asks for it, its plan and the way back; by default that is nothing."""

from __future__ import annotations

from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages.planning import beside, planned
from llmd_runbook.stages.routing import picker_log_level, replica_failure


def plan(stage: StageRun) -> None:
    """Show what is asked for, with its hash, and whether it is approved; nothing is changed.

    Raises:
        NotFound: there is no Pattern 3 to change.
    """
    modules = (picker_log_level, replica_failure)
    planned.plan(stage, {module.NAME: module.planned for module in modules})


def restore(stage: StageRun) -> Shown:
    """Put back what is to be put back; after a change, Pattern 2 must still answer."""
    shown = picker_log_level.restore(stage)
    if planned.done(stage):
        beside.after(stage)
    return shown
