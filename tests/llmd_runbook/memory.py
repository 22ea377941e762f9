"""A cluster in memory: as much of the Kubernetes client as reading needs."""

from __future__ import annotations

import json

from llmd_runbook.clients.kubernetes import Kubernetes, Object, Resource
from llmd_runbook.errors import NotFound


class Memory(Kubernetes):
    """Objects by path; selectors are of the form a=b,c=d."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}

    def add(self, resource: Resource, item: Object) -> None:
        """Put an object in."""
        self.objects[resource.path(item["metadata"].get("namespace"), item["metadata"]["name"])] = item

    def get(self, resource: Resource, name: str, namespace: str | None = None, sub: str | None = None) -> Object:
        path = resource.path(namespace, name, sub)
        if path not in self.objects:
            raise NotFound("not found", where=path)
        return self.objects[path]

    def raw(self, path: str) -> str:
        """The kinds of an API group, as far as rendered objects have them."""
        kinds = [{"kind": "Deployment", "name": "deployments", "namespaced": True}]
        return json.dumps({"resources": kinds if path == "/apis/apps/v1" else []})

    def all(
        self, resource: Resource, namespace: str | None = None, selector: str = "", fields: str = ""
    ) -> list[Object]:
        wanted = dict(part.split("=") for part in selector.split(",") if part)

        def meant(path: str, meta: Object) -> bool:
            here = path == resource.path(meta.get("namespace"), meta["name"])
            labels = meta.get("labels", {}).items()
            return here and namespace in (None, meta.get("namespace")) and wanted.items() <= labels

        return [item for path, item in self.objects.items() if meant(path, item["metadata"])]
