"""Do requests that share a prefix go to one replica? A permutation test over tables of groups x replicas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from llmd_runbook.analysis.affinity_design import LEAST_POWER, WORKING_FOLLOW, power
from llmd_runbook.analysis.judgement import ALPHA, Judgement
from llmd_runbook.analysis.latency import CONFIDENCE, Estimate
from llmd_runbook.analysis.permutation import Counts, Table, following, null, read_table, statistic

__all__ = ["ALPHA", "Affinity", "Judgement", "Table", "affinity", "judge"]

CONTROL_ALPHA = ALPHA / 10
"""The control arm's level: what makes it reject, such as labels in step with the router, is far beyond it; at the
test's own level one right router in a hundred would be lost to chance."""
_SIMULATED = 2_000
_BISECTIONS = 9


@dataclass(frozen=True)
class Affinity:
    """A permutation test of one table.

    Attributes:
        statistic: sum over groups of the largest count of a replica.
        p_value: (1 + permutations at least as large) / (1 + permutations).
        homes: for each group the index of the replica that served most of it (the first of equals).
        share: of the requests after the first of each group, the part served by its home; 0 to 1.
        share_by_chance: mean of the same under the null hypothesis.
        follow: effect size: the chance that a request follows its group's home, all others being blind; 0 to 1.
    """

    statistic: int
    requests: int
    p_value: float
    homes: tuple[int, ...]
    share: Estimate
    share_by_chance: float
    follow: Estimate


def affinity(table: Table, *, seed: int) -> Affinity:
    """Test whether requests of one group share a replica more often than blind routing makes them.

    Raises:
        ValueError: negative counts, or no group with two requests.
    """
    counts = read_table(table)
    groups, requests, reached = len(counts), int(counts.sum()), int(statistic(counts))
    blind = null(*_totals(counts), seed=seed)
    later = requests - groups
    on_home = stats.binomtest(reached - groups, later).proportion_ci(CONFIDENCE, method="exact")
    return Affinity(
        statistic=reached,
        requests=requests,
        p_value=float(blind.p_values[reached]),
        homes=_homes(counts),
        share=Estimate(
            value=(reached - groups) / later,
            low=float(on_home.low),
            high=float(on_home.high),
            n=later,
            method="exact binomial (Clopper-Pearson)",
            caveat="takes the requests of a group as independent",
        ),
        share_by_chance=(blind.mean - groups) / later,
        follow=_follow(counts, seed),
    )


def judge(table: Table, control: Table | None, *, seed: int, alpha: float = ALPHA) -> Judgement:
    """The verdict on prefix affinity.

    A pass needs a rejected null, groups with different homes, and a control arm that could reject and does not.
    A failure needs enough power to have found a working router; else nothing is proved. Nor is it where every request
    of both arms went to one replica: one table has these totals, whatever the routing, and whether any other replica
    can be reached is a question of the spread.

    Args:
        table: requests that share a prefix within a group; the groups in random order.
        control: requests without common prefixes, labelled and sent the same way; must not reject.
        seed: of the permutations.
        alpha: level of the test.
    """
    try:
        counts = read_table(table)
    except ValueError as error:
        return Judgement(None, str(error))
    if counts.shape[1] < 2:
        return Judgement(None, "with one replica every request shares it")
    if control is not None and (spoilt := _control_fault(control, seed)):
        return Judgement(None, spoilt)
    groups, replicas = _totals(counts)
    reached, requests, homes = int(statistic(counts)), int(counts.sum()), len(set(_homes(counts)))
    p_value = float(null(groups, replicas, seed=seed).p_values[reached])
    shown = (
        f"{reached} of {requests} requests on their group's replica, p = {p_value:.2g}, "
        f"{homes} home{'s' if homes > 1 else ''}"
    )
    if p_value <= alpha and homes >= 2:
        return Judgement(True, shown)
    best = _best_p_value(counts, seed)
    if best > alpha:
        return Judgement(None, f"{shown}: no routing could pass with so few requests (best p = {best:.2g})")
    if reached == requests and homes == 1:
        by_chance = float(counts.shape[1]) ** (1 - len(counts))
        if by_chance > alpha:
            return Judgement(None, f"{shown}: so few groups share a home by chance (p = {by_chance:.2g})")
        if control is None or not _elsewhere(counts, read_table(control)):
            return Judgement(None, f"{shown}: no request at all reached another replica: there is nothing to permute")
        if _fewer_elsewhere(counts, read_table(control)) <= alpha:
            return Judgement(
                None, f"{shown}: every group has the same home, though other requests go elsewhere: run it again"
            )
        return Judgement(False, f"{shown}: all on one replica is sticky, not prefix-aware")
    found = power(groups, replicas, WORKING_FOLLOW, seed=seed, alpha=alpha).value
    if found < LEAST_POWER:
        return Judgement(
            None,
            f"{shown}: a router that keeps {WORKING_FOLLOW:.0%} with their group would pass only {found:.0%} of the "
            "time with these totals: more groups, more requests",
        )
    return Judgement(False, f"{shown}: no more than a prefix-blind router gives")


