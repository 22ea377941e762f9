"""The real Envoy with the configuration that we make, a picker and an upstream of the test's own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from llmd_sandbox import processes
from llmd_sandbox.gateway import envoy_config
from llmd_sandbox.gateway.envoy import Envoy, binary
from llmd_sandbox.gateway.envoy_config import DESTINATION_HEADER, BodyMode, Snapshot
from llmd_sandbox.gateway.objects import World
from llmd_sandbox.gateway.translate import BODY_MODE_ANNOTATION, translate
from llmd_sandbox.site import Site


@dataclass
class Picker:
    """The picker of fake_picker.py."""

    words: list[str]
    record: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self, refusal: str = "") -> None:
        script = str(Path(__file__).parent / "fake_picker.py")
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, script, *self.words, str(self.record), refusal),
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=processes.die_with_parent(),
        )
        assert self.process.stdout is not None
        assert await self.process.stdout.readline() == b"ready\n"

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()

    def seen(self) -> list[dict[str, Any]]:
        """Mode, headers and body of each request so far."""
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines()]


@dataclass
class Upstream:
    """A model server: echoes, and streams one event for each call of `release`."""

    release: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_post("/v1/stream", self._stream)
        application.router.add_route("*", "/{path:.*}", self._echo)
        return application

    async def _echo(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(({k.lower(): v for k, v in request.headers.items()}, body))
        return web.Response(text=f"{request.method} {request.path} {len(body)}")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await self.release.acquire()
            await response.write(f"data: {number}\n\n".encode())
        return response


@dataclass
class Bench:
    """Envoy with one Gateway at `url`, its picker and its model server."""

    site: Site
    envoy: Envoy
    world: World
    picker: Picker
    upstream: Upstream
    http: aiohttp.ClientSession
    task: asyncio.Task[None]
    url: str = ""

    async def stop(self) -> None:
        """End Envoy."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def apply(self) -> dict[str, str]:
        """Translate the world as it is now and have Envoy serve it."""
        address = self.site.gateway_ip(0)
        found = translate(self.world, {"gateway-uid": address}, self.envoy.paths)
        port = self.world.gateways["llm-d/front"]["spec"]["listeners"][0]["port"]
        self.url = f"http://{address}:{port}"
        return await self.envoy.apply(found.snapshot)

    def use(self, mode: BodyMode) -> None:
        self.world.gateways["llm-d/front"]["metadata"]["annotations"] = {BODY_MODE_ANNOTATION: mode.value}

    def rule(self) -> dict[str, Any]:
        rule: dict[str, Any] = self.world.routes["llm-d/llm"]["spec"]["rules"][0]
        return rule

    def access_log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.envoy.paths.access_log.read_text().splitlines()]


@pytest_asyncio.fixture
async def bench(site: Site, world: World) -> AsyncIterator[Bench]:
    picker_ip, model_ip = site.pod_ip(0), site.pod_ip(1)
    world.pods["llm-d/epp-0"]["status"]["podIP"] = picker_ip
    world.pods["llm-d/model-0"]["status"]["podIP"] = model_ip
    picker = Picker([f"{picker_ip}:9002", f"{model_ip}:8000"], site.directory / "picker.jsonl")
    upstream, envoy = Upstream(), Envoy(site)
    async with contextlib.AsyncExitStack() as stack:
        runner = web.AppRunner(upstream.application())
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, model_ip, 8000).start()
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        bench = Bench(site, envoy, world, picker, upstream, http, asyncio.create_task(envoy.run()))
        stack.push_async_callback(bench.stop)
        stack.push_async_callback(picker.stop)
        await envoy.ready.wait()
        await picker.start()
        yield bench
    assert processes.find(site.directory) == []


@pytest.mark.parametrize("mode", list(BodyMode))
async def test_picker_sees_the_body_and_chooses(bench: Bench, mode: BodyMode) -> None:
    bench.use(mode)
    assert await bench.apply() == {}
    body = b'{"model": "m", "prompt": "' + b"x" * 200_000 + b'"}'
    headers = {DESTINATION_HEADER: "127.0.0.1:1", "x-request-id": "mine-1"}
    async with bench.http.post(bench.url + "/v1/completions", data=body, headers=headers) as answer:
        assert (answer.status, await answer.text()) == (200, f"POST /v1/completions {len(body)}")
        assert answer.headers["x-went-into-resp-headers"] == "true"
        assert int(answer.headers["x-envoy-upstream-service-time"]) >= 0
    [seen] = bench.picker.seen()
    assert seen["body"].encode() == body
    assert seen["mode"] == {BodyMode.FULL_DUPLEX_STREAMED: 4, BodyMode.BUFFERED: 2}[mode]
    assert DESTINATION_HEADER not in seen["headers"], "a client's choice of endpoint reached the picker"
    assert seen["headers"]["x-request-id"] == "mine-1"
    assert bench.upstream.requests[0][0]["x-request-id"] == "mine-1"
    assert bench.upstream.requests[0][1] == body


