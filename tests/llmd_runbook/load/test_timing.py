"""Arrivals: events are found however the bytes are cut, and each has the time of its beginning."""

from __future__ import annotations

import asyncio

from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.load.engine import run
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.timing import Arrivals

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

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    plan = Plan(
        url=url, model="m", api="chat", prompts=unique(2, 5, seed=1), output_tokens=3, arrival=Closed(concurrency=1)
    )
    try:
        result = await run(plan)
    finally:
        await runner.cleanup()
    for sample in result.samples:
        first, second = sample.gaps_s
        assert first >= gap_s * 0.9
        assert second == 0
        assert sample.ttft_s is not None
        assert sample.ttft_s >= gap_s * 0.9  # the role alone is no token
        assert sample.latency_s >= 2 * gap_s * 0.9
