"""Little's law on a measured load: requests in flight = throughput x latency (Little 1961), twice over.

Throughput and latency come from answers, the requests in flight from what was asked for and from the replicas' own
gauges: where they disagree one of the figures is not what it is called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from llmd_runbook.analysis.judgement import Judgement
from llmd_runbook.analysis.latency import CONFIDENCE, Estimate, Refusal, Throughput

_LEAST_READINGS = 3
_SENDING = 0.05
"""Part of a closed loop's requests that may be between an answer and the next request."""
_FOREIGN, _OUTSIDE = 0.1, 0.25
"""By what part the replicas may hold more (nobody else's requests) or less (time in gateway and network)."""


@dataclass(frozen=True)
class Law:
    """The three numbers that should be one.

    Attributes:
        asked: requests in flight that were asked for.
        product: throughput x mean latency of the window.
        reach: by how much the product of so short a window may miss: requests that began before it or end after it.
        held: running and waiting in all replicas, mean over the window, or why that is not known.
    """

    asked: int
    product: float
    reach: float
    held: Estimate | Refusal


def law(run: Throughput, asked: int, held: Sequence[float]) -> Law:
    """The law's numbers for one load.

    The sum of the window's latencies and the integral of the requests in flight differ by the ages of the requests
    that straddle its ends: at each end at most as many as are in flight, none older than the longest latency.

    Args:
        held: readings of running + waiting requests over all replicas during the window.
    """
    return Law(
        asked=asked,
        product=run.requests_per_s * run.latency_mean_s,
        reach=run.in_flight * run.latency_max_s / run.window_s,
        held=_mean(held),
    )


def judge(found: Law) -> Judgement:
    """Whether the numbers agree; nothing is proved where the replicas' side is missing."""
    said = f"{found.asked} asked for, throughput x latency {found.product:.1f} +- {found.reach:.1f}"
    if abs(found.product - found.asked) > found.reach + _SENDING * found.asked:
        return Judgement(False, f"{said}: the client did not keep them in flight, or answers are missing")
    if isinstance(found.held, Refusal):
        return Judgement(None, f"{said}; in the replicas: {found.held.reason}")
    low, high = found.held.low, found.held.high
    assert low is not None
    assert high is not None
    said += f", in the replicas {found.held.value:.1f} [{low:.1f}, {high:.1f}] n={found.held.n}"
    if low > found.product * (1 + _FOREIGN) + found.reach:
        return Judgement(False, f"{said}: the replicas served somebody else's requests too")
    if high < found.product * (1 - _OUTSIDE) - found.reach:
        return Judgement(None, f"{said}: the rest was in gateway and network, or in a replica that was not read")
    return Judgement(True, said)


def _mean(readings: Sequence[float]) -> Estimate | Refusal:
    """The mean with its t interval."""
    if len(readings) < _LEAST_READINGS:
        return Refusal(f"{len(readings)} readings during the measurement, {_LEAST_READINGS} needed")
    mean, error = float(np.mean(readings)), float(np.std(readings, ddof=1)) / math.sqrt(len(readings))
    reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, len(readings) - 1))
    return Estimate(mean, mean - reach, mean + reach, len(readings), "t interval over readings")
