import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.kubelet.events import EventRecorder
from llmd_sandbox.kubelet.nodes import SILENCE, NodeKeeper
from llmd_sandbox.site import Site

NODE = "/api/v1/nodes/n1"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1"
Until = Callable[[Callable[[], object]], Awaitable[None]]
GPU_LABELS = {
    "node.kubernetes.io/instance-type": "n1-standard-4",
    "cloud.google.com/gke-accelerator-count": "1",
}


def conditions(node: Object) -> dict[str, Object]:
    return {item["type"]: item for item in node.get("status", {}).get("conditions", [])}


def ready(objects: dict[str, Object]) -> str | None:
    found = conditions(objects[NODE]).get("Ready")
    return found["status"] if found else None


@pytest.fixture
async def keeper(site: Site, api: KubeApi, put: Callable[[str, Object], Object]) -> AsyncIterator[NodeKeeper]:
    node = put(NODE, {"metadata": {"name": "n1", "labels": GPU_LABELS}})
    keeper = NodeKeeper(site, api, EventRecorder(api), node)
    running = asyncio.create_task(keeper.run())
    yield keeper
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_ready_then_gpus(keeper: NodeKeeper, objects: dict[str, Object], until: Until) -> None:
    await until(lambda: ready(objects) == "True")
    await until(lambda: objects[NODE]["status"]["allocatable"]["nvidia.com/gpu"] == "1")
    status = objects[NODE]["status"]
    assert status["allocatable"]["cpu"] == "4"
    assert status["allocatable"]["memory"] == "15Gi"
    assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10250
    assert {a["type"] for a in status["addresses"]} == {"InternalIP", "Hostname"}
    assert conditions(objects[NODE])["MemoryPressure"]["status"] == "False"


async def test_not_ready_while_it_boots(
    api: KubeApi, put: Callable[[str, Object], Object], objects: dict[str, Object], until: Until
) -> None:
    node = put(NODE, {"metadata": {"name": "n1"}})
    keeper = NodeKeeper(Site("slow", 50, startup_scale=1), api, EventRecorder(api), node)
    running = asyncio.create_task(keeper.run())
    await until(lambda: ready(objects) == "False")
    assert not keeper.booted.is_set()
    assert "nvidia.com/gpu" not in objects[NODE]["status"]["allocatable"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_lease_is_made_for_the_node(keeper: NodeKeeper, objects: dict[str, Object], until: Until) -> None:
    await until(lambda: LEASE in objects)
    lease = objects[LEASE]
    assert lease["spec"]["holderIdentity"] == "n1"
    assert lease["metadata"]["ownerReferences"][0]["uid"] == objects[NODE]["metadata"]["uid"]


async def test_an_existing_lease_is_renewed(
    site: Site, api: KubeApi, put: Callable[[str, Object], Object], objects: dict[str, Object], until: Until
) -> None:
    old = "2020-01-01T00:00:00.000000Z"
    put(LEASE, {"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1", "renewTime": old}})
    node = put(NODE, {"metadata": {"name": "n1"}})
    running = asyncio.create_task(NodeKeeper(site, api, EventRecorder(api), node).run())
    await until(lambda: objects[LEASE]["spec"]["renewTime"] != old)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_node_declared_unknown_says_again_that_it_is_ready(
    keeper: NodeKeeper, put: Callable[[str, Object], Object], objects: dict[str, Object], until: Until
) -> None:
    await until(lambda: ready(objects) == "True")
    lost: dict[str, Any] = {
        **objects[NODE],
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
    }
    keeper.update(put(NODE, lost))
    await until(lambda: ready(objects) == "True")


async def test_a_silent_node_says_nothing_until_it_may(
    keeper: NodeKeeper, put: Callable[[str, Object], Object], objects: dict[str, Object], until: Until
) -> None:
    await until(lambda: ready(objects) == "True")
    quiet = {**objects[NODE]["metadata"], "annotations": {SILENCE: "silent"}}
    doubted: dict[str, Any] = {"conditions": [{"type": "Ready", "status": "Unknown"}]}
    keeper.update(put(NODE, {"metadata": quiet, "status": doubted}))
    assert keeper.silent
    for _ in range(20):
        await asyncio.sleep(0)
    assert ready(objects) == "Unknown"
    keeper.update(put(NODE, {"metadata": {**quiet, "annotations": {}}, "status": doubted}))
    await until(lambda: ready(objects) == "True")
