"""A Kubernetes API server in memory, behind the official client's own lowest call: JSON over HTTP, without the wire."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import urllib3
from kubernetes import client

from tests.drills.model.calls import Calls, Trouble
from tests.drills.model.clock import Clock

HOST = "kubernetes.model"
Object = dict[str, Any]
_PATH = re.compile(
    r"/(?P<root>api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<ns>[^/]+)(?=/))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_KINDS = {
    "pods": "Pod",
    "nodes": "Node",
    "namespaces": "Namespace",
    "configmaps": "ConfigMap",
    "services": "Service",
    "events": "Event",
    "deployments": "Deployment",
    "replicasets": "ReplicaSet",
    "gateways": "Gateway",
    "httproutes": "HTTPRoute",
    "inferencepools": "InferencePool",
    "leases": "Lease",
}
_GROUP = re.compile(r"/(?:api/v1|apis/[^/]+/[^/]+)")
_OF_THE_CLUSTER = ("nodes", "namespaces")
PLURALS = {kind: plural for plural, kind in _KINDS.items()}


class Key(NamedTuple):
    """Where an object lies."""

    plural: str
    namespace: str
    name: str


class Refused(Exception):
    """An answer that is none of 2xx."""

    def __init__(self, status: int, reason: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, headers or {}


class Answer:
    """A response as the official client reads it."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None, stream: Any = None) -> None:
        self.status, self.reason, self.data = status, "", text.encode()
        self._headers, self._stream = headers or {}, stream
        self.response = self

    def read(self) -> bytes:
        return self.data

    def getheaders(self) -> dict[str, str]:
        return self._headers

    def getheader(self, name: str, default: str | None = None) -> str | None:
        return self._headers.get(name, default)

    @property
    def headers(self) -> dict[str, str]:
        return self._headers

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        return

    def release_conn(self) -> None:
        return


