"""02: the GPU node pool gets the nodes that Pattern 3 needs."""

from __future__ import annotations

from typing import Any

from llmd_runbook.clients.gke import PoolState
from llmd_runbook.clients.kubernetes import NODES, Kubernetes, Object
from llmd_runbook.errors import UsageError
from llmd_runbook.plans import Change, Duration, Plan
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun, StepHandle, changes
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import beside, gate, plan_parts, site
from llmd_runbook.stages.plan_facts import POOL_CHANGE, pool_facts, target_nodes
from llmd_runbook.stages.pool_changes import reach
from llmd_runbook.topology import NODE_POOL_LABEL, GpuNode, gpu_nodes, node_view
from llmd_runbook.verdicts import Table, declare

AUTOSCALING = declare(
    "pool.autoscaling",
    "GKE reports the autoscaling bounds that the profile asks for",
    "see the cluster's operations; somebody else may have changed the pool",
)
SIZE = declare(
    "pool.size",
    "the pool has at least the nodes that the swap needs by its strategy, counted in Kubernetes",
    "look for a stock-out or quota in the pool's conditions; the autoscaler may have moved the size",
)
ALLOCATABLE = declare(
    "pool.allocatable",
    "every node of the pool is Ready, schedulable, of the right kind, and offers its GPU to pods",
    "a Ready node without allocatable GPUs lacks its driver: see the device plug-in's pods on it; "
    "one that is not Ready: kubectl describe node, then repair or replace its machine",
)


