"""Events of nodes and pods; what repeats is counted on one Event, as the real kubelet does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp

from llmd_sandbox.kube import ApiStatus, KubeApi, Object, path
from llmd_sandbox.kubelet.times import rfc3339

log = logging.getLogger(__name__)

Key = tuple[str, ...]


def pod_reference(pod: Object, field: str | None = None) -> Object:
    """What an Event about a pod, or about one of its containers by field path, points at."""
    meta = pod["metadata"]
    reference = {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": meta["namespace"],
        "name": meta["name"],
        "uid": meta["uid"],
    }
    return {**reference, "fieldPath": field} if field else reference


def node_reference(name: str) -> Object:
    """What an Event about a node points at; the uid is the name, as `kubectl describe` expects."""
    return {"kind": "Node", "apiVersion": "v1", "name": name, "uid": name}


class EventRecorder:
    """Writes events one after the other, in the order they happened; callers never wait."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._queue: asyncio.Queue[tuple[Object, str, str, str, str, str]] = asyncio.Queue()
        self._known: dict[Key, tuple[str, int]] = {}

    def emit(self, about: Object, reason: str, message: str, *, node: str, warning: bool = False) -> None:
        """Record that something happened on `node`; `about` is a reference."""
        kind = "Warning" if warning else "Normal"
        self._queue.put_nowait((about, kind, reason, message, node, rfc3339()))

    def forget(self, uid: str) -> None:
        """Drop what is remembered about an object that is gone."""
        self._known = {key: value for key, value in self._known.items() if key[0] != uid}

    async def run(self) -> None:
        """Write events until cancelled; one that cannot be written is logged and dropped."""
        while True:
            event = await self._queue.get()
            try:
                await self._write(*event)
            except (ApiStatus, aiohttp.ClientError, TimeoutError) as error:
                log.info("event %s on %s not written: %s", event[2], event[0]["name"], error)
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        """Wait until all events so far are written or dropped."""
        await self._queue.join()

    async def _write(self, about: Object, kind: str, reason: str, message: str, node: str, when: str) -> None:
        key = (about["uid"], about.get("fieldPath", ""), kind, reason, message)
        namespace = about.get("namespace", "default")
        if key in self._known:
            name, count = self._known[key]
            try:
                await self._api.merge(
                    path("v1", "events", namespace, name), {"count": count + 1, "lastTimestamp": when}
                )
            except ApiStatus as status:
                if status.code != 404:
                    raise
            else:
                self._known[key] = (name, count + 1)
                return
        event: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{about['name'][:200]}.", "namespace": namespace},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "kubelet", "host": node},
            "reportingComponent": "kubelet",
            "reportingInstance": node,
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }
        made = await self._api.create(path("v1", "events", namespace), event)
        self._known[key] = (made["metadata"]["name"], 1)
