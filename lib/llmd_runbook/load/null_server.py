"""A server that answers every completion as a known model would: first token and gaps at fixed times.

What a client measures against it, less those times, is the error of client and machine together. It is a bare
protocol, so that it takes as little as can be of the processor that the client needs.
`python -m llmd_runbook.load.null_server FIRST_S GAP_S` prints its port, and ends with its standard input; then it
prints what it did as one line of JSON (`Served`).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass
from typing import cast

from pydantic import BaseModel, ConfigDict

from llmd_runbook.load.loops import run_fast

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b'data: {"object":"text_completion","choices":[{"index":0,"text":" the"}]}\n\n'
_USAGE = b'data: {"object":"text_completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\n'
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-request-id: *([^\r]*)", re.IGNORECASE)
_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_END = b"0\r\n\r\n"
_READY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_MODELS = json.dumps({"object": "list", "data": [{"id": "null", "object": "model"}]}).encode()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_NEXT = _chunk(_EVENT)
_FIRST = _HEAD + _NEXT


class Served(BaseModel):
    """The server's own log, one value a request in the order of their ends, in seconds from the arrival of a request's
    last bytes to the moment before the answer's are handed to the system: nobody can have them sooner.

    `request_ids` are the requests' `x-request-id` ("" without one); `gaps_s` are between successive tokens, of all
    requests together; `ended_s` are the ends on one clock.
    """

    model_config = ConfigDict(extra="forbid")

    request_ids: list[str] = []
    first_s: list[float] = []
    done_s: list[float] = []
    gaps_s: list[float] = []
    ended_s: list[float] = []


@dataclass(slots=True)
class _Request:
    """One that is being answered; times on the clock of `time.perf_counter`."""

    id: str
    arrived: float
    tokens: int
    first_s: float = 0.0
    before: float = 0.0


class NullServer(asyncio.Protocol):
    """One connection; requests come one after the other, each with its length in its head."""

    def __init__(self, first_s: float, gap_s: float, served: Served) -> None:
        self._first_s, self._gap_s, self._served = first_s, gap_s, served
        self._loop = asyncio.get_running_loop()
        self._data = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        """Answer no more."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer every whole request."""
        arrived = time.perf_counter()
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        if self._data.startswith(b"GET "):  # other clients ask first whether a server is there, and for its models
            del self._data[: head + 4]
            if self._transport is not None:
                self._transport.write(_READY % (len(_MODELS), _MODELS))
            return
        stated = _LENGTH.search(self._data, 0, head)
        assert stated, "a request without its length"
        length = int(stated[1])
        if len(self._data) < head + 4 + length:
            return
        tokens = _TOKENS.search(self._data, head, head + 4 + length)
        assert tokens, "a request without max_tokens"
        named = _REQUEST_ID.search(self._data, 0, head)
        request = _Request(named[1].decode() if named else "", arrived, int(tokens[1]))
        del self._data[: head + 4 + length]
        if self._first_s > 0:
            self._loop.call_later(self._first_s, self._token, request, 0)
        else:
            self._token(request, 0)

    def _token(self, request: _Request, index: int) -> None:
        if self._transport is None:
            return
        last, tokens = index + 1 == request.tokens, request.tokens
        out = _FIRST if index == 0 else _NEXT
        now = time.perf_counter()  # before the bytes go: their reader may run before we do again
        self._transport.write(out + _chunk(_USAGE % tokens + b"data: [DONE]\n\n") + _END if last else out)
        if index == 0:
            request.first_s = now - request.arrived
        else:
            self._served.gaps_s.append(now - request.before)
        request.before = now
        if last:
            self._served.request_ids.append(request.id)
            self._served.first_s.append(request.first_s)
            self._served.done_s.append(now - request.arrived)
            self._served.ended_s.append(now)
        else:
            due = request.arrived + self._first_s + (index + 1) * self._gap_s
            self._loop.call_later(max(0.0, due - now), self._token, request, index + 1)


async def serve(first_s: float, gap_s: float) -> None:
    """Listen on a free loopback port, print it, serve until standard input ends, print the log."""
    served = Served()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: NullServer(first_s, gap_s, served), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    print(served.model_dump_json(), flush=True)


if __name__ == "__main__":
    run_fast(serve(float(sys.argv[1]), float(sys.argv[2])))
