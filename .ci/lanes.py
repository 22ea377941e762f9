"""Runs the lanes of CI one after another; says of each what became of it, how long it took and its peak memory.

A lane that cannot be had on this machine, or for which the time is too short, is NOT RUN, and the reason is told:
neither a pass nor a failure, except of the lanes that everything rests on. A lane that ran and failed is FAILED; a
test that hangs ends by its own time limit. After a required lane that did not pass no other is run. Exit status: 0
when none failed and every required lane passed, else 1; 130 when interrupted.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

END_S = 57 * 60.0
"""From the beginning of all: when the lane that runs is cut off. CI ends everything after an hour."""

_LOOK_S = 2.0
_BURY_S = 0.05
_TELL_S = 120.0
_END_GRACE_S = 20.0
_PR_SET_CHILD_SUBREAPER = 36
_SANDBOX = str(Path(sys.executable).parent / "llmd-sandbox")


class Result(StrEnum):
    """What became of a lane."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_RUN = "NOT RUN"


@dataclass(frozen=True)
class Lane:
    """A lane of tests.

    Args:
        name: as in the table.
        tests: the command that runs it; its exit status is the lane's verdict.
        takes_s: what it takes on two cores when what it needs is there; it is not begun with less time left.
        needs: a command that obtains what the tests need; EX_UNAVAILABLE (69) where that cannot be had.
        required: without this lane nothing counts.
    """

    name: str
    tests: Sequence[str]
    takes_s: float
    needs: Sequence[str] = ()
    required: bool = False


@dataclass(frozen=True)
class Row:
    """A lane's line in the table."""

    lane: Lane
    result: Result
    reason: str = ""
    duration_s: float = 0.0
    peak_bytes: int = 0


def make(target: str, *words: str) -> tuple[str, ...]:
    """A target of the Makefile."""
    return ("make", "--no-print-directory", target, *words)


LANES = [
    Lane("build", (_SANDBOX, "build"), 0, required=True),
    Lane("check", make("check"), 0, required=True),
    Lane("test", make("test"), 0, required=True),
    Lane("test-picker", make("test-picker"), 150, (_SANDBOX, "build", "--picker")),
    Lane("test-vllm, contract", make("test-vllm", "VLLM=contract"), 150, (_SANDBOX, "build", "--engine", "vllm")),
    Lane("test-vllm, notebooks", make("test-vllm", "VLLM=notebooks"), 450, (_SANDBOX, "build", "--engine", "vllm")),
    Lane("test-cli", make("test-cli", "CLI=without-helm-diff"), 430, (_SANDBOX, "build", "--tools")),
    Lane("test-cli, helm-diff", make("test-cli", "CLI=helm-diff"), 160, (_SANDBOX, "build", "--tools", "--helm-diff")),
]


class Watch:
    """A lane's processes: their largest memory at once, shared pages counted once (PSS), and their end.

    They are this process's descendants; what a lane starts in the background becomes a child of this process when its
    own parent ends (Linux), and is buried at once when it ends, as init would.
    """

    def __init__(self, tell: Callable[[int], None]) -> None:
        self.peak_bytes = 0
        self._tell = tell
        self._command: subprocess.Popen[str] | None = None
        self._over, self._starting = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._look, self._undertake)]
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def __enter__(self) -> Watch:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join()
        self._measure()
        self.end()

    def start(self, words: Sequence[str], output: int | None) -> subprocess.Popen[str]:
        """Start the lane's own command; its status is its Popen's to ask for."""
        with self._starting:
            self._command = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output and subprocess.STDOUT, text=True
            )
            return self._command

    def end(self) -> None:
        """End every descendant: politely, then hard."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(self._processes(), number)
            deadline = time.monotonic() + _END_GRACE_S
            while self._processes() and time.monotonic() < deadline:
                self._bury()
                time.sleep(_BURY_S)

    def _look(self) -> None:
        told = time.monotonic()
        while not self._over.wait(_LOOK_S):
            now = self._measure()
            if time.monotonic() - told > _TELL_S:
                told = time.monotonic()
                self._tell(now)

    def _undertake(self) -> None:
        while not self._over.wait(_BURY_S):
            self._bury()

    def _processes(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def _measure(self) -> int:
        now = sum(map(_pss, self._processes()))
        self.peak_bytes = max(self.peak_bytes, now)
        return now

    def _bury(self) -> None:
        """Bury every dead child; the lane's own command by its Popen, which keeps the status."""
        with self._starting, suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if self._command and dead.si_pid == self._command.pid:
                    self._command.poll()
                else:
                    os.waitpid(dead.si_pid, 0)


