"""What the containers of one pod share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.kubelet.events import EventRecorder, pod_reference
from llmd_sandbox.kubelet.sources import Sources
from llmd_sandbox.site import Site

Resolver = Callable[[str, list[str], list[str]], list[str] | None]
"""From image, command and args to the command line of the local program; None when there is none."""


@dataclass
class Host:
    """What every pod of this kubelet shares."""

    site: Site
    api: KubeApi
    events: EventRecorder
    sources: Sources
    http: aiohttp.ClientSession
    resolve: Resolver
    pulled: set[tuple[str, str]] = field(default_factory=set)
    """Node and image of what was pulled already."""
    nodes: Mapping[str, Object] = field(default_factory=dict)
    """The Node objects by name, as they are now."""
    silent: set[str] = field(default_factory=set)
    """Nodes whose kubelet says nothing to the API server; their containers run on."""


@dataclass
class PodContext:
    """One pod on its node."""

    host: Host
    pod: Object
    ip: str
    folder: Path
    allocatable: Mapping[str, str]
    changed: Callable[[], None]
    """Called when a container's state changed."""
    volumes: dict[str, Path] = field(default_factory=dict)
    kubeconfig: Path | None = None

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.pod["metadata"]["name"])

    @property
    def node(self) -> str:
        """The node's name."""
        return str(self.pod["spec"]["nodeName"])

    @property
    def host_ip(self) -> str:
        """The node's address."""
        return self.host.site.kubelet[0]

    @property
    def full_name(self) -> str:
        """`name_namespace(uid)`, as the kubelet's messages have it."""
        meta = self.pod["metadata"]
        return f"{meta['name']}_{meta['namespace']}({meta['uid']})"

    @property
    def grace_s(self) -> float:
        """How long a process may take to end."""
        return float(self.pod["spec"].get("terminationGracePeriodSeconds", 30))

    def event(self, reason: str, message: str, *, warning: bool = False, field_path: str | None = None) -> None:
        """Record an Event about the pod or, by field path, one of its containers."""
        about = pod_reference(self.pod, field_path)
        self.host.events.emit(about, reason, message, node=self.node, warning=warning)
