"""Warm against cold latency."""

from __future__ import annotations

import random

import pytest

from llmd_runbook.analysis.latency import Estimate, Refusal
from llmd_runbook.analysis.warm_cold import Timed, warm_cold


def timed(groups: int, *, cached: bool, ratio: float = 0.4) -> list[Timed]:
    rng = random.Random(1)
    return [
        Timed(
            f"g{group}",
            order,
            rng.uniform(0.9, 1.1) * (1.0 + 0.2 * group) * (ratio if order else 1.0),
            (256 if order else 0) if cached else None,
            272,
        )
        for group in range(groups)
        for order in range(5)
    ]


@pytest.mark.parametrize("cached", [True, False])
def test_a_known_ratio_is_found_whatever_the_groups_lengths(cached: bool) -> None:
    found = warm_cold(timed(10, cached=cached))
    assert isinstance(found.ratio, Estimate)
    assert found.ratio.low is not None
    assert found.ratio.high is not None
    assert found.ratio.low <= 0.4 <= found.ratio.high < 0.6
    assert found.ratio.n == 10
    assert isinstance(found.cold_s, Estimate)
    assert isinstance(found.warm_s, Estimate)
    assert (found.cold_s.n, found.warm_s.n) == (10, 40)
    assert found.by == ("cached tokens" if cached else "order in the group")
    assert found.cold_repeats == 0


def test_no_effect_gives_an_interval_around_one() -> None:
    found = warm_cold(timed(10, cached=True, ratio=1.0)).ratio
    assert isinstance(found, Estimate)
    assert (found.low or 0) < 1 < (found.high or 0)


def test_a_later_request_without_a_hit_is_cold() -> None:
    requests = timed(10, cached=True)
    requests[1] = Timed("g0", 1, 1.0, 16, 272)  # a chat template's own blocks are no hit
    found = warm_cold(requests)
    assert found.cold_repeats == 1
    assert isinstance(found.cold_s, Estimate)
    assert found.cold_s.n == 11


@pytest.mark.parametrize("groups", [0, 1, 5])
def test_too_few_groups_have_no_ratio(groups: int) -> None:
    found = warm_cold(timed(groups, cached=True))
    assert isinstance(found.ratio, Refusal)
    assert f"{groups} groups" in found.ratio.reason


def test_caches_that_never_hit_have_no_warm_side() -> None:
    found = warm_cold([Timed("g", order, 1.0, 0, 272) for order in range(8)])
    assert isinstance(found.warm_s, Refusal)
    assert isinstance(found.ratio, Refusal)
    assert found.cold_repeats == 7
