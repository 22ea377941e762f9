"""The picker's log lines: form, levels, names and fields as upstream's, so that what reads one reads both.

The caller is the line of this program that logged, where upstream's names its own.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, TextIO

from llmd_runbook.analysis.scorers import Generation

DEFAULT, VERBOSE, DEBUG, TRACE = 2, 3, 4, 5
_ENCODER = {Generation.V0_4: "console", Generation.V0_10: "json"}
"""Where `--zap-encoder` says nothing."""


class EventLog:
    """Writes an event when its level is at most the verbosity (`-v`)."""

    def __init__(
        self,
        verbosity: int,
        encoder: str = "json",
        generation: Generation = Generation.V0_4,
        to: TextIO | None = None,
    ) -> None:
        self.verbosity = verbosity
        self.generation = generation
        self._encoder = encoder
        self._to = to or sys.stderr

    def speak(self, generation: Generation) -> None:
        """Write as this generation does from now on."""
        self.generation = generation

    def event(self, level: int, message: str, /, **fields: Any) -> None:
        """Write `message` with its fields, in their order."""
        if level <= self.verbosity:
            self._write(self._level_name(level), message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        """Write an error, whatever the verbosity."""
        self._write("error", message, fields)

    def _level_name(self, level: int) -> str:
        if self.generation is Generation.V0_10:
            return {DEBUG: "debug", TRACE: "trace"}.get(level, "info")
        return "info" if level <= 0 else "debug" if level == 1 else f"Level(-{level})"

    def _write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        stamp = now.timestamp() if self.generation is Generation.V0_10 else now.strftime("%Y-%m-%dT%H:%M:%SZ")
        if (self._encoder or _ENCODER[self.generation]) == "json":
            about = {"level": level, "ts": stamp, "caller": _caller(), "msg": message}
            text = json.dumps({**about, **fields}, separators=(",", ":"))
        else:
            text = f"{stamp}\t{level.upper()}\t{_caller()}\t{message}" + (f"\t{json.dumps(fields)}" if fields else "")
        print(text, file=self._to, flush=True)


def _caller() -> str:
    """File and line of who called `event` or `error`."""
    frame = sys._getframe(3)
    file = PurePath(frame.f_code.co_filename)
    return f"{file.parent.name}/{file.name}:{frame.f_lineno}"
