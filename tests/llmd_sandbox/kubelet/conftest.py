"""An API server in memory, and pods whose image is a shell."""

import asyncio
import copy
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmd_sandbox.kube import ApiStatus, KubeApi, Object
from llmd_sandbox.kubelet.context import Host, PodContext
from llmd_sandbox.kubelet.events import EventRecorder
from llmd_sandbox.kubelet.sources import Sources
from llmd_sandbox.kubelet.times import rfc3339
from llmd_sandbox.site import Site

Until = Callable[[Callable[[], object]], Awaitable[None]]


class FakeApi(KubeApi):
    """Objects by URL; lists, watches, merges; conditions merge by type as in a strategic merge patch."""

    def __init__(self) -> None:
        super().__init__("http://api.invalid", None, None)
        self.objects: dict[str, Object] = {}
        self.calls: list[tuple[str, str]] = []
        self._serial = itertools.count(1)
        self._watchers: dict[str, list[asyncio.Queue[Object]]] = {}
        self._changed = asyncio.Event()

    async def until(self, predicate: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not predicate():
                await self._changed.wait()

    def put(self, url: str, item: Object, event: str | None = None) -> Object:
        meta = item.setdefault("metadata", {})
        meta.setdefault("uid", f"uid-{url.rsplit('/', 1)[1]}")
        meta.setdefault("creationTimestamp", rfc3339())
        meta["resourceVersion"] = str(next(self._serial))
        self._tell(url, event or ("MODIFIED" if url in self.objects else "ADDED"), item)
        self.objects[url] = item
        return item

    def remove(self, url: str) -> None:
        self._tell(url, "DELETED", self.objects.pop(url))

    def _tell(self, url: str, event: str, item: Object) -> None:
        parts = url.split("/")
        collections = {url.rsplit("/", 1)[0], "/".join([*parts[:3], parts[-2]])}
        for collection in collections:
            for queue in self._watchers.get(collection, []):
                queue.put_nowait({"type": event, "object": copy.deepcopy(item)})
        self._changed.set()
        self._changed = asyncio.Event()

    async def call(self, method: str, url: str, body: Any = None, **options: Any) -> Object:
        self.calls.append((method, url))
        target = url.removesuffix("/status")
        if method == "POST":
            if url.endswith("/token"):
                return {"status": {"token": "token-of-" + url.split("/")[-2]}}
            name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{next(self._serial)}"
            body["metadata"]["name"] = name
            return copy.deepcopy(self.put(f"{url}/{name}", copy.deepcopy(body)))
        if method == "GET" and target not in self.objects and not _is_object(url):
            return self._list(url)
        if target not in self.objects:
            raise ApiStatus(404, "NotFound", f"{url} not found")
        if method == "PATCH":
            return copy.deepcopy(self.put(target, _merged(self.objects[target], body)))
        if method == "DELETE":
            self.remove(target)
        return copy.deepcopy(self.objects.get(target, {}))

    def _list(self, url: str) -> Object:
        plural = url.rsplit("/", 1)[1]
        items = [copy.deepcopy(item) for where, item in self.objects.items() if where.split("/")[-2] == plural]
        return {"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "0"}, "items": items}

    async def _watch(self, url: str, version: str, params: dict[str, str]) -> AsyncIterator[Object]:
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self._watchers.setdefault(url, []).append(queue)
        while True:
            yield await queue.get()


def _is_object(url: str) -> bool:
    plurals = {"pods", "nodes", "secrets", "configmaps", "events", "leases", "serviceaccounts"}
    return url.rsplit("/", 1)[1] not in plurals


def _merged(old: Object, patch: Object) -> Object:
    result = dict(old)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif name == "conditions":
            kinds = [c["type"] for c in value]
            kept = [c for c in old.get(name) or [] if c["type"] not in kinds]
            result[name] = [*kept, *({k: v for k, v in c.items() if v is not None} for c in value)]
        else:
            result[name] = _merged(old.get(name) or {}, value) if isinstance(value, dict) else value
    return result


def shell(image: str, command: list[str], args: list[str]) -> list[str] | None:
    words = [*command, *args]
    if image == "python":
        return [sys.executable, "-S", *words]
    return words if image == "shell" else None


@pytest.fixture
async def fake() -> FakeApi:
    return FakeApi()


@pytest.fixture
def api(fake: FakeApi) -> KubeApi:
    return fake


@pytest.fixture
def objects(fake: FakeApi) -> dict[str, Object]:
    """Everything in the API, by URL."""
    return fake.objects


@pytest.fixture
def put(fake: FakeApi) -> Callable[[str, Object], Object]:
    """Create or replace an object."""
    return fake.put


@pytest.fixture
def remove(fake: FakeApi) -> Callable[[str], None]:
    """Delete an object at once."""
    return fake.remove


@pytest.fixture
def calls(fake: FakeApi) -> list[tuple[str, str]]:
    """Method and URL of every call so far."""
    return fake.calls


@pytest.fixture
def until(fake: FakeApi) -> Until:
    """Wait for something to become true in the API; woken by every change."""
    return fake.until


@pytest.fixture
async def host(site: Site, api: KubeApi) -> AsyncIterator[Host]:
    """What the pods of a kubelet share; its events are written."""
    events = EventRecorder(api)
    async with aiohttp.ClientSession() as http:
        writing = asyncio.create_task(events.run())
        yield Host(site, api, events, Sources(api), http, shell)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


@pytest.fixture
def make_pod() -> Callable[..., Object]:
    """A pod `p` in namespace `ns` on node `n1`, by its containers and further fields of its spec."""

    def make(*containers: Object, **spec: Any) -> Object:
        return {
            "metadata": {"namespace": "ns", "name": "p", "uid": "u1", "labels": {"app": "x"}},
            "spec": {"nodeName": "n1", "containers": list(containers), **spec},
        }

    return make


@pytest.fixture
def context(host: Host, site: Site, tmp_path: Path, make_pod: Callable[..., Object]) -> PodContext:
    """A pod on its node, for a single container."""
    pod = make_pod()
    ip = site.pod_ip(0)
    return PodContext(host, pod, ip, tmp_path / "pod", {"cpu": "4"}, changed=lambda: None)
