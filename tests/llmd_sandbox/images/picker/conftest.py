"""A picker in this process against fake pods and a fake API server, and a client that speaks as Envoy."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from aiohttp import web
from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc

from llmd_runbook.analysis import picker_config
from llmd_sandbox.images.picker.director import Director
from llmd_sandbox.images.picker.event_log import EventLog
from llmd_sandbox.images.picker.flags import Flags
from llmd_sandbox.images.picker.server import running
from llmd_sandbox.kube import KubeApi

NAMESPACE, POOL = "llm-d", "gaie-pattern3"
MODES = processing_mode_pb2.ProcessingMode
CONFIG = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: prefix-cache-scorer}]
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
"""


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def pool(selector: dict[str, str], port: int) -> dict[str, Any]:
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": POOL, "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": selector}, "targetPorts": [{"number": port}]},
    }


def pod(name: str, address: str, *, ready: bool = True, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {"app": "p3"}},
        "status": {"podIP": address, "conditions": [{"type": "Ready", "status": str(ready)}]},
    }


class FakeApiServer:
    """Lists and watches; keeps what callers asked for."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, Any]]] = {
            "inferencepools": {},
            "pods": {},
            "inferenceobjectives": {},
        }
        self.paths: set[str] = set()
        self.allowed_tokens: set[str] = set()
        self._version = 1
        self._watchers: dict[str, list[asyncio.Queue[dict[str, Any]]]] = {}

    def put(self, plural: str, item: dict[str, Any]) -> None:
        """Add or replace an object."""
        known = item["metadata"]["name"] in self.objects[plural]
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        self.objects[plural][item["metadata"]["name"]] = item
        self._tell(plural, "MODIFIED" if known else "ADDED", item)

    def remove(self, plural: str, name: str) -> None:
        """Delete an object."""
        self._tell(plural, "DELETED", self.objects[plural].pop(name))

    def _tell(self, plural: str, event: str, item: dict[str, Any]) -> None:
        for queue in self._watchers.get(plural, []):
            queue.put_nowait({"type": event, "object": item})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Every path of the API."""
        self.paths.add(f"{request.method} {request.path}")
        plural = request.path.rsplit("/", 1)[-1]
        if plural == "tokenreviews":
            token = (await request.json())["spec"]["token"]
            known = token != "unknown"
            return web.json_response({"status": {"authenticated": known, "user": {"username": token}}}, status=201)
        if plural == "subjectaccessreviews":
            user = (await request.json())["spec"]["user"]
            return web.json_response({"status": {"allowed": user in self.allowed_tokens}}, status=201)
        if "watch" not in request.query:
            items = list(self.objects[plural].values())
            return web.json_response(
                {
                    "kind": "List",
                    "apiVersion": "v1",
                    "metadata": {"resourceVersion": str(self._version)},
                    "items": items,
                }
            )
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.setdefault(plural, []).append(queue)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            event = await queue.get()
            await response.write(json.dumps(event).encode() + b"\n")


@dataclass
class FakePod:
    """Answers `/metrics`."""

    waiting: int = 0
    kv_usage: float = 0.0
    up: bool = True
    scrapes: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        """The page; 500 when not up."""
        self.scrapes += 1
        if not self.up:
            return web.Response(status=500)
        return web.Response(
            text="# HELP x y\n"
            f'vllm:num_requests_waiting{{model_name="m"}} {float(self.waiting)}\n'
            f'vllm:kv_cache_usage_perc{{model_name="m"}} {self.kv_usage}\n'
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="40"} 1.0\n'
        )


async def start(handler: Any, address: str, port: int) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, port).start()
    return runner


def headers(method: str = "POST", **more: str) -> Any:
    pairs = {":method": method, ":path": "/v1/completions", "x-request-id": "r-1", **more}
    made = [base_pb2.HeaderValue(key=key, raw_value=value.encode()) for key, value in pairs.items()]
    return base_pb2.HeaderMap(headers=made)


