"""Result files as the tools themselves wrote them, against a server whose times are known.

Eight in flight, 64 measured requests, the first of 16 tokens after 50 ms and the others 10 ms apart: 200 ms each. The
machine was busy (load average 30), so that what the clients report is above that, each by its own way of losing time.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from llmd_runbook.analysis.comparison import THROUGHPUT, Load, compare
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput
from llmd_runbook.analysis.peer_results import FormatError, export, read
from llmd_runbook.profile import PROJECT_ROOT
from tests.llmd_runbook.stages.loads import load

FILES = PROJECT_ROOT / "tests/data/loads"
TOOLS = {
    "aiperf-0.13.0": "aiperf",
    "guidellm-0.8.1": "guidellm",
    "inference-perf-0.7.0": "inference-perf",
    "vllm-0.32.0": "vllm bench serve",
    "vllm-0.32.0-detailed": "vllm bench serve",
}


def content(name: str) -> Any:
    with gzip.open(FILES / f"{name}.json.gz", "rt") as file:
        return json.load(file)


def median_s(found: Load) -> float:
    values = sorted(found.samples.get("latency", ()))
    return values[len(values) // 2] if values else found.stated["latency p50"]


@pytest.mark.parametrize("name", TOOLS)
def test_what_each_tool_wrote_is_read(name: str) -> None:
    result = read(content(name))
    assert result.tool == TOOLS[name]
    found, conditions = result.load, result.load.conditions
    assert found.failed == 0
    assert conditions.requests in (64, 71)  # guidellm counts some of its warm-up
    assert (conditions.in_flight, conditions.output_tokens, conditions.arrival) == (8, 16, "closed loop")
    assert [conditions.prompts, conditions.cache, conditions.context_tokens] == [None, None, None]
    assert 0.2 <= median_s(found) < 0.3
    assert 0.05 <= found.stated["TTFT p50"] < 0.1
    assert 20 < found.stated[THROUGHPUT] < 40  # 40 is what the server does


@pytest.mark.parametrize("name", ["guidellm-0.8.1", "vllm-0.32.0-detailed"])
def test_files_with_samples_have_figures_of_their_own(name: str) -> None:
    found = read(content(name)).load
    assert isinstance(found.throughput, Throughput)
    assert found.throughput.in_flight == 8
    assert len(found.samples["latency"]) == len(found.samples["ttft"]) >= 64
    ratio = compare([(found, found)]).ratios["latency p50"]
    if found.conditions.client is None:
        assert isinstance(ratio, Estimate)
        assert ratio.low is not None


def test_a_client_that_did_not_keep_its_requests_in_flight_is_told_by_its_own_figures() -> None:
    """aiperf says so itself: `effective_concurrency` 5.9 of 8."""
    said = read(content("aiperf-0.13.0")).load.conditions.client
    assert said is not None
    assert "8 asked for, throughput x latency 5.9" in said
    assert read(content("inference-perf-0.7.0")).load.conditions.client is None


def test_a_percentile_stated_of_too_few_requests_is_refused() -> None:
    one, other = read(content("inference-perf-0.7.0")).load, read(content("vllm-0.32.0")).load
    found = compare([(one, other)])
    assert found.gate.refusal is None
    assert set(found.gate.unknown) == {"prompts", "cache", "models", "context lengths", "error of the client"}
    assert found.ratios["latency p99"] == Refusal("p99 needs 299 samples, the file states it of 64")
    rate = found.ratios[THROUGHPUT]
    assert isinstance(rate, Estimate)
    assert (rate.low, rate.high) == (None, None)


def test_failures_of_a_detailed_file_are_no_latencies() -> None:
    changed = content("vllm-0.32.0-detailed")
    changed["errors"][3] = "Traceback: connection reset"
    changed["latencies"][3] = 0.0
    found = read(changed).load
    assert len(found.samples["latency"]) == 63
    assert min(found.samples["latency"]) >= 0.2


def test_an_open_loop_has_nothing_in_flight_to_compare() -> None:
    changed = content("vllm-0.32.0") | {"request_rate": 5.0, "max_concurrency": None}
    conditions = read(changed).load.conditions
    assert (conditions.arrival, conditions.in_flight) == ("open loop, 5/s, burstiness 1", None)


def test_our_own_load_goes_out_in_vllms_names_and_comes_back_whole() -> None:
    measured = load(10, 20, blocks=20).judged("").compared()
    written = json.loads(json.dumps(export(measured, label="one", date="20260101-000000")))
    theirs = content("vllm-0.32.0-detailed")
    assert set(written) - set(theirs) == {"llmd_runbook"}
    assert written["request_throughput"] == 10
    assert written["completed"] / written["duration"] == pytest.approx(10)
    assert written["median_e2el_ms"] == pytest.approx(2000, rel=0.01)
    assert written["mean_tpot_ms"] == pytest.approx(1000 * (2.0 - 0.2) / 97, rel=0.01)
    assert "p99_e2el_ms" in written
    assert read(written).tool == "llmd-runbook"
    assert read(written).load == measured
    del written["llmd_runbook"]  # as the tool's own readers see it
    assert read(written | {"errors": [], "start_times": []}).load.stated[THROUGHPUT] == 10


def test_an_export_has_no_percentile_that_its_samples_cannot_bear() -> None:
    written = export(load(10, 20, blocks=5).judged("").compared(), label="one", date="")
    assert "p95_e2el_ms" in written
    assert "p99_e2el_ms" not in written


def test_a_load_without_throughput_is_not_exported() -> None:
    with pytest.raises(ValueError, match="too short"):
        export(load(10, refused="too short").judged("").compared(), label="", date="")


@pytest.mark.parametrize("wrong", [None, 3, [], {}, {"benchmark": []}, {"request_throughput": 3}])
def test_what_is_of_no_known_format_is_said(wrong: Any) -> None:
    with pytest.raises(FormatError, match="no result of vllm bench serve, guidellm, inference-perf, aiperf"):
        read(wrong)


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("vllm-0.32.0", "completed"),
        ("vllm-0.32.0", "request_throughput_"),
        ("inference-perf-0.7.0", "benchmark_time_seconds"),
        ("aiperf-0.13.0", "request_latency"),
    ],
)
def test_a_part_that_is_missing_is_named(name: str, lost: str) -> None:
    broken = content(name)
    if lost.endswith("_"):
        broken[lost.rstrip("_")] = "fast"
    else:
        del broken[lost]
    with pytest.raises(FormatError, match=f"looks like a result of {TOOLS[name]}, but"):
        read(broken)


def test_a_report_of_several_benchmarks_is_refused() -> None:
    report = content("guidellm-0.8.1")
    with pytest.raises(FormatError, match="2 benchmarks"):
        read(report | {"benchmarks": report["benchmarks"] * 2})
