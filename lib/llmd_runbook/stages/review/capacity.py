"""01: whether the GPU pool can give the nodes to come, and whether a node holds a replica. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kubernetes.utils.quantity import parse_quantity

from llmd_runbook.clients.gke import PoolState
from llmd_runbook.clients.kubernetes import NODES, Kubernetes, Object
from llmd_runbook.errors import Forbidden, NotFound, UsageError
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.planning.facts import target_nodes
from llmd_runbook.stages.pool.target import PoolTarget, pool_target
from llmd_runbook.stages.review import quota
from llmd_runbook.stages.review.configuration import rendered_pattern
from llmd_runbook.stages.review.settings import ServerSettings, cannot_hold
from llmd_runbook.topology import GPU, NODE_POOL_LABEL, ZONE_LABEL, GpuNode, node_view
from llmd_runbook.verdicts import Check, Table, declare

CAPACITY = declare(
    "pool.capacity",
    "GKE reports no stock-out and no exceeded quota at the pool, and its zones, bounds and kind give the nodes to come",
    "for a stock-out or quota: another zone, a reservation, a higher quota; a queued or flex-start pool gets nodes "
    "by ProvisioningRequest only: use a standard or spot pool",
)
FITS = declare(
    "pool.fits",
    "one node of the pool holds one replica of Pattern 3: its machine has the GPU, CPUs and memory that it requests",
    "choose a larger machine type for the pool, or lower the requests in the values",
)

_EXHAUSTED = ("STOCKOUT", "QUOTA_EXCEEDED")


@dataclass(frozen=True)
class NodeGives:
    """What a node has to give to pods."""

    name: str
    zone: str
    gpus: int
    cpus: float
    memory_bytes: float


def capacity(stage: StageRun) -> Shown:
    """The pool's size by zone, and what stands in the way of more."""
    profile = stage.profile
    with stage.step("read the pool's capacity") as step:
        state: PoolState | None = None
        trouble = ""
        try:
            state = site.gke_pool(profile).describe()
        except (Forbidden, NotFound) as error:
            trouble = error.in_short
        kube, selector = site.kubernetes(profile), f"{NODE_POOL_LABEL}={profile.pool.name}"
        found = kube.all(NODES, selector=selector)
        nodes = [node_gives(item) for item in found]
        target, refused = _target(profile, kube, state, [node_view(item) for item in found])
        servers = rendered_pattern(profile, profile.pattern3).servers
        step.ok(trouble or f"{len(nodes)} nodes")
    wanted = profile.pool.nodes + profile.nodes_beside
    if target:
        wanted = max(target.needed, target.then) if profile.pool.mode == "resize" else target.needed
    stage.check(judge_capacity(state, trouble or refused, live=len(nodes), wanted=wanted))
    stage.check(judge_fit(servers, nodes))
    quota.check(stage, profile.pool, state, live=len(nodes), wanted=wanted, spot=_spot_to_come(profile, kube))
    zones = Counter(node.zone for node in nodes)
    places = sorted({*zones, *(state.locations if state else ())})
    if len(places) > 1:
        stage.note(
            "A pool over several zones",
            "The profile's sizes and bounds are of the whole pool; GKE's sizes count a zone. "
            + (target.arithmetic if target else ""),
        )
    rows: list[list[str | int | float | None]] = [
        [zone, zones[zone], sum(node.gpus for node in nodes if node.zone == zone)] for zone in places
    ]
    rows.append(["asked for", wanted, wanted * (state.accelerator_count if state else 1)])
    return stage.table(Table(title="Live size of the GPU pool", columns=["zone", "nodes", "GPUs"], rows=rows))


def _spot_to_come(profile: Profile, kube: Kubernetes) -> int:
    """Nodes of Pattern 3's spot pool, where the profile names one, that are not there yet."""
    if not profile.pool.spot:
        return 0
    live = kube.all(NODES, selector=f"{NODE_POOL_LABEL}={profile.pool.spot}")
    return max(0, profile.pattern3.replicas - len(live))


def _target(
    profile: Profile, kube: Kubernetes, state: PoolState | None, nodes: Sequence[GpuNode]
) -> tuple[PoolTarget | None, str]:
    """What stage 02 would make of the pool, or why it would refuse to."""
    if state is None:
        return None, ""
    try:
        return pool_target(profile, state, nodes, target_nodes(profile, kube)), ""
    except UsageError as error:
        return None, error.in_short


def node_gives(node: Object) -> NodeGives:
    """What matters of a Node here."""
    offered, labels = node.get("status", {}).get("allocatable", {}), node["metadata"].get("labels", {})
    return NodeGives(
        name=node["metadata"]["name"],
        zone=labels.get(ZONE_LABEL, "(no zone)"),
        gpus=int(offered.get(GPU, "0")),
        cpus=float(parse_quantity(offered.get("cpu", 0))),
        memory_bytes=float(parse_quantity(offered.get("memory", 0))),
    )


def judge_capacity(state: PoolState | None, trouble: str, *, live: int, wanted: int) -> Check:
    """What GKE itself says, and what stands against the profile's sizes (`trouble`); `live`, `wanted`: nodes."""
    expected = f"no stock-out, no exceeded quota, a pool that can be resized to {max(live, wanted)} nodes"
    if state is None:
        return CAPACITY.judge(None, expected=expected, observed=trouble, remedy="ask for roles/container.viewer")
    wrong = [said for said in state.conditions if any(word in said for word in _EXHAUSTED)]
    wrong += [trouble] if trouble else []
    if state.provisioning in ("queued", "flex-start"):
        wrong.append(f"the pool is a {state.provisioning} one")
    return CAPACITY.judge(
        not wrong,
        expected=expected,
        observed="; ".join(wrong) or f"{live} nodes of {wanted}, {state.provisioning}, nothing reported",
        evidence=[
            f"machine type {state.machine_type}, {state.provisioning}",
            f"reservations: {state.reservation or 'not said'}",
            *state.conditions,
        ],
    )


def judge_fit(servers: ServerSettings | None, nodes: Sequence[NodeGives]) -> Check:
    """Against the largest node, before anything else runs on it."""
    expected = "GPU, CPUs and memory of one replica of Pattern 3 on one node"
    if servers is None or not nodes:
        missing = "the pool has no node to compare with" if servers else "Pattern 3 renders no model servers"
        return FITS.judge(None, expected=expected, observed=missing, remedy="run again once the pool has a node")
    short = {node.name: cannot_hold(servers, node.gpus, node.cpus, node.memory_bytes) for node in nodes}
    fits = [name for name, wrong in short.items() if not wrong]
    return FITS.judge(
        bool(fits),
        expected=expected,
        observed=f"{len(fits)} of {len(nodes)} nodes can hold one",
        evidence=[f"{name}: {', '.join(wrong) or 'enough'}" for name, wrong in short.items()],
    )
