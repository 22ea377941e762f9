"""The engine in real time: steps end at absolute times of its own clock.

A step begins where the last one ended, not when this process woke up, so that late wake-ups do not add up;
and no token is handed out before its time, so that the engine is never faster than its model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from llmd_sandbox.images.vllm.families import EngineMetrics
from llmd_sandbox.images.vllm.scheduler import Request, Scheduler, Step

clock: Callable[[], float] = time.monotonic
"""The engine's clock: uvloop's own shows milliseconds as of the last wake-up."""

_TIMER_S = 0.0005
"""Half of uvloop's timer step: added, a sleep does not end early and need not be repeated."""


class Engine:
    """Runs the scheduler, one step after another; `step_s` is `StepTime.step_s` or alike."""

    def __init__(self, scheduler: Scheduler, step_s: Callable[[int, int, int], float], metrics: EngineMetrics) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self.step_s = step_s
        self._work = asyncio.Event()

    def submit(self, request: Request) -> None:
        """Queue a request that arrived just now."""
        self.scheduler.add(request)
        self.metrics.gauges(self.scheduler)
        self._work.set()

    def abort(self, request: Request) -> None:
        """End a request whose client is gone; its listener is not called again."""
        if self.scheduler.abort(request):
            self.metrics.finished(request, clock())
            self.metrics.gauges(self.scheduler)

    def abort_all(self) -> None:
        """End every request; listeners are told, with `finish_reason` abort."""
        for request in [*self.scheduler.running, *self.scheduler.waiting]:
            self.abort(request)
            request.on_token(request)

    def reset_prefix_cache(self) -> bool:
        """Forget all cached blocks; False, and nothing done, while requests hold some."""
        return self.scheduler.pool.reset()

    async def run(self) -> None:
        """Step for ever."""
        start_s = 0.0
        while True:
            step = self.scheduler.schedule(start_s)
            if step is not None:
                start_s += self.step_s(step.tokens, len(step.work), step.context_tokens)
                await _until(start_s)
                self._end(step, start_s)
            elif self.scheduler.waiting:
                # The engine was idle, or the request came after a step's end that this process noticed late.
                start_s = max(start_s, self.scheduler.waiting[0].arrival_s)
            else:
                self._work.clear()
                await self._work.wait()

    def _end(self, step: Step, now_s: float) -> None:
        fed = self.scheduler.complete(step, now_s)
        self.metrics.stepped(step, fed, now_s)
        for request in fed:
            request.last_token_s = now_s
            if request.finish_reason is not None:
                self.metrics.finished(request, now_s)
            request.on_token(request)
        self.metrics.gauges(self.scheduler)


async def _until(deadline_s: float) -> None:
    left_s = deadline_s - clock()
    await asyncio.sleep(left_s + _TIMER_S if left_s > 0 else 0)
    if clock() < deadline_s:
        await _until(deadline_s)
