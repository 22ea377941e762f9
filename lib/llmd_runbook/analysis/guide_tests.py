"""What the guide's own Tests 2 and 3 can show: how often a right picker passes them, and how often chance does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from llmd_runbook.analysis.judgement import ALPHA
from llmd_runbook.analysis.scorers import Endpoint, Picker, Rules

RUNS = 1000
"""Runs of the reference picker in a forecast."""

Passes = Callable[[Sequence[int]], bool]
"""Whether the guide's rule holds, from the requests that each replica served."""


class Outcome(StrEnum):
    """What a replayed test of the guide shows; a result that chance explains shows nothing."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOTHING = "shows nothing"


@dataclass(frozen=True)
class Forecast:
    """Share of runs in which this picker passes: the lowest and the highest, by what it learns between requests."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.0%}" if self.low == self.high else f"{self.low:.0%} to {self.high:.0%}"


def on_one(counts: Sequence[int]) -> bool:
    """Test 2's rule: one replica served every request."""
    return sum(count > 0 for count in counts) == 1


def on_every(counts: Sequence[int]) -> bool:
    """Test 3's rule: every replica served some."""
    return min(counts) > 0


def every_replica(shares: Sequence[float], requests: int) -> float:
    """Probability that independent requests reach every replica (inclusion and exclusion over those left out).

    >>> round(every_replica([1, 1, 1], 3), 4)   # 3! / 3**3
    0.2222
    """
    total = sum(shares)
    left_out = (
        (-1 if size % 2 else 1) * max(0.0, 1 - sum(without) / total) ** requests
        for size in range(len(shares) + 1)
        for without in combinations(shares, size)
    )
    return max(0.0, sum(left_out))


def forecast(
    rules: Rules,
    model: str,
    prompts: Sequence[str],
    replicas: Sequence[Endpoint],
    passes: Passes,
    *,
    at_once: bool,
    seed: int,
) -> Forecast:
    """How often the reference picker passes, with nothing learned before and idle replicas.

    Args:
        rules: of the picker.
        model: name that the requests carry.
        prompts: in the order of sending.
        replicas: with the sizes of their caches.
        passes: the guide's rule.
        at_once: the requests do not wait for one another, so that nobody knows what the picker learns in between.
        seed: of the ties.
    """
    found = [
        sum(passes(_counts(rules, model, prompts, replicas, seed + run, learns)) for run in range(RUNS)) / RUNS
        for learns in ((True, False) if at_once else (True,))
    ]
    return Forecast(min(found), max(found))


def judge(passed: bool | None, chance: float, right: Forecast | None) -> tuple[Outcome, str]:
    """What a result shows, and why.

    Args:
        passed: whether the guide's rule held; None: not known.
        chance: how often the rule holds where nothing of what it is about is at work.
        right: how often it holds with a picker as it is configured here; None: not known.
    """
    if passed is None:
        return Outcome.NOTHING, "what happened is not known"
    if passed and chance > ALPHA:
        return Outcome.NOTHING, f"chance alone gives this in {chance:.1%} of runs"
    if passed:
        return Outcome.HOLDS, f"chance alone gives this in {chance:.2%} of runs"
    if right is None:
        return Outcome.NOTHING, "how often it would hold if all were well is not known"
    if right.low < 1 - ALPHA:
        return Outcome.NOTHING, f"a picker that works passes in {right} of runs only"
    return Outcome.FAILS, f"a picker that works passes in {right} of runs"


def _counts(
    rules: Rules, model: str, prompts: Sequence[str], replicas: Sequence[Endpoint], seed: int, learns: bool
) -> list[int]:
    """Requests of each replica; a picker that does not learn has heard of none before the last one comes."""
    picker, served = Picker(rules, rng=random.Random(seed)), dict.fromkeys((item.name for item in replicas), 0)
    for prompt in prompts:
        decision = picker.decide({"model": model, "prompt": prompt}, replicas)
        served[decision.picked.name] += 1
        if learns:
            picker.learn(decision)
    return list(served.values())
