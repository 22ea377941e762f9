"""Percentiles, throughput and ratios on known data."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from llmd_runbook.analysis.latency import (
    Estimate,
    Refusal,
    Throughput,
    closed_loop_throughput,
    least_samples,
    paired_ratio,
    percentile,
    percentile_ratio,
    samples_to_decide,
    single_ratio,
    sustained_rate,
)


@pytest.mark.parametrize(("p", "n"), [(0.5, 5), (0.95, 59), (0.99, 299)])
def test_a_percentile_needs_enough_samples(p: float, n: int) -> None:
    assert least_samples(p) == n
    assert 1 - p**n >= 0.95 > 1 - p ** (n - 1)
    assert isinstance(percentile([1.0] * n, p), Estimate)
    refused = percentile([1.0] * (n - 1), p)
    assert isinstance(refused, Refusal)
    assert str(n) in refused.reason


def test_the_medians_interval_is_the_order_statistics() -> None:
    found = percentile([float(i) for i in range(1, 101)], 0.5)
    assert isinstance(found, Estimate)
    assert (found.value, found.low, found.high, found.n) == (50.5, 40.0, 61.0, 100)


def test_an_end_that_the_sample_cannot_bound_is_open() -> None:
    found = percentile([float(i) for i in range(59)], 0.95)
    assert isinstance(found, Estimate)
    assert found.high is None
    assert found.low == 51.0


def test_the_interval_of_a_percentile_covers_the_truth() -> None:
    rng, truth = np.random.default_rng(1), math.log(20)
    hits = 0
    for _ in range(200):
        found = percentile(rng.exponential(size=200).tolist(), 0.95)
        assert isinstance(found, Estimate)
        hits += (found.low or 0) <= truth <= (found.high or math.inf)
    assert hits >= 180


def test_throughput_leaves_out_warm_up_and_drain() -> None:
    # Four in flight, each answer takes 1 s; the first wave took 3 s, and the last runs alone.
    sent = [0.0] * 4 + [3.0] * 4 + [4.0] * 4 + [5.0] * 4
    done = [3.0] * 4 + [4.0] * 4 + [5.0] * 4 + [6.0] * 4
    found = closed_loop_throughput(sent, done, [10] * 16, warmup=4)
    assert isinstance(found, Throughput)
    assert (found.requests_per_s, found.output_tokens_per_s) == (4.0, 40.0)
    assert (found.window_s, found.completed, found.in_flight) == (2.0, 8, 4)


def test_failed_requests_are_no_throughput() -> None:
    sent = [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    done = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    found = closed_loop_throughput(sent, done, [5, 5, None, 5, 5, 5], warmup=2)
    assert isinstance(found, Throughput)
    assert (found.requests_per_s, found.output_tokens_per_s) == (1.0, 5.0)


@pytest.mark.parametrize(
    ("sent", "done", "warmup"), [([0.0], [1.0], 1), ([0.0, 0.0], [1.0, 1.0], 0), ([0.0, 1.0], [1.0, 2.0], 1)]
)
def test_without_a_steady_window_there_is_no_throughput(sent: list[float], done: list[float], warmup: int) -> None:
    assert isinstance(closed_loop_throughput(sent, done, [5] * len(sent), warmup=warmup), Refusal)


def test_paired_ratio_of_known_runs() -> None:
    found = paired_ratio([1.0, 1.1, 0.9], [2.0, 2.2, 1.8])
    assert isinstance(found, Estimate)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    wider = paired_ratio([1.0, 1.0], [2.0, 2.0 * math.e])
    assert isinstance(wider, Estimate)
    # s/sqrt(2) of {0, 1} is 0.5, and t(0.975, 1) is 12.7062.
    assert math.log((wider.high or 0) / wider.value) == pytest.approx(0.5 * 12.7062, rel=1e-4)


@pytest.mark.parametrize(("before", "after"), [([1.0], [2.0]), ([1.0, 1.0], [2.0]), ([1.0, 0.0], [2.0, 2.0])])
def test_paired_ratio_refuses(before: list[float], after: list[float]) -> None:
    assert isinstance(paired_ratio(before, after), Refusal)


def poisson_run(rate: float, seed: int, window_s: float = 60.0) -> Throughput:
    rng, done, now = random.Random(seed), [], 0.0
    while (now := now + rng.expovariate(rate)) < window_s:
        done.append(now)
    return Throughput(len(done) / window_s, 0.0, window_s, len(done), 5, tuple(done), 0.0, 1.0, 1.0)


def test_single_ratio_holds_the_truth_and_names_what_it_cannot_tell_apart() -> None:
    found = single_ratio(poisson_run(2, 1), poisson_run(5, 2), seed=3)
    assert isinstance(found, Estimate)
    assert found.low is not None
    assert found.high is not None
    assert 1.8 < found.low < 2.5 < found.high < 3.2
    assert found.low < found.value < found.high
    assert "unpaired" in found.caveat
    assert found == single_ratio(poisson_run(2, 1), poisson_run(5, 2), seed=3)


def batched_run(seconds: list[float], in_flight: int) -> Throughput:
    ends = np.cumsum(seconds)
    done = tuple(float(end) for end in ends for _ in range(in_flight))
    return Throughput(len(done) / float(ends[-1]), 0.0, float(ends[-1]), len(done), in_flight, done, 0.0, 1.0, 1.0)


def test_answers_that_end_together_do_not_widen_the_interval() -> None:
    found = single_ratio(batched_run([4.0, 4.1, 3.9, 4.0], 12), batched_run([4.4, 4.5, 4.3, 4.4], 36), seed=3)
    assert isinstance(found, Estimate)
    assert found.low is not None
    assert found.high is not None
    assert 2.5 < found.low < 3 * 4 / 4.4 < found.high < 3


def test_single_ratio_refuses_few_completions() -> None:
    few = batched_run([4.0, 4.0, 4.0], 12)
    refused = single_ratio(few, poisson_run(5, 2), seed=3)
    assert isinstance(refused, Refusal)
    assert refused.reason.startswith("3 blocks")


def test_a_sustained_rate_has_the_interval_of_its_blocks() -> None:
    found = sustained_rate(batched_run([4.0, 4.1, 3.9, 4.0], 12), seed=3)
    assert isinstance(found, Estimate)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 12 / 4 < found.high
    assert found.high / found.low < 1.1
    assert "one run" in found.caveat
    assert isinstance(sustained_rate(batched_run([4.0, 4.1, 3.9], 12), seed=3), Refusal)


def test_an_interval_holds_its_value_though_answers_are_left_over_beyond_the_last_block() -> None:
    """Five blocks of 1 s each, and another answer right after them: the whole window's rate is above that of each."""
    run = batched_run([1.0] * 5, 6)
    over = replace(run, done_s=(*run.done_s, 5.01), completed=31, window_s=5.01, requests_per_s=31 / 5.01)
    for found in (sustained_rate(over, seed=3), single_ratio(run, over, seed=3), single_ratio(over, run, seed=3)):
        assert isinstance(found, Estimate)
        assert found.low is not None
        assert found.high is not None
        assert found.low <= found.value <= found.high


