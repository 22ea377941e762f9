"""What an affinity test of so many groups and requests can find, and how often it passes a blind router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from llmd_runbook.analysis.judgement import ALPHA
from llmd_runbook.analysis.latency import CONFIDENCE, Estimate
from llmd_runbook.analysis.permutation import PERMUTATIONS, Table, following, null, read_table, statistic

FOLLOWS = (0.5, 0.8, 1.0)
WORKING_FOLLOW = 0.8
"""A router that keeps fewer requests than this with their prefix is not worth a prefix scorer."""
LEAST_POWER = 0.8
SIMULATED = 400


@dataclass(frozen=True)
class Design:
    """An affinity test as it was run.

    Attributes:
        groups, replicas: requests of each.
        critical: smallest statistic that passes; None when none can.
        false_pass: probability that routing blind to prefixes, with these totals, reaches it. The demands on homes
            and control arm only lower it.
        power: probability of a pass, by the chance that a request follows its group's home.
        guide_rule: probability that blind routers pass "all requests of one prefix on one replica", by router.
    """

    groups: tuple[int, ...]
    replicas: tuple[int, ...]
    critical: int | None
    false_pass: Estimate
    power: Mapping[float, Estimate]
    guide_rule: Mapping[str, float]


def design(table: Table, *, seed: int, alpha: float = ALPHA) -> Design:
    """False-pass probability and power with the table's own totals.

    Raises:
        ValueError: negative counts, or no group with two requests.
    """
    counts = read_table(table)
    groups, replicas = counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()
    blind = null(groups, replicas, seed=seed)
    critical = blind.critical(alpha)
    fresh = null(groups, replicas, seed=seed + 1)  # not the permutations that the critical value was chosen by
    passing = 0 if critical is None else fresh.at_least(critical)
    return Design(
        groups=tuple(groups),
        replicas=tuple(replicas),
        critical=critical,
        false_pass=_proportion(passing, PERMUTATIONS, "permutations of the group labels"),
        power={follow: power(groups, replicas, follow, seed=seed, alpha=alpha) for follow in FOLLOWS},
        guide_rule=guide_rule(replicas, max(groups)),
    )


def power(
    groups: Sequence[int], replicas: Sequence[int], follow: float, *, seed: int, alpha: float = ALPHA
) -> Estimate:
    """Probability that a router passes which sends a request to its group's home with chance `follow`.

    Args:
        groups: requests of each group.
        replicas: requests of each replica, whose shares homes and the other requests fall on.
        follow: 0 (blind) to 1.
        seed: of the simulated tables, each tested against the null of its own totals.
        alpha: level of the test.
    """
    return _power(tuple(sorted(groups)), tuple(sorted(replicas)), follow, seed, alpha)


def all_on_one(shares: Sequence[float], requests: int) -> float:
    """Probability that independent requests all fall on one replica: sum of shares**requests; k**(1-n) if equal."""
    return sum((share / sum(shares)) ** requests for share in shares)


def guide_rule(replicas: Sequence[int], requests: int) -> dict[str, float]:
    """How often blind routers send all `requests` of one prefix to one replica, as the guide's test demands.

    Args:
        replicas: requests that each replica served.
        requests: with one prefix (the guide: 5).
    """
    count = len(replicas)
    return {
        "uniform random": all_on_one([1] * count, requests),
        "random with the observed shares": all_on_one(replicas, requests),
        "always the first idle replica": all_on_one([1] + [0] * (count - 1), requests),
    }


@lru_cache(maxsize=4096)
def _power(groups: tuple[int, ...], replicas: tuple[int, ...], follow: float, seed: int, alpha: float) -> Estimate:
    shares = np.array(replicas) / sum(replicas)
    tables = following(groups, shares, follow, SIMULATED, np.random.default_rng(seed))
    found, totals, homes = statistic(tables), tables.sum(axis=1), tables.argmax(axis=2)
    passed = sum(
        bool(null(groups, total, seed=seed).p_values[reached] <= alpha) and len(set(home)) >= 2
        for reached, total, home in zip(found.tolist(), totals.tolist(), homes.tolist(), strict=True)
    )
    return _proportion(passed, SIMULATED, "simulated tables of this design")


def _proportion(hits: int, of: int, method: str) -> Estimate:
    interval = stats.binomtest(hits, of).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(hits / of, float(interval.low), float(interval.high), of, f"{method}, Clopper-Pearson")
