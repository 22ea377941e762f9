"""Ctrl-C, SIGTERM and a closed terminal: one exception, raised only where the record can still be completed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Whether somebody wants this to end.

    A signal raises KeyboardInterrupt at once, or, inside `deferred`, only when `check` is called: an exception out
    of nowhere inside an event loop leaves its tasks in pieces. Later signals change nothing.
    """

    def __init__(self) -> None:
        self._name: str | None = None
        self._deferred = False
        self._wake: Callable[[], object] | None = None

    def check(self) -> None:
        """Go on, unless there was a signal.

        Raises:
            KeyboardInterrupt: with the signal's name.
        """
        if self._name:
            raise KeyboardInterrupt(self._name)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to signals; only in the main thread."""
        before = {number: signal.signal(number, self._hear) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is kept until somebody asks."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, within `deferred`, a signal raises at once again: for plain code that may take long."""
        self.check()
        self._deferred = False
        try:
            yield
        finally:
            self._deferred = True

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Inside, a signal calls `wake`, from whatever is going on in the main thread."""
        self._wake = wake
        if self._name:
            wake()
        try:
            yield
        finally:
            self._wake = None

    def _hear(self, number: int, _: FrameType | None) -> None:
        first, self._name = self._name is None, self._name or signal.Signals(number).name
        if self._wake:
            self._wake()
        elif first and not self._deferred:
            self.check()
