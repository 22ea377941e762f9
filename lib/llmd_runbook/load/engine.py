"""Runs a plan in an event loop of its own: sends by the schedule, watches itself, parses afterwards."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llmd_runbook.errors import UsageError
from llmd_runbook.load.client import Exchange, Sender, open_session, parse
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.samples import Client, LoadResult, Progress
from llmd_runbook.load.schedule import Schedule, schedule

_PROBE_S = 0.005
_PROGRESS_S = 0.2
_NEVER = 1_000_000
_YOUNG = 50_000
"""Objects; with 1,000 in flight Python's own 700 make a tenth of a request's processor time."""


async def run(plan: Plan, on_progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """Send every request of the plan and return every sample; `on_progress` is called every 0.2 s.

    Raises:
        UsageError: no token where the plan names one, or a common start that is past.
    """
    times = schedule(plan.arrival, len(plan.prompts))
    async with open_session(plan) as session:
        with _short_collections():
            if plan.start_s is not None:
                await _until(plan.start_s)
            started_s = time.time()
            origin, cpu_before = time.perf_counter(), time.process_time()
            sending = _Run(times, Sender(plan, session, origin), origin)
            lags: list[float] = []
            helpers = [asyncio.create_task(_probe(lags)), asyncio.create_task(_report(sending, on_progress))]
            try:
                await sending.all()
            finally:
                for helper in helpers:
                    helper.cancel()
        duration_s = time.perf_counter() - origin
        cpu_s = time.process_time() - cpu_before
    if on_progress:
        on_progress(sending.progress())
    exchanges = sorted(sending.ended, key=lambda exchange: exchange.index)
    closed = isinstance(plan.arrival, Closed)
    late = [0.0] if closed else [exchange.sent_s - exchange.due_s for exchange in exchanges]
    return LoadResult(
        started_s=started_s,
        duration_s=duration_s,
        client=Client(
            lag_p99_s=_p99(lags),
            lag_max_s=max(lags, default=0.0),
            late_p99_s=_p99(late),
            cpu_share=cpu_s / duration_s,
        ),
        samples=[parse(exchange, plan.prompts[exchange.index].group) for exchange in exchanges],
    )


@contextmanager
def _short_collections() -> Iterator[None]:
    """Let the garbage collector look seldom, and at young objects only: every sample is kept, and looking takes long.

    An answered request leaves no cycle behind, so there is little to find.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _NEVER, _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _until(start_s: float) -> None:
    """Wait for that second of the clock.

    Raises:
        UsageError: it has passed: the others are under way.
    """
    early_s = start_s - time.time()
    if early_s < 0:
        raise UsageError(
            f"the common start is {-early_s:.1f} s past",
            remedy="set this machine's clock (NTP), or give it fewer other things to do",
        )
    await asyncio.sleep(early_s)


class _Run:
    """The requests of one run: which are due, under way, ended."""

    def __init__(self, times: Schedule, sender: Sender, origin: float) -> None:
        self.ended: list[Exchange] = []
        self._times, self._sender, self._origin = times, sender, origin
        self._failed = 0
        self._next = iter(range(len(times.due_s)))

    async def all(self) -> None:
        """Return when the last request has ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._times.concurrency):
                group.create_task(self._work())

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            elapsed_s=time.perf_counter() - self._origin,
            total=len(self._times.due_s),
            ended=len(self.ended),
            failed=self._failed,
        )

    async def _work(self) -> None:
        for index in self._next:
            due_s = self._times.due_s[index]
            early_s = due_s - (time.perf_counter() - self._origin)
            if early_s > 0:
                await asyncio.sleep(early_s)
            exchange = await self._sender.send(index, due_s)
            self.ended.append(exchange)
            self._failed += not exchange.looks_good


async def _probe(lags: list[float]) -> None:
    """Note how late a timer fires: what the client adds to a latency is of this size."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(_PROBE_S)
        lags.append(max(0.0, time.perf_counter() - asked - _PROBE_S))


async def _report(sending: _Run, on_progress: Callable[[Progress], None] | None) -> None:
    while on_progress:
        on_progress(sending.progress())
        await asyncio.sleep(_PROGRESS_S)


def _p99(values: list[float]) -> float:
    """The 99th percentile, or the largest of fewer than a hundred values; 0 of none."""
    return sorted(values)[int(0.99 * len(values))] if values else 0.0
