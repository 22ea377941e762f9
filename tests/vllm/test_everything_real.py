"""The page on a run with everything real, from a record made here; needs no engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from llmd_runbook.manifest import (
    Attempt,
    ClusterIdentity,
    Code,
    How,
    ProfileRecord,
    Run,
    StageRecord,
    Status,
    Who,
)
from llmd_runbook.verdicts import Check, Note, StageResult, Table, Verdict
from tests.vllm.everything_real import page

BEGAN = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def check(name: str, verdict: Verdict, observed: str) -> Check:
    return Check(id=name, proves="p", verdict=verdict, expected="e", observed=observed)


def stage(name: str, *checks: Check) -> StageRecord:
    result = StageResult(stage=name, simulated=True, checks=list(checks))
    ended = BEGAN + timedelta(seconds=61)
    attempt = Attempt(
        number=1,
        notebook="n",
        status=Status.FINISHED,
        verdict=result.verdict,
        started=BEGAN,
        ended=ended,
        result=result,
    )
    return StageRecord(stage=name, attempts=[attempt])


def compared() -> StageRecord:
    """A stage 06 with its tables."""
    found = stage("06_throughput_and_cost", check("throughput.gain", Verdict.PASS, "1.5"))
    result = found.attempts[0].result
    assert result is not None
    result.tables.extend(
        [
            Table(title="Both patterns", columns=["pattern", "requests/s"], rows=[["one", 0.5], ["three", None]]),
            Table(title="Ratios", columns=["3 / 1", "same load"], rows=[["throughput", "1.50 [1.4, 1.6]"]]),
            Table(title="Prices", columns=["price"], rows=[["not on the page"]]),
        ]
    )
    result.notes.append(Note(title="How to read the ratios", text="Before and after, unpaired."))
    return found


def record() -> Run:
    identity = ClusterIdentity(
        context="c",
        server="s",
        kube_system_uid="u",
        kubernetes_version="v",
        simulated=True,
        real={"engine": "real vLLM 1.2", "gke": "simulated"},
    )
    return Run(
        id="20260102T030400Z-abc",
        profile=ProfileRecord(name="sandbox-vllm", path="p.yaml", digest="d", content={}),
        simulated=True,
        cluster=identity,
        how=How.CLI,
        who=Who(user="u", host="h"),
        code=Code(commit="0123456789abcdef", dirty=False),
        tools={},
        verdict=Verdict.FAIL,
        started=BEGAN,
        stages=[
            stage("04_verify", check("verify.one", Verdict.PASS, "3 of 3"), check("verify.two", Verdict.FAIL, "a | b")),
            StageRecord(stage="05_routing_affinity", not_run="04_verify failed"),
            compared(),
            stage("07_cleanup", check("cleanup.one", Verdict.PASS, "not shown")),
        ],
    )


def test_the_page_tells_parts_verdicts_and_what_was_seen() -> None:
    shown = page(record(), took_s=630, peak_bytes=6_540_000_000)
    assert "Run 20260102T030400Z-abc, profile sandbox-vllm, 2026-01-02 03:04 UTC, commit 0123456789ab, " in shown
    assert "10.5 minutes, 6.5 GB of memory at most. Verdict: fail." in shown
    lines = shown.splitlines()
    assert "| engine | real vLLM 1.2 |" in lines
    assert "| gke | simulated |" in lines
    assert "| 04_verify | fail | 1 of 2 | 61 s |" in lines
    assert "| 05_routing_affinity | not run | 0 of 0 | not known |" in lines
    assert "| 07_cleanup | pass | 1 of 1 | 61 s |" in lines
    assert "| verify.two | fail | a \\| b |" in lines
    assert "not shown" not in shown


def test_the_page_has_the_comparison_of_both_patterns_and_how_to_read_it() -> None:
    shown = page(record(), took_s=630, peak_bytes=1)
    comparison = """Both patterns:

| pattern | requests/s |
| --- | --- |
| one | 0.5 |
| three |  |

Ratios:

| 3 / 1 | same load |
| --- | --- |
| throughput | 1.50 [1.4, 1.6] |

Before and after, unpaired.
"""
    assert comparison in shown
    assert shown.index("## 06_throughput_and_cost") < shown.index(comparison)
    assert "not on the page" not in shown