def _control_fault(control: Table, seed: int) -> str:
    """Why the control arm does not support a verdict; empty when it does."""
    try:
        counts = read_table(control)
    except ValueError as error:
        return f"the control arm: {error}"
    p_value = float(null(*_totals(counts), seed=seed).p_values[int(statistic(counts))])
    if p_value <= CONTROL_ALPHA:
        return f"the control arm, without shared prefixes, rejects too (p = {p_value:.2g})"
    if (best := _best_p_value(counts, seed)) > CONTROL_ALPHA:
        return f"the control arm has too few requests to reject whatever the routing (best p = {best:.2g})"
    return ""


def _elsewhere(counts: Counts, control: Counts) -> int:
    """Requests of the control arm that did not go to the one home of all groups."""
    return int(control.sum() - control[:, int(counts.sum(axis=0).argmax())].sum())


def _fewer_elsewhere(counts: Counts, control: Counts) -> float:
    """Probability that requests beside the one home are all in the control arm, if both arms are routed alike."""
    of_control, elsewhere = int(control.sum()), _elsewhere(counts, control)
    return float(stats.hypergeom.pmf(elsewhere, int(counts.sum()) + of_control, elsewhere, of_control))


def _best_p_value(counts: Counts, seed: int) -> float:
    """Of the same groups, each wholly on one replica, in turn."""
    ideal = np.zeros_like(counts)
    rows = np.arange(len(counts))
    ideal[rows, rows % counts.shape[1]] = counts.sum(axis=1)
    return float(null(*_totals(ideal), seed=seed).p_values[int(statistic(ideal))])


def _follow(counts: Counts, seed: int) -> Estimate:
    """Invert the test of `follow`: the interval holds what would not be rejected (Casella and Berger, 9.2.1)."""
    groups, replicas = _totals(counts)
    shares, reached, tail = np.array(replicas) / sum(replicas), int(statistic(counts)), (1 - CONFIDENCE) / 2

    def simulated(follow: float) -> Counts:
        return statistic(following(groups, shares, follow, _SIMULATED, np.random.default_rng(seed)))

    return Estimate(
        value=_least(lambda follow: bool(simulated(follow).mean() >= reached)),
        low=_least(lambda follow: bool(np.mean(simulated(follow) >= reached) > tail)),
        high=_least(lambda follow: bool(np.mean(simulated(follow) <= reached) <= tail)),
        n=int(counts.sum()),
        method=f"test inversion over {_SIMULATED} simulated tables a value",
        caveat="homes and blind requests fall on replicas by the observed shares",
    )


def _least(holds: Callable[[float], bool]) -> float:
    """The least value in [0, 1] from which a monotone condition holds; 1 if it never does."""
    if holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _totals(counts: Counts) -> tuple[list[int], list[int]]:
    return counts.sum(axis=1).tolist(), counts.sum(axis=0).tolist()


def _homes(counts: Counts) -> tuple[int, ...]:
    return tuple(int(home) for home in counts.argmax(axis=1))
