"""A container's environment and command line, with its mount paths mapped to where they really lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet import downward
from llmd_sandbox.kubelet.sources import ConfigError, Sources
from llmd_sandbox.site import MARKER, Site

_REFERENCE = re.compile(r"\$\$|\$\(([^()\s]+)\)")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Mounts:
    """Where a container's mount paths lie on the host."""

    real: Mapping[str, Path]

    def apply(self, text: str) -> str:
        """Replace each mount path where it starts a path in `text`; paths that merely contain it stay."""
        if not self.real:
            return text
        longest_first = sorted(self.real, key=len, reverse=True)
        pattern = "|".join(re.escape(mount) for mount in longest_first)
        return re.sub(rf"(?<![\w./-])(?:{pattern})(?![\w.-])", lambda match: str(self.real[match.group()]), text)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value, `$$` a dollar; what is unknown stays as written.

    >>> expand("$(A) $$(A) $(B)", {"A": "1"})
    '1 $(A) $(B)'
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "$"
        return variables.get(match[1], match[0])

    return _REFERENCE.sub(value, text)


def base(site: Site, pod_name: str, ip: str, home: Path) -> dict[str, str]:
    """What every container gets: nothing of the supervisor's own environment but the language."""
    return {
        "PATH": _PATH,
        "HOME": str(home),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "HOSTNAME": pod_name,
        "PYTHONUNBUFFERED": "1",
        "LLMD_SANDBOX_POD_IP": ip,
        "LLMD_SANDBOX_STARTUP_SCALE": str(site.startup_scale),
        MARKER: str(site.directory),
    }


async def declared(
    pod: Object,
    container: Object,
    sources: Sources,
    *,
    ip: str,
    host_ip: str,
    allocatable: Mapping[str, str],
) -> dict[str, str]:
    """`envFrom` and `env` of a container, references resolved.

    Raises:
        ConfigError: a Secret, ConfigMap or key that does not exist; the wording is the kubelet's.
    """
    namespace = pod["metadata"]["namespace"]
    variables: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix", "")
        for key, data in (await _all_of(source, namespace, sources)).items():
            variables[prefix + key] = data.decode(errors="replace")
    for entry in container.get("env") or []:
        origin = entry.get("valueFrom") or {}
        if "fieldRef" in origin:
            variables[entry["name"]] = downward.field(pod, origin["fieldRef"]["fieldPath"], ip=ip, host_ip=host_ip)
        elif "resourceFieldRef" in origin:
            reference = origin["resourceFieldRef"]
            name = reference.get("containerName")
            owner = downward.container_named(pod, name) if name else container
            variables[entry["name"]] = downward.resource(owner, reference, allocatable)
        elif origin:
            data_of_key = await _key(origin, namespace, sources)
            if data_of_key is not None:
                variables[entry["name"]] = data_of_key.decode(errors="replace")
        else:
            variables[entry["name"]] = expand(entry.get("value", ""), variables)
    return variables


def command_line(words: Iterable[str], variables: Mapping[str, str], mounts: Mounts) -> list[str]:
    """A container's `command` or `args` as its process gets them."""
    return [mounts.apply(expand(word, variables)) for word in words]


async def _all_of(source: Object, namespace: str, sources: Sources) -> dict[str, bytes]:
    if reference := source.get("secretRef"):
        found = await sources.secret(namespace, reference["name"], optional=reference.get("optional", False))
    else:
        reference = source["configMapRef"]
        found = await sources.config_map(namespace, reference["name"], optional=reference.get("optional", False))
    return found or {}


async def _key(origin: Object, namespace: str, sources: Sources) -> bytes | None:
    if reference := origin.get("secretKeyRef"):
        kind, optional = "Secret", reference.get("optional", False)
        data = await sources.secret(namespace, reference["name"], optional=optional)
    elif reference := origin.get("configMapKeyRef"):
        kind, optional = "ConfigMap", reference.get("optional", False)
        data = await sources.config_map(namespace, reference["name"], optional=optional)
    else:
        raise ConfigError(f"unsupported valueFrom: {', '.join(origin)}")
    if data is not None and reference["key"] in data:
        return data[reference["key"]]
    if optional:
        return None
    raise ConfigError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")
