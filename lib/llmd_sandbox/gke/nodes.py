"""Nodes of a pool as they come and go on GKE: Node objects are made, or cordoned, drained and deleted.

GKE leaves open which node of a zone goes. Here it is the one with the fewest pods, and of those the youngest, so
that nothing is lost needlessly.
"""

from __future__ import annotations

import asyncio
import logging
import random
import string
from collections.abc import Mapping

from llmd_sandbox.gke.replies import group
from llmd_sandbox.gke.state import GPU_TAINT, PROJECT, Pool
from llmd_sandbox.kube import ApiStatus, Cache, KubeApi, Object, key, path

log = logging.getLogger(__name__)

POOL_LABEL, ZONE_LABEL = "cloud.google.com/gke-nodepool", "topology.kubernetes.io/zone"
DRAIN_LIMIT_S = 3600.0
"""GKE respects grace periods and disruption budgets for an hour, then the node goes."""
_BUDGET_RETRY_S = 5.0

_NODES = path("v1", "nodes")


class Nodes:
    """The cluster's nodes and pods, watched; `scale` compresses GKE's own delays."""

    def __init__(self, api: KubeApi, scale: float) -> None:
        self._api, self._scale = api, scale
        self.known = self._nodes = Cache(api, _NODES)
        self.pods = self._pods = Cache(api, path("v1", "pods"))

    async def watch(self) -> None:
        """Keep both collections up to date until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._nodes.run())
            group.create_task(self._pods.run())

    async def synced(self) -> None:
        """Return once both collections are known."""
        await asyncio.gather(self._nodes.synced.wait(), self._pods.synced.wait())

    def total(self) -> int:
        """All nodes of the cluster."""
        return len(self._nodes.objects)

    def of(self, pool: str, zone: str = "") -> list[Object]:
        """The pool's live nodes, in one zone or in all."""
        labelled = ((node, node["metadata"].get("labels", {})) for node in self._nodes.objects.values())
        return [
            node
            for node, labels in labelled
            if labels.get(POOL_LABEL) == pool and zone in ("", labels.get(ZONE_LABEL, ""))
        ]

    async def grow(self, pool: Pool, counts: Mapping[str, int]) -> None:
        """Create so many nodes in each zone and return when the watch shows them."""
        made = [_node(pool, zone, self._nodes.objects) for zone, count in counts.items() for _ in range(count)]
        for node in made:
            await self._api.create(_NODES, node)
        names = {node["metadata"]["name"] for node in made}
        await self._nodes.wait_for(lambda nodes: names <= nodes.keys())

    async def shrink(self, pool: Pool, counts: Mapping[str, int]) -> None:
        """Drain and delete so many nodes of each zone, all at once, and return when they are gone."""
        await self.remove({name for zone, count in counts.items() for name in self._leaving(pool, zone, count)})

    def _leaving(self, pool: Pool, zone: str, count: int) -> list[str]:
        nodes = self.of(pool.name, zone)
        nodes = sorted(nodes, key=lambda node: node["metadata"].get("creationTimestamp", ""), reverse=True)
        names = [str(node["metadata"]["name"]) for node in nodes]
        return sorted(names, key=lambda name: len(self.evictable(name)))[:count]

    async def remove(self, names: set[str]) -> None:
        """Drain and delete these nodes, all at once, and return when they are gone."""
        for name in names:
            await self._api.strategic(f"{_NODES}/{name}", {"spec": {"unschedulable": True}})
        await asyncio.gather(*(self._remove(name) for name in names))
        await self._nodes.wait_for(lambda known: not names & known.keys())

    def evictable(self, node: str) -> list[Object]:
        """Pods that a drain moves: all but those of DaemonSets."""
        return [
            pod
            for pod in self._pods.objects.values()
            if pod["spec"].get("nodeName") == node
            and not any(owner["kind"] == "DaemonSet" for owner in pod["metadata"].get("ownerReferences", []))
        ]

    async def _remove(self, node: str) -> None:
        try:
            async with asyncio.timeout(DRAIN_LIMIT_S * self._scale):
                await asyncio.gather(*(self._evict(pod) for pod in self.evictable(node)))
                await self._pods.wait_for(lambda _: not self.evictable(node))
        except TimeoutError:
            log.warning("drain of node %s took longer than GKE waits; the node goes with its pods", node)
        await self._api.delete(f"{_NODES}/{node}")

    async def _evict(self, pod: Object) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        request = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
        }
        while True:
            try:
                await self._api.create(path("v1", "pods", namespace, name, "eviction"), request)
                return
            except ApiStatus as status:
                if status.code == 404:
                    return
                if status.code != 429:
                    raise
                log.info("eviction of %s waits for its disruption budget: %s", key(pod), status.message)
            await asyncio.sleep(_BUDGET_RETRY_S * self._scale)  # budgets free up without an event to watch


def _node(pool: Pool, zone: str, taken: dict[str, Object]) -> Object:
    stem = group(pool, zone).removesuffix("-grp")
    name = next(name for name in iter(lambda: f"{stem}-{_suffix()}", "") if name not in taken)
    labels = pool.labels | {
        POOL_LABEL: pool.name,
        "cloud.google.com/machine-family": pool.machine_type.split("-")[0],
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node.kubernetes.io/instance-type": pool.machine_type,
        "topology.kubernetes.io/region": zone.rsplit("-", 1)[0],
        ZONE_LABEL: zone,
    }
    spec: Object = {"providerID": f"gce://{PROJECT}/{zone}/{name}"}
    if pool.accelerator:
        labels["cloud.google.com/gke-accelerator"] = pool.accelerator
        labels["cloud.google.com/gke-accelerator-count"] = str(pool.accelerator_count)
        spec["taints"] = [GPU_TAINT, *pool.taints]
    if pool.spot:
        labels |= {"cloud.google.com/gke-spot": "true", "cloud.google.com/gke-provisioning": "spot"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec}


def _suffix() -> str:
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=4))
