"""The downward API: values of a pod's own fields and resources."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet.sources import ConfigError

_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{letter: Decimal(1024) ** power for power, letter in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
_ENTRY = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]")


def quantity(text: str) -> Decimal:
    """The number that a Kubernetes quantity stands for.

    >>> int(quantity("15Gi"))
    16106127360
    """
    digits = text.rstrip("mkKMGTPEi")
    return Decimal(digits) * _SUFFIXES[text[len(digits) :]]


def field(pod: Object, path: str, *, ip: str, host_ip: str) -> str:
    """The value of a `fieldRef`.

    Raises:
        ConfigError: a field that the downward API does not know.
    """
    meta, spec = pod["metadata"], pod["spec"]
    if entry := _ENTRY.fullmatch(path):
        return str((meta.get(entry[1]) or {}).get(entry[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        values = meta.get(path.removeprefix("metadata.")) or {}
        return "\n".join(f'{key}="{_escaped(value)}"' for key, value in sorted(values.items()))
    plain = {
        "metadata.name": meta["name"],
        "metadata.namespace": meta["namespace"],
        "metadata.uid": meta["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.podIP": ip,
        "status.podIPs": ip,
        "status.hostIP": host_ip,
        "status.hostIPs": host_ip,
    }
    if path not in plain:
        raise ConfigError(f"unsupported fieldPath: {path}")
    return str(plain[path])


def resource(container: Object, reference: Object, allocatable: Mapping[str, str]) -> str:
    """The value of a `resourceFieldRef`; a limit that is not set is what the node has.

    Raises:
        ConfigError: a resource that neither the container nor the node has.
    """
    which, _, name = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    value = (resources.get(which) or {}).get(name)
    if value is None:
        value = allocatable.get(name) if which == "limits" else "0"
    if value is None:
        raise ConfigError(f"unsupported container resource: {reference['resource']}")
    divisor = quantity(str(reference.get("divisor") or "1")) or Decimal(1)
    return str(math.ceil(quantity(str(value)) / divisor))


def container_named(pod: Object, name: str) -> Object:
    """The container of that name, init containers included.

    Raises:
        ConfigError: there is none.
    """
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        if container["name"] == name:
            found: Object = container
            return found
    raise ConfigError(f"container {name} not found")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
