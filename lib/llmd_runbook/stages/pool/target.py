"""What the GPU pool shall be by `pool.mode`, in nodes of the pool and as GKE is asked for it: sizes count a zone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmd_runbook.clients.gke import Bounds, PoolState
from llmd_runbook.errors import UsageError
from llmd_runbook.profile import Profile
from llmd_runbook.stages.pool.size import bounds_for, left_for, size_for
from llmd_runbook.topology import GpuNode


@dataclass(frozen=True)
class PoolTarget:
    """What stage 02 makes of the pool.

    Attributes:
        needed: nodes that the swap needs.
        zones: zones of the pool.
        bounds: what its autoscaling shall be; None: whatever it is.
        size: nodes of each zone that GKE is to be asked for; None: nothing is missing.
        now: nodes of the pool.
        then: nodes of the pool afterwards.
    """

    needed: int
    zones: int
    bounds: Bounds | None
    size: int | None
    now: int
    then: int

    @property
    def arithmetic(self) -> str:
        """Why GKE is asked for another number than is needed; empty where it is not."""
        if self.size is None or self.then == self.needed:
            return ""
        return (
            f"The swap needs {self.needed} nodes, and GKE gives each of the pool's {self.zones} zones the same number: "
            f"{self.size} x {self.zones} zones = {self.then} nodes."
        )


def pool_target(profile: Profile, state: PoolState, nodes: Sequence[GpuNode], needed: int) -> PoolTarget:
    """What the pool shall be, for so many needed nodes.

    Raises:
        UsageError: zones and maximum do not give the needed nodes; with the arithmetic.
    """
    pool, zones, now = profile.pool, _zones(state), len(nodes)
    if pool.mode == "observe":
        return PoolTarget(needed, zones, None, None, now, now)
    if pool.mode == "autoscale":
        return PoolTarget(needed, zones, _with_room(profile, state, needed), None, now, now)
    bounds = bounds_held(profile, state, needed)
    size = size_for(needed, by_zone(state, nodes), pool.max_nodes, even=not bounds.totals)
    return PoolTarget(needed, zones, bounds, size, now, now if size is None else size * zones)


def bounds_held(profile: Profile, state: PoolState, needed: int) -> Bounds:
    """The profile's bounds, with a minimum that keeps the needed nodes while they are idle.

    Raises:
        UsageError: there are none in so many zones.
    """
    pool = profile.pool
    return bounds_for(max(pool.min_nodes, needed), pool.max_nodes, zones=_zones(state), totals=_totals(state))


def _zones(state: PoolState) -> int:
    return max(1, len(state.locations))


def _totals(state: PoolState) -> bool:
    """The form that the pool's bounds have; where it has none, the one that is exact in several zones."""
    return state.bounds.totals if state.bounds else len(state.locations) > 1


def _with_room(profile: Profile, state: PoolState, needed: int) -> Bounds:
    """The pool's own bounds where they leave room, else the profile's.

    Raises:
        UsageError: the profile's do not leave room either.
    """
    if state.bounds and state.bounds.most_in_all >= needed:
        return state.bounds
    zones = _zones(state)
    bounds = bounds_for(profile.pool.min_nodes, profile.pool.max_nodes, zones=zones, totals=_totals(state))
    if bounds.most_in_all < needed:
        raise UsageError(
            f"the swap needs {needed} nodes, and the autoscaler may make {bounds.most_in_all}; nothing was changed",
            where="pool.max_nodes",
            reason=f"GKE counts a zone: pool.max_nodes {profile.pool.max_nodes} in {zones} zones is {bounds.most} in "
            f"each, {bounds.most} x {zones} = {bounds.most_in_all} < {needed}",
            remedy=f"raise pool.max_nodes to {left_for(needed, zones)} (and the quota), or give the pool bounds in all "
            "(gcloud container clusters update --total-min-nodes --total-max-nodes)",
        )
    return bounds


def by_zone(state: PoolState, nodes: Sequence[GpuNode]) -> dict[str, int]:
    """Live nodes of each of the pool's zones; in a pool of one zone all nodes are its own."""
    if len(state.locations) <= 1:
        return {"".join(state.locations): len(nodes)}
    return {zone: sum(node.zone == zone for node in nodes) for zone in state.locations}


def nodes_left(profile: Profile, state: PoolState, wanted: int, now: int, *, least: int) -> int:
    """Nodes of the pool once those are given back that nobody needs.

    Args:
        profile: whose `pool.mode` says who gives them back.
        state: the pool.
        wanted: nodes that are needed.
        now: nodes of the pool.
        least: fewer than so many are made up for.
    """
    left = left_for(wanted, _zones(state))
    match profile.pool.mode:
        case "observe":
            return now
        case "autoscale":
            return min(now, wanted)
        case "resize":
            return now if least <= now <= left else left
