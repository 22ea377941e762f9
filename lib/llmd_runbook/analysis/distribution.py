"""How evenly requests spread over replicas, with what the test can find at that size.

The unit is a request only where each has a prefix of its own. With affinity the requests of one prefix are one
observation: test where the prefixes' homes are (`homes`), or count `effective_requests`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from llmd_runbook.analysis.judgement import ALPHA, Judgement
from llmd_runbook.analysis.permutation import Table, read_table

POWER = 0.8
LEAST_EXPECTED = 5
"""Below so many expected requests a replica chi-square is no good approximation (Cochran 1954): exact test."""


@dataclass(frozen=True)
class Spread:
    """How requests that share nothing were spread.

    Attributes:
        counts: requests a replica.
        p_value: against equal shares.
        method: the test that gave it.
        unserved: indices of replicas without a request.
        chance_of_unserved: probability that uniform random routing leaves some replica without a request.
        detectable_share: a replica with this share of the requests, the others equal, is found with probability
            `POWER` at level `ALPHA`; None when no share is.
    """

    counts: tuple[int, ...]
    p_value: float
    method: str
    unserved: tuple[int, ...]
    chance_of_unserved: float
    detectable_share: float | None


def spread(counts: Sequence[int]) -> Spread:
    """Test how evenly independent requests were spread; each must have had a prefix of its own.

    Raises:
        ValueError: fewer than two replicas, or no request.
    """
    if len(counts) < 2 or sum(counts) < 1 or min(counts) < 0:
        raise ValueError(f"no spread over {len(counts)} replicas of {sum(counts)} requests")
    requests, replicas = sum(counts), len(counts)
    if requests < LEAST_EXPECTED * replicas:
        p_value, method = _exact_p_value(counts), "exact multinomial test"
    else:
        p_value, method = float(stats.chisquare(counts).pvalue), "chi-square test"
    return Spread(
        counts=tuple(counts),
        p_value=p_value,
        method=method,
        unserved=tuple(index for index, count in enumerate(counts) if count == 0),
        chance_of_unserved=chance_of_unserved(replicas, requests),
        detectable_share=detectable_share(replicas, requests),
    )


def judge_spread(found: Spread, *, alpha: float = ALPHA) -> Judgement:
    """Every replica must have served; unequal shares are no fault where routing follows queues, caches."""
    shares = " / ".join(str(count) for count in found.counts)
    size = f"{found.detectable_share:.0%}" if found.detectable_share is not None else "no share"
    shown = (
        f"{shares} requests a replica, equal shares: p = {found.p_value:.2g} ({found.method}; would find a replica "
        f"with {size} of them {POWER:.0%} of the time)"
    )
    if not found.unserved:
        return Judgement(True, shown)
    if found.chance_of_unserved > alpha:
        return Judgement(None, f"{shown}; one is missed by chance with {found.chance_of_unserved:.2g}")
    return Judgement(False, f"{shown}; {len(found.unserved)} served none")


def homes(table: Table) -> tuple[int, ...]:
    """Prefixes a replica is home to: what to test instead of requests where routing keeps prefixes together.

    Raises:
        ValueError: negative counts, or no group with two requests.
    """
    counts = read_table(table)
    return tuple(np.bincount(counts.argmax(axis=1), minlength=counts.shape[1]).tolist())


def effective_requests(requests: int, per_prefix: float, correlation: float = 1.0) -> float:
    """Independent requests that so many are worth: n / (1 + (m - 1) rho), Kish's design effect (1965, 8.2).

    Args:
        requests: n, all of them.
        per_prefix: m, requests that share a prefix.
        correlation: rho within a prefix, 0 (blind routing) to 1 (all follow their prefix).
    """
    return requests / (1 + (per_prefix - 1) * correlation)


def chance_of_unserved(replicas: int, requests: int) -> float:
    """Probability that uniform random routing leaves a replica out (inclusion and exclusion)."""
    chance = 0.0
    for left_out in range(1, replicas + 1):
        sign = 1 if left_out % 2 else -1
        chance += sign * math.comb(replicas, left_out) * math.pow(1 - left_out / replicas, requests)
    return min(1.0, max(0.0, chance))


def spread_power(shares: Sequence[float], requests: int, *, alpha: float = ALPHA) -> float:
    """Probability that the chi-square test finds these shares with so many requests, within a few points.

    Approximated by the noncentral chi-square with n * w**2, w**2 = sum (p - 1/k)**2 * k (Cohen 1988, chapter 7).
    """
    freedom, weight = len(shares) - 1, _effect(shares)
    return float(stats.ncx2.sf(stats.chi2.isf(alpha, freedom), freedom, requests * weight)) if weight else alpha


def requests_needed(shares: Sequence[float], *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Fewest requests with which these shares are found with probability `power`; None for equal shares."""
    weight = _effect(shares)
    return math.ceil(_noncentrality(len(shares), alpha, power) / weight) if weight else None


def detectable_share(replicas: int, requests: int, *, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """The smallest share above 1/k of one replica, the others equal, found with probability `power`.

    From w**2 = k**2 / (k - 1) * (share - 1/k)**2; None when it would be above 1.
    """
    noncentrality = _noncentrality(replicas, alpha, power)
    share = (1 + math.sqrt((replicas - 1) * noncentrality / requests)) / replicas
    return share if share <= 1 else None


def _effect(shares: Sequence[float]) -> float:
    """Cohen's w, squared; exactly 0 for equal shares."""
    equal, total = 1 / len(shares), sum(shares)
    if max(shares) == min(shares):
        return 0.0
    return sum((share / total - equal) ** 2 for share in shares) / equal


@lru_cache
def _noncentrality(replicas: int, alpha: float, power: float) -> float:
    freedom = replicas - 1
    critical = stats.chi2.isf(alpha, freedom)
    return float(optimize.brentq(lambda value: stats.ncx2.sf(critical, freedom, value) - power, 1e-6, 1e3))


def _exact_p_value(counts: Sequence[int]) -> float:
    """Probability of counts whose squares sum to at least these' under equal shares: chi-square's order of tables."""
    chances = _sum_of_squares(sum(counts), len(counts))
    return float(min(1.0, chances[sum(count * count for count in counts) :].sum()))


@lru_cache
def _sum_of_squares(requests: int, replicas: int) -> npt.NDArray[np.float64]:
    """Probability of each sum of squared counts, one replica after another (convolution over its count)."""
    chances = np.zeros((requests + 1, requests * requests + 1))  # requests so far x sum of squares so far
    chances[0, 0] = 1.0
    for replica in range(replicas):
        share = 1 / (replicas - replica)  # of what earlier replicas left, so that nothing overflows
        after = np.zeros_like(chances)
        for before in range(requests + 1):
            left = requests - before
            for count, chance in enumerate(stats.binom.pmf(np.arange(left + 1), left, share)):
                square = count * count
                after[before + count, square:] += chance * chances[before, : chances.shape[1] - square]
        chances = after
    final: npt.NDArray[np.float64] = chances[requests]
    return final
