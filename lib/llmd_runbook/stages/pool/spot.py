"""A spot pool for Pattern 3's replicas alone: stage 02 creates it, stage 07 deletes it; others' are not touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmd_runbook.clients.gke import SPOT_LABEL, PoolState
from llmd_runbook.clients.kubernetes import NODES, Kubernetes, Object
from llmd_runbook.errors import ProfileError, UsageError
from llmd_runbook.plans import Change
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import gate
from llmd_runbook.stages.planning.facts import UNDER_WAY
from llmd_runbook.stages.pool import gpu_wait
from llmd_runbook.stages.pool.changes import reach
from llmd_runbook.topology import NODE_POOL_LABEL, GpuNode, gpu_nodes
from llmd_runbook.verdicts import Check, declare

CHANGE = "spot pool"
"""Name of the change, for `gate.guarded`."""

PRESENT = declare(
    "spot.pool",
    "the spot pool of Pattern 3 is there and RUNNING, a spot one, with a usable node for each replica",
    "spot machines may be out of stock or just reclaimed: see the pool's conditions; wait, or take `pool.spot` out of "
    "the profile",
)
REMOVED = declare(
    "spot.removed",
    "the spot pool of Pattern 3 is gone with its nodes, so nothing of it is paid for",
    "run the stage again; look at the cluster's operations",
)
WARNING = (
    "Google takes spot nodes back whenever it needs them, with 30 s notice, and may have none to replace them: a "
    "replica goes with its node, its requests in flight fail, and it waits until another node comes. The nodes are "
    "tainted, so only pods that tolerate it come. Stage 06 counts each replica's node as it is labelled."
)


def facts(profile: Profile) -> dict[str, Any]:
    """What the spot pool is; its size is left out, for a target size is right whatever it is."""
    pool = site.spot_pool(profile)
    if busy := [f"{item.name} {item.type}" for item in pool.running_operations()]:
        return {UNDER_WAY: ", ".join(busy)}
    return {f"node pool {profile.pool.spot}": _words(pool.find())}


def require(profile: Profile, base: PoolState, state: PoolState | None, servers: Sequence[Object]) -> None:
    """Return where Pattern 3 can run on the spot pool, and that is to be created or is this program's own.

    Raises:
        ProfileError: the rendered pods are not placed there; with the values to add.
        UsageError: a pool of that name is somebody else's, or another machine.
    """
    require_ours(profile, state)
    if state and (state.provisioning, state.machine_type) != ("spot", base.machine_type):
        raise UsageError(
            f"the pool {state.name} is not what stage 02 would create; nothing was changed",
            where=f"node pool {state.name}: {state.provisioning}, {state.machine_type}",
            reason=f"wanted: spot, {base.machine_type}, as in pool {base.name}",
            remedy="delete that pool, or give `pool.spot` another name",
        )
    for item in servers:
        spec = item["spec"]["template"]["spec"]
        selected = spec.get("nodeSelector", {}).items() & _selectors(profile).items()
        if not selected or not any(_tolerates(toleration) for toleration in spec.get("tolerations", [])):
            raise ProfileError(
                "Pattern 3 is to run on a spot pool, and its values do not place it there; nothing was changed",
                where=f"{profile.path}: pool.spot: {profile.pool.spot}",
                reason=f"Deployment {item['metadata']['name']}: nodeSelector {spec.get('nodeSelector') or 'none'}, "
                f"tolerations {spec.get('tolerations') or 'none'}",
                remedy="add to the values of its model servers:\n"
                f"decode:\n  nodeSelector: {{{NODE_POOL_LABEL}: {profile.pool.spot}}}\n"
                f'  tolerations: [{{key: {SPOT_LABEL}, operator: Equal, value: "true", effect: NoSchedule}}]',
            )


def require_ours(profile: Profile, state: PoolState | None) -> None:
    """Return where the pool is absent or was created by this program.

    Raises:
        UsageError: it is somebody else's.
    """
    if state and not state.ours:
        raise UsageError(
            f"there is a node pool {state.name} that this program did not create; nothing was changed",
            where=f"pool.spot: {profile.pool.spot}",
            reason="stage 07 deletes the spot pool with its nodes, which is for a pool of its own only",
            remedy="give `pool.spot` a name that no pool has",
        )


def changes(profile: Profile, kube: Kubernetes, state: PoolState | None, wanted: PoolState | None) -> list[Change]:
    """The pool and its nodes, as they are and as they shall be: like the pool `wanted`, or absent."""
    now = len(gpu_nodes(kube, profile.pool.spot))
    then = max(now, profile.pattern3.replicas) if wanted else 0
    like = replace(wanted, provisioning="spot") if wanted else None
    return [
        Change(f"node pool {profile.pool.spot}", _words(state), _words(like)),
        Change(f"nodes and GPUs of {profile.pool.spot}", str(now), str(then)),
    ]


def create(stage: StageRun, kube: Kubernetes) -> None:
    """Create the pool, or ask for the nodes that it lacks, and wait until each replica has one.

    Raises:
        DeadlineExceeded, ClusterError: it does not come.
    """
    profile = stage.profile
    spot, wanted, timeout_s = profile.pool.spot, profile.pattern3.replicas, profile.pool.ready_timeout_s
    pool = site.spot_pool(profile)

    def missing() -> bool:
        return pool.find() is None or len(gpu_nodes(kube, spot)) < wanted

    def change() -> str:
        gate.still_holds(stage, CHANGE)
        if pool.find():
            return pool.set_size(wanted)
        zone = site.gke_pool(profile).describe().locations[0]
        return pool.create_spot(profile.pool.name, zone, wanted)

    with stage.step("create the spot pool") as step, gate.recorded(stage, CHANGE):
        reached = reach(pool, step, timeout_s, missing=missing, change=change)
        reached.say(step, f"{spot} with {wanted} nodes", f"{len(gpu_nodes(kube, spot))} nodes already")
    with stage.step("wait for spot nodes with allocatable GPUs") as step:
        step.ok(f"{gpu_wait.wait_for_gpus(kube, spot, wanted, timeout_s, step)} nodes")


def remove(stage: StageRun, kube: Kubernetes) -> None:
    """Delete the pool, and wait until its nodes are gone.

    Raises:
        DeadlineExceeded, ClusterError: it does not go.
    """
    profile = stage.profile
    pool, timeout_s = site.spot_pool(profile), profile.pool.ready_timeout_s

    def delete() -> str:
        gate.still_holds(stage, CHANGE)
        require_ours(profile, pool.find())
        return pool.delete()

    with stage.step("delete the spot pool") as step, gate.recorded(stage, CHANGE):
        reached = reach(pool, step, timeout_s, missing=lambda: pool.find() is not None, change=delete)
        kube.wait(
            NODES,
            lambda nodes: not nodes,
            what=f"the nodes of pool {profile.pool.spot} to go",
            timeout_s=timeout_s,
            remedy="look at the cluster's operations, then run the stage again",
            selector=f"{NODE_POOL_LABEL}={profile.pool.spot}",
        )
        reached.say(step, f"{profile.pool.spot} deleted", "absent already")


def judge(profile: Profile, state: PoolState | None, nodes: Sequence[GpuNode]) -> Check:
    """The pool as GKE and Kubernetes have it."""
    usable, wanted = [node for node in nodes if gpu_wait.usable(node)], profile.pattern3.replicas
    right = state is not None and state.status == "RUNNING" and state.provisioning == "spot"
    return PRESENT.judge(
        right and len(usable) == len(nodes) >= wanted,
        expected=f"RUNNING, spot, {wanted} usable nodes, one a replica",
        observed=f"{_words(state)}, {len(usable)} of {len(nodes)} nodes usable",
        evidence=[*(state.conditions if state else ()), *(gpu_wait.described(node) for node in nodes)],
    )


def verify(stage: StageRun, kube: Kubernetes) -> None:
    """Judge that it is there."""
    state = site.spot_pool(stage.profile).find()
    stage.check(judge(stage.profile, state, gpu_nodes(kube, stage.profile.pool.spot)))


def verify_removed(stage: StageRun, kube: Kubernetes) -> None:
    """Judge that it is gone."""
    state, nodes = site.spot_pool(stage.profile).find(), gpu_nodes(kube, stage.profile.pool.spot)
    stage.check(
        REMOVED.judge(
            state is None and not nodes,
            expected=f"no pool {stage.profile.pool.spot}, no nodes",
            observed=f"{_words(state)}, {len(nodes)} nodes",
            evidence=[node.name for node in nodes],
        )
    )


def _words(state: PoolState | None) -> str:
    if state is None:
        return "absent"
    return f"{state.provisioning}, {state.machine_type}, {state.accelerator_count} x {state.accelerator_type}"


def _selectors(profile: Profile) -> dict[str, str]:
    return {NODE_POOL_LABEL: profile.pool.spot, SPOT_LABEL: "true"}


def _tolerates(toleration: Object) -> bool:
    """Whether a toleration covers the taint that the spot pool is created with."""
    key, operator = toleration.get("key"), toleration.get("operator", "Equal")
    effect = toleration.get("effect") in (None, "", "NoSchedule")
    value = operator == "Exists" or toleration.get("value") == "true"
    return effect and value and key in (SPOT_LABEL, *([None, ""] if operator == "Exists" else []))