@dataclass
class Exchange:
    """What came of one request: its answers in order, and what a client would see of them."""

    answers: list[Any] = field(default_factory=list)

    @property
    def destination(self) -> str:
        """From the header mutation; the dynamic metadata must say the same."""
        for answer in self.answers:
            kind = answer.WhichOneof("response")
            if kind in ("request_headers", "request_body"):
                for option in getattr(answer, kind).response.header_mutation.set_headers:
                    if option.header.key == "x-gateway-destination-endpoint":
                        inner = answer.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"]
                        assert inner == option.header.raw_value.decode()
                        return str(inner)
        return ""

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and body of an immediate response."""
        last = self.answers[-1].immediate_response
        return last.status.code, last.body.decode()

    @property
    def kinds(self) -> list[str]:
        """The kinds of the answers, in order."""
        return [answer.WhichOneof("response") for answer in self.answers]


class Envoy:
    """Sends what the real one sends."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = external_processor_pb2_grpc.ExternalProcessorStub(channel)

    async def exchange(
        self, messages: list[Any], *, mode: Any = MODES.FULL_DUPLEX_STREAMED, answers: int | None = None
    ) -> Exchange:
        """Send all messages and collect the answers to the end of the stream."""
        response_mode = mode if mode == MODES.FULL_DUPLEX_STREAMED else MODES.NONE
        messages[0].protocol_config.request_body_mode = mode
        messages[0].protocol_config.response_body_mode = response_mode
        call = self._stub.Process(iter(messages))
        return Exchange([answer async for answer in call])

    async def post(self, body: Any, *, mode: Any = MODES.FULL_DUPLEX_STREAMED, **more: str) -> Exchange:
        """One request with a body, in two pieces when it streams."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        pieces = [raw] if mode == MODES.BUFFERED else [raw[: len(raw) // 2], raw[len(raw) // 2 :]]
        messages = [pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=headers(**more)))]
        messages += [
            pb.ProcessingRequest(request_body=pb.HttpBody(body=piece, end_of_stream=piece is pieces[-1]))
            for piece in pieces
        ]
        return await self.exchange(messages, mode=mode)


@dataclass
class World:
    """Everything a test may touch."""

    api: FakeApiServer
    pods: dict[str, FakePod]
    envoy: Envoy
    director: Director
    flags: Flags
    address: str
    pod_port: int
    log: io.StringIO

    def addresses(self) -> dict[str, str]:
        """Destination by pod name."""
        return {name: f"127.0.0.{index + 2}:{self.pod_port}" for index, name in enumerate(self.pods)}

    def events(self, message: str) -> list[dict[str, Any]]:
        """Log lines with this message."""
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["msg"] == message]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return once it holds; the state inside the picker tells nobody of its changes."""
        for _ in range(1000):
            if holds():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("never came true")


@pytest.fixture
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """A picker with three ready pods; `request.param` may give another configuration."""
    api, pods = FakeApiServer(), {name: FakePod() for name in ("a", "b", "c")}
    pod_port, api_port = free_port(), free_port()
    api.put("inferencepools", pool({"app": "p3"}, pod_port))
    runners = [await start(api.handle, "127.0.0.1", api_port)]
    for index, (name, fake) in enumerate(pods.items()):
        address = f"127.0.0.{index + 2}"
        runners.append(await start(fake.handle, address, pod_port))
        api.put("pods", pod(name, address))
    ports = [free_port() for _ in range(3)]
    flags = Flags(
        pool_name=POOL,
        pool_namespace=NAMESPACE,
        grpc_port=ports[0],
        grpc_health_port=ports[1],
        metrics_port=ports[2],
        secure_serving=False,
        kv_cache_usage_percentage_metric="vllm:kv_cache_usage_perc",
    )
    log = io.StringIO()
    config = picker_config.parse(getattr(request, "param", CONFIG))
    kube = KubeApi(f"http://127.0.0.1:{api_port}", "token", None)
    async with (
        running(flags, config, EventLog(5, "json", config.generation, log), kube, "127.0.0.1") as started,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel,
    ):
        made = World(api, pods, Envoy(channel), started.director, flags, "127.0.0.1", pod_port, log)
        await made.until(lambda: all(fake.scrapes > 1 for fake in pods.values()))
        yield made
    for runner in runners:
        await runner.cleanup()
