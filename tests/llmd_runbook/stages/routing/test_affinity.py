"""Each verdict on the two arms by itself: in what makes one fail no other does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.run import StageRun
from llmd_runbook.stages.routing import affinity
from llmd_runbook.stages.routing.affinity_arm import Arm
from llmd_runbook.verdicts import Check, Verdict

Open = Callable[[str], StageRun]
REPLICAS = ["a", "b", "c"]
AWARE = [[5, 0, 0], [0, 5, 0], [0, 0, 5]] * 3
BLIND = [[2, 2, 1], [1, 2, 2], [2, 1, 2]] * 3
ONE = [[5, 0, 0]] * 9
INDEPENDENT = [[2, 2, 1], [1, 2, 2], [2, 1, 2]] * 2


def arm(counts: list[list[int]], hits: float, **changes: Any) -> Arm:
    rows = [
        {"group": f"g{group}", "replica": name, "evidence": "picker's log"}
        for group, row in enumerate(counts)
        for name, count in zip(REPLICAS, row, strict=True)
        for _ in range(count)
    ]
    known: dict[str, Any] = {"unclear": [], "reconciled": "it adds up", "elsewhere": False, "background": 3}
    return Arm.of(REPLICAS, rows, cached_tokens=hits, prompt_tokens=1, **{**known, **changes})


def judged(open_stage: Open, groups: Arm, control: Arm) -> dict[str, Check]:
    stage = open_stage("05_routing_affinity")
    stage.data |= {"seed": 1, "groups": vars(groups), "independent": vars(control)}
    affinity.judge(stage)
    return {check.id.partition(".")[2]: check for check in stage.finish().checks}


def verdicts(found: dict[str, Check], verdict: Verdict) -> set[str]:
    return {name for name, check in found.items() if check.verdict is verdict}


def test_an_aware_router_passes(open_stage: Open) -> None:
    found = judged(open_stage, arm(AWARE, 0.7), arm(INDEPENDENT, 0.0))
    assert verdicts(found, Verdict.PASS) == {"counters", "prefix", "spread", "cache_hits"}


def test_a_blind_router_fails_the_prefixes_and_not_the_caches(open_stage: Open) -> None:
    """Where a replica was asked again its cache knew: with 18 of 45 requests so, 36% of the tokens are nearly all."""
    found = judged(open_stage, arm(BLIND, 0.36), arm(INDEPENDENT, 0.0))
    assert verdicts(found, Verdict.FAIL) == {"prefix"}
    assert verdicts(found, Verdict.PASS) == {"counters", "spread", "cache_hits"}
    assert "at best 40%" in found["cache_hits"].expected


@pytest.mark.parametrize(("of_groups", "of_control"), [(0.0, 0.0), (0.3, 0.0), (0.7, 0.4)])
def test_caches_that_do_not_know_what_they_served_fail_alone(
    open_stage: Open, of_groups: float, of_control: float
) -> None:
    found = judged(open_stage, arm(AWARE, of_groups), arm(INDEPENDENT, of_control))
    assert verdicts(found, Verdict.FAIL) == {"cache_hits"}
    assert verdicts(found, Verdict.PASS) == {"counters", "prefix", "spread"}


def test_everything_on_one_replica_fails_the_spread_and_says_nothing_of_prefixes(open_stage: Open) -> None:
    found = judged(open_stage, arm(ONE, 0.7), arm([[5, 0, 0]] * 6, 0.0))
    assert verdicts(found, Verdict.FAIL) == {"spread"}
    assert verdicts(found, Verdict.INCONCLUSIVE) == {"prefix"}
    assert "nothing to permute" in found["prefix"].observed


def test_answers_of_others_than_the_pool_fail_the_counters(open_stage: Open) -> None:
    lost = arm(AWARE, 0.7, unclear=["40 counted for 45 answered"], reconciled="40 counted for 45", elsewhere=True)
    found = judged(open_stage, lost, arm(INDEPENDENT, 0.0))
    assert verdicts(found, Verdict.FAIL) == {"counters"}
    assert verdicts(found, Verdict.INCONCLUSIVE) == {"prefix", "spread", "cache_hits"}
    assert "backendRefs" in str(found["counters"].remedy)


def test_what_somebody_else_sent_proves_nothing(open_stage: Open) -> None:
    found = judged(open_stage, arm(AWARE, 0.7), arm(INDEPENDENT, 0.0, unclear=["2 of somebody else's requests"]))
    assert verdicts(found, Verdict.INCONCLUSIVE) == {"counters", "prefix", "spread", "cache_hits"}
    assert "stop other traffic" in str(found["counters"].remedy)


def test_prefixes_that_no_replica_met_twice_say_nothing_of_the_caches(open_stage: Open) -> None:
    found = judged(open_stage, arm([[1, 1, 1]] * 9, 0.0), arm(INDEPENDENT, 0.0))
    assert found["cache_hits"].verdict is Verdict.INCONCLUSIVE
