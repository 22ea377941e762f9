"""Reading Kubernetes objects: selectors, ready pods, ports, reference grants. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmd_sandbox.kube import Object, key

Objects = Mapping[str, Object]
Address = tuple[str, int]


@dataclass(frozen=True)
class World:
    """Everything the gateway's configuration follows from; keys as in `kube.Cache`."""

    classes: Objects = field(default_factory=dict)
    gateways: Objects = field(default_factory=dict)
    routes: Objects = field(default_factory=dict)
    pools: Objects = field(default_factory=dict)
    services: Objects = field(default_factory=dict)
    pods: Objects = field(default_factory=dict)
    grants: Objects = field(default_factory=dict)
    namespaces: Objects = field(default_factory=dict)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector (`matchLabels`, `matchExpressions`) takes an object with `labels`."""
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    name, values = expression["key"], expression.get("values", [])
    match expression["operator"]:
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case _:
            return name not in labels


def ready_pods(pods: Objects, namespace: str, match_labels: Mapping[str, str]) -> list[Object]:
    """Pods that take traffic: selected, Ready, with an address, not being deleted; in order of name."""
    return [
        pod
        for _, pod in sorted(pods.items())
        if match_labels
        and pod["metadata"]["namespace"] == namespace
        and selects({"matchLabels": match_labels}, pod["metadata"].get("labels", {}))
        and is_ready(pod)
    ]


def is_ready(pod: Object) -> bool:
    """Whether the pod has an address, the condition Ready, and is not being deleted."""
    status = pod.get("status", {})
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", []))
    return ready and bool(status.get("podIP")) and "deletionTimestamp" not in pod["metadata"]


def service_port(service: Object, port: int) -> Object | None:
    """The Service's entry for `port`."""
    found: Object
    for found in service["spec"].get("ports", []):
        if found["port"] == port:
            return found
    return None


def service_endpoints(service: Object, port: int, pods: Objects) -> list[Address]:
    """Where a Service's port leads: address and port of each Ready pod that its selector takes."""
    entry = service_port(service, port)
    if entry is None:
        return []
    found = []
    for pod in ready_pods(pods, service["metadata"]["namespace"], service["spec"].get("selector") or {}):
        target = _target_port(pod, entry)
        if target is not None:
            found.append((str(pod["status"]["podIP"]), target))
    return found


def _target_port(pod: Object, entry: Object) -> int | None:
    target = entry.get("targetPort", entry["port"])
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == target:
                return int(port["containerPort"])
    return None


def permits(grants: Objects, source: Object, group: str, kind: str, namespace: str, name: str) -> bool:
    """Whether `source` may refer to the named object: same namespace, or a ReferenceGrant there says so."""
    if source["metadata"]["namespace"] == namespace:
        return True
    return any(
        grant["metadata"]["namespace"] == namespace
        and any(_is_from(entry, source) for entry in grant["spec"]["from"])
        and any(
            to.get("group", "") == group and to["kind"] == kind and to.get("name", name) == name
            for to in grant["spec"]["to"]
        )
        for grant in grants.values()
    )


def _is_from(entry: Object, source: Object) -> bool:
    group = source["apiVersion"].rpartition("/")[0]
    return bool(
        entry.get("group", "") == group
        and entry["kind"] == source["kind"]
        and entry["namespace"] == source["metadata"]["namespace"]
    )


def condition(kind: str, holds: bool | str, reason: str, message: str = "", *, of: Object) -> dict[str, Any]:
    """A condition without its transition time; `holds` may be "Unknown"."""
    return {
        "type": kind,
        "status": holds if isinstance(holds, str) else str(holds),
        "reason": reason,
        "message": message,
        "observedGeneration": of["metadata"].get("generation", 1),
    }


def by_age(items: Iterable[Object]) -> list[Object]:
    """Oldest first, ties by namespace and name: Gateway API's order of precedence."""
    return sorted(items, key=lambda item: (str(item["metadata"].get("creationTimestamp", "")), key(item)))
