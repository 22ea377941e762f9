"""Spread of independent requests: known counts, exact tests by enumeration, power by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmd_runbook.analysis.distribution import (
    chance_of_unserved,
    detectable_share,
    effective_requests,
    homes,
    judge_spread,
    requests_needed,
    spread,
    spread_power,
)


def test_spread_of_known_counts() -> None:
    found = spread([18, 6, 6])
    assert found.p_value == pytest.approx(0.00823, abs=1e-5)
    assert (found.unserved, judge_spread(found).ok) == ((), True)
    assert judge_spread(spread([15, 15, 0])).ok is False
    assert judge_spread(spread([2, 1, 0])).ok is None


def test_the_verdict_says_what_it_could_have_found() -> None:
    assert "65% of them 80% of the time" in judge_spread(spread([10, 10, 10])).reason
    assert "exact multinomial" in judge_spread(spread([2, 1, 1])).reason
    assert "no share" in judge_spread(spread([2, 1, 1])).reason


def test_chance_of_missing_a_replica() -> None:
    assert chance_of_unserved(3, 3) == pytest.approx(1 - 6 / 27)
    assert 1 - chance_of_unserved(3, 15) == pytest.approx(0.993, abs=0.0005)
    assert chance_of_unserved(3, 0) == 1


@pytest.mark.parametrize("counts", [[5], [0, 0], [3, -1]])
def test_no_spread_without_replicas_or_requests(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="spread"):
        spread(counts)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(lambda counts: 0 < sum(counts) < 9))
def test_few_requests_are_tested_exactly(counts: list[int]) -> None:
    requests, replicas = sum(counts), len(counts)
    squares = sum(count * count for count in counts)
    expected = sum(
        math.factorial(requests) / math.prod(map(math.factorial, other)) / replicas**requests
        for other in itertools.product(range(requests + 1), repeat=replicas)
        if sum(other) == requests and sum(count * count for count in other) >= squares
    )
    assert spread(counts).p_value == pytest.approx(expected)


def test_exact_and_chi_square_meet() -> None:
    assert spread([8, 4, 2]).method != spread([8, 4, 3]).method
    assert spread([8, 4, 2]).p_value == pytest.approx(float(stats.chisquare([8, 4, 2]).pvalue), abs=0.04)


@pytest.mark.parametrize(("shares", "requests"), [((6, 2, 2), 30), ((2, 1, 1), 77), ((4, 3, 3), 482)])
def test_requests_needed_for_the_known_imbalances(shares: tuple[int, ...], requests: int) -> None:
    needed = requests_needed(shares, alpha=0.05)
    assert needed is not None
    assert requests <= needed <= requests + 1  # the whole number above
    assert spread_power(shares, needed, alpha=0.05) >= 0.8 > spread_power(shares, needed - 1, alpha=0.05)


def test_the_guides_fifteen_requests_find_little() -> None:
    assert spread_power([2, 1, 1], 15, alpha=0.05) == pytest.approx(0.21, abs=0.01)
    assert spread_power([4, 3, 3], 15, alpha=0.05) == pytest.approx(0.07, abs=0.01)


def test_equal_shares_are_found_at_the_level_and_never_with_power() -> None:
    assert spread_power([1, 1, 1], 100, alpha=0.05) == 0.05
    assert requests_needed([1, 1, 1]) is None


@pytest.mark.parametrize(("replicas", "requests"), [(3, 60), (5, 200)])
def test_the_detectable_share_is_found_as_often_as_said(replicas: int, requests: int) -> None:
    share = detectable_share(replicas, requests)
    assert share is not None
    shares = [share] + [(1 - share) / (replicas - 1)] * (replicas - 1)
    assert spread_power(shares, requests) == pytest.approx(0.8)
    drawn = np.random.default_rng(1).multinomial(requests, shares, size=1000)
    found = np.mean([spread(counts).p_value <= 0.01 for counts in drawn.tolist()])
    assert found == pytest.approx(0.8, abs=0.08)  # the power is an approximation


def test_with_affinity_the_unit_is_the_prefix() -> None:
    assert homes([[5, 0, 0], [4, 1, 0], [0, 0, 5], [0, 0, 0]]) == (2, 0, 1)
    assert effective_requests(50, 5) == 10
    assert effective_requests(50, 5, correlation=0) == 50
    # Ten prefixes with random homes: as requests they look unequal far too often, as prefixes they do not.
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(10, [1 / 3] * 3, size=500)
    as_requests = np.mean([spread((5 * counts).tolist()).p_value <= 0.05 for counts in drawn])
    as_prefixes = np.mean([spread(counts.tolist()).p_value <= 0.05 for counts in drawn])
    assert as_requests > 0.4
    assert as_prefixes <= 0.07
