"""Container logs: one line a line with its time, capped in size, read and followed without polling."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from llmd_sandbox.kubelet.times import parse, rfc3339_micro

LIMIT_BYTES = 10_000_000
LONGEST_LINE_BYTES = 16_384


@dataclass(frozen=True)
class LogOptions:
    """What a reader asked for; None means everything."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None


class LogFile:
    """The log of one run of a container, `<time> <text>` a line; at its limit it starts again."""

    def __init__(self, file: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.file = file
        self.closed = False
        self.rotations = 0
        self._limit_bytes = limit_bytes
        self._partial = b""
        self._news = asyncio.Event()
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._out: BinaryIO = file.open("ab", buffering=0)

    def feed(self, data: bytes) -> None:
        """Take what the container printed; unfinished lines wait for their end."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LONGEST_LINE_BYTES:
            lines, self._partial = [*lines, self._partial], b""
        if lines:
            self._write(lines)

    def close(self) -> None:
        """The container ended: followers come to their end."""
        if self.closed:
            return
        if self._partial:
            self._write([self._partial])
        self.closed = True
        self._out.close()
        self._wake()

    async def news(self) -> None:
        """Return at the next line, rotation or end."""
        await self._news.wait()

    def _write(self, lines: list[bytes]) -> None:
        stamp = rfc3339_micro().encode()
        self._out.write(b"".join(stamp + b" " + line + b"\n" for line in lines))
        if self._out.tell() > self._limit_bytes:
            self._out.close()
            self.file.replace(self.file.with_suffix(".old"))
            self._out = self.file.open("ab", buffering=0)
            self.rotations += 1
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class ContainerLogs:
    """The logs of a container: of its present run and of the one before."""

    def __init__(self, folder: Path) -> None:
        self.current_file, self.previous_file = folder / "current.log", folder / "previous.log"
        self.current: LogFile | None = None

    def begin(self) -> LogFile:
        """A new run starts: its log is the current one, the last run's becomes the previous."""
        if self.current:
            self.current.close()
        if self.current_file.exists():
            self.current_file.replace(self.previous_file)
        self.current = LogFile(self.current_file)
        return self.current

    async def read(self, options: LogOptions, *, previous: bool = False) -> AsyncIterator[bytes]:
        """Chunks of the log as kubectl prints it.

        Raises:
            FileNotFoundError: no such run.
        """
        live = None if previous else self.current
        left = options.limit_bytes
        async for chunk in _lines(self.previous_file if previous else self.current_file, live, options):
            text = chunk if options.timestamps else _without_times(chunk)
            if left is not None:
                text = text[:left]
                left -= len(text)
            if text:
                yield text
            if left == 0:
                return


async def _lines(file: Path, live: LogFile | None, options: LogOptions) -> AsyncIterator[bytes]:
    opened = file.open("rb")
    try:
        yield _selected(opened.read(), options)
        rotations = live.rotations if live else 0
        while options.follow and live:
            if chunk := b"".join(opened.readlines(1 << 20)):
                yield chunk
            elif live.rotations != rotations:
                rotations = live.rotations
                opened.close()
                opened = file.open("rb")
            elif live.closed:
                return
            else:
                await live.news()
    finally:
        opened.close()


def _selected(text: bytes, options: LogOptions) -> bytes:
    lines = text.splitlines(keepends=True)
    if options.since:
        since = options.since.astimezone(UTC)
        lines = [line for line in lines if parse(line.split(b" ", 1)[0].decode()) >= since]
    if options.tail_lines is not None:
        lines = lines[-options.tail_lines :] if options.tail_lines else []
    return b"".join(lines)


def _without_times(text: bytes) -> bytes:
    return b"".join(line.split(b" ", 1)[1] for line in text.splitlines(keepends=True))
