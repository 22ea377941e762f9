"""The Lease API in memory, for several clients at once: versions, conflicts, watches, and what goes wrong."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from llmd_runbook.clients.kubernetes import Kubernetes, Object, Resource
from llmd_runbook.errors import Conflict, DeadlineExceeded, Unreachable

T = TypeVar("T")
_PATIENCE_S = 60.0


class LeaseApi:
    """What all clients see.

    Attributes:
        patience_over: waits end at once as if their time had passed; else they last until something changes.
        down: no request is answered.
        lost_answers: so many writes are made and not answered.
    """

    def __init__(self) -> None:
        self.items: dict[str, Object] = {}
        self.patience_over = False
        self.down = False
        self.lost_answers = 0
        self.writes = 0
        self.asked = 0
        self.before_write: Callable[[], None] | None = None
        self._changed = threading.Condition()
        self._versions = itertools.count(1)

    def client(self) -> Client:
        """Another client."""
        return Client(self)

    def write(self, name: str, item: Object | None) -> None:
        """Put an object in place of whatever is there; None takes it away."""
        with self._changed:
            if item is None:
                self.items.pop(name, None)
            else:
                meta = {**item["metadata"], "resourceVersion": str(next(self._versions))}
                self.items[name] = {**copy.deepcopy(item), "metadata": meta}
            self.writes += 1
            self._changed.notify_all()

    def edit(self, name: str, **spec: Any) -> None:
        """Change fields of a Lease, as kubectl would."""
        item = self.items[name]
        self.write(name, {**item, "spec": {**item["spec"], **spec}})

    def swap(self, name: str, item: Object, expected: str | None) -> Object:
        """Write, provided that the version is the expected one (None: that there is none)."""
        if (hook := self.before_write) is not None:
            self.before_write = None
            hook()
        self.answer()
        with self._changed:
            found = self.items.get(name)
            if (found["metadata"]["resourceVersion"] if found else None) != expected:
                raise Conflict("somebody else changed it", where=name)
            self.write(name, item)
            if self.lost_answers:
                self.lost_answers -= 1
                raise Unreachable("no answer", reason="it was lost")
            return self.items[name]

    def answer(self) -> None:
        """Count a request, and answer it or not."""
        self.asked += 1
        if self.down:
            raise Unreachable("no answer", reason="the API is down")

    def until(self, done: Callable[[], T | None]) -> T:
        """Wait until something is neither None nor False."""
        with self._changed:
            while not (found := done()):
                if self.patience_over or not self._changed.wait(_PATIENCE_S):
                    raise DeadlineExceeded("it did not come true")
            return found


class Client(Kubernetes):
    """One client of it."""

    def __init__(self, api: LeaseApi) -> None:
        self._api_in_memory = api

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        self._api_in_memory.answer()
        return copy.deepcopy(self._api_in_memory.items.get(name))

    def create(self, resource: Resource, manifest: Object, namespace: str) -> Object:
        return self._api_in_memory.swap(manifest["metadata"]["name"], manifest, None)

    def replace(self, resource: Resource, manifest: Object, namespace: str) -> Object:
        meta = manifest["metadata"]
        return self._api_in_memory.swap(meta["name"], manifest, meta["resourceVersion"])

    def wait(self, resource: Resource, done: Callable[[list[Object]], T | None], **_: Any) -> T:
        return self._api_in_memory.until(lambda: done(list(self._api_in_memory.items.values())))
