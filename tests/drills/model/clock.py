"""Time that passes only when somebody waits, and what is to happen in it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo

_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Seconds since the world began; actions are due at a time and run while somebody waits across it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self.alive: Callable[[], None] = lambda: None
        """Called before and after every wait: a process that was killed does not come back from one."""

    def after(self, delay_s: float, action: Callable[[], object]) -> None:
        """Have something happen `delay_s` seconds from now."""
        self._count += 1
        heapq.heappush(self._due, (self.now_s + delay_s, self._count, action))

    def step(self, until_s: float) -> bool:
        """Let the next thing that is due by `until_s` happen, then; False when there is none, and it is that late."""
        if self._due and self._due[0][0] <= until_s:
            at_s, _, action = heapq.heappop(self._due)
            self.now_s = max(self.now_s, at_s)
            action()
            return True
        self.now_s = max(self.now_s, until_s)
        return False

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self.step(until_s):
            pass

    # what code that imports `time` and `datetime` finds in their place

    def sleep(self, seconds: float) -> None:
        self.alive()
        self.pass_s(seconds)
        self.alive()

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.present().timestamp()

    def present(self, zone: tzinfo | None = UTC) -> datetime:
        """The date and time."""
        return (_EPOCH + timedelta(seconds=self.now_s)).astimezone(zone)
