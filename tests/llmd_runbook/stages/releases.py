"""A pattern's releases in memory, in place of a release tool."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from llmd_runbook.clients.gke import Bounds, OperationState, PoolState
from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.clients.releases import Release

GPU_LIMIT = {"nvidia.com/gpu": "1"}


@dataclass
class Releases:
    """One release of a pattern: a Deployment with a GPU. As much of a driver as planning needs."""

    name: str
    present: bool
    replicas: int = 1
    args: list[str] = field(default_factory=list)
    chart: str = "sha256:0"
    status: str = "deployed"
    revision: int = 1
    differs: bool = False

    def names(self) -> list[str]:
        return [self.name]

    def installed(self, namespace: str) -> list[Release]:
        made = Release(self.name, namespace, "chart", self.revision, self.status, datetime.now(UTC))
        return [made] if self.present else []

    def charts(self) -> dict[str, str]:
        return {self.name: self.chart}

    def differing(self) -> list[str]:
        return [] if self.present and not self.differs else [self.name]

    def stored(self, release: str) -> list[Object]:
        return self.render() if release == self.name else []

    def render(self) -> list[Object]:
        container = {"resources": {"limits": GPU_LIMIT}, "args": self.args}
        spec = {
            "replicas": self.replicas,
            "selector": {"matchLabels": {"app": self.name}},
            "template": {"spec": {"containers": [container]}},
        }
        return [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name}, "spec": spec}]


@dataclass
class Pool:
    """A node pool with autoscaling from `min_nodes` to 5, in its one zone, or in other bounds."""

    min_nodes: int = 2
    zones: tuple[str, ...] = ("l",)
    running: list[OperationState] = field(default_factory=list)
    provisioning: str = "standard"
    bounds: Bounds | None = None
    off: bool = False
    status: str = "RUNNING"

    def running_operations(self) -> list[OperationState]:
        return self.running

    def describe(self) -> PoolState:
        bounds = self.bounds or Bounds(self.min_nodes, 5, len(self.zones))
        return PoolState(
            name="pool",
            status=self.status,
            machine_type="n1-standard-4",
            accelerator_type="t4",
            accelerator_count=1,
            bounds=None if self.off else bounds,
            locations=self.zones,
            conditions=(),
            version="1",
            provisioning=self.provisioning,
        )
