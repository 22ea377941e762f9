"""Files of JSON lines that commands are given, also gzipped."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmd_runbook.errors import UsageError

if TYPE_CHECKING:
    from llmd_runbook.analysis.traces import TraceRequest

T = TypeVar("T")


def from_lines(file: Path, read: Callable[[Iterable[str]], T], what: str) -> T:
    """What `read` makes of a file's lines.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            return read(lines)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise UsageError(
            f"cannot read the {what}", where=str(file), reason=str(error), remedy="check the path"
        ) from None


def read_trace(file: Path) -> list[TraceRequest]:
    """The requests of a prompt file or a Mooncake trace.

    Raises:
        UsageError: the file cannot be read, or is neither.
    """
    from llmd_runbook.analysis.traces import TraceError, read

    try:
        return from_lines(file, read, "trace")
    except TraceError as error:
        raise UsageError(
            "this is neither a prompt file nor a Mooncake trace",
            where=f"{file}:{error.line}",
            reason=f"{error.key}: {error.value!r}: {error.reason}" if error.key else error.reason,
            remedy="one JSON object a line: arrival_s, model, prompt or messages, output_tokens; "
            "or timestamp, input_length, output_length, hash_ids",
        ) from None