@pytest.mark.parametrize("mode", list(BodyMode))
async def test_events_arrive_one_by_one(bench: Bench, mode: BodyMode) -> None:
    bench.use(mode)
    await bench.apply()
    async with bench.http.post(bench.url + "/v1/stream", data=b"{}") as answer:
        for number in range(3):
            bench.upstream.release.release()
            assert await answer.content.readuntil(b"\n\n") == f"data: {number}\n\n".encode()
        assert await answer.content.read() == b""


async def test_get_without_a_body(bench: Bench) -> None:
    await bench.apply()
    async with bench.http.get(bench.url + "/v1/models") as answer:
        assert (answer.status, await answer.text()) == (200, "GET /v1/models 0")


async def test_the_pickers_refusal_reaches_the_client(bench: Bench) -> None:
    refusal = "inference gateway: ServiceUnavailable - no pod"
    await bench.picker.stop()
    await bench.picker.start(refusal)
    await bench.apply()
    async with bench.http.post(bench.url + "/v1/completions", data=b"{}") as answer:
        assert (answer.status, await answer.text()) == (503, refusal)
    assert bench.upstream.requests == []


async def test_without_a_picker_requests_fail_closed(bench: Bench) -> None:
    await bench.apply()
    await bench.picker.stop()
    for _ in range(2):
        async with bench.http.post(bench.url + "/v1/completions", data=b"{}") as answer:
            assert (answer.status, await answer.text()) == (500, "")
        del bench.world.pods["llm-d/epp-0"]["status"]["podIP"]  # and then the picker's pod is gone too
        await bench.apply()
        bench.world.pods["llm-d/epp-0"]["status"]["podIP"] = bench.site.pod_ip(0)


