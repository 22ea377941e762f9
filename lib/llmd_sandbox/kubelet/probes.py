"""Startup, liveness and readiness probes.

Start-up waits are compressed by the sandbox's scale (0.1 s at least): initial delays, the startup
probe's period, and the readiness probe's period until its first success. Everything else keeps its own time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import grpc

from llmd_sandbox.kube import Object

SHORTEST_WAIT_S = 0.1
Execute = Callable[[list[str], float], Awaitable[tuple[int, str]]]
"""Runs a command as in the container, for so many seconds; its exit code and what it printed."""


class ProbeFailure(Exception):
    """The probe failed; the message is what the event says."""


@dataclass(frozen=True)
class Target:
    """The container that is probed."""

    ip: str
    ports: dict[str, int]
    http: aiohttp.ClientSession
    execute: Execute

    def port(self, port: int | str) -> int:
        """A probe's port, by number or by the name it has in the container.

        Raises:
            ProbeFailure: no port of that name.
        """
        if isinstance(port, int) or port.isdigit():
            return int(port)
        if port not in self.ports:
            raise ProbeFailure(f"couldn't find port: {port}")
        return self.ports[port]


class Listener(Protocol):
    """Who is told what the probes found."""

    def on_started(self) -> None:
        """The container has started (at once without a startup probe)."""

    def on_ready(self, ready: bool) -> None:
        """The container became ready, or is not any more."""

    def on_unhealthy(self, message: str) -> None:
        """A probe failed."""


async def check(probe: Object, target: Target) -> None:
    """One try.

    Raises:
        ProbeFailure: it failed.
    """
    timeout_s = float(probe.get("timeoutSeconds", 1))
    if "httpGet" in probe:
        await http_get(probe["httpGet"], target, timeout_s)
    elif "tcpSocket" in probe:
        await _tcp(probe["tcpSocket"], target, timeout_s)
    elif "grpc" in probe:
        await _grpc(probe["grpc"], target, timeout_s)
    elif "exec" in probe:
        await _exec(probe["exec"], target, timeout_s)
    else:
        raise ProbeFailure("missing probe handler")


async def watch(container: Object, target: Target, scale: float, listener: Listener) -> str:
    """Probe a running container until it must be killed; the name of the probe that says so."""
    if startup := container.get("startupProbe"):
        async for healthy in _verdicts("Startup", startup, target, listener, _waits(startup, scale, always=True)):
            if not healthy:
                return "startup"
            break
    listener.on_started()
    tasks = []
    if readiness := container.get("readinessProbe"):
        tasks.append(asyncio.create_task(_readiness(readiness, target, scale, listener)))
    else:
        listener.on_ready(True)
    tasks.append(asyncio.create_task(_liveness(container.get("livenessProbe"), target, scale, listener)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return "liveness"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def http_get(action: Object, target: Target, timeout_s: float) -> None:
    """GET as a probe or a hook does it.

    Raises:
        ProbeFailure: no answer, or a status that is neither 2xx nor 3xx.
    """
    scheme = action.get("scheme", "HTTP").lower()
    host, path = action.get("host") or target.ip, action.get("path", "/")
    port = target.port(action["port"])
    url = f"{scheme}://{host}:{port}/{path.removeprefix('/')}"
    headers = {"User-Agent": "kube-probe/1.36", "Connection": "close"}
    headers |= {header["name"]: header["value"] for header in action.get("httpHeaders") or []}
    try:
        async with target.http.get(
            url,
            headers=headers,
            ssl=False,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            if not 200 <= response.status < 400:
                raise ProbeFailure(f"HTTP probe failed with statuscode: {response.status}")
    except TimeoutError as error:
        raise ProbeFailure(f'Get "{url}": context deadline exceeded') from error
    except aiohttp.ClientConnectorError as error:
        raise ProbeFailure(f'Get "{url}": dial tcp {host}:{port}: connect: {_reason(error.os_error)}') from error
    except aiohttp.ClientError as error:
        raise ProbeFailure(f'Get "{url}": {error}') from error


async def _tcp(action: Object, target: Target, timeout_s: float) -> None:
    host, port = action.get("host") or target.ip, target.port(action["port"])
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
    except TimeoutError as error:
        raise ProbeFailure(f"dial tcp {host}:{port}: i/o timeout") from error
    except OSError as error:
        raise ProbeFailure(f"dial tcp {host}:{port}: connect: {_reason(error)}") from error


async def _grpc(action: Object, target: Target, timeout_s: float) -> None:
    """`grpc.health.v1.Health/Check`: field 1 is the service, in the answer the status (1: SERVING)."""
    service = (action.get("service") or "").encode()
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    address = f"{target.ip}:{target.port(action['port'])}"
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            answer = await call(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ProbeFailure(f'timeout: failed to connect service "{address}" within {timeout_s:g}s') from error
            raise ProbeFailure(f"error: health rpc failed: {error.code().name}: {error.details()}") from error
    if answer != b"\x08\x01":
        raise ProbeFailure('service unhealthy (responded with "NOT_SERVING")')


async def _exec(action: Object, target: Target, timeout_s: float) -> None:
    code, printed = await target.execute(list(action.get("command") or []), timeout_s)
    if code:
        raise ProbeFailure(printed)


@dataclass(frozen=True)
class _Waits:
    delay_s: float
    period_s: float
    first_period_s: float
    """Until the first success."""


def _waits(probe: Object, scale: float, *, always: bool = False, first: bool = False) -> _Waits:
    delay_s, period_s = float(probe.get("initialDelaySeconds", 0)), float(probe.get("periodSeconds", 10))
    short_s = min(period_s, max(SHORTEST_WAIT_S, period_s * scale))
    return _Waits(
        delay_s=min(delay_s, max(SHORTEST_WAIT_S, delay_s * scale)),
        period_s=short_s if always else period_s,
        first_period_s=short_s if always or first else period_s,
    )


async def _verdicts(name: str, probe: Object, target: Target, listener: Listener, waits: _Waits) -> AsyncIterator[bool]:
    """True or False each time that a threshold is reached."""
    needed = {True: int(probe.get("successThreshold", 1)), False: int(probe.get("failureThreshold", 3))}
    last, run, ever = False, 0, False
    await asyncio.sleep(waits.delay_s)
    while True:
        try:
            await check(probe, target)
            healthy = True
        except ProbeFailure as failure:
            healthy = False
            listener.on_unhealthy(f"{name} probe failed: {failure}")
        run = run + 1 if healthy == last else 1
        last, ever = healthy, ever or healthy
        if run >= needed[healthy]:
            yield healthy
        await asyncio.sleep(waits.period_s if ever else waits.first_period_s)


async def _readiness(probe: Object, target: Target, scale: float, listener: Listener) -> None:
    async for healthy in _verdicts("Readiness", probe, target, listener, _waits(probe, scale, first=True)):
        listener.on_ready(healthy)


async def _liveness(probe: Object | None, target: Target, scale: float, listener: Listener) -> None:
    if probe is None:
        await asyncio.get_running_loop().create_future()
        return
    async for healthy in _verdicts("Liveness", probe, target, listener, _waits(probe, scale)):
        if not healthy:
            return


def _reason(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else str(error)
