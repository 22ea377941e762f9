"""The helm binary in memory: releases of two small charts, whose objects it makes one by one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from llmd_runbook.errors import ToolCutShort, ToolError
from tests.drills.model.api_server import PLURALS, ApiServer, Key, Object
from tests.drills.model.calls import Calls, Trouble
from tests.drills.model.clock import Clock
from tests.drills.model.cluster import GPU, NAMESPACE


@dataclass
class Stored:
    """A release as helm keeps it."""

    status: str
    revision: int
    updated: datetime
    manifest: list[Object]
    values: dict[str, Any] = field(default_factory=dict)


class Releases:
    """All releases of the cluster; `charts` makes a release's objects from its name and values."""

    def __init__(self, api: ApiServer, clock: Clock, calls: Calls, charts: Callable[[str], list[Object]]) -> None:
        self.api, self.clock, self.calls, self.charts = api, clock, calls, charts
        self.stored: dict[str, Stored] = {}
        self.hang = False
        """The next change hangs until it is stopped."""
        self.waits = False
        """The next upgrade waits for pods until its own time is up."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: str = "",
        guard: Callable[[], None] | None = None,
        **_: Any,
    ) -> str:
        """What stands in for `llmd_runbook.clients.releases.process.run`."""
        self.calls.alive()
        if guard:
            guard()
        return Helm(self, timeout_s).run(*argv[1:], stdin=stdin)

    def install(self, name: str) -> None:
        """A release that was always there."""
        self.stored[name] = Stored("deployed", 1, self.clock.present(), self.charts(name))
        for item in self.charts(name):
            self.api.put(PLURALS[item["kind"]], copy.deepcopy(item))


class Helm:
    """One caller's helm."""

    def __init__(self, releases: Releases, timeout_s: float) -> None:
        self._at, self._timeout_s = releases, timeout_s

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a command; what it prints."""
        match arguments:
            case ("version", *_):
                return "v4.1.4"
            case ("list", *_):
                self._at.calls.read()
                return json.dumps([_listed(name, item) for name, item in self._at.stored.items()])
            case ("template", "identity", *_):
                self._at.calls.read()
                (found,) = [each for each in self._at.api.of("namespaces") if each["metadata"]["name"] == "kube-system"]
                return self._text([{"data": {"uid": found["metadata"]["uid"]}}])
            case ("template", name, *_):
                return self._text(self._at.charts(name))
            case ("get", "values", name, *_):
                self._at.calls.read()
                return json.dumps(self._stored(name).values)
            case ("get", "manifest", name, *_):
                self._at.calls.read()
                return self._text(self._stored(name).manifest)
            case ("upgrade", "--install", name, *rest):
                self._upgrade(name, _values(rest, stdin))
            case ("uninstall", name, *_):
                self._uninstall(name)
            case ("rollback", name, *_):
                self._rollback(name)
            case _:
                raise AssertionError(f"the model knows no helm {arguments}")
        return ""

    @staticmethod
    def _text(objects: list[Object]) -> str:
        return "\n---\n".join(json.dumps(item) for item in objects)

    def _stored(self, name: str) -> Stored:
        if name not in self._at.stored:  # another run took it meanwhile
            raise self._failed("release: not found")
        return self._at.stored[name]

    def _upgrade(self, name: str, values: dict[str, Any]) -> None:
        old = self._at.stored.get(name)
        if old and old.status.startswith("pending"):
            raise self._failed("another operation (install/upgrade/rollback) is in progress")
        kind = "pending-upgrade" if old and old.status != "uninstalling" else "pending-install"
        release = Stored(kind, old.revision + 1 if old else 1, self._at.clock.present(), self._at.charts(name), values)
        self._change("store", name, partial(self._at.stored.__setitem__, name, release))
        self._hang()
        before = {_at(item): item for item in old.manifest} if old else {}
        for item in release.manifest:
            if before.get(_at(item)) == item and _at(item) in self._at.api.objects:
                continue  # helm changes what differs from what it stored, whatever somebody else made of it
            make = partial(self._at.api.put, PLURALS[item["kind"]], copy.deepcopy(item))
            self._change("put", f"{item['kind']} {item['metadata']['name']}", make, release)
        for at in before.keys() - {_at(item) for item in release.manifest}:
            self._change("delete", at.name, partial(self._at.api.remove, at), release)
        if self._at.waits:
            self._at.waits = False
            self._at.clock.pass_s(self._timeout_s / 2)
            self._change("store", name, partial(setattr, release, "status", "failed"))
            raise self._failed("context deadline exceeded", ToolCutShort)
        self._change("store", name, partial(setattr, release, "status", "deployed"))

    def _uninstall(self, name: str) -> None:
        release = self._at.stored.get(name)
        if release is None:
            raise self._failed(f"uninstall: Release not loaded: {name}: release: not found")
        mark = partial(setattr, release, "status", "uninstalling")
        self._change("store", name, mark)
        release.updated = self._at.clock.present()
        self._hang()
        for item in release.manifest:
            self._change(
                "delete", f"{item['kind']} {item['metadata']['name']}", partial(self._at.api.remove, _at(item))
            )
        self._change("store", name, partial(self._at.stored.pop, name))

    def _rollback(self, name: str) -> None:
        release = self._stored(name)
        for item in release.manifest:
            put = partial(self._at.api.put, PLURALS[item["kind"]], copy.deepcopy(item))
            self._change("put", f"{item['kind']} {item['metadata']['name']}", put, release)
        release.revision += 1
        self._change("store", name, partial(setattr, release, "status", "deployed"))

    def _change(self, verb: str, target: str, act: Callable[[], object], release: Stored | None = None) -> None:
        """One call of helm's own to the API server; helm dies with us, and what it did not do stays undone."""
        trouble = self._at.calls.change("helm", verb, target, self._at.clock.now_s)
        if trouble is Trouble.THROTTLED:  # helm's own client waits and asks again
            self._at.clock.pass_s(1.0)
            trouble = self._at.calls.change("helm", verb, target, self._at.clock.now_s)
        if trouble in (Trouble.CONFLICT, Trouble.BROKEN):
            if release:
                release.status = "failed"
            raise self._failed(f"Internal error occurred: {verb} {target}: {trouble}")
        act()
        self._at.clock.pass_s(0.05)
        self._at.calls.done(trouble)
        if trouble is Trouble.LOST:
            if release:
                release.status = "failed"
            raise self._failed(f"{verb} {target}: unexpected EOF", ToolCutShort)

    def _hang(self) -> None:
        if self._at.hang:
            self._at.hang = False
            self._at.clock.pass_s(self._timeout_s)
            self._at.calls.alive()
            raise ToolCutShort(f"helm did not end within {self._timeout_s:g} s and was stopped", remedy="run it again")

    @staticmethod
    def _failed(reason: str, kind: type[ToolError] = ToolError) -> ToolError:
        return kind("helm failed with exit status 1", where="helm", reason=f"Error: {reason}", remedy="run again")


