"""Tables of groups x replicas: what they look like when routing is blind to the groups, and when it follows them.

Blind routing is not uniform routing: the group labels of requests are permuted, which keeps each replica's
total, so that a skewed or sticky router cannot pass for prefix-aware (Good 2005, Permutation, Parametric, and
Bootstrap Tests of Hypotheses). The statistic is the sum over groups of the largest count of a replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

PERMUTATIONS = 10_000

Counts = npt.NDArray[np.int64]
Table = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Null:
    """The statistic's distribution under blind routing with given totals.

    Attributes:
        p_values: for each statistic from 0 to the number of requests (1 + permutations at least as large) /
            (1 + permutations).
        mean: of the statistic.
    """

    p_values: npt.NDArray[np.float64]
    mean: float

    def at_least(self, statistic: int) -> int:
        """Permutations that reach a statistic."""
        return round(float(self.p_values[statistic]) * (1 + PERMUTATIONS)) - 1

    def critical(self, alpha: float) -> int | None:
        """The smallest statistic that rejects; None when none can."""
        rejecting = np.flatnonzero(self.p_values <= alpha)
        return int(rejecting[0]) if len(rejecting) else None


def read_table(table: Table) -> Counts:
    """The table as an array, empty groups left out.

    Raises:
        ValueError: not groups x replicas, negative counts, or no group with two requests.
    """
    counts: Counts = np.asarray(table, dtype=np.int64)
    if counts.ndim != 2 or counts.size == 0 or counts.min() < 0:
        raise ValueError("the table must be groups x replicas of counts")
    asked: Counts = counts[counts.sum(axis=1) > 0]
    if len(asked) == asked.sum():
        raise ValueError("no group has two requests: nothing is repeated")
    return asked


def statistic(tables: Counts) -> Counts:
    """Sum over groups (last axis but one) of the largest count of a replica (last axis)."""
    largest: Counts = tables.max(axis=-1).sum(axis=-1)
    return largest


def null(groups: Sequence[int], replicas: Sequence[int], *, seed: int) -> Null:
    """Blind routing with these totals by group and by replica; their order does not matter."""
    return _null(tuple(sorted(groups)), tuple(sorted(replicas)), seed)


@lru_cache(maxsize=4096)
def _null(groups: tuple[int, ...], replicas: tuple[int, ...], seed: int) -> Null:
    if min(len(groups), len(replicas)) == 1:  # one table has these totals; scipy 1.17 draws negative counts here
        found = np.full(PERMUTATIONS, statistic(np.outer(groups, replicas) // sum(groups)))
    else:
        tables = stats.random_table(groups, replicas).rvs(PERMUTATIONS, random_state=np.random.default_rng(seed))
        found = statistic(tables.astype(np.int64))
    at_least = np.bincount(found, minlength=sum(groups) + 1)[::-1].cumsum()[::-1]
    p_values = (1 + at_least) / (1 + PERMUTATIONS)
    p_values.flags.writeable = False
    return Null(p_values, float(found.mean()))


def following(
    groups: Sequence[int], shares: npt.NDArray[np.float64], follow: float, tables: int, rng: np.random.Generator
) -> Counts:
    """Tables (tables x groups x replicas) of a router that sends a request to its group's home with chance `follow`.

    Homes, and the requests that do not follow, fall on replicas by their `shares`.
    """
    size = (tables, len(groups))
    homes = rng.choice(len(shares), size=size, p=shares)
    followed = rng.binomial(groups, follow, size=size)
    made: Counts = rng.multinomial(np.asarray(groups) - followed, shares)
    np.put_along_axis(made, homes[..., None], np.take_along_axis(made, homes[..., None], 2) + followed[..., None], 2)
    return made
