"""What is advised, and that nothing is decided which nobody stated or measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmd_runbook.analysis.advice import KEEP, SWITCH, Answer, Situation, advise, criteria
from llmd_runbook.analysis.latency import Estimate, Refusal


def per_min(value: float, half: float = 6) -> Estimate:
    return Estimate(value / 60, (value - half) / 60, (value + half) / 60, 10, "test")


SITUATION = Situation(
    demand_per_min=100,
    budget_usd_per_month=None,
    pattern1_usd_per_month=400,
    pattern3_usd_per_month=1200,
    capacity1_per_s=per_min(60),
    capacity3_per_s=per_min(150),
    speed_up=Estimate(2.5, 2.4, 2.6, 2, "test"),
    replicas=3,
    prompts_share=False,
    hit_share=0.0,
)


def answers(situation: Situation) -> dict[tuple[str, str], Answer]:
    return {(one.speaks_for, one.says.split(",")[0]): one.answer for one in criteria(situation)}


@pytest.mark.parametrize(
    ("demand", "choice"),
    [
        (40, "keep Pattern 1"),
        (54, "keep Pattern 1"),
        (60, "not decided"),
        (67, "switch to Pattern 3"),
        (144, "switch to Pattern 3"),
        (150, "not decided"),
        (160, "scale beyond Pattern 3"),
    ],
)
def test_demand_beside_the_whole_interval_of_capacity_decides(demand: float, choice: str) -> None:
    assert advise(replace(SITUATION, demand_per_min=demand)).choice == choice


@pytest.mark.parametrize(
    ("share", "hits", "known", "why"),
    [
        (False, 0.0, "0.0% of this load's prompt tokens", "shares nothing by design"),
        (True, 0.62, "62.0% of this load's prompt tokens", "shares what a service's might by design"),
        (True, None, "not measured", "shares what a service's might by design"),
    ],
)
def test_what_prompts_share_is_said_of_the_load_that_was_sent_and_decides_nothing(
    share: bool, hits: float | None, known: str, why: str
) -> None:
    found = criteria(replace(SITUATION, prompts_share=share, hit_share=hits))
    (repeated,) = (one for one in found if one.says == "repeated similar prompts")
    assert repeated.known.startswith(known)
    assert why in repeated.why
    assert repeated.answer is Answer.OPEN


def test_scaling_names_the_least_replicas() -> None:
    assert "4 would if throughput grew in proportion" in advise(replace(SITUATION, demand_per_min=160)).why


@pytest.mark.parametrize(
    ("situation", "said"),
    [
        (replace(SITUATION, demand_per_min=None), "no demand is stated"),
        (replace(SITUATION, capacity1_per_s=Refusal("no baseline")), "no baseline"),
        (replace(SITUATION, capacity3_per_s=Refusal("too short")), "too short"),
    ],
)
def test_what_is_not_known_decides_nothing(situation: Situation, said: str) -> None:
    found = advise(situation)
    assert found.choice == "not decided"
    assert said in found.why


def test_keeping_says_what_the_other_would_cost() -> None:
    found = advise(replace(SITUATION, demand_per_min=30))
    assert "50% of its capacity" in found.why
    assert "3.00 times as much" in found.why


@pytest.mark.parametrize(
    ("demand", "low", "high"),
    [
        (5, Answer.MET, Answer.NOT_MET),
        (10, Answer.NOT_MET, Answer.NOT_MET),
        (50, Answer.NOT_MET, Answer.MET),
        (None, Answer.OPEN, Answer.OPEN),
    ],
)
def test_traffic_is_judged_by_the_guides_numbers(demand: float | None, low: Answer, high: Answer) -> None:
    found = answers(replace(SITUATION, demand_per_min=demand))
    assert (found[KEEP, "low traffic"], found[SWITCH, "high traffic"]) == (low, high)


@pytest.mark.parametrize(
    ("budget", "keep", "switch"),
    [
        (None, Answer.OPEN, Answer.OPEN),
        (300, Answer.NOT_MET, Answer.NOT_MET),
        (400, Answer.MET, Answer.NOT_MET),
        (1200, Answer.NOT_MET, Answer.MET),
    ],
)
def test_the_budget_is_judged_by_what_the_nodes_cost(budget: float | None, keep: Answer, switch: Answer) -> None:
    found = answers(replace(SITUATION, budget_usd_per_month=budget))
    assert found[KEEP, "budget-constrained"] is keep
    assert found[SWITCH, "can justify 3 times the cost"] is switch


@pytest.mark.parametrize(("demand", "expected"), [(40, Answer.NOT_MET), (60, Answer.OPEN), (70, Answer.MET)])
def test_more_throughput_is_needed_when_pattern_1_does_not_serve_the_demand(demand: float, expected: Answer) -> None:
    assert answers(replace(SITUATION, demand_per_min=demand))[SWITCH, "needs 2.5-3 times the throughput"] is expected


def test_what_only_the_operator_knows_is_never_decided() -> None:
    found = answers(SITUATION)
    for key in (
        (KEEP, "development or testing environment"),
        (KEEP, "single user or demonstration"),
        (SWITCH, "production with real users"),
        (SWITCH, "repeated similar prompts"),
    ):
        assert found[key] is Answer.OPEN