class ApiServer:
    """Objects, their versions, and watches; controllers hear of every change through `on_change`."""

    def __init__(self, clock: Clock, calls: Calls) -> None:
        self.objects: dict[Key, Object] = {}
        self.on_change: list[Callable[[str, Key, Object], None]] = []
        self._clock, self._calls = clock, calls
        self._version = 1
        self._log: list[tuple[int, Key, str, dict[str, str], str]] = []

    def client(self) -> Any:
        """The official client, led here instead of to a server."""
        settings = client.Configuration(host=f"https://{HOST}")
        api: Any = client.ApiClient(settings)
        api.call_api = self._serve
        return api

    # --- what happens inside the cluster, by no client of ours

    def put(self, plural: str, item: Object) -> Object:
        """Create or replace an object whole; a changed spec is another generation."""
        meta = item["metadata"]
        at = Key(plural, meta.get("namespace", ""), meta["name"])
        old = self.objects.get(at)
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        meta["uid"] = old["metadata"]["uid"] if old else f"uid-{self._version}"
        meta["creationTimestamp"] = old["metadata"]["creationTimestamp"] if old else self._clock.present().isoformat()
        generation = old["metadata"].get("generation", 1) if old else 1
        meta["generation"] = generation + bool(old and old.get("spec") != item.get("spec"))
        self.objects[at] = item
        self._tell("MODIFIED" if old else "ADDED", at, item)
        return item

    def status(self, at: Key, **fields: Any) -> None:
        """Change fields of an object's status, where it still exists."""
        if (item := self.objects.get(at)) is not None and any(
            item.get("status", {}).get(name) != value for name, value in fields.items()
        ):
            self.put(at.plural, {**copy.deepcopy(item), "status": {**item.get("status", {}), **fields}})

    def remove(self, at: Key) -> None:
        """Take an object away, where it still exists."""
        if (item := self.objects.pop(at, None)) is not None:
            self._version += 1
            item["metadata"]["resourceVersion"] = str(self._version)
            self._tell("DELETED", at, item)

    def of(self, plural: str, **labels: str) -> list[Object]:
        """The objects of a kind with these labels."""
        return [
            item
            for at, item in self.objects.items()
            if at.plural == plural and labels.items() <= item["metadata"].get("labels", {}).items()
        ]

    def _tell(self, event: str, at: Key, item: Object) -> None:
        labels = item["metadata"].get("labels", {})
        self._log.append((self._version, at, event, dict(labels), json.dumps(item)))
        for hear in self.on_change:
            hear(event, at, item)

    # --- what clients ask for

    def _serve(
        self, method: str, url: str, headers: Any = None, body: Any = None, post: Any = None, **_: Any
    ) -> Answer:
        split = urlsplit(url)
        path, query = unquote(split.path), dict(parse_qsl(split.query, keep_blank_values=True))
        try:
            if method == "GET":
                self._calls.read()
                if query.get("watch") == "true":
                    return Answer(200, "", stream=self._watch(path, query))
                return Answer(200, json.dumps(self._read(path, query)))
            return self._change(method, path, dict(headers or {}), body)
        except Refused as refused:
            said = {"kind": "Status", "code": refused.status, "reason": refused.reason, "message": str(refused)}
            return Answer(refused.status, json.dumps(said), refused.headers)

    def _read(self, path: str, query: dict[str, str]) -> Object:
        if path == "/version":
            return {"gitVersion": "v1.36.3"}
        if _GROUP.fullmatch(path):  # every group has every kind
            kinds = [(kind, plural, plural not in _OF_THE_CLUSTER) for plural, kind in _KINDS.items()]
            return {"resources": [dict(zip(("kind", "name", "namespaced"), each, strict=True)) for each in kinds]}
        at, sub, root = _parsed(path)
        if at.name:
            if at not in self.objects:
                raise Refused(404, "NotFound", f'{at.plural} "{at.name}" not found')
            return self.objects[at] if sub in ("", "status") else {"spec": self.objects[at]["spec"]}
        wanted = _selector(query)
        items = [
            item
            for key, item in self.objects.items()
            if key.plural == at.plural
            and at.namespace in ("", key.namespace)
            and wanted.items() <= item["metadata"].get("labels", {}).items()
        ]
        kind = {"kind": f"{_KINDS[at.plural]}List", "apiVersion": root.removeprefix("apis/").removeprefix("api/")}
        return {**kind, "metadata": {"resourceVersion": str(self._version)}, "items": items}

    def _watch(self, path: str, query: dict[str, str]) -> Iterator[bytes]:
        at, wanted = _parsed(path)[0], _selector(query)
        until_s = self._clock.now_s + float(query.get("timeoutSeconds", "60"))
        seen = next(
            (n for n, entry in enumerate(self._log) if entry[0] > int(query["resourceVersion"])), len(self._log)
        )
        while True:
            for _, key, event, labels, text in self._log[seen:]:
                if key.plural == at.plural and at.namespace in ("", key.namespace) and wanted.items() <= labels.items():
                    yield f'{{"type": "{event}", "object": {text}}}\n'.encode()
            seen = len(self._log)
            self._calls.alive()
            if not self._clock.step(until_s):
                return
            self._calls.alive()

    def _change(self, method: str, path: str, headers: dict[str, str], body: Any) -> Answer:
        verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[method]
        trouble = self._calls.change("kubernetes", verb, path, self._clock.now_s)
        match trouble:
            case Trouble.CONFLICT:
                raise Refused(409, "Conflict", "the object has been modified; please apply your changes to the latest")
            case Trouble.THROTTLED:
                raise Refused(
                    429, "TooManyRequests", "Too many requests, please try again later.", {"Retry-After": "1"}
                )
            case Trouble.BROKEN:
                raise Refused(500, "InternalError", "etcdserver: request timed out")
        done = self._changed(method, path, headers.get("Content-Type", ""), body)
        self._calls.done(trouble)
        if trouble is Trouble.LOST:
            raise urllib3.exceptions.ProtocolError("Connection aborted: the answer was lost")
        return Answer(200, json.dumps(done))

    def _changed(self, method: str, path: str, content: str, body: Any) -> Object:
        at, _, root = _parsed(path)
        old = self.objects.get(at)
        if method == "POST":
            at = at._replace(name=body["metadata"]["name"])
            if at in self.objects:
                raise Refused(409, "AlreadyExists", f'{at.plural} "{at.name}" already exists')
            return self.put(at.plural, _placed(body, at, root))
        if method == "PATCH" and "apply" in content:
            return self.put(at.plural, _merged(copy.deepcopy(old) if old else {}, _placed(body, at, root)))
        if old is None:
            raise Refused(404, "NotFound", f'{at.plural} "{at.name}" not found')
        if method == "DELETE":
            return self._deleted(at, old, body or {})
        if method == "PUT":
            _require_version(old, body)
            return self.put(at.plural, _placed(body, at, root))
        fresh = copy.deepcopy(old)
        if "json-patch" in content:
            for operation in body:
                _operate(fresh, operation)
        else:
            _require_version(old, body)
            _merged(fresh, body)
        return self.put(at.plural, fresh)

    def _deleted(self, at: Key, old: Object, options: Object) -> Object:
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted not in (None, old["metadata"]["uid"]):
            raise Refused(409, "Conflict", f"the UID in the precondition ({wanted}) is another")
        if at.plural == "pods" and "deletionTimestamp" not in old["metadata"]:
            marked = copy.deepcopy(old)
            marked["metadata"]["deletionTimestamp"] = self._clock.present().isoformat()
            return self.put("pods", marked)
        self.remove(at)
        return {"kind": "Status", "status": "Success"}


