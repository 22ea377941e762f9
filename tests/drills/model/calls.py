"""The changes that a run asks for, one after another, and what goes wrong with one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum


class Killed(BaseException):
    """The process is gone: no handler of errors runs in it any more, so nothing may catch this."""


class Trouble(StrEnum):
    """What happens to one changing call, whichever system it goes to."""

    CONFLICT = "conflict"
    """Refused: somebody else is changing the same thing."""
    THROTTLED = "throttled"
    """Refused once, with a pause to make before the next try; the next try is admitted."""
    BROKEN = "broken"
    """Refused with an internal error, before anything is done."""
    LOST = "lost"
    """Done, but the answer never arrives."""
    KILLED_BEFORE = "killed before"
    """The caller is killed before the request arrives."""
    KILLED_AFTER = "killed after"
    """The request is done, and the caller is killed before it hears of it."""


@dataclass(frozen=True)
class Call:
    """One changing call: by which life of which run, in which step, to which system."""

    life: int
    step: str
    system: str
    verb: str
    target: str
    at_s: float


class Calls:
    """Everything that was asked for. `plan` says which of the next attempt's changing calls are in trouble."""

    def __init__(self) -> None:
        self.made: list[Call] = []
        self.plan: dict[int, Trouble] = {}
        self.count = 0
        self.life = 0
        self.living: set[int] = set()
        self.suspended: set[int] = set()
        self.dead = False
        self.step = ""
        self.on_read: dict[int, Callable[[], None]] = {}
        """What happens in the world right before the n-th reading call."""
        self.reads = 0
        self.watchers: list[Callable[[Call], None]] = []
        """Told of every change right before it is made."""
        self._born = 0

    def begin(self) -> None:
        """Another life: a process that starts."""
        self._born += 1
        self.life = self._born
        self.living.add(self.life)
        self.dead, self.count, self.reads, self.step = False, 0, 0, ""

    def end(self) -> None:
        """The process has ended, well or not."""
        self.living.discard(self.life)

    @contextmanager
    def aside(self, suspended: bool) -> Iterator[None]:
        """Inside, other processes run; the present one only waits, or stands still with all its threads."""
        if suspended:
            self.suspended.add(self.life)
        with self._another():
            yield
        self.suspended.discard(self.life)

    @contextmanager
    def in_background(self, life: int) -> Iterator[None]:
        """Inside, a thread of that life is at work; troubles are not for it."""
        with self._another():
            self.life, self.dead = life, False
            yield

    @contextmanager
    def _another(self) -> Iterator[None]:
        mine = (self.life, self.dead, self.count, self.reads, self.step, self.plan, self.on_read)
        self.plan, self.on_read = {}, {}
        try:
            yield
        finally:
            self.life, self.dead, self.count, self.reads, self.step, self.plan, self.on_read = mine

    def alive(self) -> None:
        """Raise `Killed` where the process is gone."""
        if self.dead:
            raise Killed

    def kill(self) -> None:
        """End the process."""
        self.dead = True
        raise Killed

    def read(self) -> None:
        """A call that changes nothing."""
        self.alive()
        self.reads += 1
        if happening := self.on_read.pop(self.reads, None):
            happening()

    def change(self, system: str, verb: str, target: str, at_s: float) -> Trouble | None:
        """A changing call arrives: what is wrong with it, `None` where nothing is; the caller acts on it."""
        self.alive()
        self.count += 1
        trouble = self.plan.pop(self.count, None)
        if trouble is Trouble.KILLED_BEFORE:
            self.kill()
        if trouble not in (Trouble.CONFLICT, Trouble.THROTTLED, Trouble.BROKEN):
            call = Call(self.life, self.step, system, verb, target, at_s)
            self.made.append(call)
            for watcher in self.watchers:
                watcher(call)
        return trouble

    def done(self, trouble: Trouble | None) -> None:
        """The change was made."""
        if trouble is Trouble.KILLED_AFTER:
            self.kill()
