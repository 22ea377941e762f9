from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from llmd_sandbox.kube import ApiStatus, Cache, KubeApi, Object, key, path

URL = path("v1", "pods")


class Api:
    """As much of an API server as the cache needs: one collection, whose watch the test feeds."""

    def __init__(self) -> None:
        self.items: list[Object] | None = []
        self.version = 1
        self.lists = 0
        self.watches: list[asyncio.Queue[Object | None]] = []
        self.refuse: int | None = None
        self.bodies: list[str] = []

    async def collection(self, request: web.Request) -> web.StreamResponse:
        if self.refuse:
            code, self.refuse = self.refuse, None
            return web.json_response({"reason": "Gone", "message": "too old"}, status=code)
        if "watch" not in request.query:
            self.lists += 1
            meta = {"resourceVersion": str(self.version)}
            return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": self.items})
        response = web.StreamResponse()
        await response.prepare(request)
        events: asyncio.Queue[Object | None] = asyncio.Queue()
        self.watches.append(events)
        while (event := await events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response

    async def create(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.text())
        return web.json_response({"kind": "Pod"}, status=201)

    async def missing(self, request: web.Request) -> web.Response:
        return web.json_response({"reason": "NotFound", "message": f"{request.path} not found"}, status=404)


def pod(name: str, version: int = 1, **labels: str) -> Object:
    meta: dict[str, Any] = {"name": name, "namespace": "n", "resourceVersion": str(version), "labels": labels}
    return {"metadata": meta}


@pytest.fixture
def fake() -> Api:
    return Api()


@pytest.fixture
async def api(fake: Api) -> AsyncIterator[KubeApi]:
    app = web.Application()
    app.router.add_get(URL, fake.collection)
    app.router.add_post(URL, fake.create)
    app.router.add_delete(f"{URL}/gone", fake.missing)
    app.router.add_get(f"{URL}/gone", fake.missing)
    async with TestServer(app) as server, KubeApi(str(server.make_url("")).rstrip("/"), None, None) as made:
        yield made
        for watch in fake.watches:
            watch.put_nowait(None)


@pytest.fixture
async def cache(api: KubeApi) -> AsyncIterator[Cache]:
    made = Cache(api, URL)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def watching(fake: Api, count: int = 1) -> asyncio.Queue[Object | None]:
    async with asyncio.timeout(5):
        while True:
            if len(fake.watches) >= count:
                return fake.watches[-1]
            await asyncio.sleep(0.005)


async def test_it_lists_then_follows_the_watch(fake: Api, cache: Cache) -> None:
    fake.items = [pod("a")]
    await cache.wait_for(lambda known: "n/a" in known, 5)
    assert cache.objects["n/a"]["kind"] == "Pod"
    events = await watching(fake)
    events.put_nowait({"type": "ADDED", "object": pod("b")})
    await cache.wait_for(lambda known: "n/b" in known, 5)
    events.put_nowait({"type": "DELETED", "object": pod("a")})
    await cache.wait_for(lambda known: set(known) == {"n/b"}, 5)


async def test_an_empty_collection_may_be_null(fake: Api, cache: Cache) -> None:
    fake.items = None
    await asyncio.wait_for(cache.synced.wait(), 5)
    assert cache.objects == {}


async def test_after_an_expired_watch_it_lists_again_and_reports_only_differences(fake: Api, cache: Cache) -> None:
    fake.items = [pod("kept"), pod("changed"), pod("removed")]
    await cache.wait_for(lambda known: len(known) == 3, 5)
    told: list[tuple[str, str]] = []
    cache.listen(lambda event, item: told.append((event, key(item))))
    told.clear()
    fake.items = [pod("kept"), pod("changed", 2), pod("new")]
    (await watching(fake)).put_nowait({"type": "ERROR", "object": {"code": 410}})
    await cache.wait_for(lambda known: "n/new" in known, 5)
    assert sorted(told) == [("ADDED", "n/new"), ("DELETED", "n/removed"), ("MODIFIED", "n/changed")]


async def test_a_refused_list_is_tried_again(fake: Api, cache: Cache) -> None:
    fake.refuse, fake.items = 500, [pod("a")]
    await cache.wait_for(lambda known: "n/a" in known, 5)
    assert fake.lists == 1


async def test_a_listener_hears_what_is_known_already(fake: Api, cache: Cache) -> None:
    fake.items = [pod("a")]
    await cache.wait_for(lambda known: "n/a" in known, 5)
    told: list[str] = []
    cache.listen(lambda event, item: told.append(event))
    assert told == ["ADDED"]


async def test_a_wait_has_an_end(cache: Cache) -> None:
    with pytest.raises(TimeoutError):
        await cache.wait_for(lambda known: False, 0.05)


async def test_a_refusal_keeps_the_servers_words(api: KubeApi) -> None:
    with pytest.raises(ApiStatus, match="404 NotFound: /api/v1/pods/gone not found"):
        await api.get(f"{URL}/gone")


async def test_deleting_what_is_gone_is_no_error(api: KubeApi) -> None:
    await api.delete(f"{URL}/gone")


async def test_text_is_sent_as_it_is_and_objects_as_json(fake: Api, api: KubeApi) -> None:
    await api.call("POST", URL, "kind: Pod\n", content_type="application/yaml")
    await api.create(URL, {"kind": "Pod"})
    assert fake.bodies == ["kind: Pod\n", '{"kind": "Pod"}']
