"""The thread that renews the lock, on the model's clock: it ticks while its process lives and is not suspended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.drills.model.calls import Calls, Killed
from tests.drills.model.clock import Clock


class Event:
    """A `threading.Event` whose waits return at once: a tick's first as if its time were up, the next to end it."""

    def __init__(self) -> None:
        self._set, self.waits, self.every_s = False, 0, 0.0

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float) -> bool:
        self.waits, self.every_s = self.waits + 1, seconds
        return self._set or self.waits > 1


class Renewing:
    """In the place of the module `threading`, for code with one thread that repeats something at intervals."""

    def __init__(self, clock: Clock, calls: Calls) -> None:
        self._clock, self._calls = clock, calls
        self._event = Event()

    def Event(self) -> Event:
        self._event = Event()
        return self._event

    def Thread(self, *, target: Callable[[], None], **_: Any) -> Thread:
        return Thread(self._clock, self._calls, self._event, target)


class Thread:
    """One such thread of one life."""

    def __init__(self, clock: Clock, calls: Calls, event: Event, target: Callable[[], None]) -> None:
        self._clock, self._calls, self._event, self._target = clock, calls, event, target
        self._life = calls.life

    def start(self) -> None:
        self._event.waits = 1  # a look at the interval, without a tick
        self._target()
        self._clock.after(self._event.every_s, self._tick)

    def join(self) -> None:
        return

    def _tick(self) -> None:
        if self._life not in self._calls.living or self._event.is_set():
            return
        if self._life not in self._calls.suspended:
            self._event.waits = 0
            with self._calls.in_background(self._life):
                try:
                    self._target()
                except Killed:
                    return
            if self._event.waits < 2:
                return  # it ended by itself: the lock is lost
        self._clock.after(self._event.every_s, self._tick)
