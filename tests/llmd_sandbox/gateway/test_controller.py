"""The controller with the real Envoy and an API of the test's own."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, fields
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from llmd_sandbox import processes
from llmd_sandbox.gateway.controller import GatewayController
from llmd_sandbox.gateway.objects import World
from llmd_sandbox.kube import KubeApi, key
from llmd_sandbox.site import Site

_PLURALS = {
    "classes": "gatewayclasses",
    "gateways": "gateways",
    "routes": "httproutes",
    "pools": "inferencepools",
    "services": "services",
    "pods": "pods",
    "grants": "referencegrants",
    "namespaces": "namespaces",
}


@dataclass
class Api:
    """List, watch, create and status patches; `objects` by plural and key."""

    objects: dict[str, dict[str, Any]]
    version: int = 1
    watchers: list[tuple[str, asyncio.Queue[Any]]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def put(self, plural: str, item: dict[str, Any], event: str = "MODIFIED") -> None:
        """Change an object and tell the watchers."""
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        if event == "DELETED":
            del self.objects[plural][key(item)]
        else:
            self.objects[plural][key(item)] = item
        for watched, queue in self.watchers:
            if watched == plural:
                queue.put_nowait(json.dumps({"type": event, "object": item}).encode() + b"\n")
        async with self.changed:
            self.changed.notify_all()

    async def until(self, predicate: Callable[[], Any]) -> None:
        """Wait until the objects are so."""
        async with asyncio.timeout(15), self.changed:
            await self.changed.wait_for(predicate)

    def conditions(self, plural: str, name: str) -> dict[str, str]:
        """Reasons by type of an object's conditions, or of its first parent's."""
        status = self.objects[plural].get(name, {}).get("status", {})
        for parent in status.get("parents", [])[:1]:
            status = parent
        return {entry["type"]: entry["reason"] for entry in status.get("conditions", [])}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        words = request.path.strip("/").split("/")
        words = words[2:] if words[0] == "api" else words[3:]
        if request.method == "PATCH":
            words = words[2:] if words[0] == "namespaces" and len(words) > 3 else words
            [item] = [o for o in self.objects[words[0]].values() if o["metadata"]["name"] == words[1]]
            await self.put(words[0], {**item, "status": {**item.get("status", {}), **(await request.json())["status"]}})
            return web.json_response({})
        if request.method == "POST":
            await self.put(words[0], await request.json(), "ADDED")
            return web.json_response({}, status=201)
        if "watch" not in request.query:
            items = list(self.objects[words[0]].values())
            kind = {"kind": "AnyList", "apiVersion": "v1", "items": items}
            return web.json_response({**kind, "metadata": {"resourceVersion": str(self.version)}})
        return await self.watch(request, words[0])

    async def watch(self, request: web.Request, plural: str) -> web.StreamResponse:
        response = web.StreamResponse()
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.watchers.append((plural, queue))
        await response.prepare(request)
        while True:
            await response.write(await queue.get())


@dataclass
class Bench:
    site: Site
    api: Api
    controller: GatewayController
    task: asyncio.Task[None]


@pytest_asyncio.fixture(params=[0.0, 50.0], ids=["data path first", "data path late"])
async def bench(site: Site, world: World, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The controller, with no pool, no route and no class yet."""
    objects = {_PLURALS[f.name]: dict(getattr(world, f.name)) for f in fields(world)}
    for item in (item for items in objects.values() for item in items.values()):
        item["metadata"]["resourceVersion"] = "1"
    objects["gatewayclasses"] = {}
    api = Api(objects)
    async with contextlib.AsyncExitStack() as stack:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", api.handle)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        host, port = site.address(0, 1), 8001
        await web.TCPSite(runner, host, port).start()
        client = await stack.enter_async_context(KubeApi(f"http://{host}:{port}", None, None))
        controller = GatewayController(site, client, route_lag_s=request.param)
        task = asyncio.create_task(controller.run())
        await controller.ready.wait()
        yield Bench(site, api, controller, task)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert processes.find(site.directory) == []


async def answer(bench: Bench, path: str = "/") -> tuple[int, str]:
    url = f"http://{bench.site.gateway_ip(0)}:8080{path}"
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return response.status, await response.text()


async def test_when_it_is_ready_the_class_is_there(bench: Bench) -> None:
    assert list(bench.api.objects["gatewayclasses"]) == ["gke-l7-regional-external-managed"]


async def test_from_objects_to_requests_and_back(bench: Bench) -> None:
    api = bench.api
    await api.until(lambda: api.conditions("gateways", "llm-d/front").get("Programmed") == "Programmed")
    assert api.conditions("gatewayclasses", "gke-l7-regional-external-managed") == {"Accepted": "Accepted"}
    gateway = api.objects["gateways"]["llm-d/front"]
    assert gateway["status"]["addresses"][0]["value"] == bench.site.gateway_ip(0)
    expected = {
        "Accepted": "Accepted",
        "ResolvedRefs": "ResolvedRefs",
        "Reconciled": "ReconciliationSucceeded",
    }
    await api.until(lambda: api.conditions("httproutes", "llm-d/llm") == expected)
    await api.until(lambda: "ResolvedRefs" in api.conditions("inferencepools", "llm-d/pool"))
    assert await answer(bench) == (500, ""), "the picker's pod does not answer here"

    await api.put("inferencepools", api.objects["inferencepools"]["llm-d/pool"], "DELETED")
    await api.until(lambda: api.conditions("httproutes", "llm-d/llm")["ResolvedRefs"] == "BackendNotFound")
    if not bench.controller.lag_s:
        assert await answer(bench) == (500, "fault filter abort")
        await api.put("httproutes", api.objects["httproutes"]["llm-d/llm"], "DELETED")
        await api.until(lambda: gateway_listener(api)["attachedRoutes"] == 0)
        assert await answer(bench) == (404, "fault filter abort")


def gateway_listener(api: Api) -> dict[str, Any]:
    listener: dict[str, Any] = api.objects["gateways"]["llm-d/front"]["status"]["listeners"][0]
    return listener
