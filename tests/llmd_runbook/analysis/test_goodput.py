from __future__ import annotations

import pytest

from llmd_runbook.analysis.goodput import Objectives, goodput, knee
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput


def run(rate: float, in_flight: int = 10, *, answers: int = 100) -> Throughput:
    done = tuple((number + 1) / rate for number in range(answers))
    latency_s = in_flight / rate
    return Throughput(rate, 0.0, answers / rate, answers, in_flight, done, 0.0, latency_s, latency_s)


def test_only_what_meets_every_objective_counts() -> None:
    latencies, ttfts = [1.0] * 50 + [3.0] * 50, [0.1] * 75 + [0.9] * 25
    alone = goodput(run(10), latencies, ttfts, Objectives(latency_s=2))
    both = goodput(run(10), latencies[::-1], ttfts, Objectives(ttft_s=0.5, latency_s=2))
    assert isinstance(alone, Estimate)
    assert isinstance(both, Estimate)
    assert alone.value == 5
    assert both.value == 2.5  # the last 50 are fast, and 25 of them began late
    assert both.low is not None
    assert both.high is not None
    assert 10 * 0.16 < both.low < 2.5 < both.high < 10 * 0.36
    assert "25 of 100 met TTFT at most 0.5 s and latency at most 2 s" in both.method


@pytest.mark.parametrize(
    ("measured", "ttfts", "wanted", "why"),
    [
        (run(10), [0.1], Objectives(), "no objective stated"),
        (Refusal("too short"), [0.1], Objectives(latency_s=1), "too short"),
        (run(10), [], Objectives(ttft_s=1), "not every answer"),
        (run(10, answers=20), [0.1], Objectives(ttft_s=1), "more requests"),
    ],
)
def test_without_its_parts_there_is_no_goodput(
    measured: Throughput | Refusal, ttfts: list[float], wanted: Objectives, why: str
) -> None:
    found = goodput(measured, [1.0], ttfts, wanted)
    assert isinstance(found, Refusal)
    assert why in found.reason


def test_the_knee_is_where_throughput_over_latency_is_greatest() -> None:
    """At 8 requests in flight a server of 8 slots is full and nothing waits."""
    runs = {count: run(min(count, 8) / 1.0, count) for count in (1, 2, 4, 8, 16, 32)}
    assert knee(runs) == 8
    assert knee({**runs, 64: Refusal("failed")}) == 8


def test_a_knee_at_an_end_of_the_range_is_none() -> None:
    rising = knee({count: run(float(count), count) for count in (1, 2, 4)})
    falling = knee({count: run(4.0, count) for count in (8, 16, 32)})
    assert isinstance(rising, Refusal)
    assert "4 in flight, an end of the range: the knee may lie above" in rising.reason
    assert isinstance(falling, Refusal)
    assert "may lie below" in falling.reason
    assert isinstance(knee({1: run(1.0), 2: run(2.0)}), Refusal)
