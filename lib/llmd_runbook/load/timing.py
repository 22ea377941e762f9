"""When bytes went and came, noted where they are handed over: after all else was made ready, before anything is parsed.

A task reads an answer only after everybody who was answered at the same moment, and asks again only after everybody
who asks at the same moment: with 50 requests in step that adds milliseconds which are the client's own.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler

_EVENT = b"data: {"
"""How a server-sent event with a JSON object begins; `[DONE]` is none."""


class Arrivals:
    """The times of one answer (`time.perf_counter`): of its latest bytes, and of the start of each event."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.events: list[float] = []
        self._tail = b""

    def add(self, now: float, data: bytes) -> None:
        """Note bytes as they came, HTTP's own among them; an event's beginning may be split."""
        self.last = now
        seen = self._tail + data
        count = seen.count(_EVENT)
        if count:
            self.events += [now] * count
        self._tail = b"" if seen.endswith(_EVENT) else seen[1 - len(_EVENT) :]


class TimedBody(aiohttp.BytesPayload):
    """A request's body that notes when it is handed over, its head with it (`time.perf_counter`)."""

    sent: float | None = None

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Note the time, then go on as ever."""
        self.sent = time.perf_counter()
        await super().write_with_length(writer, content_length)


class TimedProtocol(ResponseHandler):
    """A connection that notes when bytes arrive."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.arrivals = Arrivals()

    def data_received(self, data: bytes) -> None:
        """Note the time, then go on as ever; aiohttp calls it with nothing too, where it goes on after a pause."""
        if data:
            self.arrivals.add(time.perf_counter(), data)
        super().data_received(data)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on where it was paused. aiohttp asks for it after every reading, and parses nothing each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


class TimedResponse(aiohttp.ClientResponse):
    """An answer with the times of its arrival."""

    arrivals = Arrivals()

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Begin to read: what arrives on this connection from now on is this answer's."""
        protocol = connection.protocol
        assert isinstance(protocol, TimedProtocol)
        self.arrivals = protocol.arrivals = Arrivals()
        return await super().start(connection)


class TimedConnector(aiohttp.TCPConnector):
    """Connections without a limit of their own, so that the schedule alone decides what is in flight."""

    def __init__(self, context: ssl.SSLContext | bool) -> None:
        super().__init__(limit=0, ssl=context)
        # aiohttp has no public place for this; without it every time would be missing, which the tests see
        protocol: type[ResponseHandler] = TimedProtocol
        self._factory = functools.partial(protocol, loop=asyncio.get_running_loop())
