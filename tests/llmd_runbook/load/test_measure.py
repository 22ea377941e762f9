"""The load generator as a process: its result, its failures, and that it never outlives anybody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmd_runbook.errors import EXIT_INTERRUPTED, ToolError, UsageError
from llmd_runbook.load.measure import measure
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import Progress

ANSWER = b'data: {"choices":[{"text":" a"}]}\n\ndata: [DONE]\n\n'


class Server(ThreadingHTTPServer):
    """Answers at once, or, while `open` is clear, not at all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.open, self.asked = threading.Event(), threading.Event()
        self.open.set()

    def plan(self, requests: int = 3) -> Plan:
        return Plan(
            url=f"http://127.0.0.1:{self.server_port}",
            model="m",
            prompts=unique(requests, 5, seed=1),
            output_tokens=1,
            arrival=Closed(concurrency=2),
        )


class Handler(BaseHTTPRequestHandler):
    """One answer a connection."""

    server: Server

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.set()
        self.server.open.wait(20)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


def start(plan: Plan) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "llmd_runbook.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(plan.model_dump_json() + "\n")
    process.stdin.flush()
    return process


def test_measure_returns_every_sample_and_tells_how_far_it_is(server: Server) -> None:
    seen: list[Progress] = []
    result = measure(server.plan(7), seen.append)
    assert [sample.ok for sample in result.samples] == [True] * 7
    assert (seen[-1].ended, seen[-1].total) == (7, 7)
    assert result.client.cpu_share > 0


def test_an_exception_in_the_caller_ends_the_process(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def noted(*args: Any, **kwargs: Any) -> Any:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", noted)
    server.open.clear()
    with pytest.raises(KeyboardInterrupt):
        measure(server.plan(), interrupt)
    assert [process.returncode for process in started] == [EXIT_INTERRUPTED]


def test_a_generator_that_breaks_is_a_tool_error_with_its_last_words(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ToolError, match="exit status 1"):
        measure(server.plan())
    monkeypatch.undo()
    broken = server.plan().model_copy(update={"output_tokens": 0})
    with pytest.raises(ToolError, match="output_tokens"):
        measure(broken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(server: Server, number: signal.Signals) -> None:
    server.open.clear()
    with start(server.plan()) as process:
        assert server.asked.wait(20)
        os.kill(process.pid, number)
        assert process.wait(10) == EXIT_INTERRUPTED
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


def test_the_end_of_its_input_ends_it(server: Server) -> None:
    server.open.clear()
    with start(server.plan()) as process:
        assert server.asked.wait(20)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == EXIT_INTERRUPTED


def test_a_start_that_is_past_is_one_message(server: Server) -> None:
    late = server.plan().model_copy(update={"start_s": 1.0})
    with pytest.raises(ToolError, match="exit status 2") as raised:
        measure(late)
    assert str(raised.value.reason).startswith("the common start is")
    assert "Traceback" not in str(raised.value)
    assert not server.asked.is_set()


def test_a_token_that_is_not_there_is_said_before_anything_is_sent(server: Server) -> None:
    with pytest.raises(UsageError, match="no token") as raised:
        measure(server.plan().model_copy(update={"bearer_variable": "NOT_SET_ANYWHERE"}))
    assert raised.value.where == "environment variable NOT_SET_ANYWHERE"
    assert not server.asked.is_set()
