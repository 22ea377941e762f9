"""Runs a command line tool: bounded in time, streamed, redacted, and ended when the caller is interrupted."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

import yaml

from llmd_runbook.clients.guard import Guard
from llmd_runbook.errors import ToolCutShort, ToolError, redact

_LAST_LINES = 15
_SHOWN = 80
_GRACE_S = 10.0
_ASK_AGAIN_S = 1.0

_CUT_SHORT = re.compile(
    r"^(?!.*(webhook|unreachable)).*("
    r"context deadline exceeded|timed out waiting for the condition|"  # helm 3 and 4, at the end of --timeout
    r"not ready\. status: |resource not ready, name: |"  # the same in helm 4, which ProgressDeadlineExceeded ends, too
    r"request timed out|\bEOF|connection reset by peer|client connection lost)",  # the API's answer did not come
    re.MULTILINE,
)
"""What helm says, and helmfile repeats, when it does not know what became of a change. A webhook that timed out has
refused; a cluster that is not reachable was asked for nothing."""

_REMEDIES = {
    "another operation (install/upgrade/rollback) is in progress": "another helm command is at work, or one "
    "was killed: see `helm history`, then `helm rollback` or `helm uninstall` the release",
    "cluster unreachable": "check context, kubeconfig and network: `kubectl version` must answer",
    "forbidden": "ask for the permission that the message names",
    "values don't meet the specifications": "correct the values file at the key that the message names",
    "exists and cannot be imported into the current release": "the object belongs to another release or to "
    "nobody: remove it, or choose other names",
    "no releases found that matches specified selector": "no release of the helmfile has that label: select by "
    "name (`--selector name=ms-pattern3`), or leave the selector out and set RELEASE_NAME_POSTFIX",
    "chart not found": "check the chart's name and version",
    "not a valid chart repository or cannot be reached": "check the way to the chart repository: network, proxy",
}


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    on_line: Callable[[str], None] | None = None,
    install: str = "install it and put it on PATH",
    guard: Guard | None = None,
) -> str:
    """What the command prints on its standard output; every line of both streams goes to `on_line`, redacted.

    `env` is added to this process's environment; `install` says how a missing tool is got. A command that changes
    something has a `guard`, which is asked before it starts and every second while it runs.

    Raises:
        ToolError: missing, non-zero exit status, or not ended within `timeout_s`.
        ToolCutShort: the two latter for a command that changes something, where it cannot say what became of that.
        LockLost: by the guard; the command was not started, or was ended.
    """
    if guard:
        guard()
    deadline = time.monotonic() + timeout_s
    tool = os.path.basename(argv[0])
    where = shlex.join(argv)
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(env or {})},
            start_new_session=True,  # so that the helm that helmfile starts ends with it
        )
    except OSError as error:
        raise ToolError(f"cannot run {tool}", where=where, reason=error.strerror, remedy=install) from None
    with process:
        try:
            printed = _follow(process, stdin, deadline, on_line, guard)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise (ToolCutShort if guard else ToolError)(
                f"{tool} did not end within {timeout_s:g} s and was stopped",
                where=where,
                remedy="see what it waited for, then run the stage again: what is done already is left alone",
            ) from None
        finally:
            _end(process)
    if status:
        said = printed["stderr"] or printed["stdout"]
        reason = "\n".join(said[-_LAST_LINES:]) or "it printed nothing"
        unsure = guard and _CUT_SHORT.search("\n".join(said))
        kind = ToolCutShort if unsure else ToolError
        raise kind(f"{tool} failed with exit status {status}", where=where, reason=reason, remedy=_remedy(reason))
    return "\n".join(printed["stdout"])


@contextmanager
def understood(command: str, printed: str = "") -> Iterator[None]:
    """Around reading what a command printed and exited with 0 after; `printed` where nothing secret can be in it.

    Raises:
        ToolError: it is not what that command prints; with how it begins.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ToolError(
            f"`{command}` printed what cannot be read",
            reason=f"it begins with {redact(printed[:_SHOWN])!r}" if printed else "it is not what was asked for",
            remedy="run it by hand: a wrapper of the tool, or a plug-in, may print to its standard output",
        ) from error


def _follow(
    process: subprocess.Popen[str],
    stdin: str,
    deadline: float,
    on_line: Callable[[str], None] | None,
    guard: Guard | None,
) -> dict[str, list[str]]:
    """Lines of both streams until both have ended; `on_line` is called in the caller's own thread."""
    lines: queue.Queue[tuple[str, str | None]] = queue.Queue()

    def read(name: str, stream: IO[str]) -> None:
        for line in stream:
            lines.put((name, line.rstrip("\n")))
        lines.put((name, None))

    def write(stream: IO[str]) -> None:
        try:
            stream.write(stdin)
            stream.close()
        except BrokenPipeError:
            return  # it ended before it read everything; its exit status tells why

    if process.stdin and process.stdout and process.stderr:
        for work, arguments in (
            (write, (process.stdin,)),
            (read, ("stdout", process.stdout)),
            (read, ("stderr", process.stderr)),
        ):
            threading.Thread(target=work, args=arguments, daemon=True).start()
    printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
    streaming = len(printed)
    while streaming:
        if guard:
            guard()
        try:
            name, line = lines.get(timeout=max(0.0, min(_ASK_AGAIN_S, deadline - time.monotonic())))
        except queue.Empty:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            continue
        if line is None:
            streaming -= 1
            continue
        printed[name].append(line)
        if on_line:
            on_line(redact(line))
    return printed


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the whole process group to end, then make it; nothing if it has ended."""
    if process.poll() is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, sign)
        try:
            process.wait(_GRACE_S)
            break
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):  # nobody is left
        os.killpg(process.pid, signal.SIGKILL)  # what it began as the signal came would keep its pipes open


def _remedy(reason: str) -> str:
    known = (remedy for sign, remedy in _REMEDIES.items() if sign.lower() in reason.lower())
    return next(known, "run the command by hand to see more; the stage can be run again")
