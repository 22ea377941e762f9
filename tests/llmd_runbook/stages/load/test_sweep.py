"""The sweep and the guide's suite from made-up loads; nothing is sent."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llmd_runbook.analysis.goodput import Objectives
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.run import StageRun
from llmd_runbook.stages import all_checks, site
from llmd_runbook.stages.load import benchmark_suite, measurement, sweep
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.verdicts import Verdict
from tests.llmd_runbook.stages.loads import load
from tests.llmd_runbook.stages.test_throughput_and_cost import note, opened, titled

Open = Callable[[str], StageRun]
KNEE = "Knee, the most throughput for its latency"


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A server with 40 slots of 2 s, and a burst of which so many are answered."""
    said: dict[str, Any] = {"answered": 50, "levels": [], "calibrated": [], "added_s": {}}

    def measured(_p: object, _t: object, _m: object, in_flight: int, _s: object, *, seed: int, scale: int) -> Measured:
        said["levels"].append((in_flight, scale, seed))
        return load(min(in_flight, 40) / 2, in_flight)

    def burst(*_: object) -> SimpleNamespace:
        return SimpleNamespace(good=[None] * said["answered"], duration_s=10.0)

    monkeypatch.setattr(site, "kubernetes", lambda _: None)
    for module in (sweep, benchmark_suite):
        monkeypatch.setattr(module, "endpoint", lambda *_: Endpoint("http://gateway"))

    def calibrated(_p: object, found: Measured, _s: object) -> ClientError:
        said["calibrated"].append(found.concurrency)
        return ClientError(found.concurrency, 3 * found.concurrency, *[said["added_s"].get(found.concurrency, 0)] * 4)

    monkeypatch.setattr(measurement, "client_error", calibrated)
    monkeypatch.setattr(measurement, "measure", measured)
    monkeypatch.setattr(measurement, "burst", burst)
    return said


def stage_with(open_stage: Open, bench: Any, more: str, baseline: Measured | None = None) -> StageRun:
    bench.profile_file.write_text(bench.profile_file.read_text() + f"load: {{requests: 200, {more}}}\n")
    stage = opened(open_stage, baseline, load(20, 60))
    stage.data["same_load"] = load(10, 20).data()
    return stage


def test_each_level_is_measured_with_prompts_of_its_own_and_the_knee_is_named(
    open_stage: Open, bench: Any, nothing_is_sent: dict[str, Any]
) -> None:
    stage = stage_with(open_stage, bench, "sweep: [40, 80], slo_latency_s: 2.5")
    sweep.sweep(stage)
    png = sweep.plot(stage)
    result = stage.finish()
    assert [(count, scale) for count, scale, _ in nothing_is_sent["levels"]] == [(40, 2), (80, 3)]
    assert len({seed for *_, seed in nothing_is_sent["levels"]}) == 2
    table = titled(result, "Throughput and goodput over requests in flight")
    assert [row[0] for row in table.rows] == [20, 40, 60, 80]
    assert table.columns[-1] == "requests/s with latency at most 2.5 s"
    assert str(table.rows[1][-1]).startswith("20.00 [")
    assert str(table.rows[3][-1]).startswith("0.00 [")  # 4 s each
    assert note(result, KNEE) == "40 requests in flight."
    assert result.data["knee"] == 40
    assert "[simulated engine]" in repr(png)
    assert png.data.startswith(b"\x89PNG")


def test_a_level_at_which_the_client_was_measured_has_no_figures_and_is_no_knee(
    open_stage: Open, bench: Any, nothing_is_sent: dict[str, Any]
) -> None:
    nothing_is_sent["added_s"] = {40: 0.5}
    stage = stage_with(open_stage, bench, "sweep: [40, 80], slo_latency_s: 2.5")
    sweep.sweep(stage)
    sweep.plot(stage)
    result = stage.finish()
    assert nothing_is_sent["calibrated"] == [40, 80]
    table = titled(result, "Throughput and goodput over requests in flight")
    bound = table.rows[1]
    assert bound[0] == 40
    assert all("INVALID (client-bound)" in str(cell) for cell in bound[3:])
    assert str(table.rows[3][3]) == "20.0"
    assert result.data["knee"] != 40
    assert "client-bound" in result.steps[0].detail


def test_without_levels_nothing_is_sent(open_stage: Open, bench: Any, nothing_is_sent: dict[str, Any]) -> None:
    stage = stage_with(open_stage, bench, "slo_ttft_s: 1")
    sweep.sweep(stage)
    sweep.plot(stage)
    result = stage.finish()
    assert nothing_is_sent["levels"] == []
    assert "names no levels" in note(result, "No sweep")
    assert "2 levels with a throughput, 3 needed" in note(result, KNEE)
    assert sweep.objectives(stage) == Objectives(ttft_s=1)


def judged(open_stage: Open, stage: str, *ids: str, ok: bool | None = True) -> None:
    earlier, specs = open_stage(stage), {spec.id: spec for spec in all_checks()}
    for check_id in ids:
        earlier.check(specs[check_id].judge(ok, expected="so", observed=f"seen by {check_id}"))
    earlier.finish()


def test_all_five_tests_are_marked_by_this_runs_checks(open_stage: Open, bench: Any) -> None:
    judged(open_stage, "04_verify", "verify.replicas", "verify.answer")
    judged(open_stage, "05_routing_affinity", "affinity.prefix", "affinity.cache_hits", "affinity.spread")
    shown = repr(benchmark_suite.suite(stage_with(open_stage, bench, "concurrency: 20", baseline=load(7))))
    assert "✓ the InferencePool selects exactly the replicas asked for" in shown
    assert "seen by affinity.prefix" in shown
    assert "✓ Requests completed: 50 of 50, total time: 10.0 s, throughput: 5.00 req/s" in shown
    assert "✓ Improvement factor over the measured baseline: 2.86 [" in shown
    assert "Pattern 1 baseline: 7.00 req/s, 20 in flight" in shown
    assert "✓ P95: " in shown
    assert "✓ P99: " in shown  # of 600
    assert "5 of 5 tests proved" in shown


def test_what_failed_or_was_not_judged_gets_no_mark(
    open_stage: Open, bench: Any, nothing_is_sent: dict[str, Any]
) -> None:
    nothing_is_sent["answered"] = 49
    judged(open_stage, "04_verify", "verify.replicas", ok=False)
    stage = stage_with(open_stage, bench, "concurrency: 20")
    stage.data["same_load_per_replica"] = load(20, 60, blocks=4).data()
    shown = repr(benchmark_suite.suite(stage))
    assert "✗ the InferencePool selects" in shown
    assert "? verify.answer: not judged in this run (stage 04)" in shown
    assert "? affinity.spread: not judged in this run (stage 05)" in shown
    assert "✗ Requests completed: 49 of 50" in shown
    assert "? Improvement factor over the measured baseline: none: no baseline" in shown
    assert "? P99: p99 needs 299 samples, there are 240" in shown
    assert "0 of 5 tests proved" in shown
    assert stage.data["suite"]["Latency Profile"][2][0] == Verdict.INCONCLUSIVE
