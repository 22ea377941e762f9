"""Spot capacity that is taken back: the node is cordoned, its pods end, and when the notice is over it is gone.

As on GKE, the instance group makes another machine for it where the zone has one.
"""

from __future__ import annotations

import asyncio
import logging

from llmd_sandbox.gke.nodes import POOL_LABEL
from llmd_sandbox.kube import ApiStatus, Cache, KubeApi, Object, path

log = logging.getLogger(__name__)

KUBELET, NOTICE = "llmd-sandbox/kubelet", "llmd-sandbox/notice-s"
"""Annotations of a Node: `reclaimed`, and the notice in seconds (30 times the scale where none is given)."""
NOTICE_S = 30.0
_GRACE_S = 15
"""What is left of the notice to pods that do not belong to the system."""
_NODES = path("v1", "nodes")


class Reclaim:
    """Takes nodes back that are so annotated; `lost` has the pools of those that are gone."""

    def __init__(self, api: KubeApi, nodes: Cache, scale: float) -> None:
        self._api, self._nodes, self._scale = api, nodes, scale
        self._under_way: set[str] = set()
        self.lost: asyncio.Queue[str] = asyncio.Queue()

    async def run(self) -> None:
        """Watch for annotations until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._nodes.wait_for(lambda nodes: bool(self._wanted(nodes)))
                for name, node in self._wanted(self._nodes.objects).items():
                    self._under_way.add(name)
                    group.create_task(self._take(name, node))

    def _wanted(self, nodes: dict[str, Object]) -> dict[str, Object]:
        return {
            name: node
            for name, node in nodes.items()
            if name not in self._under_way and (node["metadata"].get("annotations") or {}).get(KUBELET) == "reclaimed"
        }

    async def _take(self, name: str, node: Object) -> None:
        says = node["metadata"]["annotations"].get(NOTICE)
        notice_s = float(says) if says else NOTICE_S * self._scale
        try:
            await self._api.strategic(f"{_NODES}/{name}", {"spec": {"unschedulable": True}})
            query = {"fieldSelector": f"spec.nodeName={name}"}
            pods = (await self._api.call("GET", path("v1", "pods"), params=query))["items"] or []
            for pod in pods:
                meta = pod["metadata"]
                grace_s = min(_GRACE_S, int(notice_s))
                await self._api.delete(path("v1", "pods", meta["namespace"], meta["name"]), grace_s=grace_s)
            await asyncio.sleep(notice_s)
            await self._api.delete(f"{_NODES}/{name}")
        except (ApiStatus, TimeoutError) as error:
            log.warning("node %s was not taken back: %s", name, error)
            return
        await self._nodes.wait_for(lambda nodes: name not in nodes)
        self._under_way.discard(name)
        self.lost.put_nowait(node["metadata"].get("labels", {}).get(POOL_LABEL, ""))
