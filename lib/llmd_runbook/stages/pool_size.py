"""How many GPU nodes a swap needs: one GPU a replica, one GPU a node. Pure."""

from __future__ import annotations

from typing import Literal

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
    one, three = f"pattern1.replicas {pattern1_replicas}", f"pattern3.replicas {pattern3_replicas}"
    if strategy == "surge":
        needed = max(pool_nodes, pattern1_replicas + pattern3_replicas)
        how = f"max(pool.nodes {pool_nodes}, {one} + {three})"
    else:
        needed = max(pool_nodes, pattern1_replicas, pattern3_replicas)
        how = f"max(pool.nodes {pool_nodes}, {one}, {three})"
    if pattern2_replicas:
        needed, how = needed + pattern2_replicas, f"{how} + pattern2.replicas {pattern2_replicas}"
    if needed > max_nodes:
        raise UsageError(
            f"the swap needs {needed} nodes, and the pool may have {max_nodes}; nothing was changed",
            where="pool.max_nodes",
            reason=f"strategy {strategy}: {how} = {needed} > pool.max_nodes {max_nodes}",
            remedy="raise pool.max_nodes (and the quota), lower the replicas"
            + (", or set swap.strategy: recreate" if strategy == "surge" else ""),
        )
    return needed
