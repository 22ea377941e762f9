"""The engine against a server on loopback: good answers, every kind of failure, concurrency, schedules."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from llmd_runbook.load.engine import run
from llmd_runbook.load.plan import Arrival, Burst, Closed, Open, Plan, Prompt, Timed
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import Progress

Reply = Callable[[web.Request, web.StreamResponse], Awaitable[None]]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def event(body: object) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


TEXT = event({"choices": [{"text": " a"}]})
END = event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"


class Server:
    """Answers by `reply`; keeps the requests, and how many were in flight at once."""

    def __init__(self) -> None:
        self.reply: Reply = good
        self.status = 200
        self.url = self.cookie = ""
        self.requests: list[tuple[dict[str, str], Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.arrived = asyncio.Condition()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(({k.lower(): v for k, v in request.headers.items()}, await request.json()))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            headers = {"X-Inference-Pod": "pod-1", "X-Other": "x"}
            if self.cookie:
                headers["Set-Cookie"] = self.cookie
            response = web.StreamResponse(status=self.status, headers=headers)
            await response.prepare(request)
            await self.reply(request, response)
            return response
        finally:
            self.in_flight -= 1


async def good(_: web.Request, response: web.StreamResponse) -> None:
    await response.write(TEXT + TEXT[:9])
    await response.write(TEXT[9:] + TEXT + END)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_post("/prefix/v1/completions", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/prefix"
    yield server
    await runner.cleanup()


def plan(url: str, requests: int = 1, arrival: Arrival | None = None, **fields: Any) -> Plan:
    return Plan(
        url=url,
        model="m",
        prompts=unique(requests, 20, seed=1),
        output_tokens=3,
        arrival=arrival or Closed(concurrency=1),
        **fields,
    )


async def test_a_good_answer(server: Server) -> None:
    result = await run(plan(server.url, headers={"Host": "models.example.com"}))
    (sample,) = result.samples
    assert (sample.ok, sample.status, sample.error) == (True, 200, None)
    assert (sample.prompt_tokens, sample.output_tokens, sample.cached_tokens, sample.events) == (7, 3, 4, 3)
    assert sample.headers == {"x-inference-pod": "pod-1"}
    assert sample.first_token_s is not None
    assert 0 <= sample.due_s <= sample.sent_s < sample.first_token_s <= sample.done_s <= result.duration_s
    assert sample.ttft_s is not None
    assert sample.tpot_s == pytest.approx((sample.latency_s - sample.ttft_s) / 2)
    headers, body = server.requests[0]
    assert headers["host"] == "models.example.com"
    assert headers["x-request-id"] == sample.request_id
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert (body["model"], body["max_tokens"], body["ignore_eos"]) == ("m", 3, True)
    assert body["prompt"] == plan(server.url).prompts[0].text


async def test_every_request_is_sent_once_with_its_own_id_and_progress_tells(server: Server) -> None:
    seen: list[Progress] = []
    result = await run(plan(server.url, 20, Closed(concurrency=4)), seen.append)
    assert [sample.index for sample in result.samples] == list(range(20))
    assert [sample.group for sample in result.samples] == [f"u{index}" for index in range(20)]
    assert len({headers["x-request-id"] for headers, _ in server.requests}) == 20
    assert (seen[0].total, seen[-1].ended, seen[-1].failed) == (20, 20, 0)
    assert result.failures() == {}


async def test_the_collector_looks_seldom_and_at_young_objects_only_while_requests_are_in_flight(
    server: Server,
) -> None:
    before, during = gc.get_threshold(), []

    async def look(request: web.Request, response: web.StreamResponse) -> None:
        during.append((gc.get_threshold(), gc.isenabled()))
        await good(request, response)

    server.reply = look
    await run(plan(server.url))
    assert during == [((50_000, 1_000_000, 1_000_000), True)]
    assert gc.get_threshold() == before


async def test_a_cookie_binds_no_later_request_to_a_backend(server: Server) -> None:
    async def bind(request: web.Request, response: web.StreamResponse) -> None:
        assert response.headers["Set-Cookie"]
        await good(request, response)

    server.reply, server.cookie = bind, "GCILB=abc; Path=/"
    by_name = server.url.replace("127.0.0.1", "localhost")  # of an address no cookie is ever kept
    await run(plan(by_name, 2, Closed(concurrency=1)))
    assert [headers.get("cookie") for headers, _ in server.requests] == [None, None]


async def test_a_closed_loop_keeps_to_its_concurrency(server: Server) -> None:
    full = asyncio.Event()

    async def hold(request: web.Request, response: web.StreamResponse) -> None:
        if server.in_flight == 3:
            full.set()
        await asyncio.wait_for(full.wait(), 5)
        await good(request, response)

    server.reply = hold
    await run(plan(server.url, 12, Closed(concurrency=3)))
    assert server.most_in_flight == 3


async def test_a_burst_waits_for_nobody(server: Server) -> None:
    async def hold(request: web.Request, response: web.StreamResponse) -> None:
        async with server.arrived:
            await asyncio.wait_for(server.arrived.wait_for(lambda: server.most_in_flight == 10), 5)
        await good(request, response)

    server.reply = hold
    result = await run(plan(server.url, 10, Burst()))
    assert (server.most_in_flight, result.failures()) == (10, {})


async def test_an_open_loop_sends_when_due_though_nothing_is_answered(server: Server) -> None:
    async def hold(request: web.Request, response: web.StreamResponse) -> None:
        async with server.arrived:
            await asyncio.wait_for(server.arrived.wait_for(lambda: server.most_in_flight == 5), 5)
        await good(request, response)

    server.reply = hold
    result = await run(plan(server.url, 5, Open(rate_per_s=100, gaps="constant")))
    assert [sample.due_s for sample in result.samples] == pytest.approx([0, 0.01, 0.02, 0.03, 0.04])
    assert all(sample.sent_s >= sample.due_s for sample in result.samples)
    assert server.most_in_flight == 5


async def refuse(_: web.Request, response: web.StreamResponse) -> None:
    await response.write(b"no healthy upstream")


async def break_off(request: web.Request, response: web.StreamResponse) -> None:
    await response.write(TEXT)
    assert request.transport is not None
    request.transport.close()


async def end_early(_: web.Request, response: web.StreamResponse) -> None:
    await response.write(TEXT)


async def fail_in_the_stream(_: web.Request, response: web.StreamResponse) -> None:
    await response.write(TEXT + event({"error": {"message": "engine died", "code": 500}}) + b"data: [DONE]\n\n")


async def hang(_: web.Request, response: web.StreamResponse) -> None:
    await response.write(TEXT)
    await asyncio.sleep(5)


@pytest.mark.parametrize(
    ("reply", "status", "kind", "detail"),
    [
        (refuse, 503, "http_503", "no healthy upstream"),
        (refuse, 404, "http_404", "no healthy upstream"),
        (break_off, 200, "disconnected", ""),
        (end_early, 200, "truncated", "[DONE]"),
        (fail_in_the_stream, 200, "stream_error", "engine died"),
        (hang, 200, "timeout", ""),
    ],
)
async def test_failures_are_counted_by_kind(server: Server, reply: Reply, status: int, kind: str, detail: str) -> None:
    server.reply, server.status = reply, status
    result = await run(plan(server.url, 2, request_timeout_s=0.2))
    assert result.failures() == {kind: 2}
    assert result.good == []
    assert detail in result.samples[0].detail
    assert result.samples[0].detail


async def test_nobody_listening_is_a_failure_to_connect() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = await run(plan(f"http://127.0.0.1:{closed.getsockname()[1]}"))
    assert result.failures() == {"connect": 1}
    assert (result.samples[0].status, result.samples[0].ttft_s, result.samples[0].tpot_s) == (None, None, None)


async def test_answers_without_usage_have_no_counts(server: Server) -> None:
    async def bare(_: web.Request, response: web.StreamResponse) -> None:
        await response.write(TEXT + b"data: [DONE]\n\n")

    server.reply = bare
    (sample,) = (await run(plan(server.url))).samples
    assert (sample.ok, sample.output_tokens, sample.tpot_s) == (True, None, None)


async def test_a_trace_is_sent_at_its_times(server: Server) -> None:
    result = await run(plan(server.url, 3, Timed(due_s=[0.0, 0.05, 0.05])))
    assert [sample.due_s for sample in result.samples] == [0.0, 0.05, 0.05]
    assert all(sample.waited_s >= sample.latency_s for sample in result.samples)


async def test_a_prompt_may_ask_for_an_answer_of_its_own_length(server: Server) -> None:
    prompts = [Prompt(group="g", text="hello", output_tokens=9), Prompt(group="g", text="hello")]
    await run(plan(server.url).model_copy(update={"prompts": prompts}))
    assert [body["max_tokens"] for _, body in server.requests] == [9, 3]


async def test_a_system_prompt_comes_first(server: Server) -> None:
    asked = plan(server.url).model_copy(update={"prompts": [Prompt(group="g", system="be kind", text="hello")]})
    await run(asked)
    assert server.requests[0][1]["prompt"] == "be kind hello"


async def test_the_token_comes_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", "one-two-three")
    asked = plan(server.url, bearer_variable="GATEWAY_TOKEN")
    await run(asked)
    assert server.requests[0][0]["authorization"] == "Bearer one-two-three"
    assert "one-two-three" not in asked.model_dump_json()


async def test_a_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is the server itself: it is asked for the whole address of a host that does not exist."""
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/prefix"))
    monkeypatch.setenv("no_proxy", "")
    result = await run(plan("http://models.invalid/prefix"))
    assert result.failures() == {}
    assert server.requests[0][0]["host"] == "models.invalid"
