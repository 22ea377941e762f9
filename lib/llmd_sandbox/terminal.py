"""What the command line shows while something takes time."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from llmd_sandbox.supervisor.state import UP, State

_TELL_S = 30.0
"""Where there is no terminal to draw on, a step says so often how far it is."""


class BuildProgress:
    """A line for each step of a build, with a bar where the number of units is known."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
        )
        self._progress = Progress(SpinnerColumn(), TimeElapsedColumn(), *columns, console=console)
        self._task: TaskID | None = None
        self._told = 0.0

    def __enter__(self) -> BuildProgress:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(complete=error is None)
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line for the reader."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def step(self, title: str, total: int | None) -> None:
        """A new step; the one before is done."""
        self._finish(complete=True)
        if not self._console.is_terminal:
            self.say(title)
            self._told = time.monotonic()
        self._task = self._progress.add_task(title, total=total, detail="")

    def advance(self, detail: str) -> None:
        """One more unit of the step."""
        if self._task is not None:
            self._progress.update(self._task, advance=1, detail=detail[-48:])
            if not self._console.is_terminal and time.monotonic() - self._told > _TELL_S:
                self._told = time.monotonic()
                task = next(task for task in self._progress.tasks if task.id == self._task)
                self.say(f"  {task.completed:.0f} of {task.total:.0f}" if task.total else f"  {task.completed:.0f}")

    def _finish(self, *, complete: bool) -> None:
        if self._task is not None and complete:
            self._progress.update(self._task, total=1, completed=1, detail="")
            self._progress.stop_task(self._task)


class Phases:
    """A line for each phase of a start as soon as it is over, and a spinner for the one that is not."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: set[str] = set()
        self._status = console.status("starting")

    def __enter__(self) -> Phases:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status.stop()

    def watch(self, state: State) -> None:
        """Take notice of how far the sandbox is."""
        for phase, seconds in state.timings_s.items():
            if phase not in self._shown:
                self._shown.add(phase)
                self._console.print(f"{seconds:6.1f} s  {phase}", highlight=False)
        if state.phase != UP:
            self._status.update(f"{state.phase} ({state.elapsed_s:.0f} s)")
