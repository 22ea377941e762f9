"""05: what this stage changes, where the profile asks for it, its plan and the way back; by default that is nothing."""

from __future__ import annotations

from llmd_runbook.errors import NotFound
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside, planned
from llmd_runbook.stages.planning import parts as plan_parts
from llmd_runbook.stages.routing import picker_log_level, replica_failure
from llmd_runbook.topology import gpu_nodes


def plan(stage: StageRun) -> None:
    """Show what is asked for, with its hash, and whether it is approved; nothing is changed."""
    wanted = stage.profile.affinity
    modules = [
        *([picker_log_level] if wanted.raise_log_level else []),
        *([replica_failure] if wanted.kill_replica else []),
    ]
    parts, prices = [], []
    if modules:
        beside.before(stage)
        with stage.step("compare the cluster with what is asked for"):
            kube = site.kubernetes(stage.profile)
            try:
                parts = [module.planned(kube, stage.profile) for module in modules]
                nodes = len(gpu_nodes(kube, stage.profile.pool.name))
                prices = plan_parts.prices(kube, stage.profile, nodes_now=nodes, nodes_then=nodes)
            except NotFound as error:
                if not stage.plan_only:
                    raise
                stage.wait_for("03_swap_patterns", str(error))
    planned.show_plan(stage, parts, prices)
    if stage.plan_only:
        stage.finish()


def restore(stage: StageRun) -> Shown:
    """Put back what is to be put back; after a change, Pattern 2 must still answer."""
    shown = picker_log_level.restore(stage)
    if planned.done(stage):
        beside.after(stage)
    return shown