def run(lane: Lane, began: float, clock: Callable[[], float] = time.monotonic) -> Row:
    """Run one lane; `began` is when everything began, by the same clock."""
    started = clock()
    left_s = END_S - (started - began)
    if lane.takes_s > left_s:
        lacks = f"it takes about {_minutes(lane.takes_s)} minutes, and {_minutes(max(0.0, left_s))} were left"
        return Row(lane, Result.NOT_RUN, lacks)

    def tell(now: int) -> None:
        print(f"... {lane.name}: {(clock() - started) / 60:.0f} minutes, {now / 1e9:.1f} GB now", flush=True)

    with Watch(tell) as watch:
        result, reason = _judge(lane, watch, lambda: left_s - (clock() - started))
    return Row(lane, result, reason, clock() - started, watch.peak_bytes)


def _judge(lane: Lane, watch: Watch, left_s: Callable[[], float]) -> tuple[Result, str]:
    """Result and reason."""
    cut = Result.NOT_RUN, f"cut off, unfinished, after minute {END_S / 60:.0f} of everything"
    if lane.needs:
        status, said = _call(lane.needs, watch, left_s())
        if status is None:
            return cut
        if status == os.EX_UNAVAILABLE:
            return Result.NOT_RUN, reason_in(said)
        if status:
            return Result.FAILED, f"what it needs could not be made: {reason_in(said)}"
    status, _ = _call(lane.tests, watch, left_s(), capture=False)
    if status is None:
        return cut
    return (Result.FAILED, f"exit status {status}") if status else (Result.PASSED, "")


def _call(words: Sequence[str], watch: Watch, left_s: float, *, capture: bool = True) -> tuple[int | None, list[str]]:
    """Exit status (None when time ran out) and the lines that it said, which are shown too."""
    said: list[str] = []
    with watch.start(words, subprocess.PIPE if capture else None) as process:
        reader = threading.Thread(target=_echo, args=(process, said))
        reader.start()
        try:
            status: int | None = process.wait(max(0.0, left_s))
        except subprocess.TimeoutExpired:
            status = None
            watch.end()
        reader.join()
    return status, said


def _echo(process: subprocess.Popen[str], said: list[str]) -> None:
    for line in process.stdout or ():
        print(line, end="", flush=True)
        said.append(line.rstrip())


def reason_in(said: Sequence[str]) -> str:
    """The reason in a message of `llmd-sandbox`; the last line of any other."""
    marked = [line.partition("reason:")[2].strip() for line in said if line.startswith("  reason:")]
    return (marked or [line for line in said if line.strip()] or ["it did not say why"])[-1]


def table(rows: Iterable[Row], total_s: float) -> str:
    """One line a lane, and all of it."""
    lines = [f"{'lane':<22}{'time':>8}  {'peak memory':>11}  result"]
    for row in rows:
        peak = f"{row.peak_bytes / 1e9:.1f} GB" if row.peak_bytes else "-"
        text = row.result + (f": {row.reason}" if row.reason else "")
        lines.append(f"{row.lane.name:<22}{_minutes(row.duration_s):>8}  {peak:>11}  {text}")
    return "\n".join([*lines, f"{'in all':<22}{_minutes(total_s):>8}"])


def holds(rows: Iterable[Row]) -> bool:
    """Whether no lane failed and every required one passed."""
    return all(
        row.result is not Result.FAILED and (row.result is Result.PASSED or not row.lane.required) for row in rows
    )


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(number)


def _pss(process: psutil.Process) -> int:
    """Its memory, each shared page divided among those that share it; 0 when it is gone."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def run_all(lanes: Sequence[Lane], began: float) -> Iterator[Row]:
    """The row of each lane as it ends."""
    broken = ""
    for lane in lanes:
        print(f"\n=== {lane.name}", flush=True)
        row = Row(lane, Result.NOT_RUN, f"{broken} did not pass") if broken else run(lane, began)
        print(f"=== {lane.name}: {row.result} {row.reason}", flush=True)
        yield row
        if lane.required and row.result is not Result.PASSED:
            broken = lane.name


def main(began_s_ago: float) -> int:
    """Run all lanes; the exit status."""
    began = time.monotonic() - began_s_ago
    rows: list[Row] = []
    try:
        for row in run_all(LANES, began):
            rows.append(row)
    except KeyboardInterrupt:
        return 130
    finally:
        print(f"\n{table(rows, time.monotonic() - began)}", flush=True)
    return 0 if holds(rows) else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
