"""`llmd-runbook load run` against a server whose times are known: each arrival, failures, a client that is too slow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook import cli
from llmd_runbook.analysis import peer_results
from llmd_runbook.load import calibrate as calibration
from llmd_runbook.load.calibrate import ClientError, known_server


@pytest.fixture(autouse=True)
def fit_client(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A client that adds nothing, whatever this machine does meanwhile; tests change what is said of it."""
    said: dict[str, Any] = {"bound": None, "in_flight": []}

    def calibrated(*, concurrency: int, **_: float) -> ClientError:
        said["in_flight"].append(concurrency)
        return ClientError(concurrency, 3 * concurrency, 0.001, 0.002, 0.001, 0.001)

    monkeypatch.setattr(calibration, "calibrate", calibrated)
    monkeypatch.setattr(calibration, "invalid", lambda *_, **__: said["bound"])
    return said


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call `llmd-runbook load run URL --model m WORDS` in this process: exit code, stdout, stderr."""

    def call(url: str, *words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmd-runbook", "load", "run", url, "--model", "m", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), " ".join(out.split()), err

    return call


def test_a_closed_loop_has_latencies_gaps_and_a_rate(command: Any, tmp_path: Path, fit_client: dict[str, Any]) -> None:
    file = tmp_path / "load.json"
    words = ("--requests", "70", "--concurrency", "5", "--output-tokens", "4", "--seed", "7", "--export", file)
    with known_server(0.02, 0.005) as (url, served):
        code, out, err = command(url, *words)
    assert (code, err) == (0, "")
    assert "closed loop; 75 sent, 5 of them warm-up; no failures" in out
    assert "seed 7" in out
    assert "client: 2.0 ms added at p95 with 5 in flight" in out
    for row in ("latency from sending", "TTFT", "TPOT", "ITL, 1.00 tokens an event", "requests/s"):
        assert row in out
    assert "due time" not in out  # nothing is due before the last answer
    assert "p99 needs 299 samples, there are 70" in out
    assert (len(served.done_s), fit_client["in_flight"]) == (75, [5])
    load = peer_results.read(json.loads(file.read_text())).load
    assert (load.conditions.requests, load.conditions.in_flight, load.conditions.client) == (70, 5, "")
    assert (load.conditions.prompt_tokens, load.conditions.output_tokens) == (1, 4)  # as the server counts
    assert len(load.samples["latency"]) == 70


def test_an_open_loop_counts_from_the_due_time_too_and_says_how_late_it_sent(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "load.json"
    words = ("--arrival", "poisson", "--rate", "100", "--requests", "70", "--output-tokens", "1", "--export", file)
    with known_server(0.02, 0) as (url, _):
        code, out, _ = command(url, *words)
    assert code == 0
    assert "open loop, 100/s, burstiness 1; 170 sent, 100 of them warm-up" in out
    assert out.index("latency from the due time") < out.index("latency from sending")
    assert "sent late, at most" in out
    content = json.loads(file.read_text())
    assert (content["request_rate"], content["max_concurrency"]) == (100, None)


def test_a_burst_and_a_trace_are_sent(command: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    requests = [{"arrival_s": n / 100, "model": "x", "prompt": f"p{n}", "output_tokens": 1 + n % 2} for n in range(60)]
    trace.write_text("".join(json.dumps(request) + "\n" for request in requests))
    with known_server(0.02, 0.005) as (url, served):
        code, out, _ = command(url, "--trace", trace)
        assert code == 0
        assert "trace trace.jsonl; 60 sent, 0 of them warm-up; no failures" in out
        assert "burst; 60 sent" in command(url, "--arrival", "burst", "--requests", "60", "--output-tokens", "1")[1]
    assert (len(served.done_s), len(served.gaps_s)) == (120, 30)  # every other answer of the trace has two tokens


def test_a_slow_client_gets_no_number(command: Any, fit_client: dict[str, Any]) -> None:
    fit_client["bound"] = "INVALID (client-bound): the client adds 9.0 ms at p95"
    with known_server(0.01, 0) as (url, _):
        code, out, _ = command(url, "--requests", "60", "--concurrency", "2", "--output-tokens", "1")
    assert code == 3
    assert "INVALID (client-bound)" in out
    assert "latency from sending" not in out
    assert "requests/s" not in out


def test_failures_are_counted_and_fail(command: Any) -> None:
    code, out, _ = command("http://127.0.0.1:1", "--requests", "3", "--concurrency", "1")
    assert code == 1
    assert "4 sent, 1 of them warm-up; connect: 4" in out
    assert "the client was not judged" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--arrival", "poisson"), "--arrival poisson needs --rate"),
        (("--rate", "5"), "--arrival closed has no --rate"),
        (("--trace", "absent.jsonl"), "cannot read the trace"),
        (("--bearer-variable", "NOT_SET_ANYWHERE"), "no token"),
    ],
)
def test_bad_usage_is_one_message_and_sends_nothing(command: Any, words: tuple[str, ...], said: str) -> None:
    code, out, err = command("http://127.0.0.1:1", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
