"""The guide's Tests 2 and 3: what chance gives, what a picker that works gives, and what a result then shows."""

from __future__ import annotations

from itertools import product

import pytest

from llmd_runbook.analysis.affinity_design import all_on_one
from llmd_runbook.analysis.guide import TEST2_PROMPT, TEST2_REQUESTS, TEST3_PROMPTS
from llmd_runbook.analysis.guide_tests import (
    Forecast,
    Outcome,
    every_replica,
    forecast,
    judge,
    on_every,
    on_one,
)
from llmd_runbook.analysis.scorers import KV_SCORER, NO_HIT_SCORER, PREFIX_SCORER, QUEUE_SCORER, Endpoint, Rules

WEIGHTS = {PREFIX_SCORER: 3, KV_SCORER: 2, QUEUE_SCORER: 2}
REPLICAS = [Endpoint(name, block_size=16, num_blocks=7600) for name in ("a", "b", "c")]
BLIND = {KV_SCORER: 2, QUEUE_SCORER: 2}
ALL, NONE, SURE = Forecast(1, 1), Forecast(0, 0), Forecast(0.995, 1)


@pytest.mark.parametrize("shares", [[1, 1, 1], [6, 3, 1], [1, 0, 0], [1, 1, 1, 1]])
@pytest.mark.parametrize("requests", [1, 3, 5])
def test_the_probabilities_are_those_of_every_case_counted(shares: list[float], requests: int) -> None:
    every = one = 0.0
    for case in product(range(len(shares)), repeat=requests):
        weight = 1.0
        for replica in case:
            weight *= shares[replica] / sum(shares)
        every += weight * (len(set(case)) == len(shares))
        one += weight * (len(set(case)) == 1)
    assert every_replica(shares, requests) == pytest.approx(every)
    assert all_on_one(shares, requests) == pytest.approx(one)


def of(rules: Rules, prompts: tuple[str, ...], *, at_once: bool) -> Forecast:
    rule = on_every if at_once else on_one
    return forecast(rules, "Qwen/Qwen2.5-3B-Instruct", prompts, REPLICAS, rule, at_once=at_once, seed=1)


def test_a_right_picker_passes_test_2_always_and_a_blind_one_by_chance() -> None:
    same = (TEST2_PROMPT,) * TEST2_REQUESTS
    assert of(Rules.v0_4(WEIGHTS), same, at_once=False) == ALL  # 72 bytes: one block of 64
    assert of(Rules.v0_10(WEIGHTS), same, at_once=False) == ALL  # a part of a block is hashed
    blind = of(Rules.v0_4(BLIND), same, at_once=False)
    assert 0 < blind.low < 0.03  # 1/81


def test_a_prompt_shorter_than_a_block_is_seen_by_nobody() -> None:
    short = ("Hello",) * TEST2_REQUESTS
    assert of(Rules.v0_4(WEIGHTS), short, at_once=False).high < 0.03
    assert of(Rules.v0_10(WEIGHTS), short, at_once=False) == ALL


def test_a_right_picker_passes_test_3_by_chance_only() -> None:
    found = of(Rules.v0_4(WEIGHTS), TEST3_PROMPTS, at_once=True)
    assert found.low == found.high == pytest.approx(6 / 27, abs=0.04)


def test_with_a_cold_order_test_3_hangs_on_what_was_learned_in_between() -> None:
    found = of(Rules.v0_10(WEIGHTS | {NO_HIT_SCORER: 2}), TEST3_PROMPTS, at_once=True)
    assert (found.low, found.high) == (0, 1)


@pytest.mark.parametrize(
    ("passed", "chance", "right", "outcome", "why"),
    [
        (True, 1 / 81, ALL, Outcome.NOTHING, "chance alone gives this in 1.2% of runs"),
        (True, 6 / 27, ALL, Outcome.NOTHING, "22.2%"),
        (True, 1 / 256, ALL, Outcome.HOLDS, "0.39%"),
        (True, 1.0, ALL, Outcome.NOTHING, "100.0%"),
        (False, 1 / 81, ALL, Outcome.FAILS, "passes in 100% of runs"),
        (False, 1 / 81, SURE, Outcome.FAILS, "passes in 100%"),
        (False, 6 / 27, Forecast(0.22, 0.22), Outcome.NOTHING, "passes in 22% of runs only"),
        (False, 6 / 27, Forecast(0, 1), Outcome.NOTHING, "passes in 0% to 100% of runs only"),
        (False, 1 / 81, NONE, Outcome.NOTHING, "0% of runs only"),
        (False, 0.2, None, Outcome.NOTHING, "not known"),
        (None, 1 / 81, ALL, Outcome.NOTHING, "what happened is not known"),
    ],
)
def test_what_a_result_shows(
    passed: bool | None, chance: float, right: Forecast | None, outcome: Outcome, why: str
) -> None:
    found = judge(passed, chance, right)
    assert found[0] is outcome
    assert why in found[1]
