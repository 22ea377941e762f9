"""The Kubernetes API as the sandbox's components use it: raw JSON objects, and one watch cache shared by all.

The components are clients like any other: list, watch, patch. Objects are the API server's plain dicts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import yaml

log = logging.getLogger(__name__)

Object = dict[str, Any]
Listener = Callable[[str, Object], None]
"""Called with ADDED, MODIFIED or DELETED and the object; must not block."""


class ApiStatus(Exception):
    """The API server refused. `code` is the HTTP status, `reason` and `message` are its own."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason, self.message = code, reason, message
        super().__init__(f"{code} {reason}: {message}")


def path(api_version: str, plural: str, namespace: str | None = None, name: str | None = None, sub: str = "") -> str:
    """The URL path of a collection or an object.

    >>> path("v1", "pods", "default", "p", "status")
    '/api/v1/namespaces/default/pods/p/status'
    >>> path("apps/v1", "deployments")
    '/apis/apps/v1/deployments'
    """
    parts = ["/api/v1" if api_version == "v1" else f"/apis/{api_version}"]
    parts += [f"namespaces/{namespace}"] if namespace else []
    parts += [part for part in (plural, name, sub) if part]
    return "/".join(parts)


class KubeApi:
    """One connection to the API server, from a kubeconfig with a token or nothing but a CA."""

    def __init__(self, server: str, token: str | None, context: ssl.SSLContext | None) -> None:
        self.server = server
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._ssl: ssl.SSLContext | bool = context if context is not None else True
        self._session: aiohttp.ClientSession | None = None

    @staticmethod
    def from_kubeconfig(file: Path) -> KubeApi:
        """Read server, CA and token of the kubeconfig's current context."""
        config = yaml.safe_load(file.read_text())
        current = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
        cluster = next(c["cluster"] for c in config["clusters"] if c["name"] == current["cluster"])
        user = next(u["user"] for u in config["users"] if u["name"] == current["user"])
        context = None
        if cluster["server"].startswith("https"):
            context = ssl.create_default_context()
            if "certificate-authority-data" in cluster:
                ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
                context = ssl.create_default_context(cadata=ca)
            elif "certificate-authority" in cluster:
                context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        return KubeApi(cluster["server"], user.get("token"), context)

    async def __aenter__(self) -> KubeApi:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session:
            await self._session.close()

    async def call(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        params: dict[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Object:
        """One request; the decoded answer. A `body` that is text is sent as it is.

        Raises:
            ApiStatus: the server refused.
            aiohttp.ClientError, TimeoutError: no answer.
        """
        assert self._session is not None, "use `async with`"
        async with self._session.request(
            method,
            self.server + url,
            data=body if body is None or isinstance(body, str) else json.dumps(body),
            headers={"Content-Type": content_type} if body is not None else {},
            params=params or {},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            text = await response.text()
            if response.status >= 400:
                raise _status(response.status, text)
            answer: Object = json.loads(text) if text else {}
            return answer

    async def get(self, url: str) -> Object:
        """Read one object or list."""
        return await self.call("GET", url)

    async def text(self, url: str, timeout_s: float = 5) -> str:
        """The body of an answer that is no JSON (`/readyz`), whatever its status."""
        assert self._session is not None, "use `async with`"
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with self._session.get(self.server + url, timeout=timeout) as response:
            return await response.text()

    async def create(self, url: str, body: Object) -> Object:
        """POST to a collection."""
        return await self.call("POST", url, body)

    async def merge(self, url: str, body: Object) -> Object:
        """JSON merge patch (use it on `.../status` for a status)."""
        return await self.call("PATCH", url, body, content_type="application/merge-patch+json")

    async def strategic(self, url: str, body: Object) -> Object:
        """Strategic merge patch (built-in kinds only; lists merge by key, e.g. conditions by type)."""
        return await self.call("PATCH", url, body, content_type="application/strategic-merge-patch+json")

    async def apply(self, url: str, body: Object, manager: str = "llmd-sandbox") -> Object:
        """Server-side apply, forced."""
        return await self.call(
            "PATCH",
            url,
            body,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": manager, "force": "true"},
        )

    async def delete(self, url: str, *, grace_s: int | None = None) -> None:
        """Delete; an object that is gone already is no error."""
        try:
            await self.call("DELETE", url, {} if grace_s is None else {"gracePeriodSeconds": grace_s})
        except ApiStatus as status:
            if status.code != 404:
                raise

    async def _watch(self, url: str, version: str, params: dict[str, str]) -> AsyncIterator[Object]:
        assert self._session is not None
        query = {**params, "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self._session.get(self.server + url, params=query) as response:
            if response.status >= 400:
                raise _status(response.status, await response.text())
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)


class Cache:
    """A collection kept up to date by list and watch; components read it and are told of every change.

    Keys are `namespace/name`, or `name` for cluster-scoped kinds.
    """

    def __init__(self, api: KubeApi, url: str, params: dict[str, str] | None = None) -> None:
        self.api, self.url, self.params = api, url, params or {}
        self.objects: dict[str, Object] = {}
        self.synced = asyncio.Event()
        self._listeners: list[Listener] = []
        self._changed = asyncio.Condition()

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of every object now known and of every change from now on."""
        self._listeners.append(listener)
        for item in list(self.objects.values()):
            listener("ADDED", item)

    async def run(self) -> None:
        """List, then watch, for ever; starts again by itself after an error or a 410."""
        while True:
            try:
                version = await self._list()
                self.synced.set()
                async for event in self.api._watch(self.url, version, self.params):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] != "BOOKMARK":
                        await self._take(event["type"], event["object"])
            except (ApiStatus, aiohttp.ClientError, TimeoutError, OSError) as error:
                log.info("watch of %s starts again: %s", self.url, error)
                await asyncio.sleep(0.2)

    async def wait_for(self, predicate: Callable[[dict[str, Object]], bool], timeout_s: float | None = None) -> None:
        """Return as soon as `predicate(objects)` holds; woken by every change, never by a clock.

        Raises:
            TimeoutError: after `timeout_s`.
        """
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: self.synced.is_set() and predicate(self.objects))

    async def _list(self) -> str:
        answer = await self.api.call("GET", self.url, params=self.params)
        kind = answer["kind"].removesuffix("List")
        fresh = {}
        for item in answer["items"] or []:  # null when empty, for some kinds
            item.setdefault("kind", kind)
            item.setdefault("apiVersion", answer["apiVersion"])
            fresh[key(item)] = item
        for gone in set(self.objects) - set(fresh):
            await self._take("DELETED", self.objects[gone])
        for name, item in fresh.items():
            old = self.objects.get(name)
            if old is None or old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                await self._take("MODIFIED" if old else "ADDED", item)
        version: str = answer["metadata"]["resourceVersion"]
        async with self._changed:
            self._changed.notify_all()
        return version

    async def _take(self, event: str, item: Object) -> None:
        if event == "DELETED":
            self.objects.pop(key(item), None)
        else:
            self.objects[key(item)] = item
        for listener in self._listeners:
            listener(event, item)
        async with self._changed:
            self._changed.notify_all()


def key(item: Object) -> str:
    """`namespace/name`, or `name`."""
    meta = item["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def _status(code: int, text: str) -> ApiStatus:
    try:
        body = json.loads(text)
        return ApiStatus(code, body.get("reason", ""), body.get("message", text))
    except ValueError:
        return ApiStatus(code, "", text[:500])
