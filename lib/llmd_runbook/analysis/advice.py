"""Keep Pattern 1, switch, or scale: the guide's criteria with what is known of each; what capacity says of demand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from llmd_runbook.analysis.cost import at_most
from llmd_runbook.analysis.latency import Estimate, Refusal

KEEP, SWITCH, SCALE = "keep Pattern 1", "switch to Pattern 3", "scale to 4 or 5"
KEEP_BELOW_PER_MIN, SWITCH_FROM_PER_MIN = 10, 50
"""The guide's "Use Case Analysis": low traffic, high traffic."""


class Answer(StrEnum):
    """Whether a criterion is met; what nobody stated or measured is not decided."""

    MET = "met"
    NOT_MET = "not met"
    OPEN = "not decided"


@dataclass(frozen=True)
class Criterion:
    """One of the guide's criteria.

    Attributes:
        speaks_for: what the guide does when it is met.
        known: what was stated or measured.
        why: what that says.
    """

    speaks_for: str
    says: str
    known: str
    answer: Answer
    why: str


@dataclass(frozen=True)
class Situation:
    """What is known of demand, money and capacity.

    Attributes:
        capacity1_per_s, capacity3_per_s: requests a second that the patterns sustain, or why that is not known.
        prompts_share: whether the load's prompts share beginnings by design.
        hit_share: part of its prompt tokens that was found in the prefix caches; None where nobody counted.
    """

    demand_per_min: float | None
    budget_usd_per_month: float | None
    pattern1_usd_per_month: float
    pattern3_usd_per_month: float
    capacity1_per_s: Estimate | Refusal
    capacity3_per_s: Estimate | Refusal
    speed_up: Estimate | Refusal
    replicas: int
    prompts_share: bool
    hit_share: float | None


@dataclass(frozen=True)
class Advice:
    """What follows from demand and measured capacity, or why nothing does."""

    choice: Literal["keep Pattern 1", "switch to Pattern 3", "scale beyond Pattern 3", "not decided"]
    why: str


def criteria(situation: Situation) -> list[Criterion]:
    """The guide's criteria for keeping Pattern 1 and for switching, in its order."""
    only_you = "nobody stated it: only you know"
    return [
        Criterion(KEEP, "development or testing environment", "not stated", Answer.OPEN, only_you),
        _traffic(situation, KEEP, f"low traffic, below {KEEP_BELOW_PER_MIN} requests/min"),
        _budget(situation, KEEP, "budget-constrained"),
        Criterion(KEEP, "single user or demonstration", "not stated", Answer.OPEN, only_you),
        Criterion(SWITCH, "production with real users", "not stated", Answer.OPEN, only_you),
        _traffic(situation, SWITCH, f"high traffic, {SWITCH_FROM_PER_MIN} requests/min or more"),
        _repeated(situation),
        _need(situation),
        _budget(situation, SWITCH, "can justify 3 times the cost"),
    ]


def advise(situation: Situation) -> Advice:
    """Pattern 1 as long as it certainly serves the demand; Pattern 3 when only that does; more when neither does."""
    if situation.demand_per_min is None:
        return Advice("not decided", "no demand is stated: set demand.requests_per_min in the profile")
    for capacity in (situation.capacity1_per_s, situation.capacity3_per_s):
        if isinstance(capacity, Refusal):
            return Advice("not decided", f"a capacity is not known: {capacity.reason}")
    one, three = situation.capacity1_per_s, situation.capacity3_per_s
    assert isinstance(one, Estimate)
    assert isinstance(three, Estimate)
    demand = f"{situation.demand_per_min:g} requests/min"
    per_s = situation.demand_per_min / 60
    by_one, by_three = at_most(per_s, one), at_most(per_s, three)
    if by_one:
        ratio = situation.pattern3_usd_per_month / situation.pattern1_usd_per_month
        return Advice(
            "keep Pattern 1",
            f"it serves {demand} with {per_s / one.value:.0%} of its capacity, and on Pattern 3 each of these requests "
            f"costs {ratio:.2f} times as much; what can still speak for Pattern 3 is latency, or serving on when a "
            "replica is lost",
        )
    if by_one is None or by_three is None:
        return Advice("not decided", f"{demand} lie within the interval of a measured capacity: measure longer")
    if by_three:
        return Advice("switch to Pattern 3", f"Pattern 1 does not serve {demand}, Pattern 3 does")
    least = math.ceil(per_s / (three.value / situation.replicas))
    return Advice(
        "scale beyond Pattern 3",
        f"{situation.replicas} replicas do not serve {demand}; {least} would if throughput grew in proportion, and "
        "it grows by less",
    )


def _repeated(situation: Situation) -> Criterion:
    """The load is made here: what is found of it in the caches is what was put there, and no user's habit."""
    share = situation.hit_share
    known = "not measured" if share is None else f"{share:.1%} of this load's prompt tokens were in the caches"
    what = "shares what a service's might" if situation.prompts_share else "shares nothing"
    why = f"the load of this stage {what} by design: what your prompts share, only a trace of them says"
    return Criterion(SWITCH, "repeated similar prompts", known, Answer.OPEN, why)


def _traffic(situation: Situation, speaks_for: str, says: str) -> Criterion:
    demand = situation.demand_per_min
    if demand is None:
        return Criterion(speaks_for, says, "not stated", Answer.OPEN, "set demand.requests_per_min in the profile")
    met = demand < KEEP_BELOW_PER_MIN if speaks_for == KEEP else demand >= SWITCH_FROM_PER_MIN
    capacity = situation.capacity1_per_s
    why = (
        f"what Pattern 1 serves is not known: {capacity.reason}"
        if isinstance(capacity, Refusal)
        else f"Pattern 1 serves {60 * capacity.value:.0f} requests/min here: that, and no fixed number, is the limit"
    )
    return Criterion(speaks_for, says, f"{demand:g} requests/min stated", Answer.MET if met else Answer.NOT_MET, why)


def _budget(situation: Situation, speaks_for: str, says: str) -> Criterion:
    one, three = situation.pattern1_usd_per_month, situation.pattern3_usd_per_month
    why = f"GPU nodes cost {one:.0f} USD/month for Pattern 1, and {three / one:.2f} times that for Pattern 3"
    budget = situation.budget_usd_per_month
    if budget is None:
        return Criterion(speaks_for, says, "not stated", Answer.OPEN, f"{why}; set demand.budget_usd_per_month")
    met = one <= budget < three if speaks_for == KEEP else budget >= three
    return Criterion(speaks_for, says, f"{budget:g} USD/month stated", Answer.MET if met else Answer.NOT_MET, why)


def _need(situation: Situation) -> Criterion:
    says, capacity, speed_up = "needs 2.5-3 times the throughput", situation.capacity1_per_s, situation.speed_up
    gained = (
        f"no speed-up is known: {speed_up.reason}"
        if isinstance(speed_up, Refusal)
        else f"{situation.replicas} replicas bring {speed_up.value:.2f} times as much here"
    )
    if situation.demand_per_min is None:
        return Criterion(SWITCH, says, "no demand stated", Answer.OPEN, gained)
    if isinstance(capacity, Refusal):
        return Criterion(SWITCH, says, f"no capacity: {capacity.reason}", Answer.OPEN, gained)
    per_s = situation.demand_per_min / 60
    served = at_most(per_s, capacity)
    answer = Answer.OPEN if served is None else Answer.NOT_MET if served else Answer.MET
    return Criterion(
        SWITCH, says, f"the stated demand is {per_s / capacity.value:.2f} times what Pattern 1 serves", answer, gained
    )
