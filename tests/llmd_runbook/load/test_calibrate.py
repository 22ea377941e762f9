"""Calibration: the known server keeps its times, and the judgement follows its two rules."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from llmd_runbook.errors import ToolError
from llmd_runbook.load.calibrate import ClientError, added, calibrate, invalid
from llmd_runbook.load.null_server import Served
from llmd_runbook.load.samples import Client, LoadResult, Sample

SMALL = ClientError(
    concurrency=20, requests=40, latency_p50_s=0.001, latency_p95_s=0.002, ttft_p95_s=0.001, lag_p99_s=0.001
)


def sample(request_id: str, *, took_s: float, first_s: float) -> Sample:
    return Sample(
        index=0,
        group="",
        due_s=0,
        sent_s=0,
        first_token_s=first_s,
        gaps_s=(),
        done_s=took_s,
        status=200,
        error=None,
        detail="",
        prompt_tokens=None,
        output_tokens=None,
        cached_tokens=None,
        events=1,
        request_id=request_id,
        headers={},
    )


def test_the_client_never_sees_an_answer_before_its_time() -> None:
    found = calibrate(concurrency=2, output_tokens=4, first_s=0.02, gap_s=0.01)
    assert (found.concurrency, found.requests) == (2, 4)
    assert 0 < found.latency_p50_s <= found.latency_p95_s
    assert found.ttft_p95_s > 0


def test_each_request_is_held_against_its_own_line_of_the_log() -> None:
    """Two that end together may be seen in the other order: the difference would be of two requests."""
    served = Served(request_ids=["b", "a"], first_s=[0.01, 0.05], done_s=[0.1, 0.2], gaps_s=[], ended_s=[1.0, 1.0])
    samples = [sample("a", took_s=0.201, first_s=0.052), sample("b", took_s=0.103, first_s=0.01)]
    client = Client(lag_p99_s=0.004, lag_max_s=0.004, late_p99_s=0, cpu_share=0.1)
    found = added(LoadResult(started_s=0, duration_s=1, client=client, samples=samples), served, concurrency=0)
    assert (found.latency_p50_s, found.latency_p95_s) == pytest.approx((0.001, 0.003))
    assert found.ttft_p95_s == pytest.approx(0.002)
    assert (found.requests, found.lag_p99_s) == (2, 0.004)


def test_a_fit_client_is_not_reproached() -> None:
    assert invalid(SMALL, lag_p99_s=0.001, p50_s=0.1, p95_s=0.12, tolerance=0.02) is None


def test_overhead_and_lag_each_make_a_measurement_invalid() -> None:
    slow = invalid(replace(SMALL, latency_p95_s=0.003), lag_p99_s=0.001, p50_s=0.1, p95_s=0.12, tolerance=0.02)
    assert slow is not None
    assert "adds 3.0 ms at p95" in slow
    late = invalid(SMALL, lag_p99_s=0.0021, p50_s=0.1, p95_s=0.12, tolerance=0.02)
    assert late is not None
    assert "2.1 ms late" in late


def test_a_server_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(ToolError, match="did not start"):
        calibrate(concurrency=1, output_tokens=1, first_s=0, gap_s=0)
