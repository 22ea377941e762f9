"""How many GPU nodes a swap needs: one GPU a replica, one GPU a node; and what GKE is asked for, a zone. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from typing import Literal

from llmd_runbook.clients.gke import Bounds
from llmd_runbook.errors import UsageError


def nodes_needed(
    strategy: Literal["recreate", "surge"],
    *,
    pool_nodes: int,
    pattern1_replicas: int,
    pattern3_replicas: int,
    max_nodes: int,
    pattern2_replicas: int = 0,
) -> int:
    """Nodes that the pool must have before the swap.

    `recreate`: the larger of `pool_nodes` and either pattern's replicas; `surge`: both patterns' replicas together.
    A Pattern 1 that does not run any more counts with 0 replicas. What Pattern 2 holds comes on top.

    Raises:
        UsageError: more than the pool's maximum; with the arithmetic.

    >>> nodes_needed("recreate", pool_nodes=3, pattern1_replicas=1, pattern3_replicas=3, max_nodes=5)
    3
    >>> nodes_needed("surge", pool_nodes=3, pattern1_replicas=1, pattern3_replicas=3, max_nodes=5)
    4
    >>> nodes_needed(
    ...     "recreate", pool_nodes=3, pattern1_replicas=1, pattern3_replicas=3, max_nodes=5, pattern2_replicas=1
    ... )
    4
    """
    needed, how = arithmetic(strategy, pool_nodes, pattern1_replicas, pattern3_replicas, pattern2_replicas)
    if needed > max_nodes:
        raise UsageError(
            f"the swap needs {needed} nodes, and the pool may have {max_nodes}; nothing was changed",
            where="pool.max_nodes",
            reason=f"strategy {strategy}: {how} = {needed} > pool.max_nodes {max_nodes}",
            remedy="raise pool.max_nodes (and the quota), lower the replicas"
            + (", or set swap.strategy: recreate" if strategy == "surge" else ""),
        )
    return needed


def arithmetic(
    strategy: Literal["recreate", "surge"],
    pool_nodes: int,
    pattern1_replicas: int,
    pattern3_replicas: int,
    pattern2_replicas: int,
) -> tuple[int, str]:
    """Nodes that the swap needs, and the sum that they come from."""
    one, three = f"pattern1.replicas {pattern1_replicas}", f"pattern3.replicas {pattern3_replicas}"
    if not pattern3_replicas:
        needed, how = pattern1_replicas, f"{one}, Pattern 3 being on the spot pool"
    elif strategy == "surge":
        needed = max(pool_nodes, pattern1_replicas + pattern3_replicas)
        how = f"max(pool.nodes {pool_nodes}, {one} + {three})"
    else:
        needed = max(pool_nodes, pattern1_replicas, pattern3_replicas)
        how = f"max(pool.nodes {pool_nodes}, {one}, {three})"
    if pattern2_replicas:
        needed, how = needed + pattern2_replicas, f"{how} + pattern2.replicas {pattern2_replicas}"
    return needed, how


def bounds_for(least: int, most: int, *, zones: int, totals: bool) -> Bounds:
    """Autoscaling bounds as GKE takes them, for `least` to `most` nodes of the whole pool.

    Where GKE counts a zone, the lower bound is rounded up and the upper one down: the pool never falls below `least`
    and never exceeds `most`.

    Raises:
        UsageError: no such bounds hold in so many zones; with the arithmetic.

    >>> str(bounds_for(3, 5, zones=1, totals=False)), str(bounds_for(3, 5, zones=2, totals=False))
    ('3 to 5', '2 to 2 in each of 2 zones')
    >>> str(bounds_for(3, 5, zones=2, totals=True))
    '3 to 5 in all'
    """
    if totals:
        return Bounds(least, most, zones, totals=True)
    low, high = ceil(least / zones), most // zones
    if high < max(1, low):
        raise UsageError(
            f"no autoscaling bounds give a pool of {zones} zones {least} to {most} nodes; nothing was changed",
            where="pool.max_nodes",
            reason=f"GKE counts a zone: at least {low} x {zones} zones = {low * zones} nodes, "
            f"at most {high} x {zones} = {high * zones}",
            remedy=f"raise pool.max_nodes to {max(1, low) * zones} (and the quota), or give the pool bounds in all "
            "(gcloud container clusters update --total-min-nodes --total-max-nodes)",
        )
    return Bounds(low, high, zones)


def size_for(needed: int, live: Mapping[str, int], max_nodes: int, *, even: bool) -> int | None:
    """What GKE is to be asked for, in nodes of each zone, so that the pool has `needed`; None: nothing is missing.

    GKE sets all zones to one size, so no zone may be given less than it has: its pods would lose their nodes.

    Args:
        needed: nodes of the whole pool.
        live: nodes that each zone has.
        max_nodes: of the whole pool.
        even: whether each zone must have its part, as lower bounds counted a zone ask for it.

    Raises:
        UsageError: more than the pool's maximum; with the arithmetic.

    >>> size_for(3, {"a": 1}, 5, even=True), size_for(3, {"a": 3}, 5, even=True)
    (3, None)
    >>> size_for(3, {"a": 1, "b": 1}, 5, even=True), size_for(3, {"a": 2, "b": 1}, 5, even=False)
    (2, None)
    """
    zones, each = len(live), ceil(needed / len(live))
    if min(live.values()) >= each if even else sum(live.values()) >= needed:
        return None
    size = max(each, *live.values())
    if size * zones > max_nodes:
        has = ", ".join(f"{zone} {nodes}" for zone, nodes in live.items())
        raise UsageError(
            f"{needed} nodes in {zones} zones are {size * zones}, and the pool may have {max_nodes}; "
            "nothing was changed",
            where="pool.max_nodes",
            reason=f"GKE sets all zones to one size: {size} x {zones} zones = {size * zones} > pool.max_nodes "
            f"{max_nodes} (now {has})",
            remedy=f"raise pool.max_nodes to {size * zones} (and the quota), use a pool in one zone, or set "
            "pool.mode: autoscale, which grows zone by zone",
        )
    return size


def lowered(bounds: Bounds, least: int) -> Bounds:
    """The same bounds with a lower bound of at most `least` nodes of the pool, rounded up where GKE counts a zone.

    >>> str(lowered(Bounds(3, 5), 0)), str(lowered(Bounds(2, 3, 2), 1)), str(lowered(Bounds(1, 5), 2))
    ('0 to 5', '1 to 3 in each of 2 zones', '1 to 5')
    """
    most = least if bounds.totals else ceil(least / bounds.zones)
    return replace(bounds, least=min(bounds.least, most))


def left_for(wanted: int, zones: int) -> int:
    """Nodes that a resize leaves where `wanted` are: GKE's next size that is the same in each zone.

    >>> left_for(1, 1), left_for(1, 2), left_for(0, 3)
    (1, 2, 0)
    """
    return ceil(wanted / zones) * zones
