"""Giving nodes back: by a resize, by the autoscaler, or not at all, as `pool.mode` says."""

from __future__ import annotations

from llmd_runbook.clients.gke import Bounds, PoolState
from llmd_runbook.clients.kubernetes import NODES, Kubernetes, Object
from llmd_runbook.errors import DeadlineExceeded
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import gate
from llmd_runbook.stages.planning.facts import POOL_CHANGE
from llmd_runbook.stages.pool.changes import reach
from llmd_runbook.stages.pool.size import left_for, lowered
from llmd_runbook.topology import NODE_POOL_LABEL, gpu_nodes


def minimum_afterwards(profile: Profile, wanted: int) -> int:
    """The autoscaling minimum once no swap needs more: the profile's, or one that is not in the way."""
    return min(profile.pool.min_nodes, wanted) if profile.pool.mode == "resize" else wanted


def bounds_left(profile: Profile, state: PoolState, minimum: int) -> Bounds | None:
    """The autoscaling bounds that let the pool shrink: an autoscaler would undo a resize below its minimum."""
    if state.bounds is None or profile.pool.mode == "observe":
        return state.bounds
    return lowered(state.bounds, minimum)


def shrink(stage: StageRun, kube: Kubernetes, step: StepHandle, wanted: int, *, least: int, minimum: int) -> None:
    """Leave `wanted` nodes, or what GKE has for that many in several zones.

    An autoscaler has until the deadline of the pool to take idle nodes; what it leaves is for the checks to judge.

    Args:
        stage: whose plan has been approved.
        kube: the cluster.
        step: told how it ends.
        wanted: nodes of the pool.
        least: fewer than so many are made up for.
        minimum: of the autoscaling, at most.

    Raises:
        DeadlineExceeded: a resize does not come to its end.
        ClusterError: of the change.
    """
    profile = stage.profile
    mode, name, timeout_s = profile.pool.mode, profile.pool.name, profile.pool.ready_timeout_s
    if mode == "observe":
        step.skipped("pool.mode is observe: the pool is not changed")
        return
    pool = site.gke_pool(profile)
    before = len(gpu_nodes(kube, name))
    zones = max(1, len(pool.describe().locations))
    left = left_for(wanted, zones)

    def too_high() -> bool:
        state = pool.describe()
        return bounds_left(profile, state, minimum) != state.bounds

    def lower() -> str:
        gate.still_holds(stage, POOL_CHANGE)
        bounds = bounds_left(profile, pool.describe(), minimum)
        assert bounds is not None, "only bounds that are there are too high"
        return pool.set_autoscaling(bounds)

    def other_size() -> bool:
        return not least <= len(gpu_nodes(kube, name)) <= left

    def resize() -> str:
        gate.still_holds(stage, POOL_CHANGE)
        return pool.set_size(left // zones)

    with gate.recorded(stage, POOL_CHANGE):
        bounds = reach(pool, step, timeout_s, missing=too_high, change=lower)
    said = f"autoscaling {pool.describe().autoscaling}"
    if mode == "autoscale":
        after = _autoscaled(kube, name, wanted, timeout_s, step)
        bounds.say(step, f"{said}; {before} to {after} nodes", f"{before} to {after} nodes, by the autoscaler")
        return
    with gate.recorded(stage, POOL_CHANGE):
        resized = reach(pool, step, timeout_s, missing=other_size, change=resize)
    after = kube.wait(
        NODES,
        lambda nodes: len(nodes) if least <= len(nodes) <= left else None,
        what=f"{left} nodes in pool {name}",
        timeout_s=timeout_s,
        remedy="look for pods that hold their node (disruption budgets), then run the stage again",
        selector=f"{NODE_POOL_LABEL}={name}",
    )
    changed = [said] if bounds.operation else []
    changed += [f"{before} to {after} nodes"] if resized.operation else []
    bounds.then(resized).say(step, "; ".join(changed), f"{after} nodes already")


def _autoscaled(kube: Kubernetes, pool: str, wanted: int, timeout_s: float, step: StepHandle) -> int:
    """Wait until the autoscaler has taken what is idle, or its time is over; the nodes that are left."""

    def state(nodes: list[Object]) -> str:
        step.progress(f"waiting for the autoscaler to take idle nodes: {len(nodes)} left of the pool, {wanted} needed")
        return f"{len(nodes)} nodes"

    try:
        return kube.wait(
            NODES,
            lambda nodes: len(nodes) if len(nodes) <= wanted else None,
            what=f"the autoscaler to leave {wanted} nodes in pool {pool}",
            timeout_s=timeout_s,
            remedy="",
            selector=f"{NODE_POOL_LABEL}={pool}",
            on_change=state,
        )
    except DeadlineExceeded:
        return len(gpu_nodes(kube, pool))
