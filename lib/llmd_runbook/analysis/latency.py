"""Percentiles, throughput and ratios, each with its uncertainty or with the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
_EACH = 1 - (1 - CONFIDENCE) / 2
"""Of either interval where two must hold together with `CONFIDENCE` (Bonferroni)."""
_RESAMPLES = 10_000
_LEAST_BLOCKS = 4
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its confidence interval.

    Attributes:
        low, high: ends of the interval; None where the sample is too small to bound that side.
        n: observations behind it.
        method: how the interval was made.
        caveat: what the interval does not cover; empty when nothing.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: str
    caveat: str = ""


@dataclass(frozen=True)
class Refusal:
    """No figure, because the data cannot support one."""

    reason: str


@dataclass(frozen=True)
class Throughput:
    """Completions of a closed loop in its steady window.

    Attributes:
        requests_per_s, output_tokens_per_s: of good answers.
        window_s: length of the window.
        completed: good answers in it.
        in_flight: most requests at once.
        done_s: when the good answers ended, from the start of the window (s).
        start_s: when the window began, from the start of the run.
        latency_mean_s, latency_max_s: of the good answers in it.
    """

    requests_per_s: float
    output_tokens_per_s: float
    window_s: float
    completed: int
    in_flight: int
    done_s: tuple[float, ...]
    start_s: float
    latency_mean_s: float
    latency_max_s: float


def least_samples(p: float) -> int:
    """How many samples a percentile needs: the largest of them exceeds it with 95 % probability.

    1 - p**n >= 0.95 (distribution-free, from the binomial): 5 for the median, 59 for p95, 299 for p99.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(p))


def percentile(values: Sequence[float], p: float, confidence: float = CONFIDENCE) -> Estimate | Refusal:
    """The p-quantile (0 < p < 1) with the exact order-statistic interval (Conover 1999, section 3.2)."""
    n, needed = len(values), least_samples(p)
    if n < needed:
        return Refusal(f"p{100 * p:g} needs {needed} samples, there are {n}")
    low, high = np.asarray(stats.quantile_test(values, q=0, p=p).confidence_interval(confidence))
    return Estimate(
        value=float(np.quantile(values, p)),
        low=_finite(low),
        high=_finite(high),
        n=n,
        method="order statistics",
    )


def closed_loop_throughput(
    sent_s: Sequence[float],
    done_s: Sequence[float],
    output_tokens: Sequence[int | None],
    *,
    warmup: int,
) -> Throughput | Refusal:
    """Completions per second while the loop was full: `warmup` requests had ended, the last was not yet sent.

    Args:
        sent_s, done_s: of every request, failed ones too, on one clock (s).
        output_tokens: of every request; None for one that failed.
        warmup: the first so many requests to end are left out.
    """
    ended = sorted(done_s)
    if len(ended) <= warmup:
        return Refusal(f"{len(ended)} requests ended, {warmup} of them are warm-up")
    start = ended[warmup - 1] if warmup else min(sent_s)
    end = max(sent_s)
    good = [
        (done, done - sent, tokens)
        for sent, done, tokens in zip(sent_s, done_s, output_tokens, strict=True)
        if tokens is not None and start < done <= end
    ]
    if not good or end <= start:
        return Refusal("no request ended after warm-up and before the last was sent: give more requests")
    window_s = end - start
    return Throughput(
        requests_per_s=len(good) / window_s,
        output_tokens_per_s=sum(tokens for *_, tokens in good) / window_s,
        window_s=window_s,
        completed=len(good),
        in_flight=most_in_flight(sent_s, done_s),
        done_s=tuple(sorted(done - start for done, *_ in good)),
        start_s=start,
        latency_mean_s=sum(latency for _, latency, _ in good) / len(good),
        latency_max_s=max(latency for _, latency, _ in good),
    )


def paired_ratio(before: Sequence[float], after: Sequence[float]) -> Estimate | Refusal:
    """after/before of interleaved, paired runs: t interval on the differences of logarithms.

    exp(mean(d) +- t s / sqrt(R)), d = log(after) - log(before), R pairs; the unit of replication is the run.
    """
    if len(before) != len(after):
        return Refusal(f"{len(before)} runs before and {len(after)} after are no pairs")
    if len(before) < 2:
        return Refusal("one pair has no interval: repeat the runs, five pairs are good")
    if min(*before, *after) <= 0:
        return Refusal("a run without throughput has no ratio")
    differences = np.log(after) - np.log(before)
    centre, error = float(differences.mean()), float(stats.sem(differences))
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(before) - 1))
    return Estimate(
        value=math.exp(centre),
        low=math.exp(centre - reach),
        high=math.exp(centre + reach),
        n=len(before),
        method=f"t interval on logarithms, {len(before)} pairs of runs",
    )