def plan(stage: StageRun) -> None:
    """Show what will change and ask whether it is approved; nothing is changed."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    with stage.step("work out the nodes that are needed") as step:
        wanted = target_nodes(profile, kube)
        more = f", {profile.nodes_beside} of them for Pattern 2" if profile.pattern2 else ""
        step.ok(f"{wanted} by strategy {profile.swap.strategy}{more}")
    beside.before(stage)
    readers: dict[str, gate.Read] = {POOL_CHANGE: lambda: pool_facts(site.gke_pool(profile))}
    gate.propose(
        stage, lambda: _plan(stage, kube, wanted), lambda: _target(profile, target_nodes(profile, kube)), readers
    )


def _target(profile: Profile, nodes: int) -> dict[str, Any]:
    pool = profile.pool
    return {
        "pool": f"projects/{pool.project}/locations/{pool.location}/clusters/{pool.cluster}/nodePools/{pool.name}",
        "autoscaling": {"min_nodes": pool.min_nodes, "max_nodes": pool.max_nodes},
        "nodes_at_least": nodes,
        "strategy": profile.swap.strategy,
    }


def _plan(stage: StageRun, kube: Kubernetes, wanted: int) -> Plan:
    profile = stage.profile
    with stage.step("compare the pool with the profile"):
        state = site.gke_pool(profile).describe()
        refuse_unsizable(state)
        nodes = gpu_nodes(kube, profile.pool.name)
    bounds = f"{state.min_nodes} to {state.max_nodes}" if state.autoscaling_enabled else "off"
    then = max(wanted, len(nodes))
    gpus = sum(node.gpus for node in nodes)
    changes = [
        Change("autoscaling of the pool (nodes)", bounds, f"{profile.pool.min_nodes} to {profile.pool.max_nodes}"),
        Change("nodes of the pool", str(len(nodes)), str(then)),
        Change("GPUs of the pool", str(gpus), str(gpus + (then - len(nodes)) * state.accelerator_count)),
    ]
    grows = then > len(nodes)
    several = len(state.locations) > 1
    return Plan(
        changes,
        [
            *(
                ["New nodes cost money from the moment that they start, and until stage 07 or you remove them."]
                if grows
                else []
            ),
            *(
                [f"The pool has {len(state.locations)} zones, and GKE counts sizes and bounds a zone."]
                if several
                else []
            ),
        ],
        durations=_durations(stage) if grows else [],
        prices=plan_parts.prices(kube, profile, nodes_now=len(nodes), nodes_then=then),
        prices_as_of=plan_parts.as_of(profile),
        not_previewed=["Whether the zone has the machines, and the project the quota: GKE says so only when asked."]
        if grows
        else [],
        not_undone=["What the new nodes cost until they are removed."] if grows else [],
    )


def _durations(stage: StageRun) -> list[Duration]:
    deadline_s, key = stage.profile.pool.ready_timeout_s, "pool.ready_timeout_s"
    return plan_parts.durations(
        stage,
        [
            ("set the pool's autoscaling", deadline_s, key),
            ("resize the pool", deadline_s, key),
            ("wait for Ready nodes with allocatable GPUs", deadline_s, key),
        ],
    )


def refuse_unsizable(state: PoolState) -> None:
    """Return for a pool that takes a size by hand; the plan of any other would promise what GKE does not do.

    Raises:
        UsageError: a pool with queued provisioning, or a flex-start one.
    """
    if state.provisioning in ("queued", "flex-start"):
        raise UsageError(
            f"the pool {state.name} is a {state.provisioning} one and takes no size by hand; nothing was changed",
            where=f"node pool {state.name}: provisioning {state.provisioning}",
            reason="its nodes come for a ProvisioningRequest or for pending pods, when Google has the machines",
            remedy="name a standard or a spot pool in `pool.name`",
        )


def apply(stage: StageRun) -> None:
    """Set autoscaling, then the size, each to the end of its operation; a larger pool stays as it is."""
    if gate.permitted(stage, "scale the pool"):
        _apply(stage)


@changes
def _apply(stage: StageRun) -> None:
    profile = stage.profile
    pool, kube = site.gke_pool(profile), site.kubernetes(profile)
    needed, timeout_s = target_nodes(profile, kube), profile.pool.ready_timeout_s
    least, most = profile.pool.min_nodes, profile.pool.max_nodes

    def other_bounds() -> bool:
        state = pool.describe()
        return (state.autoscaling_enabled, state.min_nodes, state.max_nodes) != (True, least, most)

    def set_bounds() -> str:
        gate.still_holds(stage, POOL_CHANGE)
        return pool.set_autoscaling(least, most)

    def too_few() -> bool:
        return len(gpu_nodes(kube, profile.pool.name)) < needed

    def resize() -> str:
        gate.still_holds(stage, POOL_CHANGE)
        return pool.set_size(needed)

    with stage.step("set the pool's autoscaling") as step, gate.recorded(stage, POOL_CHANGE):
        reached = reach(pool, step, timeout_s, missing=other_bounds, change=set_bounds)
        reached.say(step, f"{least} to {most} nodes", "as it is")
    with stage.step("resize the pool") as step, gate.recorded(stage, POOL_CHANGE):
        before = len(gpu_nodes(kube, profile.pool.name))
        reached = reach(pool, step, timeout_s, missing=too_few, change=resize)
        reached.say(step, f"{before} to {needed} nodes", f"{len(gpu_nodes(kube, profile.pool.name))} nodes already")
    with stage.step("wait for Ready nodes with allocatable GPUs") as step:
        usable = wait_for_gpus(kube, profile.pool.name, needed, profile.pool.ready_timeout_s, step)
        step.ok(f"{usable} nodes")


def verify(stage: StageRun) -> Shown:
    """Look again, at GKE and at Kubernetes, whatever `apply` reported; at nothing where the plan was not approved."""
    if shown := gate.refused(stage):
        return shown
    profile = stage.profile
    wanted = profile.pool
    with stage.step("verify the pool"):
        kube = site.kubernetes(profile)
        state = site.gke_pool(profile).describe()
        nodes, needed = gpu_nodes(kube, wanted.name), target_nodes(profile, kube)
    stage.check(
        AUTOSCALING.judge(
            state.autoscaling_enabled and (state.min_nodes, state.max_nodes) == (wanted.min_nodes, wanted.max_nodes),
            expected=f"enabled True, {wanted.min_nodes} to {wanted.max_nodes}",
            observed=f"enabled {state.autoscaling_enabled}, {state.min_nodes} to {state.max_nodes}",
        )
    )
    stage.check(
        SIZE.judge(
            len(nodes) >= needed and state.status == "RUNNING",
            expected=f"at least {needed} nodes, pool RUNNING",
            observed=f"{len(nodes)} nodes, pool {state.status}",
            evidence=list(state.conditions),
        )
    )
    usable = [node for node in nodes if _usable(node) and node.accelerator == wanted.accelerator]
    stage.check(
        ALLOCATABLE.judge(
            len(usable) == len(nodes) > 0,
            expected=f"every node Ready, schedulable, {wanted.accelerator}, with a GPU",
            observed=f"{len(usable)} of {len(nodes)} nodes",
            evidence=[_describe(node) for node in nodes],
        )
    )
    beside.after(stage)
    rows: list[list[str | int | float | None]] = [
        [node.name, "yes" if node.ready else "no", node.gpus, node.accelerator] for node in nodes
    ]
    return stage.table(
        Table(title="GPU nodes", columns=["node", "Ready", "allocatable GPUs", "accelerator"], rows=rows)
    )


def wait_for_gpus(kube: Kubernetes, pool: str, nodes: int, timeout_s: float, step: StepHandle) -> int:
    """Watch until `nodes` nodes of the pool are usable; how many are.

    Raises:
        DeadlineExceeded: with the state of each node.
    """

    def views(items: list[Object]) -> list[GpuNode]:
        return [node_view(item) for item in items]

    def state(items: list[Object]) -> str:
        usable = sum(_usable(node) for node in views(items))
        step.progress(f"{usable} of {nodes} nodes usable", done=usable, total=nodes)
        return "; ".join(_describe(node) for node in views(items)) or "no nodes"

    def done(items: list[Object]) -> int | None:
        usable = sum(_usable(node) for node in views(items))
        return usable if usable >= nodes else None

    return kube.wait(
        NODES,
        done,
        what=f"{nodes} usable nodes in pool {pool}",
        timeout_s=timeout_s,
        remedy="look for a stock-out, a quota, or a missing GPU driver; then run the stage again",
        selector=f"{NODE_POOL_LABEL}={pool}",
        on_change=state,
    )


def _usable(node: GpuNode) -> bool:
    return node.ready and node.schedulable and node.gpus > 0


def _describe(node: GpuNode) -> str:
    why = f" ({node.not_ready})" if node.not_ready else ""
    return f"{node.name}: ready {node.ready}{why}, schedulable {node.schedulable}, {node.gpus} GPUs"
