import asyncio
from collections.abc import AsyncIterator

import aiohttp
import grpc
import pytest
from aiohttp import web

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet import probes
from llmd_sandbox.kubelet.probes import ProbeFailure, Target


class Heard:
    """What the probes said."""

    def __init__(self) -> None:
        self.started = False
        self.ready: list[bool] = []
        self.unhealthy: list[str] = []
        self.news = asyncio.Event()

    def on_started(self) -> None:
        self.started = True

    def on_ready(self, ready: bool) -> None:
        self.ready.append(ready)
        self.news.set()

    def on_unhealthy(self, message: str) -> None:
        self.unhealthy.append(message)


async def execute(command: list[str], timeout_s: float) -> tuple[int, str]:
    return (0, "") if command == ["true"] else (1, "it is broken")


@pytest.fixture
async def status() -> list[int]:
    """What the server answers: the first for ever, or one after the other down to the last."""
    return [200]


@pytest.fixture
async def target(status: list[int]) -> AsyncIterator[Target]:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("X-Wait"):
            await asyncio.sleep(5)
        return web.Response(status=status.pop(0) if len(status) > 1 else status[0])

    app = web.Application()
    app.router.add_get("/health", answer)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    place = web.TCPSite(runner, "127.0.0.1", 0)
    await place.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as http:
        yield Target("127.0.0.1", {"http": port, "closed": 1}, http, execute)
    await runner.cleanup()


HEALTH: Object = {"httpGet": {"path": "/health", "port": "http"}}


@pytest.mark.parametrize("probe", [HEALTH, {"tcpSocket": {"port": "http"}}, {"exec": {"command": ["true"]}}])
async def test_healthy(probe: Object, target: Target) -> None:
    await probes.check(probe, target)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"httpGet": {"path": "/none", "port": "http"}}, "HTTP probe failed with statuscode: 404"),
        (
            {"httpGet": {"path": "/health", "port": 1}},
            'Get "http://127.0.0.1:1/health": dial tcp 127.0.0.1:1: connect: connection refused',
        ),
        ({"httpGet": {"port": "nope"}}, "couldn't find port: nope"),
        ({"tcpSocket": {"port": "closed"}}, "dial tcp 127.0.0.1:1: connect: connection refused"),
        ({"exec": {"command": ["false"]}}, "it is broken"),
        ({}, "missing probe handler"),
    ],
)
async def test_unhealthy(probe: Object, message: str, target: Target) -> None:
    with pytest.raises(ProbeFailure) as failure:
        await probes.check(probe, target)
    assert str(failure.value) == message


async def test_too_slow(target: Target) -> None:
    headers = [{"name": "X-Wait", "value": "1"}]
    probe = {"httpGet": {**HEALTH["httpGet"], "httpHeaders": headers}, "timeoutSeconds": 0.05}
    with pytest.raises(ProbeFailure, match="context deadline exceeded"):
        await probes.check(probe, target)


async def test_grpc_asks_for_the_service(target: Target) -> None:
    async def answer(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        return b"\x08\x01" if request == b"\x0a\x05ready" else b"\x08\x02"

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        await probes.check({"grpc": {"port": port, "service": "ready"}}, target)
        with pytest.raises(ProbeFailure, match="NOT_SERVING"):
            await probes.check({"grpc": {"port": port, "service": "other"}}, target)
    finally:
        await server.stop(0)
    with pytest.raises(ProbeFailure, match=r"UNAVAILABLE|failed to connect"):
        await probes.check({"grpc": {"port": port}}, target)


async def test_without_probes_started_and_ready_at_once(target: Target) -> None:
    heard = Heard()
    watching = asyncio.create_task(probes.watch({}, target, 0.001, heard))
    await heard.news.wait()
    assert heard.started
    assert heard.ready == [True]
    assert not watching.done()
    watching.cancel()


async def test_startup_gates_readiness_and_its_delay_is_compressed(target: Target, status: list[int]) -> None:
    status[:] = [503, 503, 200]
    heard = Heard()
    startup = {**HEALTH, "initialDelaySeconds": 30, "periodSeconds": 30, "failureThreshold": 60}
    container = {"startupProbe": startup, "readinessProbe": HEALTH}
    watching = asyncio.create_task(probes.watch(container, target, 0.001, heard))
    async with asyncio.timeout(5):
        await heard.news.wait()
    assert heard.ready == [True]
    assert heard.unhealthy == ["Startup probe failed: HTTP probe failed with statuscode: 503"] * 2
    watching.cancel()


async def test_startup_that_never_succeeds_ends_the_container(target: Target, status: list[int]) -> None:
    status[:] = [503]
    heard = Heard()
    container = {"startupProbe": {**HEALTH, "periodSeconds": 1, "failureThreshold": 2}}
    assert await probes.watch(container, target, 0.001, heard) == "startup"
    assert not heard.started
    assert len(heard.unhealthy) == 2


async def test_liveness_counts_consecutive_failures(target: Target, status: list[int]) -> None:
    status[:] = [503, 200, 503, 503, 200]
    heard = Heard()
    container = {"livenessProbe": {**HEALTH, "periodSeconds": 0.01, "failureThreshold": 2}}
    assert await probes.watch(container, target, 0.001, heard) == "liveness"
    assert len(heard.unhealthy) == 3


async def test_readiness_is_lost_at_the_threshold(target: Target, status: list[int]) -> None:
    status[:] = [200, 503, 503]
    heard = Heard()
    probe = {**HEALTH, "periodSeconds": 0.01, "failureThreshold": 2}
    watching = asyncio.create_task(probes.watch({"readinessProbe": probe}, target, 0.001, heard))
    async with asyncio.timeout(5):
        while False not in heard.ready:
            heard.news.clear()
            await heard.news.wait()
    assert heard.ready[0] is True
    assert len(heard.unhealthy) >= 2
    watching.cancel()
