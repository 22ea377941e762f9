"""02: the GPU node pool gets the nodes that Pattern 3 needs."""

from __future__ import annotations

from typing import Any

from llmd_runbook.clients.gke import PoolState
from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.errors import UsageError
from llmd_runbook.plans import Change, Duration, Plan
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun, changes
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside, gate, parts
from llmd_runbook.stages.planning.facts import POOL_CHANGE, pool_facts, rendered, target_nodes, target_sum
from llmd_runbook.stages.pool import gpu_wait
from llmd_runbook.stages.pool import spot as spot_pool
from llmd_runbook.stages.pool.changes import reach
from llmd_runbook.stages.pool.target import PoolTarget, bounds_held, pool_target
from llmd_runbook.topology import gpu_nodes
from llmd_runbook.verdicts import Check, Table, declare

AUTOSCALING = declare(
    "pool.autoscaling",
    "GKE reports autoscaling bounds that leave the swap its nodes: none that is idle is taken, or with "
    "`pool.mode: autoscale` there is room for all",
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
    if profile.pool.spot:
        readers[spot_pool.CHANGE] = lambda: spot_pool.facts(profile)
    gate.propose(
        stage, lambda: _plan(stage, kube, wanted), lambda: _target(profile, target_nodes(profile, kube)), readers
    )


def _target(profile: Profile, nodes: int) -> dict[str, Any]:
    pool = profile.pool
    least = max(pool.min_nodes, nodes) if pool.mode == "resize" else pool.min_nodes
    return {
        "pool": f"projects/{pool.project}/locations/{pool.location}/clusters/{pool.cluster}/nodePools/{pool.name}",
        "mode": pool.mode,
        "autoscaling": {"min_nodes": least, "max_nodes": pool.max_nodes},
        "nodes_at_least": nodes,
        "strategy": profile.swap.strategy,
        "spot_pool": {"name": pool.spot, "nodes": profile.pattern3.replicas} if pool.spot else None,
    }


def _plan(stage: StageRun, kube: Kubernetes, wanted: int) -> Plan:
    profile = stage.profile
    with stage.step("compare the pool with the profile"):
        state = site.gke_pool(profile).describe()
        refuse_unsizable(state)
        nodes = gpu_nodes(kube, profile.pool.name)
        target = pool_target(profile, state, nodes, wanted)
    gpus = sum(node.gpus for node in nodes)
    more = (target.then - target.now) * state.accelerator_count
    scaling = str(target.bounds) if target.bounds else state.autoscaling
    changes = [
        Change("autoscaling of the pool (nodes)", state.autoscaling, scaling),
        Change("nodes of the pool", str(target.now), str(target.then)),
        Change("GPUs of the pool", str(gpus), str(gpus + more)),
    ]
    grows, spot_then = target.size is not None, None
    if profile.pool.spot:
        spot = site.spot_pool(profile).find()
        spot_pool.require(profile, state, spot, _model_servers(profile))
        more_changes = spot_pool.changes(profile, kube, spot, state)
        changes += more_changes
        grows, spot_then = grows or any(change.needed for change in more_changes), int(more_changes[-1].after)
    return Plan(
        changes,
        _warnings(profile, state, target, grows=grows),
        durations=_durations(stage) if grows else [],
        prices=parts.prices(kube, profile, nodes_now=target.now, nodes_then=target.then, spot_then=spot_then),
        prices_as_of=parts.as_of(profile),
        not_previewed=["Whether the zone has the machines, and the project the quota: GKE says so only when asked."]
        if grows
        else [],
        not_undone=["What the new nodes cost until they are removed."] if grows else [],
    )


def _warnings(profile: Profile, state: PoolState, target: PoolTarget, *, grows: bool) -> list[str]:
    """What to know of the change: money, whose sizes count a zone, and what an autoscaler does meanwhile."""
    said, each = [], profile.prices.gpu_node_usd_per_hour
    short = target.needed - target.now
    if grows:
        said.append("New nodes cost money from the moment that they start, and until stage 07 or you remove them.")
    if target.arithmetic:
        spare = target.then - target.needed
        said.append(
            f"{target.arithmetic} That is {spare} more than needed, with {spare * state.accelerator_count} GPUs, for "
            f"{spare * each:.2f} USD/h."
        )
    if profile.pool.spot:
        said.append(spot_pool.WARNING)
    changed = target.bounds != state.bounds
    match profile.pool.mode:
        case "resize" if changed and target.needed > profile.pool.min_nodes:
            said.append(
                f"The autoscaling minimum holds the {target.needed} nodes that stage 03 needs: an autoscaler takes "
                f"nodes that are idle for ten minutes. Stage 07 puts it back to {profile.pool.min_nodes}."
            )
        case "autoscale" if short > 0:
            said.append(
                f"{target.now} of {target.needed} nodes are there. This stage makes none: the autoscaler does, once "
                f"pods of stage 03 wait for a GPU; {short} nodes are {short * each:.2f} USD/h more."
            )
        case "observe" if short > 0:
            said.append(f"{target.now} of {target.needed} nodes are there, and pool.mode observe makes none.")
    return said


def _model_servers(profile: Profile) -> list[Object]:
    """The Deployments of Pattern 3 that ask for GPUs, as they render."""
    found = rendered(profile, profile.pattern3)
    return [item for item in found.manifests if item["metadata"]["name"] == found.servers.name]


def _durations(stage: StageRun) -> list[Duration]:
    deadline_s, key = stage.profile.pool.ready_timeout_s, "pool.ready_timeout_s"
    return parts.durations(
        stage,
        [
            ("set the pool's autoscaling", deadline_s, key),
            ("resize the pool", deadline_s, key),
            ("wait for Ready nodes with allocatable GPUs", deadline_s, key),
            *([("create the spot pool", deadline_s, key)] if stage.profile.pool.spot else []),
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
    if stage.profile.pool.mode == "observe":
        with stage.step("scale the pool") as step:
            step.skipped("pool.mode is observe: nothing is changed")
    elif gate.permitted(stage, "scale the pool"):
        _apply(stage)


@changes
def _apply(stage: StageRun) -> None:
    profile = stage.profile
    pool, kube = site.gke_pool(profile), site.kubernetes(profile)
    needed, timeout_s = target_nodes(profile, kube), profile.pool.ready_timeout_s

    def look() -> tuple[PoolState, PoolTarget]:
        state = pool.describe()
        return state, pool_target(profile, state, gpu_nodes(kube, profile.pool.name), needed)

    def other_bounds() -> bool:
        state, target = look()
        return state.bounds != target.bounds

    def set_bounds() -> str:
        gate.still_holds(stage, POOL_CHANGE)
        bounds = look()[1].bounds
        assert bounds is not None, "only an observed pool keeps whatever bounds it has"
        return pool.set_autoscaling(bounds)

    def too_few() -> bool:
        return look()[1].size is not None

    def resize() -> str:
        gate.still_holds(stage, POOL_CHANGE)
        size = look()[1].size
        assert size is not None, "asked only where something is missing"
        return pool.set_size(size)

    with stage.step("set the pool's autoscaling") as step, gate.recorded(stage, POOL_CHANGE):
        reached = reach(pool, step, timeout_s, missing=other_bounds, change=set_bounds)
        reached.say(step, f"{look()[1].bounds} nodes", "as it is")
    if profile.pool.mode == "autoscale":
        return
    with stage.step("resize the pool") as step, gate.recorded(stage, POOL_CHANGE):
        before = look()[1]
        reached = reach(pool, step, timeout_s, missing=too_few, change=resize)
        reached.say(step, f"{before.now} to {before.then} nodes", f"{look()[1].now} nodes already")
    with stage.step("wait for Ready nodes with allocatable GPUs") as step:
        wanted = needed if before.size is None else before.then
        usable = gpu_wait.wait_for_gpus(kube, profile.pool.name, wanted, profile.pool.ready_timeout_s, step)
        step.ok(f"{usable} nodes")
    if profile.pool.spot:
        spot_pool.create(stage, kube)


def verify(stage: StageRun) -> Shown:
    """Look again, at GKE and at Kubernetes, whatever `apply` reported; at nothing where the plan was not approved."""
    if shown := gate.refused(stage):
        return shown
    profile = stage.profile
    with stage.step("verify the pool"):
        kube = site.kubernetes(profile)
        state = site.gke_pool(profile).describe()
        nodes, needed = gpu_nodes(kube, profile.pool.name), target_nodes(profile, kube)
    stage.check(judge_autoscaling(profile, state, needed))
    stage.check(judge_size(profile, state, len(nodes), needed, target_sum(profile, kube)))
    accelerator = profile.pool.accelerator
    usable = [node for node in nodes if gpu_wait.usable(node) and node.accelerator == accelerator]
    none_yet = profile.pool.mode == "autoscale" and not nodes
    stage.check(
        ALLOCATABLE.judge(
            None if none_yet else len(usable) == len(nodes) > 0,
            expected=f"every node Ready, schedulable, {accelerator}, with a GPU",
            observed=f"{len(usable)} of {len(nodes)} nodes",
            evidence=[gpu_wait.described(node) for node in nodes],
            remedy=_GO_ON if none_yet else "",
        )
    )
    if profile.pool.spot:
        spot_pool.verify(stage, kube)
        nodes += gpu_nodes(kube, profile.pool.spot)
    beside.after(stage)
    rows: list[list[str | int | float | None]] = [
        [node.name, node.zone, "yes" if node.ready else "no", node.gpus, node.accelerator] for node in nodes
    ]
    columns = ["node", "zone", "Ready", "allocatable GPUs", "accelerator"]
    return stage.table(Table(title="GPU nodes", columns=columns, rows=rows))


_GO_ON = "go on with stage 03: its pods make the autoscaler act, and `pool.grows` judges what it did"


def judge_autoscaling(profile: Profile, state: PoolState, needed: int) -> Check:
    """The bounds that GKE reports, by what `pool.mode` asks of them."""
    bounds, mode = state.bounds, profile.pool.mode
    if mode == "observe":
        held = bounds is None or bounds.least_in_all >= needed
        return AUTOSCALING.judge(
            held or None,
            expected=f"off, or at least {needed} nodes",
            observed=state.autoscaling,
            remedy="an autoscaler takes nodes that are idle for ten minutes: run stage 03 before, or raise its minimum",
        )
    if mode == "autoscale":
        return AUTOSCALING.judge(
            bounds is not None and bounds.most_in_all >= needed,
            expected=f"on, with room for {needed} nodes",
            observed=state.autoscaling,
        )
    wanted = bounds_held(profile, state, needed)
    return AUTOSCALING.judge(bounds == wanted, expected=str(wanted), observed=state.autoscaling)


def judge_size(profile: Profile, state: PoolState, live: int, needed: int, how: str) -> Check:
    """Nodes that Kubernetes has, `live`, against those that are `needed`, which are the sum `how`."""
    runs, mode = state.status == "RUNNING", profile.pool.mode
    missing = f", {needed - live} missing" if live < needed else ""
    return SIZE.judge(
        None if mode == "autoscale" and runs and missing else runs and not missing,
        expected=f"at least {needed} nodes ({how}), pool RUNNING",
        observed=f"{live} nodes{missing}, pool {state.status}",
        evidence=list(state.conditions),
        remedy=_GO_ON if mode == "autoscale" and runs else "",
    )