def test_the_interval_of_a_sustained_rate_covers_the_truth() -> None:
    covered = 0
    for seed in range(60):
        found = sustained_rate(poisson_run(5, seed), seed=seed)
        assert isinstance(found, Estimate)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 5 <= found.high
    assert covered >= 51  # 95 % of 60 are 57; fewer than 51 come by chance once in 100,000


def test_the_ratio_of_two_percentiles_covers_the_true_one() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        before, after = rng.lognormal(0, 0.5, 200), 0.7 * rng.lognormal(0, 0.5, 200)
        found = percentile_ratio(before.tolist(), after.tolist(), 0.95)
        assert isinstance(found, Estimate)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.7 <= found.high
    assert covered >= 190


def test_few_samples_leave_the_ratios_end_open_or_refuse_it() -> None:
    found = percentile_ratio([1.0 + n / 100 for n in range(60)], [2.0 + n / 100 for n in range(200)], 0.95)
    assert isinstance(found, Estimate)
    assert found.low is None  # 60 samples do not bound their p95 at 97.5 %
    assert found.high is not None
    refused = percentile_ratio([1.0] * 58, [1.0] * 200, 0.95)
    assert refused == Refusal("p95 needs 59 samples, there are 58")
    assert isinstance(percentile_ratio([0.0] * 200, [1.0] * 200, 0.5), Refusal)


def test_a_ratio_that_is_the_bound_itself_is_decided_by_no_number_of_samples() -> None:
    ratio = Estimate(value=2.0, low=1.0, high=4.0, n=2, method="")
    assert samples_to_decide(ratio, 0.95, 2.0, 100) is None


def test_to_halve_an_interval_on_logarithms_takes_four_times_the_samples() -> None:
    ratio = Estimate(value=1.0, low=0.25, high=4.0, n=2, method="")
    assert samples_to_decide(ratio, 0.95, 2.0, 100) == 400
    assert samples_to_decide(ratio, 0.95, 0.5, 100) == 400


def test_an_open_end_needs_the_samples_that_bound_it_at_97_5_percent() -> None:
    ratio = Estimate(value=1.0, low=0.5, high=None, n=2, method="")
    needed = samples_to_decide(ratio, 0.95, 2.0, 60)
    assert needed == 86
    for n, bounded in ((needed - 1, False), (needed, True)):
        found = percentile([float(number) for number in range(n)], 0.95, 0.975)
        assert isinstance(found, Estimate)
        assert (found.high is not None) is bounded
