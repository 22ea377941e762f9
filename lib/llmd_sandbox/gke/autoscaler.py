"""An autoscaler like GKE's: pods that wait for a GPU make a pool grow, up to its upper bound; idle nodes go.

It acts on pools with autoscaling and GPUs, through their instance groups and not through operations, as GKE's does,
and says what it does in Events of the pods and nodes, in the cluster autoscaler's words.
"""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

import aiohttp

from llmd_sandbox.gke.nodes import ZONE_LABEL, Nodes
from llmd_sandbox.gke.operations import BOOT_S, Operations
from llmd_sandbox.gke.replies import group_url
from llmd_sandbox.gke.state import Pool, State
from llmd_sandbox.kube import ApiStatus, KubeApi, Object, key, path

log = logging.getLogger(__name__)

_SCAN_S, _LEAST_SCAN_S = 10.0, 0.1
_GPU = "nvidia.com/gpu"


class Autoscaler:
    """Looks every 10 s times `scale`; `idle_s` is how long a node is without pods before it goes, None: never act."""

    def __init__(
        self, api: KubeApi, state: State, nodes: Nodes, operations: Operations, *, idle_s: float | None, scale: float
    ) -> None:
        self._api, self._state, self._nodes, self._operations = api, state, nodes, operations
        self._idle_s, self._scale = idle_s, scale
        self._idle_since: dict[str, dict[str, float]] = {}
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Look and act until cancelled."""
        if self._idle_s is None:
            return
        await self._nodes.synced()
        while True:
            await asyncio.sleep(max(_LEAST_SCAN_S, _SCAN_S * self._scale))
            for pool in self._state.pools:
                if pool.autoscaling.enabled and pool.accelerator_count and self._operations.idle(pool):
                    try:
                        await self._look(pool, self._idle_s)
                    except (ApiStatus, aiohttp.ClientError, TimeoutError) as error:
                        log.warning("autoscaling of %s is tried again: %s", pool.name, error)

    async def _look(self, pool: Pool, idle_s: float) -> None:
        async with self._operations.sizing:
            waiting = self._waiting()
            wanted = sum(map(gpus_of, waiting)) - self._to_come(pool)
            if wanted > 0:
                await self._grow(pool, waiting, -(-wanted // pool.accelerator_count))
            elif not waiting:
                self._said.clear()
                await self._shrink(pool, idle_s)

    async def _grow(self, pool: Pool, waiting: list[Object], wanted: int) -> None:
        counts = room(pool, wanted)
        available = self._operations.available(pool, counts)
        if not any(counts.values()):
            told = "NotTriggerScaleUp", "pod didn't trigger scale-up: 1 max node group size reached"
        elif not any(available.values()):
            zones = ", ".join(zone for zone, count in counts.items() if count)
            told = (
                "FailedScaleUp",
                (
                    f"Node scale up in zones {zones} associated with this pod failed: GCE out of resources. "
                    "Pod is at risk of not being scheduled."
                ),
            )
        else:
            limit = f"(max: {pool.autoscaling.most})"
            groups = [
                f"{{{group_url(pool, zone)} {pool.targets[zone]}->{pool.targets[zone] + count} {limit}}}"
                for zone, count in available.items()
                if count
            ]
            told = "TriggeredScaleUp", f"pod triggered scale-up: [{' '.join(groups)}]"
        covered = sum(available.values()) * pool.accelerator_count
        for pod in waiting[:covered] if covered else waiting:
            await self._tell(pod, *told)
        if covered:
            for zone, count in available.items():
                self._operations.aim(pool, zone, pool.targets[zone] + count)
            await asyncio.sleep(BOOT_S * self._scale)
            await self._nodes.grow(pool, available)

    async def _shrink(self, pool: Pool, idle_s: float) -> None:
        now = time.monotonic()
        nodes = {str(node["metadata"]["name"]): node for node in self._nodes.of(pool.name)}
        idle = [name for name, node in nodes.items() if _offers(node) and not self._nodes.evictable(name)]
        before = self._idle_since.get(pool.name, {})
        self._idle_since[pool.name] = {name: before.get(name, now) for name in idle}
        for name, since in self._idle_since[pool.name].items():
            zone = nodes[name]["metadata"]["labels"][ZONE_LABEL]
            if now - since < idle_s or not may_go(pool, zone):
                continue
            await self._tell(nodes[name], "ScaleDown", "node removed by cluster autoscaler")
            self._operations.aim(pool, zone, pool.targets[zone] - 1)
            await self._nodes.remove({name})

    def _waiting(self) -> list[Object]:
        """Pods that ask for GPUs and that the scheduler found no node for."""
        return [
            pod
            for pod in self._nodes.pods.objects.values()
            if gpus_of(pod) and "deletionTimestamp" not in pod["metadata"] and _unschedulable(pod)
        ]

    def _to_come(self, pool: Pool) -> int:
        """GPUs of machines that were asked for and that offer none yet, and of those that nobody uses."""
        nodes = self._nodes.of(pool.name)
        used = sum(gpus_of(pod) for node in nodes for pod in self._nodes.evictable(str(node["metadata"]["name"])))
        return pool.target_size * pool.accelerator_count - used

    async def _tell(self, about: Object, reason: str, message: str) -> None:
        """An Event of the cluster autoscaler's, unless it was the last thing that it said of this object."""
        meta = about["metadata"]
        if self._said.get(meta["uid"]) == f"{reason}: {message}":
            return
        self._said[meta["uid"]] = f"{reason}: {message}"
        log.info("%s: %s: %s", key(about), reason, message)
        namespace, when = meta.get("namespace", "default"), datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        kind = "Pod" if "namespace" in meta else "Node"
        reference = {"apiVersion": "v1", "kind": kind, "name": meta["name"], "uid": meta["uid"]}
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{meta['name'][:200]}.", "namespace": namespace},
            "involvedObject": reference | ({"namespace": namespace} if kind == "Pod" else {}),
            "type": "Warning" if reason == "FailedScaleUp" else "Normal",
            "reason": reason,
            "message": message,
            "source": {"component": "cluster-autoscaler"},
            "reportingComponent": "cluster-autoscaler",
            "reportingInstance": "",
            "firstTimestamp": when,
            "lastTimestamp": when,
            "count": 1,
        }
        await self._api.create(path("v1", "events", namespace), event)


