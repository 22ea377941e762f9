"""The object in the cluster that a manifest speaks of, whatever its kind."""

from __future__ import annotations

import json

from llmd_runbook.clients.kubernetes import Kubernetes, Object, Resource
from llmd_runbook.errors import NotFound


class LiveObjects:
    """Reads objects by their manifests; asks for each API group's kinds once."""

    def __init__(self, kube: Kubernetes, namespace: str) -> None:
        self._kube, self._namespace = kube, namespace
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    def find(self, manifest: Object) -> Object | None:
        """The object as the API server holds it; None where there is none, or its kind is unknown to the cluster."""
        version, meta = manifest["apiVersion"], manifest["metadata"]
        plural, namespaced = self._kinds_of(version).get(manifest["kind"], ("", False))
        if not plural:
            return None
        namespace = meta.get("namespace", self._namespace) if namespaced else None
        return self._kube.find(Resource(version, plural), meta["name"], namespace)

    def _kinds_of(self, version: str) -> dict[str, tuple[str, bool]]:
        """Of each kind of an API version, its plural and whether it is namespaced."""
        if version not in self._kinds:
            try:
                listed = json.loads(self._kube.raw(f"/api/{version}" if version == "v1" else f"/apis/{version}"))
            except NotFound:
                listed = {"resources": []}
            self._kinds[version] = {
                item["kind"]: (item["name"], item["namespaced"])
                for item in listed["resources"]
                if "/" not in item["name"]
            }
        return self._kinds[version]
