from __future__ import annotations

import json
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import Resource
from llmd_runbook.clients.live import LiveObjects
from llmd_runbook.errors import NotFound
from tests.llmd_runbook.memory import Memory

KINDS = {
    "/api/v1": [
        {"kind": "Service", "name": "services", "namespaced": True},
        {"kind": "Service", "name": "services/status", "namespaced": True},
        {"kind": "Node", "name": "nodes", "namespaced": False},
    ],
    "/apis/example.com/v1": [{"kind": "Gateway", "name": "gateways", "namespaced": True}],
}


class Cluster(Memory):
    """Knows the kinds above."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def raw(self, path: str) -> str:
        self.asked.append(path)
        if path not in KINDS:
            raise NotFound("no such API", where=path)
        return json.dumps({"resources": KINDS[path]})


def manifest(version: str, kind: str, **meta: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "x", **meta}}


@pytest.mark.parametrize(
    ("version", "plural", "namespace", "wanted"),
    [
        ("v1", "services", "llm-d", manifest("v1", "Service")),
        ("v1", "services", "other", manifest("v1", "Service", namespace="other")),
        ("v1", "nodes", None, manifest("v1", "Node")),
        ("example.com/v1", "gateways", "llm-d", manifest("example.com/v1", "Gateway")),
    ],
)
def test_an_object_is_found_by_its_manifest(
    version: str, plural: str, namespace: str | None, wanted: dict[str, Any]
) -> None:
    kube = Cluster()
    there = {"metadata": {"name": "x", "namespace": namespace, "uid": "u"}}
    kube.add(Resource(version, plural), there)
    live = LiveObjects(kube, "llm-d")
    assert live.find(wanted) is there
    assert live.find(wanted) is there
    assert len(kube.asked) == 1  # kinds are asked for once
    kube.objects.clear()
    assert live.find(wanted) is None


@pytest.mark.parametrize("version", ["v1", "unknown.example/v1"])
def test_a_kind_that_the_cluster_does_not_know_has_no_objects(version: str) -> None:
    assert LiveObjects(Cluster(), "llm-d").find(manifest(version, "Unheard")) is None
