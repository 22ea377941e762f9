"""Arrivals: events are found however the bytes are cut, and each has the time of its beginning; and the sending."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.load.engine import run
from llmd_runbook.load.loops import run_fast
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.timing import Arrivals, TimedBody, TimedConnector, TimedProtocol, TimedResponse

EVENT = b'data: {"choices":[{"text":" a"}]}\n\n'


@given(st.lists(st.integers(1, 3 * len(EVENT)), max_size=30))
def test_every_event_is_counted_once(cuts: list[int]) -> None:
    raw, at, arrivals = EVENT * 5 + b"data: [DONE]\n\n", 0, Arrivals()
    for index, cut in enumerate([*cuts, len(raw)]):
        arrivals.add(float(index), raw[at : at + cut])
        at += cut
    assert len(arrivals.events) == 5
    assert arrivals.events == sorted(arrivals.events)
    assert arrivals.last == len(cuts)


@asynccontextmanager
async def answering(path: str, answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """A server in this loop; its address."""
    app = web.Application()
    app.router.add_post(path, answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_gaps_are_those_of_the_server() -> None:
    """Three tokens; the second comes only after the first was seen, the third with the second."""
    gap_s = 0.05

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n')
        await asyncio.sleep(gap_s)
        await response.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
        await asyncio.sleep(gap_s)
        await response.write(b'data: {"choices":[{"delta":{"content":"b"}}]}\n\n' * 2 + b"data: [DONE]\n\n")
        return response

    prompts, arrival = unique(2, 5, seed=1), Closed(concurrency=1)
    async with answering("/v1/chat/completions", answer) as url:
        result = await run(Plan(url=url, model="m", api="chat", prompts=prompts, output_tokens=3, arrival=arrival))
    for sample in result.samples:
        first, second = sample.gaps_s
        assert first >= gap_s * 0.9
        assert second == 0
        assert sample.ttft_s is not None
        assert sample.ttft_s >= gap_s * 0.9  # the role alone is no token
        assert sample.latency_s >= 2 * gap_s * 0.9


class Peer:
    """A server in a thread of its own, which answers one request even while the client's loop stands still."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            seen = b""
            while not seen.endswith(b"ask"):
                seen += connection.recv(4096)
            self.asked.set()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as found:
        yield found


LOOPS: list[Callable[[Coroutine[Any, Any, None]], None]] = [run_fast, asyncio.run]


@pytest.mark.parametrize("run_in", LOOPS)
def test_a_request_is_sent_when_the_system_has_it_and_not_when_its_making_began(
    peer: Peer, run_in: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    arrived: list[bool] = []
    made_s: list[float] = []

    class Body(TimedBody):
        async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
            made_s.append(time.perf_counter())
            await super().write_with_length(writer, content_length)
            arrived.append(peer.asked.wait(5))  # the loop stands still

    async def ask() -> None:
        body = Body(b"ask", content_type="text/plain")
        async with aiohttp.ClientSession(connector=TimedConnector(True), response_class=TimedResponse) as session:
            await session.post(peer.url, data=body)
        assert body.sent is not None
        assert made_s[0] < body.sent < time.perf_counter()

    run_in(ask())
    assert arrived == [True]


@pytest.mark.parametrize("run_in", LOOPS)
def test_an_answer_arrives_when_its_bytes_come_and_not_when_a_task_reads_them(
    peer: Peer, run_in: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def ask() -> None:
        async with (
            aiohttp.ClientSession(connector=TimedConnector(True), response_class=TimedResponse) as session,
            session.post(peer.url, data=TimedBody(b"ask", content_type="text/plain")) as response,
        ):
            assert isinstance(response, TimedResponse)
            arrived = time.perf_counter()
            assert await response.read() == b"yes"
            assert response.arrivals.last is not None
            assert response.arrivals.last < arrived

    run_in(ask())


async def test_an_answer_that_is_larger_than_all_buffers_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading is paused and goes on: the answer is compressed, though nobody asked for that."""
    text = " the" * 1_000_000
    body = json.dumps({"choices": [{"text": text}], "usage": {"completion_tokens": 1_000_000}}).encode()
    paused: list[bool] = []
    pause = TimedProtocol.pause_reading

    def pausing(self: TimedProtocol) -> None:
        paused.append(True)
        pause(self)

    monkeypatch.setattr(TimedProtocol, "pause_reading", pausing)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})

    prompts, arrival = unique(3, 5, seed=1), Closed(concurrency=1)
    async with answering("/v1/completions", answer) as url, asyncio.timeout(60):
        found = await run(Plan(url=url, model="m", prompts=prompts, output_tokens=1, streamed=False, arrival=arrival))
    assert paused
    assert found.failures() == {}
    assert [sample.body_bytes for sample in found.samples] == [len(body)] * 3
