"""Where commands print: rich text for a terminal, wide plain text for a file, JSON lines for programs."""

from __future__ import annotations

import json

from rich.console import Console

_FILE_WIDTH = 160
"""Columns where no terminal says how many there are, as in a log."""


def console(*, stderr: bool = False) -> Console:
    """The terminal, or a file as wide as tables need."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=_FILE_WIDTH)


def json_line(value: dict[str, object]) -> None:
    """One JSON object on a line of stdout, at once."""
    print(json.dumps(value), flush=True)