def single_ratio(before: Throughput, after: Throughput, *, seed: int) -> Estimate | Refusal:
    """after/before of one run each: bootstrap of the time that a block of completions took.

    A block is as many completions as requests are in flight, for batched requests end together: windows of equal
    time would count a batch or none. Few blocks make a percentile interval too narrow; it is expanded after
    Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 4.
    """
    blocks = [_block_times(run) for run in (before, after)]
    fewest = min(map(len, blocks))
    if fewest < _LEAST_BLOCKS:
        return _too_few(fewest)
    rng = np.random.default_rng(seed)
    rates = [_resampled(run, times, rng) for times, run in zip(blocks, (before, after), strict=True)]
    value = after.requests_per_s / before.requests_per_s
    low, high = _expanded(rates[1] / rates[0], fewest, value)
    return Estimate(
        value=value,
        low=low,
        high=high,
        n=2,
        method=f"bootstrap over {len(blocks[0])} and {len(blocks[1])} blocks of completions of one run each",
        caveat="unpaired, one run a side: whatever else changed between the two runs is in the ratio",
    )


def percentile_ratio(before: Sequence[float], after: Sequence[float], p: float) -> Estimate | Refusal:
    """after/before of one percentile of one run each, from the exact intervals of both.

    Each at 97.5 %, so that both hold with 95 % (Bonferroni), whatever the distributions; wider than a bootstrap. A side
    with too few samples for an end at 97.5 % leaves that end of the ratio open.
    """
    one, other = (percentile(side, p, _EACH) for side in (before, after))
    for found in (one, other):
        if isinstance(found, Refusal):
            return found
    assert isinstance(one, Estimate)
    assert isinstance(other, Estimate)
    if min(one.value, other.value) <= 0:
        return Refusal("a latency of zero has no ratio")
    return Estimate(
        value=other.value / one.value,
        low=None if other.low is None or not one.high else other.low / one.high,
        high=None if other.high is None or not one.low else other.high / one.low,
        n=2,
        method=f"order statistics of {one.n} and {other.n} samples",
        caveat="one run a side: whatever else changed between the two runs is in the ratio",
    )


def samples_to_decide(ratio: Estimate, p: float, bound: float, n: int) -> int | None:
    """About how many samples a side would bring `percentile_ratio` to one side of a bound, were its value the true one.

    The interval's reach, on logarithms, goes about with 1/sqrt(n). An end that is open needs as many samples as it
    takes until the largest exceeds the percentile with the confidence of that end.

    Args:
        n: samples of the smaller side.

    Returns:
        None where the value is the bound itself: no number decides.
    """
    end, away = ratio.high if ratio.value < bound else ratio.low, math.log(bound / ratio.value)
    if end is None:
        return math.ceil(math.log((1 - _EACH) / 2) / math.log(p))
    return math.ceil(n * (math.log(end / ratio.value) / away) ** 2) if away else None


def sustained_rate(run: Throughput, *, seed: int) -> Estimate | Refusal:
    """Requests a second of one run with the interval of the same bootstrap as `single_ratio`."""
    times = _block_times(run)
    if len(times) < _LEAST_BLOCKS:
        return _too_few(len(times))
    low, high = _expanded(_resampled(run, times, np.random.default_rng(seed)), len(times), run.requests_per_s)
    return Estimate(
        value=run.requests_per_s,
        low=low,
        high=high,
        n=len(times),
        method=f"bootstrap over {len(times)} blocks of completions of one run",
        caveat="one run: what differs from run to run is not in the interval",
    )


def _too_few(blocks: int) -> Refusal:
    return Refusal(f"{blocks} blocks of as many answers as are in flight, {_LEAST_BLOCKS} needed: more requests")


def _resampled(run: Throughput, times: _Floats, rng: np.random.Generator) -> _Floats:
    """Rates (1/s) of as many blocks, drawn again with replacement."""
    return np.asarray(run.in_flight / rng.choice(times, size=(_RESAMPLES, len(times))).mean(axis=1))


def _expanded(rates: _Floats, blocks: int, value: float) -> tuple[float, float]:
    """Ends of the percentile interval, expanded for few blocks (Hesterberg 2015, section 4), and as far as the value.

    The value is of the whole window, the blocks are without the completions left over at its end: where the blocks took
    nearly equal times, it may lie outside of what they alone give.
    """
    reach = math.sqrt(blocks / (blocks - 1)) * float(stats.t.ppf((1 + CONFIDENCE) / 2, blocks - 1))
    tail = float(stats.norm.sf(reach))
    low, high = np.quantile(rates, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)


def _block_times(run: Throughput) -> _Floats:
    """How long each block of `in_flight` completions took (s); what is left over at the end is dropped."""
    ends = np.array([0.0, *run.done_s[run.in_flight - 1 :: run.in_flight]])
    return np.diff(ends)


def most_in_flight(sent_s: Sequence[float], done_s: Sequence[float]) -> int:
    """The most requests that were under way at once, from when each was sent and ended (s, on one clock)."""
    events = sorted([(when, 1) for when in sent_s] + [(when, -1) for when in done_s])
    return int(np.cumsum([change for _, change in events]).max())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
