"""What every ready pod says of itself: its `/metrics`, read every 50 ms."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import aiohttp

from llmd_runbook.analysis.scorers import Endpoint
from llmd_sandbox.images.picker.event_log import TRACE, EventLog

_LABEL = {name: re.compile(name + rb'="(\d+)"') for name in (b"block_size", b"num_gpu_blocks")}


@dataclass(frozen=True)
class Series:
    """Names of the series that are read, and where."""

    waiting: str
    kv_usage: str
    cache_info: str
    path: str = "/metrics"


@dataclass(slots=True)
class Target:
    """A pod's port that requests may go to; `updated_s` is the clock at the last scrape, 0: never."""

    namespace: str
    pod: str
    address: str
    port: int
    metrics_port: int
    endpoint: Endpoint
    updated_s: float = field(default=0.0)

    @property
    def destination(self) -> str:
        """What Envoy is told: `ip:port`."""
        return f"{self.address}:{self.port}"


def read(text: bytes, series: Series, endpoint: Endpoint) -> None:
    """Take over the values; a series that is missing leaves the value before it."""
    waiting = _sample(text, series.waiting)
    if waiting is not None:
        endpoint.waiting = int(float(waiting[1]))
    kv_usage = _sample(text, series.kv_usage)
    if kv_usage is not None:
        endpoint.kv_usage = float(kv_usage[1])
    info = _sample(text, series.cache_info)
    if info is not None:
        if size := _LABEL[b"block_size"].search(info[0]):
            endpoint.block_size = int(size[1])
        if blocks := _LABEL[b"num_gpu_blocks"].search(info[0]):
            endpoint.num_blocks = int(blocks[1])


def _sample(text: bytes, name: str) -> tuple[bytes, bytes] | None:
    """Labels and value of the first sample of a family; what is not wanted costs nothing."""
    start, wanted = 0, b"\n" + name.encode()
    while (at := text.find(wanted, start)) >= 0:
        after = at + len(wanted)
        if text[after : after + 1] in (b"{", b" "):
            end = text.find(b"\n", after)
            labels, _, rest = text[after : end if end >= 0 else None].rpartition(b"}")
            return labels, rest.split()[0]
        start = after
    return None


class Scraper:
    """One task a target, for as long as the target is there."""

    def __init__(self, series: Series, log: EventLog, interval_s: float = 0.05) -> None:
        self._series = series
        self._log = log
        self._interval_s = interval_s
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Scraper:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=5),
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session:
            await self._session.close()

    def follow(self, targets: Iterable[Target]) -> None:
        """Scrape exactly these from now on."""
        wanted = {(target.endpoint.name, target.destination): target for target in targets}
        for key in set(self._tasks) - set(wanted):
            self._tasks.pop(key).cancel()
        for key, target in wanted.items():
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._scrape(target))

    async def _scrape(self, target: Target) -> None:
        assert self._session is not None, "use `async with`"
        url = f"http://{target.address}:{target.metrics_port}{self._series.path}"
        while True:
            started_s = time.monotonic()
            try:
                async with self._session.get(url) as response:
                    page = await response.read()
                    if response.status == 200:
                        read(b"\n" + page, self._series, target.endpoint)
                        target.updated_s = time.monotonic()
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, IndexError) as error:
                self._log.event(TRACE, "Failed to refresh metrics", pod=target.endpoint.name, error=str(error))
            await asyncio.sleep(max(0.0, self._interval_s - (time.monotonic() - started_s)))
