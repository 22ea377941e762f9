"""Ratios of throughput from made-up loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from llmd_runbook.analysis.latency import Refusal
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.run import StageRun
from llmd_runbook.stages import throughput_and_cost as stage_06
from llmd_runbook.stages.cost import claims, tables
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.swap import compare
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
    stage.data["client_error"] = asdict(ClientError(60, 180, 0.001, 0.001, 0.001, 0.001))
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
    table = titled(result, "Ratios")
    assert table.columns[1] == "same load, before and after"
    assert [row[0] for row in table.rows] == [
        *("throughput", "latency p50", "latency p95", "latency p99", "TTFT p50", "TTFT p95", "cost of a request")
    ]
    assert str(table.rows[0][1]).startswith(f"{12 / before:.2f} [")
    assert str(table.rows[0][2]).startswith(f"{25 / before:.2f} [")
    assert str(table.rows[2][1]).startswith(f"{before / 12:.2f} [")  # latencies go the other way
    assert table.rows[3][1] == "none: p99 needs 299 samples, there are 200"
    assert str(table.rows[6][1]).startswith(f"{3 * before / 12:.2f} [")  # three nodes for one
    assert "unpaired" in note(result, "How to read the ratios")
    assert len(titled(result, "Both patterns").rows) == 3


@pytest.mark.parametrize(
    ("baseline", "replica", "said"),
    [
        (None, load(25, 60), "no baseline of Pattern 1 in this run"),
        (load(10, 8), load(25, 60), "requests in flight a replica 8.0 and 20.0"),
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
    tables.cost(stage)
    result = stage.finish()
    assert gain(result).verdict is Verdict.INCONCLUSIVE
    assert said in gain(result).observed
    assert note(result, "Is Pattern 3 cheaper by the request?").startswith("No cost ratio: ")
    assert "cost_ratio" not in result.data


def check(result: StageResult, name: str) -> Check:
    return next(check for check in result.checks if check.id == name)


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        ({}, Verdict.PASS, "the same"),
        ({"model": "another", "context_tokens": 4096}, Verdict.PASS, "the same"),
        ({"prompts": 64 * "b"}, Verdict.FAIL, "prompts bbbbbbbbbbbb and aaaaaaaaaaaa"),
        ({"output_tokens": 50.0}, Verdict.FAIL, "tokens of an answer 50.0 and 98.0"),
        ({"cache": "warm"}, Verdict.FAIL, "cache warm and cold"),
        ({"cache": None}, Verdict.INCONCLUSIVE, "not known: cache"),
    ],
)
def test_what_differs_between_the_loads_refuses_their_ratio(
    open_stage: Open, changed: dict[str, Any], verdict: Verdict, said: str
) -> None:
    before = load(10)
    stage = opened(open_stage, replace(before, conditions=replace(before.conditions, **changed)), load(25, 60))
    stage_06.compare(stage)
    result = stage.finish()
    assert check(result, "comparison.same_load").verdict is verdict
    assert said in check(result, "comparison.same_load").observed
    refused = str(titled(result, "Ratios").rows[0][1]).startswith("none: not comparable")
    assert refused is (verdict is Verdict.FAIL)
    if "model" in changed:
        text = note(result, "How to read the ratios")
        assert "different models: another and m; different context lengths: 4096 and 2048" in text


def test_a_slow_client_refuses_every_ratio_and_proves_nothing(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    stage.data["client_error"] = asdict(ClientError(60, 180, 1.0, 1.0, 1.0, 0.001))
    stage_06.compare(stage)
    result = stage.finish()
    assert check(result, "comparison.same_load").verdict is Verdict.INCONCLUSIVE
    assert "client-bound" in check(result, "comparison.same_load").observed
    assert gain(result).verdict is Verdict.INCONCLUSIVE
    assert all(str(row[1]).startswith("none: ") for row in titled(result, "Ratios").rows)


def test_a_slow_client_leaves_no_number_anywhere_in_the_stage(open_stage: Open) -> None:
    """Neither a percentile, nor a cost, nor a claim's figure, nor a curve: all would be the client's."""
    stage = opened(open_stage, load(10), load(25, 60))
    stage.data["client_error"] = asdict(ClientError(60, 180, 1.0, 1.0, 1.0, 0.001))
    shown = repr(stage_06.compare(stage))
    tables.cost(stage)
    tables.options(stage)
    of_the_servers = {f"pattern{n}.{what}" for n in (1, 3) for what in ("ready_min", "hit_rate_percent")}
    assert set(claims.figures(stage)) == of_the_servers
    assert all(isinstance(capacity, Refusal) for capacity in tables.capacities(stage))
    stage_06.plot(stage)
    result = stage.finish()
    for row in titled(result, "Both patterns").rows:
        assert "client-bound" in str(row[4])
        assert all(str(cell).startswith("none: INVALID (client-bound)") for cell in row[6:])
    for title in ("Cost at the measured throughput", "Ways to run it"):
        assert not [row for row in titled(result, title).rows if str(row[4])[0].isdigit()]
    assert "INVALID (client-bound)" in shown


def test_what_went_on_in_the_replicas_is_shown_below_the_ratios(open_stage: Open) -> None:
    shown = repr(stage_06.compare(opened(open_stage, load(10), load(25, 60))))
    assert shown.index("Ratios") < shown.index("Between tokens, and in the replicas")
    assert "prefix hit rate" in shown
    assert "replicas Ready after (s)" in shown


def surge(open_stage: Open, rounds: int) -> None:
    """A stage 03 that measured both by turns, Pattern 3 twice as fast but for a drift that hits both."""
    swap = open_stage(stage_06.SWAP_STAGE)
    swap.data[compare.KEY] = [
        {"round": number, "pattern": name, **load(rate * (1 + number / 10)).data()}
        for number in range(1, rounds + 1)
        for name, rate in (("pattern1", 10), ("pattern3", 20 + number / 10))
    ]
    swap.finish()


def test_rounds_by_turns_go_before_the_baseline(open_stage: Open) -> None:
    surge(open_stage, 5)
    stage = opened(open_stage, load(1), load(25, 60))
    stage_06.compare(stage)
    result = stage.finish()
    table = titled(result, "Ratios")
    assert table.columns[1] == "same load, 5 by turns"
    assert str(table.rows[0][1]).startswith("2.03 [")
    assert str(table.rows[0][1]).endswith("n=5")
    assert "by turns" in note(result, "How to read the ratios")
    assert "unpaired" not in note(result, "How to read the ratios")


def test_one_round_by_turns_has_the_intervals_of_its_samples(open_stage: Open) -> None:
    surge(open_stage, 1)
    stage = opened(open_stage, load(1), load(25, 60))
    stage_06.compare(stage)
    result = stage.finish()
    assert str(titled(result, "Ratios").rows[0][1]).startswith("2.01 [")
    assert "One pair of runs has no interval over runs" in note(result, "How to read the ratios")


@pytest.mark.parametrize(
    ("same", "each", "verdict", "said"),
    [
        (load(12), load(25, 60), Verdict.PASS, "in the replicas 59.0"),
        (load(12, held=50), load(25, 60), Verdict.FAIL, "somebody else's requests"),
        (load(12), load(25, 60, held=20), Verdict.INCONCLUSIVE, "gateway and network"),
        (load(12, failures={"timeout": 1}), load(25, 60), Verdict.INCONCLUSIVE, "1 requests failed"),
        (load(12, refused="too short"), load(25, 60), Verdict.INCONCLUSIVE, "too short"),
    ],
    ids=["holds", "foreign", "missing", "failed", "refused"],
)
def test_littles_law_is_judged_on_both_loads(
    open_stage: Open, same: Measured, each: Measured, verdict: Verdict, said: str
) -> None:
    stage = opened(open_stage, load(10), each)
    stage.data[stage_06.SAME_LOAD] = same.data()
    assert "[simulated engine]" in repr(stage_06.watched(stage))
    found = check(stage.finish(), "load.littles_law")
    assert found.verdict is verdict
    assert said in found.observed


def test_an_unfinished_baseline_is_none(open_stage: Open) -> None:
    open_stage(stage_06.BASELINE_STAGE).data["baseline"] = load(10).data()
    stage = opened(open_stage, None, load(25, 60))
    stage_06.compare(stage)
    assert "no baseline" in gain(stage.finish()).observed


def test_the_figure_says_that_it_is_simulated(open_stage: Open) -> None:
    assert "[simulated engine]" in repr(stage_06.plot(opened(open_stage, load(10), load(25, 60))))