def _parsed(path: str) -> tuple[Key, str, str]:
    found = _PATH.fullmatch(path)
    if found is None or found["plural"] not in _KINDS:
        raise Refused(404, "NotFound", f"the server could not find {path}")
    return Key(found["plural"], found["ns"] or "", found["name"] or ""), found["sub"] or "", found["root"]


def _selector(query: dict[str, str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part)


def _placed(body: Object, at: Key, root: str) -> Object:
    item = copy.deepcopy(body)
    item["metadata"]["name"] = at.name
    if at.namespace:
        item["metadata"]["namespace"] = at.namespace
    item.setdefault("apiVersion", root.removeprefix("apis/").removeprefix("api/"))
    item.setdefault("kind", _KINDS[at.plural])
    return item


def _require_version(old: Object, body: Object) -> None:
    wanted = (body.get("metadata") or {}).get("resourceVersion")
    if wanted not in (None, "", old["metadata"]["resourceVersion"]):
        raise Refused(409, "Conflict", f'Operation cannot be fulfilled on "{old["metadata"]["name"]}": it was modified')


def _merged(below: Object, above: Object) -> Object:
    """JSON merge patch (RFC 7396), in place; server-side apply of what we alone own comes to the same."""
    for key, value in above.items():
        if value is None:
            below.pop(key, None)
        elif isinstance(value, dict):
            below[key] = _merged(dict(below.get(key) or {}), value)
        else:
            below[key] = value
    return below


def _operate(item: Any, operation: Object) -> None:
    """One operation of JSON Patch (RFC 6902): test, add, replace, remove."""
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    try:
        for part in parents:
            item = item[int(part) if isinstance(item, list) else part]
        index: Any = int(last) if isinstance(item, list) and last != "-" else last
        match operation["op"]:
            case "test":
                if item[index] != operation["value"]:
                    raise Refused(
                        422, "Invalid", f"the server rejected our request: testing {operation['path']} failed"
                    )
            case "remove":
                del item[index]
            case "add" if isinstance(item, list):
                item.insert(len(item) if index == "-" else index, operation["value"])
            case _:
                item[index] = operation["value"]
    except (KeyError, IndexError):
        raise Refused(422, "Invalid", f"the server rejected our request: no path {operation['path']}") from None
