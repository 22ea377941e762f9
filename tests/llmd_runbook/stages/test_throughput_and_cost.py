"""Ratios of throughput from made-up loads."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from llmd_runbook.run import StageRun
from llmd_runbook.stages import cost_tables
from llmd_runbook.stages import throughput_and_cost as stage_06
from llmd_runbook.stages.measurement import Measured
from llmd_runbook.verdicts import Check, StageResult, Table, Verdict
from tests.llmd_runbook.stages.loads import load

Open = Callable[[str], StageRun]


def opened(open_stage: Open, baseline: Measured | None, replica: Measured) -> StageRun:
    """Stage 06 with its loads measured, after a stage 01 with that baseline."""
    if baseline is not None:
        before = open_stage(stage_06.BASELINE_STAGE)
        before.data["baseline"] = baseline.data()
        before.finish()
    stage = open_stage("06_throughput_and_cost")
    stage.data[stage_06.SAME_LOAD] = json.loads(json.dumps(load(12).data()))
    stage.data[stage_06.SAME_PER_REPLICA] = replica.data()
    return stage


def gain(result: StageResult) -> Check:
    return next(check for check in result.checks if check.id == "throughput.gain")


def titled(result: StageResult, title: str) -> Table:
    return next(table for table in result.tables if table.title == title)


def note(result: StageResult, title: str) -> str:
    return next(note.text for note in result.notes if note.title == title)


@pytest.mark.parametrize(("before", "verdict"), [(10, Verdict.PASS), (60, Verdict.FAIL), (25, Verdict.INCONCLUSIVE)])
def test_a_gain_is_proved_only_by_the_whole_interval(open_stage: Open, before: float, verdict: Verdict) -> None:
    stage = opened(open_stage, load(before), load(25, 60))
    stage_06.compare(stage)
    result = stage.finish()
    check = gain(result)
    assert check.verdict is verdict
    assert check.observed.startswith(f"{25 / before:.2f} [")
    rows = titled(result, "Speed-up").rows
    assert [row[0] for row in rows] == ["same requests in flight", "same requests in flight a replica"]
    assert str(rows[0][1]).startswith(f"{12 / before:.2f} [")
    assert len(titled(result, "Both patterns").rows) == 3


@pytest.mark.parametrize(
    ("baseline", "replica", "said"),
    [
        (None, load(25, 60), "no baseline of Pattern 1 in this run"),
        (load(10, 8), load(25, 60), "another concurrency"),
        (load(10, failures={"timeout": 1}), load(25, 60), "failed requests"),
        (load(10), load(25, 60, failures={"timeout": 1}), "failed requests"),
        (load(10, refused="too short a run"), load(25, 60), "too short a run"),
        (load(10), load(25, 60, blocks=2), "more requests"),
    ],
    ids=["none", "concurrency", "failed-before", "failed-after", "refused", "few"],
)
def test_without_two_equal_loads_there_is_no_ratio_and_no_cost_ratio(
    open_stage: Open, baseline: Measured | None, replica: Measured, said: str
) -> None:
    stage = opened(open_stage, baseline, replica)
    stage_06.compare(stage)
    cost_tables.cost(stage)
    result = stage.finish()
    assert gain(result).verdict is Verdict.INCONCLUSIVE
    assert said in gain(result).observed
    assert note(result, "Is Pattern 3 cheaper by the request?").startswith("No cost ratio: ")
    assert "cost_ratio" not in result.data


def test_an_unfinished_baseline_is_none(open_stage: Open) -> None:
    open_stage(stage_06.BASELINE_STAGE).data["baseline"] = load(10).data()
    stage = opened(open_stage, None, load(25, 60))
    stage_06.compare(stage)
    assert "no baseline" in gain(stage.finish()).observed


def test_the_figure_says_that_it_is_simulated(open_stage: Open) -> None:
    assert "[simulated engine]" in repr(stage_06.plot(opened(open_stage, load(10), load(25, 60))))
