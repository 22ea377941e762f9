"""A thousand seeded runs of the whole test for each router: blind ones do not pass, the right one does."""

from __future__ import annotations

import pytest

from llmd_runbook.analysis.affinity import judge
from tests.llmd_runbook.analysis.routers import CASES, RUNS, Case, verdicts


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_blind_routers_pass_rarely_and_the_right_one_nearly_always(case: Case) -> None:
    found = verdicts(case, RUNS)
    assert sum(found.values()) == RUNS
    assert case.meets_target(found[True], RUNS), dict(found)
    if case.aware:
        assert found[False] == 0


def test_the_targets_can_be_missed() -> None:
    blind, aware = CASES[0], CASES[-1]
    assert blind.meets_target(20, 1000)
    assert not blind.meets_target(21, 1000)
    assert aware.meets_target(990, 1000)
    assert not aware.meets_target(989, 1000)


def test_labels_in_step_with_round_robin_are_caught_by_the_control_arm() -> None:
    def in_turn(groups: int, turns: int) -> list[list[int]]:
        table = [[0, 0, 0] for _ in range(groups)]
        for request in range(groups * turns):
            table[request % groups][request % 3] += 1
        return table

    assert judge(in_turn(9, 5), None, seed=1).ok is True
    assert judge(in_turn(9, 5), in_turn(6, 5), seed=1).ok is None
