"""The affinity test on tables whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmd_runbook.analysis.affinity import affinity, judge
from llmd_runbook.analysis.permutation import PERMUTATIONS, following, null

HOMES = [[5, 0, 0], [0, 5, 0], [0, 0, 5]]
STICKY = [[5, 0, 0]] * 10
BLIND_CONTROL = [[2, 2, 1], [1, 2, 2], [2, 1, 2], [2, 2, 1], [1, 3, 1], [2, 1, 2]]


def routed(follow: float, weights: list[float], seed: int) -> list[list[int]]:
    shares = np.array(weights) / sum(weights)
    table: list[list[int]] = following([5] * 10, shares, follow, 1, np.random.default_rng(seed))[0].tolist()
    return table


def test_full_affinity() -> None:
    found = affinity([*HOMES, [5, 0, 0]], seed=1)
    assert (found.statistic, found.requests, found.homes) == (20, 20, (0, 1, 2, 0))
    assert found.p_value == pytest.approx(1 / (1 + PERMUTATIONS), rel=2)
    assert found.share.value == 1
    assert found.share.low == pytest.approx(0.025 ** (1 / 16))
    assert 0.2 < found.share_by_chance < 0.5
    assert judge([*HOMES, [5, 0, 0]], None, seed=1).ok is True


def test_the_p_value_of_a_small_table_is_the_exact_one() -> None:
    # Two groups of two, two requests a replica: 4!/(2!2!) = 6 equally likely tables, 2 of them concentrated.
    assert affinity([[2, 0], [0, 2]], seed=1).p_value == pytest.approx(1 / 3, abs=0.02)


def test_the_null_does_not_depend_on_the_order_of_groups_and_replicas() -> None:
    one, other = null([5, 3, 2], [6, 3, 1], seed=1), null([2, 5, 3], [1, 6, 3], seed=1)
    assert one is other
    assert one.p_values[0] == 1
    assert (np.diff(one.p_values) <= 0).all()


@pytest.mark.parametrize("table", [[[5, 1, 2]], [[5], [3], [4]]])
def test_where_only_one_table_is_possible_nothing_is_rejected(table: list[list[int]]) -> None:
    assert affinity(table, seed=1).p_value == 1.0


def test_the_same_seed_gives_the_same_result() -> None:
    table = routed(0.5, [1, 1, 1], seed=2)
    assert affinity(table, seed=3) == affinity(table, seed=3)


@pytest.mark.parametrize("weights", [[1, 1, 1], [60, 25, 15]])
def test_blind_routers_rarely_pass_and_aware_ones_do(weights: list[float]) -> None:
    blind = [judge(routed(0, weights, seed), BLIND_CONTROL, seed=1).ok for seed in range(20)]
    aware = [judge(routed(1, weights, seed), BLIND_CONTROL, seed=1).ok for seed in range(20)]
    assert blind.count(True) <= 2
    assert blind.count(False) >= 18
    assert aware.count(True) >= 18


@pytest.mark.parametrize("follow", [0.0, 0.5, 0.9])
def test_the_interval_of_the_effect_covers_the_truth(follow: float) -> None:
    found = [affinity(routed(follow, [3, 2, 2], seed), seed=seed).follow for seed in range(12)]
    covered = sum((one.low or 0) - 0.01 <= follow <= (one.high or 0) + 0.01 for one in found)
    assert covered >= 9  # of 12; fewer has a probability of 0.02 %
    assert np.mean([one.value for one in found]) == pytest.approx(follow, abs=0.1)


def test_a_router_that_splits_every_group_evenly_has_no_effect() -> None:
    effect = affinity([[2, 2, 1], [1, 2, 2], [2, 1, 2]] * 3, seed=1).follow
    assert (effect.value, effect.low) == (0, 0)


def test_a_sticky_router_is_not_prefix_aware() -> None:
    found = judge(STICKY, [*[[5, 0, 0]] * 5, [4, 1, 0]], seed=1)
    assert found.ok is False
    assert "sticky" in found.reason


@pytest.mark.parametrize("control", [None, [[5, 0, 0]] * 6])
def test_where_no_other_replica_was_ever_reached_nothing_is_proved_of_prefixes(control: list[list[int]] | None) -> None:
    """One table has these totals: a router that follows prefixes and one that does not give the same."""
    found = judge(STICKY, control, seed=1)
    assert found.ok is None
    assert "there is nothing to permute" in found.reason


def test_one_home_for_every_group_proves_nothing_where_other_requests_go_elsewhere() -> None:
    found = judge(STICKY, BLIND_CONTROL, seed=1)
    assert found.ok is None
    assert "run it again" in found.reason


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ([[5, 0, 0], [0, 0, 0]], "no routing could pass"),
        ([[4, 1, 0]], "no routing could pass"),
        ([[5, 0, 0]], "no routing could pass"),
        ([[5, 0, 0], [5, 0, 0]], "share a home by chance"),
        ([[5], [5]], "one replica"),
        ([[1, 0], [0, 1]], "nothing is repeated"),
        ([[0, 0]], "nothing is repeated"),
        ([], "groups x replicas"),
        ([[2, 2, 1], [1, 2, 2], [2, 1, 2]], "would pass only"),
        ([*[[5, 0, 0]] * 9, [4, 1, 0]], "would pass only"),
    ],
)
def test_what_proves_nothing(table: list[list[int]], reason: str) -> None:
    found = judge(table, None, seed=1)
    assert found.ok is None
    assert reason in found.reason


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        ([*HOMES, *HOMES], "rejects too"),
        ([[1, 0, 0], [0, 1, 0]], "the control arm: no group has two requests"),
        ([[1, 1, 0], [0, 1, 1]], "too few requests to reject"),
    ],
)
def test_a_control_arm_that_rejects_or_cannot_makes_it_inconclusive(control: list[list[int]], reason: str) -> None:
    assert judge([*HOMES, *HOMES], BLIND_CONTROL, seed=1).ok is True
    found = judge([*HOMES, *HOMES], control, seed=1)
    assert found.ok is None
    assert reason in found.reason


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        affinity([[5, -1]], seed=1)


def test_the_null_agrees_with_the_exact_distribution_of_one_pair() -> None:
    # One group of two among ten requests, five a replica: both on one replica with 2 * C(5,2)/C(10,2).
    found = null([2] + [1] * 8, [5, 5], seed=1)
    assert found.p_values[10] == pytest.approx(2 * math.comb(5, 2) / math.comb(10, 2), abs=0.02)
