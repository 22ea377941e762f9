"""Child processes that cannot outlive the sandbox.

Each child carries the sandbox's marker in its environment and is killed by the kernel when its parent dies,
so that `down` finds every process even after a kill -9 of any part.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from llmd_sandbox.site import MARKER, Site

_PR_SET_PDEATHSIG = 1
_PF_KTHREAD = 0x00200000
_UNSURE_S = 1.0
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> Callable[[], None]:
    """A `preexec_fn` that asks the kernel to kill the child when the spawning thread's process dies."""
    parent = os.getpid()

    def ask() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def environment(site: Site, extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment with the sandbox's marker and `extra`."""
    return {**os.environ, MARKER: str(site.directory), **(extra or {})}


def find(site_directory: Path) -> list[int]:
    """Process ids, this one excepted, that carry the marker of the sandbox in `site_directory`."""
    return _look(site_directory)[0]


def runs(pid: int, site_directory: Path) -> bool:
    """Whether `pid` is a living process of the sandbox in `site_directory`, or one that is just being executed."""
    return _carries(Path("/proc") / str(pid), site_directory) is not False


def kill_all(site_directory: Path, timeout_s: float = 10.0) -> list[int]:
    """Kill -9 every process of the sandbox until none is left; the ids that still live at the end.

    A killed process holds its ports for a while after it stopped showing an environment, so every one is followed
    to its end. Any other without an environment may be one of ours in the middle of an exec or of its end: it is
    waited for, but not for longer than `_UNSURE_S`, since a process may also have none for good.
    """
    deadline = time.monotonic() + timeout_s
    last_seen = time.monotonic()
    killed: set[int] = set()
    while time.monotonic() < deadline:
        found, unsure = _look(site_directory)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            killed.add(pid)
        killed = {pid for pid in killed if not _ended(Path("/proc") / str(pid))}
        if found or killed:
            last_seen = time.monotonic()
        elif not unsure or time.monotonic() - last_seen > _UNSURE_S:
            return []
        time.sleep(0.02)
    return sorted({*killed, *find(site_directory)})


def _look(site_directory: Path) -> tuple[list[int], bool]:
    """The sandbox's processes, and whether there is one of which nobody can tell."""
    entries = [e for e in Path("/proc").iterdir() if e.name.isdigit() and int(e.name) != os.getpid()]
    answers = {int(entry.name): _carries(entry, site_directory) for entry in entries}
    return [pid for pid, answer in answers.items() if answer], None in answers.values()


def _carries(entry: Path, site_directory: Path) -> bool | None:
    """Whether a living process carries the marker; None when it shows no environment (yet, or any more)."""
    try:
        shown = (entry / "environ").read_bytes()
    except OSError:
        return False  # it ended, or it is somebody else's
    if _ended(entry):
        return False
    return f"{MARKER}={site_directory}".encode() in shown.split(b"\0") if shown else None


def _ended(entry: Path) -> bool:
    """Whether there is no such program any more.

    A zombie has given back all it had, unless it is the first of several threads; a kernel thread is no program.
    """
    try:
        fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return True
    state, flags, threads = fields[0], int(fields[6]), int(fields[17])
    return (state in "ZX" and threads <= 1) or bool(flags & _PF_KTHREAD)
