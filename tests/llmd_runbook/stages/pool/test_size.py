from __future__ import annotations

from typing import Literal

import pytest

from llmd_runbook.errors import UsageError
from llmd_runbook.stages.pool.size import nodes_needed


@pytest.mark.parametrize(
    ("strategy", "nodes", "one", "three", "needed"),
    [
        ("recreate", 3, 1, 3, 3),
        ("recreate", 4, 1, 3, 4),
        ("recreate", 3, 5, 3, 5),
        ("surge", 3, 1, 3, 4),
        ("surge", 5, 1, 3, 5),
        ("surge", 3, 0, 3, 3),  # Pattern 1 runs no more
        ("surge", 3, 2, 3, 5),
    ],
)
def test_one_node_a_replica(
    strategy: Literal["recreate", "surge"], nodes: int, one: int, three: int, needed: int
) -> None:
    found = nodes_needed(strategy, pool_nodes=nodes, pattern1_replicas=one, pattern3_replicas=three, max_nodes=5)
    assert found == needed


@pytest.mark.parametrize(("strategy", "needed"), [("recreate", 4), ("surge", 5)])
def test_pattern_2_holds_nodes_of_its_own(strategy: Literal["recreate", "surge"], needed: int) -> None:
    """The guide's Option B: one GPU for Pattern 2, three for Pattern 3, and one more while Pattern 1 still runs."""
    sizes = {"pool_nodes": 3, "pattern1_replicas": 1, "pattern3_replicas": 3, "max_nodes": 5}
    assert nodes_needed(strategy, **sizes, pattern2_replicas=1) == needed


@pytest.mark.parametrize("strategy", ["recreate", "surge"])
def test_beside_a_spot_pool_the_pool_keeps_what_is_not_pattern_3s(strategy: Literal["recreate", "surge"]) -> None:
    sizes = {"pool_nodes": 0, "pattern1_replicas": 1, "pattern3_replicas": 0, "pattern2_replicas": 1}
    assert nodes_needed(strategy, **sizes, max_nodes=5) == 2
    with pytest.raises(UsageError) as refused:
        nodes_needed(strategy, **sizes, max_nodes=1)
    assert "pattern1.replicas 1, Pattern 3 being on the spot pool + pattern2.replicas 1 = 2" in str(refused.value)


def test_a_fifth_replica_beside_pattern_2_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(UsageError, match="needs 6 nodes, and the pool may have 5") as refused:
        nodes_needed(
            "recreate", pool_nodes=5, pattern1_replicas=1, pattern3_replicas=5, max_nodes=5, pattern2_replicas=1
        )
    assert "pattern3.replicas 5) + pattern2.replicas 1 = 6 > pool.max_nodes 5" in (refused.value.reason or "")


def test_more_than_the_pool_may_have_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(UsageError) as refused:
        nodes_needed("surge", pool_nodes=3, pattern1_replicas=1, pattern3_replicas=3, max_nodes=3)
    reason = "surge: max(pool.nodes 3, pattern1.replicas 1 + pattern3.replicas 3) = 4 > pool.max_nodes 3"
    assert reason in (refused.value.reason or "")
    assert "set swap.strategy: recreate" in (refused.value.remedy or "")
    with pytest.raises(UsageError, match="needs 6 nodes") as refused:
        nodes_needed("recreate", pool_nodes=6, pattern1_replicas=1, pattern3_replicas=3, max_nodes=5)
    assert "recreate" not in (refused.value.remedy or "")
