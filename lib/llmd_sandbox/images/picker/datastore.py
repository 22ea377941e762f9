"""What the API server says: the pool, its ready pods, and the objectives that name it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from llmd_runbook.analysis.scorers import Endpoint
from llmd_sandbox.images.picker.scrape import Target
from llmd_sandbox.kube import Cache, KubeApi, Object, path

LEGACY_GROUP = "inference.networking.x-k8s.io"


class Datastore:
    """Keeps `targets` equal to the pool's ready pods, in the order in which they became known."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        pool: str,
        pool_group: str,
        metrics_port: int,
        changed: Callable[[], None],
    ) -> None:
        version = f"{pool_group}/{'v1alpha2' if pool_group == LEGACY_GROUP else 'v1'}"
        self._pools = Cache(api, path(version, "inferencepools", namespace), {"fieldSelector": f"metadata.name={pool}"})
        self._pods = Cache(api, path("v1", "pods", namespace))
        self._objectives = Cache(api, path(f"{LEGACY_GROUP}/v1alpha2", "inferenceobjectives", namespace))
        self._key = f"{namespace}/{pool}"
        self._metrics_port = metrics_port
        self._changed = changed
        self.pool_name = pool
        self.namespace = namespace
        self.targets: dict[str, Target] = {}
        self._pools.listen(lambda event, item: self._refresh())
        self._pods.listen(lambda event, item: self._refresh())

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as tasks:
            for cache in (self._pools, self._pods, self._objectives):
                tasks.create_task(cache.run())

    @property
    def pool_synced(self) -> bool:
        """Whether the pool is there and its pods are known."""
        return self._key in self._pools.objects and self._pods.synced.is_set()

    def priority(self, objective: str) -> int:
        """The priority of an objective of this pool; 0 for one that does not exist."""
        item = self._objectives.objects.get(f"{self.namespace}/{objective}")
        if item is None or item["spec"].get("poolRef", {}).get("name") != self.pool_name:
            return 0
        return int(item["spec"].get("priority") or 0)

    def _refresh(self) -> None:
        pool = self._pools.objects.get(self._key)
        wanted = {} if pool is None else self._wanted(pool)
        for name in set(self.targets) - set(wanted):
            del self.targets[name]
        for name, target in wanted.items():
            known = self.targets.get(name)
            if known is None or known.destination != target.destination:
                self.targets[name] = target
        self._changed()

    def _wanted(self, pool: Object) -> dict[str, Target]:
        spec = pool["spec"]
        selector = spec["selector"].get("matchLabels", spec["selector"])
        ports = [port["number"] for port in spec.get("targetPorts", [])] or [spec["targetPortNumber"]]
        metrics_port = self._metrics_port if len(ports) == 1 else 0
        wanted = {}
        for pod in self._pods.objects.values():
            if not _ready(pod) or not selector.items() <= pod["metadata"].get("labels", {}).items():
                continue
            meta = pod["metadata"]
            for rank, port in enumerate(ports):
                name = f"{meta['name']}-rank-{rank}"
                wanted[name] = Target(
                    meta["namespace"],
                    meta["name"],
                    pod["status"]["podIP"],
                    port,
                    metrics_port or port,
                    Endpoint(name),
                )
        return wanted


def _ready(pod: Object) -> bool:
    if pod["metadata"].get("deletionTimestamp") or not pod.get("status", {}).get("podIP"):
        return False
    conditions = pod["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