_SCORERS = {"prefix-cache-scorer": 3, "kv-cache-utilization-scorer": 2, "queue-scorer": 2}
PICKER_CONFIG = json.dumps(
    {
        "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": name} for name in [*_SCORERS, "max-score-picker", "single-profile-handler"]],
        "schedulingProfiles": [
            {
                "name": "default",
                "plugins": [
                    *({"pluginRef": name, "weight": weight} for name, weight in _SCORERS.items()),
                    {"pluginRef": "max-score-picker"},
                ],
            }
        ],
    }
)


def pool_chart(pattern: str) -> list[Object]:
    """InferencePool, picker and its Service."""
    picker = f"gaie-{pattern}-epp"
    meta = {"namespace": NAMESPACE}
    selector = {"selector": {"matchLabels": {"app": f"ms-{pattern}"}}}
    reference = {"name": picker, "port": {"number": 9002}}
    container = {
        "name": "epp",
        "args": ["--config-file", "/config/default.yaml"],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }
    volume = {"name": "config", "configMap": {"name": picker}}
    template = {"metadata": {"labels": {"app": picker}}, "spec": {"containers": [container], "volumes": [volume]}}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**meta, "name": picker},
            "data": {"default.yaml": PICKER_CONFIG},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": picker},
            "spec": {"selector": {"app": picker}},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {**meta, "name": picker},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": picker}}, "template": template},
        },
        {
            "apiVersion": "inference.networking.k8s.io/v1",
            "kind": "InferencePool",
            "metadata": {**meta, "name": f"gaie-{pattern}"},
            "spec": {**selector, "targetPorts": [{"number": 8000}], "endpointPickerRef": reference},
        },
    ]


def server_chart(pattern: str, model: str, replicas: int) -> list[Object]:
    """The model servers."""
    app = f"ms-{pattern}"
    container = {
        "name": "vllm",
        "image": "vllm",
        "command": ["vllm", "serve"],
        "args": [model, "--port", "8000"],
        "resources": {"limits": {GPU: "1"}},
    }
    template = {"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template}
    meta = {"name": app, "namespace": NAMESPACE}
    return [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}]


def _listed(name: str, item: Stored) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "chart": "chart-1.0.0",
        "revision": item.revision,
        "status": item.status,
        "updated": item.updated.isoformat(),
    }


def _at(item: Object) -> Key:
    return Key(PLURALS[item["kind"]], item["metadata"].get("namespace", ""), item["metadata"]["name"])


def _values(arguments: list[str], stdin: str) -> dict[str, Any]:
    files = [after for word, after in pairwise(arguments) if word == "--values"]
    merged: dict[str, Any] = {}
    for file in files:
        merged |= (json.loads(stdin) if file == "-" else yaml.safe_load(Path(file).read_text())) or {}
    return merged