def gpus_of(pod: Object) -> int:
    """GPUs that a pod asks for; none where it has ended."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    limits = (container.get("resources", {}).get("limits", {}) for container in pod["spec"].get("containers", []))
    return sum(int(limit.get(_GPU, 0)) for limit in limits)


def room(pool: Pool, wanted: int) -> dict[str, int]:
    """How many more nodes each zone may have, so that the zones are as even as may be (location policy BALANCED)."""
    counts = dict.fromkeys(pool.targets, 0)
    for _ in range(wanted):
        sizes = {zone: pool.targets[zone] + counts[zone] for zone in counts}
        full = (
            sum(sizes.values()) >= pool.autoscaling.most
            if pool.autoscaling.totals
            else min(sizes.values()) >= pool.autoscaling.most
        )
        if full:
            break
        counts[min(sizes, key=lambda zone: sizes[zone])] += 1
    return counts


def may_go(pool: Pool, zone: str) -> bool:
    """Whether a node of a zone may go without leaving the lower bound."""
    size = pool.target_size if pool.autoscaling.totals else pool.targets[zone]
    return size > pool.autoscaling.least


def _offers(node: Object) -> bool:
    return int(node.get("status", {}).get("allocatable", {}).get(_GPU, 0)) > 0


def _unschedulable(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(item["type"] == "PodScheduled" and item.get("reason") == "Unschedulable" for item in conditions)
