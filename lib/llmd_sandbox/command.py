"""Running a user's command beside a sandbox: signals reach it, and it has time to end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from llmd_sandbox.errors import SandboxError

_GRACE_S = 10


def run(words: list[str], environment: Mapping[str, str]) -> int:
    """Run it in the foreground until it ends; its exit status, or 128 + the signal that ended it.

    An interrupt typed at a terminal reaches the command by itself, any other is passed on. So is SIGTERM, and
    SIGKILL follows after `_GRACE_S` seconds.

    Raises:
        SandboxError: there is no such program.
    """
    relay = _Relay()
    with relay.installed():
        try:
            relay.process = subprocess.Popen(words, env=dict(environment))
        except OSError as error:
            raise SandboxError(f"Cannot run {words[0]}.", reason=error.strerror) from error
        status = relay.wait()
    return status if status >= 0 else 128 - status


class _Relay:
    """Passes this process's signals on; one that comes before there is a process is kept for it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    @contextmanager
    def installed(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
        before = {number: signal.signal(number, self._take) for number in numbers}
        try:
            yield
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def wait(self) -> int:
        assert self.process is not None
        for number in self._early:
            self._pass_on(self.process, number)
        return self.process.wait()

    def _take(self, number: int, _: FrameType | None) -> None:
        if self.process is None:
            self._early.append(number)
        else:
            self._pass_on(self.process, number)

    def _pass_on(self, process: subprocess.Popen[bytes], number: int) -> None:
        if number == signal.SIGALRM:
            process.kill()
        elif number == signal.SIGTERM:
            process.terminate()
            signal.alarm(_GRACE_S)
        elif not sys.stdin.isatty():
            process.send_signal(number)
