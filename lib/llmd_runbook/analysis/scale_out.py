"""What more replicas make of the same load: efficiency against linear, and whether they bring anything at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmd_runbook.analysis.judgement import Judgement
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, paired_ratio

LEAST_SHARE = 0.1
"""Replicas that bring less than this part of the linear gain do not pay under that load."""


def turns(sizes: Sequence[int], rounds: int) -> list[tuple[int, int]]:
    """Round and size of each measurement: down, up, down, and so on, so that a drift in time does not favour a size.

    Replicas then only go in the first round, and between two rounds nothing changes.

    >>> turns([1, 2], 2)
    [(1, 2), (1, 1), (2, 1), (2, 2)]
    """
    falling = sorted(sizes, reverse=True)
    return [(turn, size) for turn in range(1, rounds + 1) for size in (falling if turn % 2 else falling[::-1])]


def rate(runs: Sequence[Throughput | Refusal]) -> Estimate | Refusal:
    """Requests a second over several runs: geometric mean, t interval on logarithms; the unit is the run."""
    rates = []
    for run in runs:
        if isinstance(run, Refusal):
            return run
        rates.append(run.requests_per_s)
    found = paired_ratio([1.0] * len(rates), rates)
    return found if isinstance(found, Refusal) else replace(found, method=f"t interval on logarithms, {found.n} runs")


def efficiency(gain: Estimate | Refusal, replicas: int) -> Estimate | Refusal:
    """Throughput of n replicas over n times that of one, X_n / (n X_1); 1 is linear.

    Args:
        gain: X_n / X_1.
        replicas: n.
    """
    return gain if isinstance(gain, Refusal) else _scaled(gain, 0.0, 1 / replicas)


def judge(gain: Estimate | Refusal, replicas: int) -> Judgement:
    """Whether so many replicas serve more than one does, by the part of the linear gain, (X_n / X_1 - 1) / (n - 1).

    It fails where the whole interval of that part lies below `LEAST_SHARE`, passes where it lies above 0 otherwise, and
    is undecided where the interval holds both.

    Args:
        gain: X_n / X_1.
        replicas: n, two or more.
    """
    if isinstance(gain, Refusal):
        return Judgement(None, gain.reason)
    share = _scaled(gain, 1.0, 1 / (replicas - 1))
    if share.low is None or share.high is None:
        return Judgement(None, f"the ratio {gain.value:.2f} has no interval: {gain.caveat or gain.method}")
    said = f"{replicas} replicas serve {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}] times what one does: "
    said += f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}] of the gain that would be linear"
    return Judgement(False if share.high < LEAST_SHARE else True if share.low > 0 else None, said)


def _scaled(found: Estimate, offset: float, factor: float) -> Estimate:
    low, high = (None if end is None else (end - offset) * factor for end in (found.low, found.high))
    return replace(found, value=(found.value - offset) * factor, low=low, high=high)
