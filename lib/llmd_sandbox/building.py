"""What every long piece of work that is done once and kept needs: to tell how far it is, and to be alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import filelock


class Reporter(Protocol):
    """Told of each step; steps follow one another."""

    def say(self, text: str) -> None:
        """A line for the reader."""

    def step(self, title: str, total: int | None) -> None:
        """A new step begins; `total` units of it are known to come, or None when nobody knows."""

    def advance(self, detail: str) -> None:
        """One more unit of the step is done; `detail` names it."""


@contextmanager
def alone(lock_file: Path, report: Reporter) -> Iterator[None]:
    """One build at a time: wait for another that holds `lock_file`, and say so."""
    lock = filelock.FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report.say("another build is running; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
