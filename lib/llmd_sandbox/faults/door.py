"""Which request is hit by which fault, and what passed so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.killing import client_of


@dataclass(frozen=True)
class Seen:
    """A request: when (monotonic clock, s), path with query, the status answered (0: none), the fault that hit it."""

    at_s: float

    method: str
    path: str
    status: int
    fault: Kind | None


class Door:
    """The faults of all proxies together; `seen` is every request in the order of its answer."""

    def __init__(self, faults: Sequence[Fault], kill: Callable[[int], None]) -> None:
        self.seen: list[Seen] = []
        self._faults, self._kill = faults, kill
        self._met = [0] * len(faults)

    def due(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request; each fault counts the requests that it concerns."""
        due = None
        for index, fault in enumerate(self._faults):
            if due is None and fault.hits(method, path):
                self._met[index] += 1
                number = self._met[index] - fault.skip
                if number >= 1 and (not fault.times or number <= fault.times):
                    due = fault
        return due

    def note(self, request: web.Request, status: int, kind: Kind | None) -> None:
        """Remember a request."""
        self.seen.append(Seen(time.monotonic(), request.method, request.raw_path, status, kind))

    async def kill(self, request: web.Request) -> None:
        """Kill the run of whoever sent the request."""
        assert request.transport is not None
        own = request.transport.get_extra_info("sockname")
        peer = request.transport.get_extra_info("peername")
        client = await asyncio.to_thread(client_of, tuple(peer[:2]), tuple(own[:2]))
        await asyncio.to_thread(self._kill, client)
