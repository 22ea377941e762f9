"""Bringing a sandbox up, looking at it, taking it down: what the command line does, without the terminal."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmd_sandbox import processes
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.site import MARKER, state_root
from llmd_sandbox.supervisor.state import FAILED, UP, Order, State

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_LOOK_S = 0.05
_STALLED_S = 600.0

SUPERVISOR = [sys.executable, "-m", "llmd_sandbox.supervisor"]
"""The program that is started with a sandbox's name."""

Watcher = Callable[[State], None]


def directory(name: str) -> Path:
    """The folder of the sandbox called `name`.

    Raises:
        SandboxError: no sandbox can have that name.
    """
    if not _NAME.fullmatch(name):
        raise SandboxError(
            f"A sandbox cannot be called {name!r}.",
            remedy="use up to 32 lower-case letters, digits and hyphens, no hyphen first or last",
        )
    return state_root() / name


def names() -> list[str]:
    """Every sandbox that left a folder, running or not."""
    root = state_root()
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []


def state(name: str) -> State | None:
    """How far a sandbox is; None when there is none, an error in it when its supervisor is gone."""
    folder = directory(name)
    found = State.load(folder)
    if found and found.phase != FAILED and not processes.runs(found.pid, folder):
        found.error = f"its supervisor (process {found.pid}) is gone: {_last_words(folder)}"
        found.phase = FAILED
    return found


def up(order: Order, watch: Watcher) -> bool:
    """Bring a sandbox up and wait until it serves; False when it was up (or coming up) already.

    On any failure, and when interrupted, what was started is taken down again.

    Raises:
        SandboxError: it failed; the message has the reason.
    """
    folder = directory(order.name)
    with _locked():
        now = state(order.name)
        fresh = now is None or now.phase == FAILED
        if fresh:
            _remove(folder)
            pid = _launch(order, folder)
        else:
            assert now is not None
            pid = now.pid
    try:
        _wait_up(folder, pid, watch)
    except BaseException:
        if fresh:
            down(order.name)
        raise
    return fresh


def down(name: str) -> bool:
    """Kill every process of a sandbox and remove its folder; False when there was nothing.

    Raises:
        SandboxError: a process does not die or a file does not go.
    """
    folder = directory(name)
    with _locked():
        existed = folder.exists() or bool(processes.find(folder))
        _remove(folder)
    return existed


def _launch(order: Order, folder: Path) -> int:
    folder.mkdir(parents=True, mode=0o700)
    (folder / "logs").mkdir()
    order.save(folder)
    log = str(folder / "logs" / "supervisor.log")
    words = [*SUPERVISOR, order.name]
    # It outlives this program, so there is nobody to wait for it: no Popen, but a session of its own.
    return os.posix_spawn(
        words[0],
        words,
        {**os.environ, MARKER: str(folder)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGINT, signal.SIGTERM],
    )


def _wait_up(folder: Path, pid: int, watch: Watcher) -> None:
    deadline = time.monotonic() + _STALLED_S
    while time.monotonic() < deadline:
        ended = not processes.runs(pid, folder)
        now = State.load(folder)
        if now:
            watch(now)
            if now.phase == UP and not ended:
                return
        if ended or (now and now.phase == FAILED):
            reason = now.error if now and now.error else _last_words(folder)
            raise SandboxError("The sandbox did not come up.", reason=reason)
        time.sleep(_LOOK_S)
    raise SandboxError(f"The sandbox did not come up within {_STALLED_S:.0f} s.", reason=_last_words(folder))


def _remove(folder: Path) -> None:
    if left := processes.kill_all(folder):
        raise SandboxError("Processes of the sandbox do not end.", where=str(folder), reason=f"process ids {left}")
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SandboxError("The sandbox's folder cannot be removed.", where=str(folder), reason=str(error)) from error


def _last_words(folder: Path) -> str:
    file = folder / "logs" / "supervisor.log"
    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    return "\n          ".join(lines[-8:]) or "it printed nothing"


@contextmanager
def _locked() -> Iterator[None]:
    """One caller at a time changes what sandboxes there are; the lock is on the folder and leaves no file."""
    root = state_root()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
