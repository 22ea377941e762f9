"""A run while it happens: live where there is a terminal, else a line for each thing that happens."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from llmd_runbook.manifest import Status
from llmd_runbook.records.report import clock, styled
from llmd_runbook.records.runner import Event

_HEARTBEAT_S = 10.0
_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Lines:
    """One line for each event; a step under way is heard of again every 10 s."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._spoke_s = 0.0
        self._step: tuple[str, str] = ("", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def __call__(self, event: Event) -> None:
        """Write what happened."""
        match event.event:
            case "run_started":
                stamp = " (simulated)" if event.data["simulated"] else ""
                self._say(f"run {event.run}{stamp}, record: {event.data['folder']}")
            case "stage_started":
                self._say(event.stage)
            case "progress":
                self._progress(event.stage, event.data)
            case "stage_ended":
                self._say(f"{event.stage}: {ended(event.data)}")

    def _progress(self, stage: str, data: dict[str, Any]) -> None:
        step = (stage, data["step"])
        news = step != self._step or data["status"] != "running"
        if news or time.monotonic() - self._spoke_s >= _HEARTBEAT_S:
            self._step = step
            self._say(f"{stage}  {told(data)}")

    def _say(self, text: str) -> None:
        self._spoke_s = time.monotonic()
        elapsed = clock(self._spoke_s - self._started_s)
        self._console.print(f"[{elapsed}] {text}", markup=False, highlight=False, soft_wrap=True)


class Screen:
    """A table that stays in place: stage, what it does now, elapsed."""

    def __init__(self, console: Console) -> None:
        self._started_s = time.monotonic()
        self._rows: dict[str, dict[str, Any]] = {}
        self._head = ""
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take it into the table."""
        match event.event:
            case "run_started":
                stamp = " (simulated)" if event.data["simulated"] else ""
                self._head = f"run {event.run}{stamp}"
            case "stage_started":
                self._rows[event.stage] = {"started_s": time.monotonic(), "text": ""}
            case "progress":
                self._rows[event.stage]["text"] = told(event.data)
            case "stage_ended":
                row = self._rows[event.stage]
                row["ended_s"] = time.monotonic()
                row["word"] = ended(event.data)

    def _render(self) -> RenderableType:
        present_s = time.monotonic()
        table = Table(box=None, expand=True)
        for name in ("", "stage", "elapsed"):
            table.add_column(name, no_wrap=True)
        table.add_column("step", no_wrap=True, overflow="ellipsis", ratio=1)
        for stage, row in list(self._rows.items()):
            ended = row.get("ended_s")
            frame = Text(_FRAMES[int(present_s * 4) % len(_FRAMES)], style="cyan")
            table.add_row(
                frame if ended is None else styled(row["word"]),
                stage,
                clock((ended or present_s) - row["started_s"]),
                Text("" if ended else row["text"]),
            )
        return Group(Text(f"{self._head}  {clock(present_s - self._started_s)}", style="italic"), table)


def ended(data: dict[str, Any]) -> str:
    """How a stage ended, in a word or two: never its verdict alone where a plan waits for approval."""
    if data["needs_approval"] and data["verdict"] == "inconclusive":
        return str(Status.NEEDS_APPROVAL)
    return str(data["verdict"] or data["status"]) + (f", kept: {data['kept']}" if "kept" in data else "")


def told(data: dict[str, Any]) -> str:
    """A progress message in words."""
    counted = data["done"] is not None and data["total"] and not data["detail"]
    share = f" {data['done']:g}/{data['total']:g}" if counted else ""
    status = "" if data["status"] == "running" else f" {data['status']},"
    detail = f" {data['detail']}," if data["detail"] else ""
    return f"{data['step']}:{share}{status}{detail} {data['elapsed_s']:.0f} s"
