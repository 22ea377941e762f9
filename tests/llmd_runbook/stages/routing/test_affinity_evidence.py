from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.run import StageRun
from llmd_runbook.stages.routing import affinity_evidence
from llmd_runbook.stages.routing.affinity_arm import Arm
from llmd_runbook.verdicts import Table

REPLICAS = ["decode-aaaaa", "decode-bbbbb", "decode-ccccc"]
Open = Callable[[str], StageRun]


def arm(counts: list[list[int]], *, first_s: float | None = 0.2, later_s: float = 0.05) -> Arm:
    """Groups g0, g1, ... of requests as counted; the first of a group is cold."""
    requests: list[dict[str, Any]] = []
    for group, row in enumerate(counts):
        served = [name for name, count in zip(REPLICAS, row, strict=True) for _ in range(count)]
        for order, replica in enumerate(served):
            warm = order > 0
            requests.append(
                {
                    "request_id": f"{group}-{order}",
                    "group": f"g{group}",
                    "order": len(requests),
                    "replica": replica,
                    "evidence": "picker_log",
                    "ttft_s": None if first_s is None else later_s if warm else first_s,
                    "cached_tokens": 256 if warm else 0,
                    "prompt_tokens": 272,
                }
            )
    groups = [f"g{index}" for index in range(len(counts))]
    return Arm(REPLICAS, groups, counts, [], 200, 272, requests=requests)


SHARED = [[5, 0, 0], [0, 5, 0], [0, 0, 5], [5, 0, 0], [0, 5, 0], [0, 0, 5], [5, 0, 0], [0, 5, 0]]
MIXED = [[2, 2, 1], [1, 2, 2], [2, 1, 2], [2, 2, 1]]


@pytest.fixture
def stage(open_stage: Open) -> StageRun:
    opened = open_stage("05_routing_affinity")
    return told(opened, arm(SHARED), arm(MIXED))


def told(stage: StageRun, groups: Arm, control: Arm) -> StageRun:
    stage.data |= {"seed": 1, "groups": vars(groups), "independent": vars(control)}
    return stage


def last(stage: StageRun) -> tuple[Table, dict[str, str]]:
    """The last table of the stage, and its notes."""
    result = stage.finish()
    return result.tables[-1], {note.title: note.text for note in result.notes}


def test_warm_requests_are_told_from_cold_ones_by_the_engines_count(stage: StageRun) -> None:
    affinity_evidence.warm_against_cold(stage)
    rows = {str(row[0]): str(row[1]) for row in last(stage)[0].rows}
    assert rows["first token of a cold request (s, median)"].startswith("0.200 [")
    assert rows["first token of a warm request (s, median)"].startswith("0.050 [")
    assert rows["warm / cold, median over prefixes"] == "0.25 [0.25, 0.25] n=8"
    assert rows["warm is told from cold by"] == "cached tokens"


def test_every_prefix_has_its_own_times_and_cached_tokens(stage: StageRun) -> None:
    affinity_evidence.warm_against_cold(stage)
    table = stage.finish().tables[-2]
    assert len(table.rows) == len(SHARED)
    assert table.rows[0] == ["g0", 200, 50, 4, 0, "256, 256, 256, 256", 272]


def test_without_times_there_is_no_figure_but_a_reason(stage: StageRun) -> None:
    affinity_evidence.warm_against_cold(told(stage, arm(SHARED, first_s=None), arm(MIXED)))
    assert "needs" in str(last(stage)[0].rows[0][1])


def test_the_strength_of_the_test_is_shown_beside_the_guides_rule(stage: StageRun) -> None:
    affinity_evidence.strength(stage)
    rows = {str(row[0]): str(row[1]) for row in last(stage)[0].rows}
    assert float(rows["shared prefixes: p value (permutation of labels)"]) <= 0.01
    assert float(rows["control: p value (permutation of labels)"]) > 0.01
    assert rows["shared prefixes: repeats on the prefix's replica"].startswith("1.00 [")
    assert float(rows["chance that it passes a router blind to prefixes"].split()[0]) <= 0.01
    assert rows["the guide's rule, all of a prefix on one replica, passes: uniform random"] == "1.23%"
    assert rows["the guide's rule, all of a prefix on one replica, passes: always the first idle replica"] == "100.00%"


def test_a_test_in_which_nothing_repeats_says_so(stage: StageRun) -> None:
    affinity_evidence.strength(told(stage, arm([[1, 0, 0], [0, 1, 0]]), arm(MIXED)))
    assert "nothing is repeated" in str(last(stage)[0].rows[0][1])


def test_the_spread_has_its_test_and_what_that_can_find(stage: StageRun) -> None:
    stage.kept["weights"] = {"prefix-cache-scorer": 3.0, "queue-scorer": 2.0, "kv-cache-utilization-scorer": 2.0}
    affinity_evidence.distribution(stage)
    table, notes = last(stage)
    assert table.rows[0][:2] == ["unrelated requests", "7 / 7 / 6"]
    assert table.rows[1][:2] == ["homes of the shared prefixes", "3 / 3 / 2"]
    assert all("one replica with" in str(row[4]) for row in table.rows)
    assert "695 for 40/30/30" in notes["Requests needed to find unequal shares 80% of the time at level 0.01"]
    assert "67%" in notes["Hot spots"]


def test_without_the_configuration_a_hot_spot_is_not_guessed(stage: StageRun) -> None:
    affinity_evidence.distribution(stage)
    assert "Not known" in last(stage)[1]["Hot spots"]


def test_the_picture_holds_both_arms(stage: StageRun) -> None:
    made = affinity_evidence.plot(stage)
    assert made.data.startswith(b"\x89PNG")
    assert ("[simulated engine]" in repr(made)) is stage.simulated
