"""A steady stream of requests that goes on until it is stopped, for what has no known end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import Sample
from llmd_runbook.load.steady import rate_per_s, send


class Stream:
    """The plan's prompts over and over, at its rate and at equal gaps, from a thread of its own.

    An open loop: what is slow or lost holds nothing back. Times of samples are seconds from the start.

    Raises:
        ValueError: the plan's arrival is no open loop at equal gaps.
    """

    def __init__(self, plan: Plan) -> None:
        rate_per_s(plan)
        self._plan = plan
        self._stopping = threading.Event()
        self._news = threading.Condition()
        self._samples: list[Sample] = []
        self._error: BaseException | None = None
        self._origin = 0.0
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def __enter__(self) -> Self:
        self._origin = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        self._stopping.set()  # whoever raises or interrupts does not wait for answers

    def now_s(self) -> float:
        """The present, on the clock of the samples."""
        return time.perf_counter() - self._origin

    def wait(self, done: Callable[[list[Sample]], bool], timeout_s: float) -> bool:
        """Wait until `done(samples so far)`, asked after every answer; False when the time is over first."""

        def satisfied() -> bool:
            return self._error is not None or done(list(self._samples))

        with self._news:
            found = self._news.wait_for(satisfied, timeout_s)
        self._raise()
        return found

    def so_far(self) -> list[Sample]:
        """The samples of requests that have ended."""
        with self._news:
            return list(self._samples)

    def stop(self) -> list[Sample]:
        """Send nothing more, wait for what is in flight, and return all samples in the order of sending."""
        self._stopping.set()
        self._thread.join()
        self._raise()
        return sorted(self._samples, key=lambda sample: sample.sent_s)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:  # the caller raises it: in a thread nobody would hear of it
            with self._news:
                self._error = error
                self._news.notify_all()

    async def _send(self) -> None:
        await send(self._plan, self._origin, self._stopping.is_set, self._told)

    def _told(self, sample: Sample) -> None:
        with self._news:
            self._samples.append(sample)
            self._news.notify_all()
