"""Local processes in the place of a container's."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmd_sandbox.processes import die_with_parent

DRAIN_S = 1.0


async def start(argv: Sequence[str], variables: Mapping[str, str], folder: Path) -> Process:
    """Start a process in a session of its own; its output comes through `stdout`. It dies with this process.

    Call it from the main thread: the kernel's promise is tied to the thread that spawns.

    Raises:
        OSError: no such program.
    """
    return await asyncio.create_subprocess_exec(
        *argv,
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        env=dict(variables),
        cwd=folder,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )


def send(process: Process, signum: signal.Signals) -> None:
    """Signal the first process, as a container runtime does; one that has ended is no error."""
    if process.returncode is None:
        try:
            process.send_signal(signum)
        except ProcessLookupError:
            return


def kill_session(process: Process) -> None:
    """Kill the process and whatever it left in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


async def reap(process: Process) -> int:
    """Kill what still lives, and wait; the exit code as a container runtime gives it (128 + signal)."""
    kill_session(process)
    code = await process.wait()
    return 128 - code if code < 0 else code


async def execute(argv: Sequence[str], variables: Mapping[str, str], folder: Path, timeout_s: float) -> tuple[int, str]:
    """Run a command to its end; exit code (127: no such program, 124: took too long) and output."""
    try:
        process = await start(argv, variables, folder)
    except OSError as error:
        return 127, f'exec: "{argv[0]}": {(error.strerror or str(error)).lower()}'
    try:
        async with asyncio.timeout(timeout_s):
            printed, _ = await process.communicate()
    except TimeoutError:
        return 124, f"command {' '.join(argv)!r} timed out after {timeout_s:g}s"
    finally:
        code = await reap(process)
    return code, printed.decode(errors="replace")
