"""Efficiency and verdict of more replicas, from ratios that can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput
from llmd_runbook.analysis.scale_out import efficiency, judge, rate, turns


def gain(value: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(value, low, high, 3, "t interval on logarithms, 3 pairs of runs")


def run(requests_per_s: float) -> Throughput:
    return Throughput(requests_per_s, 98 * requests_per_s, 10.0, 100, 20, (), 0.0, 1.0, 1.1)


def test_efficiency_is_the_ratio_over_the_replicas_with_its_interval() -> None:
    found = efficiency(gain(2.4, 2.1, 2.7), 3)
    assert isinstance(found, Estimate)
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.7, 0.9))
    assert efficiency(Refusal("not comparable"), 3) == Refusal("not comparable")


@pytest.mark.parametrize(
    ("ratio", "ok", "said"),
    [
        (gain(2.4, 2.1, 2.7), True, "2.40 [2.10, 2.70] times what one does: 70% [55%, 85%] of the gain"),
        (gain(1.0, 0.94, 1.06), False, "0% [-3%, 3%]"),  # no gain at all
        (gain(0.8, 0.7, 0.9), False, "-10% [-15%, -5%]"),  # a loss
        (gain(1.1, 1.06, 1.14), False, "5% [3%, 7%]"),  # some, and too little to pay
        (gain(1.1, 0.94, 1.3), None, "5% [-3%, 15%]"),  # nothing and enough are both possible
        (gain(1.25, 1.1, 1.4), True, "12% [5%, 20%]"),
        (gain(2.4, None, 2.7), None, "has no interval"),
        (Refusal("not comparable: failed requests 0 and 1"), None, "failed requests"),
    ],
)
def test_the_interval_decides(ratio: Estimate | Refusal, ok: bool | None, said: str) -> None:
    found = judge(ratio, 3)
    assert found.ok is ok
    assert said in found.reason


def test_a_rate_over_runs_is_their_geometric_mean_with_a_t_interval() -> None:
    found = rate([run(8.0), run(12.5)])
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(10.0)
    # half the difference of the logarithms is both the standard error of two and, times t(1), the reach
    reach = 12.706 * math.log(12.5 / 8) / 2
    assert (found.low, found.high) == pytest.approx((10 * math.exp(-reach), 10 * math.exp(reach)), rel=1e-3)
    assert (found.n, found.method) == (2, "t interval on logarithms, 2 runs")
    assert rate([run(8.0), Refusal("too short")]) == Refusal("too short")
    assert isinstance(rate([run(8.0)]), Refusal)


def test_sizes_go_down_and_up_in_turn_and_each_is_measured_in_each_round() -> None:
    assert turns([1, 2, 3], 3) == [(1, 3), (1, 2), (1, 1), (2, 1), (2, 2), (2, 3), (3, 3), (3, 2), (3, 1)]