@pytest.mark.parametrize("mode", list(BodyMode))
async def test_a_pool_that_fails_open_serves_without_its_picker(bench: Bench, mode: BodyMode) -> None:
    """Streamed bodies that are on their way to a dying picker are lost; to one that is not Ready none is sent."""
    bench.use(mode)
    bench.world.pools["llm-d/pool"]["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
    await bench.apply()
    async with bench.http.post(bench.url + "/a", data=b"{}") as answer:
        assert await answer.text() == "POST /a 2"
        assert answer.headers["x-went-into-resp-headers"] == "true"
    await bench.picker.stop()
    if mode is BodyMode.FULL_DUPLEX_STREAMED:
        async with bench.http.post(bench.url + "/b", data=b"{}") as answer:
            assert (answer.status, await answer.text()) == (500, "")
        bench.world.pods["llm-d/epp-0"]["status"]["conditions"][0]["status"] = "False"
        await bench.apply()
    async with bench.http.post(bench.url + "/c", data=b"{}") as answer:
        assert (answer.status, await answer.text()) == (200, "POST /c 2")
    assert len(bench.picker.seen()) == 1


async def test_without_a_route_the_answer_is_the_load_balancers(bench: Bench) -> None:
    bench.rule()["matches"] = [{"path": {"type": "PathPrefix", "value": "/v1"}}]
    await bench.apply()
    async with bench.http.get(bench.url + "/v1x") as answer:
        assert (answer.status, await answer.text()) == (404, "fault filter abort")
    bench.world.routes["llm-d/llm"]["spec"]["parentRefs"] = [{"name": "another"}]
    await bench.apply()
    async with bench.http.get(bench.url + "/v1/models") as answer:
        assert (answer.status, await answer.text()) == (404, "fault filter abort")
    assert bench.picker.seen() == [], "a request without a route reached the picker"


async def test_a_route_to_a_missing_backend_answers_500(bench: Bench) -> None:
    bench.rule()["backendRefs"][0]["name"] = "nowhere"
    await bench.apply()
    async with bench.http.get(bench.url + "/") as answer:
        assert (answer.status, await answer.text()) == (500, "fault filter abort")


async def test_weights_split_between_a_pool_and_a_missing_one(bench: Bench) -> None:
    missing = {**bench.rule()["backendRefs"][0], "name": "nowhere"}
    bench.rule()["backendRefs"].append(missing)
    await bench.apply()
    seen = set()
    for _ in range(40):
        async with bench.http.get(bench.url + "/") as answer:
            seen.add((answer.status, await answer.text()))
    assert seen == {(200, "GET / 0"), (500, "fault filter abort")}


async def test_a_service_is_served_without_a_picker(bench: Bench) -> None:
    bench.rule()["backendRefs"] = [{"name": "plain", "port": 80}]
    await bench.apply()
    async with bench.http.get(bench.url + "/x") as answer:
        assert (answer.status, await answer.text()) == (200, "GET /x 0")
        assert "x-went-into-resp-headers" not in answer.headers
    assert bench.picker.seen() == []
    bench.world.pods["llm-d/model-0"]["status"]["conditions"][0]["status"] = "False"
    await bench.apply()
    async with bench.http.get(bench.url + "/x") as answer:
        assert (answer.status, await answer.text()) == (503, "no healthy upstream")


async def test_a_stream_survives_the_move_of_its_route(bench: Bench) -> None:
    await bench.apply()
    async with bench.http.post(bench.url + "/v1/stream", data=b"{}") as answer:
        bench.upstream.release.release()
        assert await answer.content.readuntil(b"\n\n") == b"data: 0\n\n"
        bench.rule()["backendRefs"] = [{"name": "plain", "port": 80}]
        await bench.apply()
        async with bench.http.get(bench.url + "/") as other:
            assert "x-went-into-resp-headers" not in other.headers
        for _ in range(2):
            bench.upstream.release.release()
        assert await answer.content.read() == b"data: 1\n\ndata: 2\n\n"


async def test_headers_changed_by_the_route(bench: Bench) -> None:
    change = {"set": [{"name": "x-a", "value": "1"}], "remove": ["x-b"]}
    bench.rule()["filters"] = [{"type": "RequestHeaderModifier", "requestHeaderModifier": change}]
    await bench.apply()
    async with bench.http.get(bench.url + "/", headers={"x-a": "0", "x-b": "0"}) as answer:
        assert answer.status == 200
    headers = bench.upstream.requests[0][0]
    assert headers["x-a"] == "1"
    assert "x-b" not in headers


async def test_a_port_in_use_is_reported(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((bench.site.gateway_ip(0), 8080))
        taken.listen()
        errors = await bench.apply()
    assert list(errors) == ["llm-d/front/8080"]
    assert "Address already in use" in errors["llm-d/front/8080"]


async def test_envoy_comes_back_with_its_configuration(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmd_sandbox.gateway.envoy._RESTART_PAUSE_S", 0.0)
    await bench.apply()
    ended, back = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(bench.envoy.ready, "clear", ended.set)
    monkeypatch.setattr(bench.envoy.ready, "set", back.set)
    [pid] = [p for p in processes.find(bench.site.directory) if _program(p) == "envoy"]
    os.kill(pid, signal.SIGKILL)
    await ended.wait()
    await back.wait()
    assert await bench.apply() == {}
    async with bench.http.get(bench.url + "/") as answer:
        assert answer.status == 200


def _program(pid: int) -> str:
    return Path(os.readlink(f"/proc/{pid}/exe")).name


async def test_access_log_attributes_a_request_to_a_pod(bench: Bench) -> None:
    await bench.apply()
    async with bench.http.get(bench.url + "/v1/models", headers={"x-request-id": "r-1"}) as answer:
        assert answer.status == 200
    await bench.stop()  # Envoy writes what it still holds when it ends
    [entry] = bench.access_log()
    assert (entry["request_id"], entry["path"], entry["response_code"]) == ("r-1", "/v1/models", 200)
    assert entry["upstream_host"] == f"{bench.site.pod_ip(1)}:8000"
    assert entry["start_time"].endswith("Z")
    assert entry["duration_ms"] >= 0


def test_every_shape_of_configuration_is_valid(site: Site, world: World, tmp_path: Path) -> None:
    """What Envoy itself thinks of the whole configuration, with TLS to the picker and failing open."""
    world.pods["llm-d/epp-0"]["spec"]["containers"][0]["args"] = []
    world.pools["llm-d/pool"]["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
    paths = envoy_config.Paths(tmp_path, tmp_path / "access.log")
    snapshot: Snapshot = translate(world, {"gateway-uid": site.gateway_ip(0)}, paths).snapshot
    for name, config in snapshot.routes.items():
        content = {"resources": [{"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", **config}]}
        paths.routes(name).write_text(json.dumps(content))
    config = envoy_config.bootstrap(paths, site.envoy_admin)
    del config["dynamic_resources"]
    config["static_resources"] = {"clusters": snapshot.clusters, "listeners": snapshot.listeners}
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(config))
    done = subprocess.run([binary(), "--mode", "validate", "-c", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
