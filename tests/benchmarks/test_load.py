"""`make bench-load` misses a target when a figure is off, and when a peer is not there."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import load
from benchmarks.clients import Client, InferencePerf, Quantiles, Report, Scenario
from benchmarks.environments import NotCompared, Package
from benchmarks.load import Bench, Figure, Observation

TRUTH = Report(Quantiles(50.0, 51.0, 52.0), Quantiles(50.0, 51.0, 52.0), None, cpu_us=100.0)
P95 = Figure("p95", lambda report: report.latency.p95, 0.05)
SCENARIO = Scenario(in_flight=1, requests=1, tokens=1, first_s=0.0, gap_s=0.0)


def seen(p95: float = 51.0, per_s: float = 1000.0, cpu_us: float = 100.0) -> Observation:
    return Observation(Report(Quantiles(50.0, p95, 52.0), None, None, cpu_us), TRUTH, per_s)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(load, "PEERS", (InferencePerf,))
    monkeypatch.setattr(load, "obtain", lambda package, console: tmp_path)
    return Bench(Console(file=io.StringIO()), tmp_path)


def observe(bench: Bench, monkeypatch: pytest.MonkeyPatch, ours: Observation, theirs: Observation) -> None:
    def found(self: Bench, client: Client, scenario: Scenario) -> Observation:
        return theirs if isinstance(client, InferencePerf) else ours

    monkeypatch.setattr(Bench, "_observe", found)


@pytest.mark.parametrize(("p95", "missed"), [(51.0 * 1.04, 0), (51.0 * 1.06, 1), (51.0 * 0.94, 1)])
def test_an_error_beyond_the_target_is_missed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, p95: float, missed: int
) -> None:
    observe(bench, monkeypatch, seen(p95), seen(90.0))
    bench.errors("latency", SCENARIO, [P95], 3)
    assert len(bench.missed) == missed


def test_a_figure_that_we_do_not_report_is_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    observe(bench, monkeypatch, seen(), seen())
    bench.errors(
        "streams", SCENARIO, [Figure("TTFT", lambda report: report.ttft.p95 if report.ttft else None, 0.05)], 3
    )
    assert len(bench.missed) == 1


@pytest.mark.parametrize(("per_s", "missed"), [(8000.0, 0), (7900.0, 1)])
def test_too_low_a_rate_is_missed(bench: Bench, monkeypatch: pytest.MonkeyPatch, per_s: float, missed: int) -> None:
    observe(bench, monkeypatch, seen(per_s=per_s), seen())
    bench.rates()
    assert len(bench.missed) == missed


def test_a_peer_that_breaks_is_missed_and_its_runs_are_dropped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(self: Bench, client: Client, scenario: Scenario) -> Observation:
        if isinstance(client, InferencePerf):
            raise NotCompared("it broke")
        return seen(per_s=9000.0)

    monkeypatch.setattr(Bench, "_observe", found)
    bench.rates()
    assert bench.missed == ["inference-perf 0.7.0 not compared"]


def test_a_peer_that_cannot_be_had_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(package: Package, console: Console) -> Path:
        raise NotCompared("no Python for it")

    monkeypatch.setattr(load, "obtain", refuse)
    output = io.StringIO()
    bench = Bench(Console(file=output), tmp_path)
    assert bench.missed == ["inference-perf not compared", "guidellm not compared", "aiperf not compared"]
    assert output.getvalue().count("no Python for it") == 3


def test_the_tokenizer_knows_every_word_of_the_prompts(bench: Bench, tmp_path: Path) -> None:
    vocabulary = json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    assert {"the", "and", "all"} <= set(vocabulary)


def test_our_own_failure_is_a_target_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Bench, client: Client, scenario: Scenario) -> Observation:
        raise NotCompared("requests failed: {'timeout': 3}")

    monkeypatch.setattr(load, "PEERS", ())
    monkeypatch.setattr(Bench, "_observe", fail)
    assert load.main() == 1
