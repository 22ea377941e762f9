"""The GKE stand-in against an API server in memory: what it answers, and what it does to nodes and pods."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import socket
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmd_sandbox.control_plane import pki
from llmd_sandbox.gke.reclaim import KUBELET, NOTICE
from llmd_sandbox.gke.server import GkeServer
from llmd_sandbox.gke.state import State
from llmd_sandbox.kube import ApiStatus, KubeApi, Object
from llmd_sandbox.site import Site

CLUSTER = "/v1/projects/sandbox-project/locations/us-central1-a/clusters/llm-d-cluster"
POOL = CLUSTER + "/nodePools/nvidia-t4-pool"
GPU = "nvidia.com/gpu"
OPERATIONS = "/v1/projects/sandbox-project/locations/us-central1-a/operations"


class MemoryApi(KubeApi):
    """Nodes and pods without a control plane; an evicted pod ends when `grace` lets it."""

    def __init__(self) -> None:
        super().__init__("http://memory", None, None)
        self.objects: dict[str, dict[str, Object]] = {"nodes": {}, "pods": {}}
        self.events: list[Object] = []
        self.offering = False
        """Whether new nodes offer their GPU at once, as the kubelet has them do after a while."""
        self.history: list[tuple[str, str]] = []
        self.blocked_evictions = 0
        self.grace = asyncio.Event()
        self.grace.set()
        self.evicted = asyncio.Event()
        self._watchers: dict[str, list[asyncio.Queue[Object]]] = {"nodes": [], "pods": []}
        self._changed = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._version = 0

    async def call(self, method: str, url: str, body: Any = None, **more: Any) -> Object:
        parts = url.removeprefix("/api/v1/").split("/")
        if url == "/version":
            return {"gitVersion": "v1.36.3"}
        if method == "GET" and len(parts) == 1:
            kind = {"nodes": "NodeList", "pods": "PodList"}[parts[0]]
            items = copy.deepcopy(list(self.objects[parts[0]].values()))
            name, _, value = ((more.get("params") or {}).get("fieldSelector") or "").partition("=")
            assert name in ("", "spec.nodeName"), name
            items = [item for item in items if not name or item["spec"]["nodeName"] == value]
            return {"kind": kind, "apiVersion": "v1", "items": items, "metadata": {"resourceVersion": "1"}}
        if method == "POST" and parts == ["nodes"]:
            gpus = body["metadata"]["labels"].get("cloud.google.com/gke-accelerator-count")
            self.put("nodes", body | {"status": {"allocatable": {GPU: gpus}}} if self.offering and gpus else body)
            return {}
        if method == "POST" and parts[-1] == "events":
            self.events.append(body)
            self._changed.set()
            return {}
        if method == "POST" and parts[-1] == "eviction":
            return await self._evict(parts[3])
        if method == "DELETE" and parts[2:3] == ["pods"]:
            self.history.append((f"end within {body['gracePeriodSeconds']} s", parts[3]))
            self.remove("pods", parts[3])
            return {}
        if parts[0] == "nodes" and method in ("PATCH", "DELETE"):
            self.history.append((method, parts[1]))
            node = self.objects["nodes"][parts[1]]
            if method == "DELETE":
                self.remove("nodes", parts[1])
            else:
                self.put("nodes", {**node, "spec": {**node["spec"], **body["spec"]}})
            return {}
        raise ApiStatus(405, "MethodNotAllowed", f"{method} {url}")

    async def _evict(self, name: str) -> Object:
        self.history.append(("evict", name))
        self.evicted.set()
        if self.blocked_evictions:
            self.blocked_evictions -= 1
            raise ApiStatus(429, "TooManyRequests", "Cannot evict pod as it would violate the disruption budget.")

        async def end() -> None:
            await self.grace.wait()
            self.remove("pods", name)

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return {}

    def put(self, plural: str, item: Object) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)
        item["metadata"].setdefault("uid", f"uid-{item['metadata']['name']}")
        item["metadata"].setdefault("creationTimestamp", f"2026-01-01T00:00:{self._version:02d}Z")
        name = item["metadata"]["name"]
        event = "MODIFIED" if name in self.objects[plural] else "ADDED"
        self.objects[plural][name] = item
        self._tell(plural, event, item)

    def remove(self, plural: str, name: str) -> None:
        self._tell(plural, "DELETED", self.objects[plural].pop(name))

    def _tell(self, plural: str, event: str, item: Object) -> None:
        self._changed.set()
        for queue in self._watchers[plural]:
            queue.put_nowait({"type": event, "object": copy.deepcopy(item)})

    async def _watch(self, url: str, version: str, params: dict[str, str]) -> AsyncIterator[Object]:
        plural = url.rsplit("/", 1)[1]
        queue: asyncio.Queue[Object] = asyncio.Queue()
        for item in self.objects[plural].values():
            queue.put_nowait({"type": "ADDED", "object": copy.deepcopy(item)})
        self._watchers[plural].append(queue)
        while True:
            yield await queue.get()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def pod(self, name: str, node: str, owner: str = "ReplicaSet") -> None:
        meta = {"name": name, "namespace": "llm-d", "ownerReferences": [{"kind": owner}]}
        self.put("pods", {"metadata": meta, "spec": {"nodeName": node}})

    def waiting_pod(self, name: str, gpus: int = 1) -> None:
        """A pod that the scheduler finds no node for."""
        container = {"resources": {"limits": {GPU: str(gpus)}}}
        unschedulable = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        spec, status = {"containers": [container]}, {"phase": "Pending", "conditions": [unschedulable]}
        self.put("pods", {"metadata": {"name": name, "namespace": "llm-d"}, "spec": spec, "status": status})

    def bind(self, name: str, node: str) -> None:
        """The scheduler found one."""
        pod = self.objects["pods"][name]
        status = {"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        self.put("pods", pod | {"spec": pod["spec"] | {"nodeName": node}, "status": status})

    def said(self) -> list[tuple[str, str, str]]:
        return [(event["involvedObject"]["name"], event["reason"], event["message"]) for event in self.events]

    def zones(self) -> list[str]:
        """The zone of each GPU node."""
        labels = (self.objects["nodes"][name]["metadata"]["labels"] for name in self.gpu_nodes())
        return sorted(label["topology.kubernetes.io/zone"] for label in labels)

    def gpu_nodes(self) -> list[str]:
        return [name for name in self.objects["nodes"] if "nvidia-t4-pool" in name]


class Gke:
    """A server under test with its HTTP client."""

    def __init__(self, site: Site, api: MemoryApi, session: aiohttp.ClientSession) -> None:
        self.site, self.api, self._session = site, api, session

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        host, port = self.site.gke
        async with self._session.request(method, f"http://{host}:{port}{path}", json=body) as response:
            return response.status, await response.json()

    async def resize(self, count: int) -> str:
        status, operation = await self.call("POST", POOL + ":setSize", {"nodeCount": count})
        assert status == 200, operation
        return str(operation["name"])

    async def done(self, name: str) -> Any:
        async with asyncio.timeout(5):
            while True:
                _, operation = await self.call("GET", f"{OPERATIONS}/{name}")
                if operation["status"] == "DONE":
                    return operation
                await asyncio.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    while True:
        octet = random.randint(100, 250)
        candidate = Site("test", octet, startup_scale=0.001)
        with socket.socket() as probe:
            try:
                probe.bind(candidate.gke)
            except OSError:
                continue
            return candidate


async def serve(site: Site, api: MemoryApi) -> asyncio.Task[None]:
    server = GkeServer(site, api)
    task = asyncio.create_task(server.run())
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert server.ready.is_set(), task
    return task


async def stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
async def gke(site: Site) -> AsyncIterator[Gke]:
    api = MemoryApi()
    pki.write(site)
    task = await serve(site, api)
    async with aiohttp.ClientSession() as session:
        yield Gke(site, api, session)
    await stop(task)


async def test_a_new_cluster_has_its_two_pools_and_their_nodes(gke: Gke) -> None:
    status, cluster = await gke.call("GET", CLUSTER)
    assert (status, cluster["name"], cluster["status"]) == (200, "llm-d-cluster", "RUNNING")
    assert cluster["currentMasterVersion"] == "1.36.3"
    assert cluster["endpoint"] == "{}:{}".format(*gke.site.api_server)
    assert b64decode(cluster["masterAuth"]["clusterCaCertificate"]) == gke.site.authority.read_bytes()
    assert [pool["name"] for pool in cluster["nodePools"]] == ["default-pool", "nvidia-t4-pool"]
    _, listed = await gke.call("GET", "/v1/projects/sandbox-project/locations/-/clusters")
    assert listed["clusters"] == [cluster]

    (name,) = gke.api.gpu_nodes()
    node = gke.api.objects["nodes"][name]
    assert node["metadata"]["labels"]["cloud.google.com/gke-accelerator"] == "nvidia-tesla-t4"
    assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == "n1-standard-4"
    assert node["spec"]["taints"] == [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}]
    assert node["spec"]["providerID"] == f"gce://sandbox-project/us-central1-a/{name}"
    (plain,) = set(gke.api.objects["nodes"]) - {name}
    assert "taints" not in gke.api.objects["nodes"][plain]["spec"]


async def test_growth_adds_nodes_and_leaves_the_initial_node_count_alone(gke: Gke) -> None:
    operation = await gke.done(await gke.resize(3))
    assert operation["operationType"] == "SET_NODE_POOL_SIZE"
    assert operation["targetLink"].endswith("/clusters/llm-d-cluster/nodePools/nvidia-t4-pool")
    assert "error" not in operation
    assert operation["endTime"] > operation["startTime"]
    assert len(gke.api.gpu_nodes()) == 3
    _, pool = await gke.call("GET", POOL)
    assert (pool["initialNodeCount"], pool["status"]) == (1, "RUNNING")


async def test_shrinking_takes_the_emptiest_node_after_its_pods_ended(gke: Gke) -> None:
    await gke.done(await gke.resize(2))
    full, light = gke.api.gpu_nodes()
    for name, node in (("a", full), ("b", full), ("c", light)):
        gke.api.pod(name, node)
    gke.api.pod("agent", light, owner="DaemonSet")
    gke.api.grace.clear()
    operation = await gke.resize(1)
    await asyncio.wait_for(gke.api.evicted.wait(), 5)
    assert light in gke.api.objects["nodes"]
    assert gke.api.objects["nodes"][light]["spec"]["unschedulable"] is True
    gke.api.grace.set()
    await gke.done(operation)
    assert gke.api.gpu_nodes() == [full]
    assert gke.api.history == [("PATCH", light), ("evict", "c"), ("DELETE", light)]


async def test_a_disruption_budget_delays_an_eviction(gke: Gke) -> None:
    (node,) = gke.api.gpu_nodes()
    gke.api.pod("a", node)
    gke.api.blocked_evictions = 2
    await gke.done(await gke.resize(0))
    assert gke.api.history.count(("evict", "a")) == 3
    assert gke.api.gpu_nodes() == []


async def test_a_zero_left_out_of_the_json_is_a_zero(gke: Gke) -> None:
    _, operation = await gke.call("POST", POOL + ":setSize", {})
    await gke.done(operation["name"])
    assert gke.api.gpu_nodes() == []


async def test_quotas_as_compute_engine_says_them(gke: Gke) -> None:
    await gke.call("PUT", "/faults", {"gpu_quota": 3})
    project = "/compute/v1/projects/sandbox-project"
    _, everywhere = await gke.call("GET", project)
    assert everywhere["quotas"] == [{"metric": "GPUS_ALL_REGIONS", "limit": 3.0, "usage": 1.0}]
    _, region = await gke.call("GET", f"{project}/regions/us-central1")
    assert {"metric": "NVIDIA_T4_GPUS", "limit": 3.0, "usage": 1.0} in region["quotas"]
    assert {"metric": "CPUS", "limit": 72.0, "usage": 8.0} in region["quotas"]
    assert {"metric": "A2_CPUS", "limit": 72.0, "usage": 0.0} in region["quotas"]
    _, held = await gke.call("GET", f"{project}/zones/us-central1-a/reservations")
    assert "items" not in held
    assert (await gke.call("GET", f"{project}/regions/elsewhere"))[0] == 404
    assert (await gke.call("GET", "/compute/v1/projects/other"))[0] == 403


async def test_a_machine_type_as_compute_engine_describes_it(gke: Gke) -> None:
    zone = "/compute/v1/projects/sandbox-project/zones/us-central1-b"
    status, plain = await gke.call("GET", f"{zone}/machineTypes/n1-standard-4")
    assert (status, plain["guestCpus"], plain["memoryMb"], "accelerators" in plain) == (200, 4, 15360, False)
    _, a100 = await gke.call("GET", f"{zone}/machineTypes/a2-highgpu-1g")
    gpu = {"guestAcceleratorType": "nvidia-tesla-a100", "guestAcceleratorCount": 1}
    assert (a100["guestCpus"], a100["accelerators"]) == (12, [gpu])
    for nowhere in (f"{zone}/machineTypes/n1-standard-5", zone.replace("-b", "-z") + "/machineTypes/n1-standard-4"):
        status, answer = await gke.call("GET", nowhere)
        name = nowhere.removeprefix("/compute/v1/")
        assert (status, answer["error"]["message"]) == (404, f"The resource '{name}' was not found")
    other = zone.replace("sandbox-project", "other") + "/machineTypes/n1-standard-4"
    status, answer = await gke.call("GET", other)
    assert (status, "compute.machineTypes.get" in answer["error"]["message"]) == (403, True)


async def test_only_one_operation_at_a_time(gke: Gke) -> None:
    running = await gke.resize(2)
    status, answer = await gke.call("POST", POOL + ":setAutoscaling", {"autoscaling": {}})
    assert status == 400
    assert answer["error"]["status"] == "FAILED_PRECONDITION"
    assert answer["error"]["message"] == f"Cluster is running incompatible operation {running}."
    _, pool = await gke.call("GET", POOL)
    assert pool["status"] == "RECONCILING"
    await gke.done(running)


async def test_autoscaling_by_both_methods(gke: Gke) -> None:
    bounds = {"enabled": True, "minNodeCount": 1, "maxNodeCount": 3}
    update = {"desiredNodePoolId": "nvidia-t4-pool", "desiredNodePoolAutoscaling": bounds}
    _, operation = await gke.call("PUT", CLUSTER, {"update": update})
    await gke.done(operation["name"])
    _, pool = await gke.call("GET", POOL)
    assert bounds.items() <= pool["autoscaling"].items()
    _, operation = await gke.call("POST", POOL + ":setAutoscaling", {"autoscaling": {"enabled": False}})
    await gke.done(operation["name"])
    _, pool = await gke.call("GET", POOL)
    assert pool["autoscaling"] == {}


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "status"),
    [
        ("GET", CLUSTER + "/nodePools/none", None, 404, "NOT_FOUND"),
        ("GET", CLUSTER.replace("us-central1-a", "us-east1-b"), None, 404, "NOT_FOUND"),
        ("GET", CLUSTER.replace("sandbox-project", "other"), None, 403, "PERMISSION_DENIED"),
        ("GET", OPERATIONS + "/operation-1-a", None, 404, "NOT_FOUND"),
        ("POST", POOL + ":setSize", {"nodeCount": -1}, 400, "INVALID_ARGUMENT"),
        ("POST", POOL + ":setSize", {"nodeCount": "three"}, 400, "INVALID_ARGUMENT"),
        ("POST", POOL + ":setSize", {"nodeCount": 9}, 403, "PERMISSION_DENIED"),
        ("POST", POOL + ":setSize", [], 400, "INVALID_ARGUMENT"),
        ("PUT", CLUSTER, {"update": {"desiredNodeVersion": "-"}}, 400, "INVALID_ARGUMENT"),
        (
            "POST",
            POOL + ":setAutoscaling",
            {"autoscaling": {"enabled": True, "minNodeCount": 4, "maxNodeCount": 3}},
            400,
            "INVALID_ARGUMENT",
        ),
        ("POST", POOL + ":setAutoscaling", {"autoscaling": {"enabled": "x"}}, 400, "INVALID_ARGUMENT"),
        (
            "POST",
            POOL + ":setAutoscaling",
            {"autoscaling": {"enabled": True, "maxNodeCount": 2, "totalMaxNodeCount": 3}},
            400,
            "INVALID_ARGUMENT",
        ),
        ("DELETE", POOL + "s", None, 404, "NOT_FOUND"),
        ("POST", CLUSTER + "/nodePools", {"nodePool": {"name": "nvidia-t4-pool"}}, 409, "ALREADY_EXISTS"),
        ("POST", CLUSTER + "/nodePools", {"nodePool": {"initialNodeCount": 1}}, 400, "INVALID_ARGUMENT"),
        ("POST", CLUSTER + "/nodePools", {"nodePool": {"name": "x", "locations": ["eu"]}}, 400, "INVALID_ARGUMENT"),
        ("PATCH", POOL, None, 405, "UNIMPLEMENTED"),
        ("GET", "/v1/nothing", None, 404, "NOT_FOUND"),
    ],
)
async def test_refusals(gke: Gke, method: str, path: str, body: Any, code: int, status: str) -> None:
    answered, error = await gke.call(method, path, body)
    assert (answered, error["error"]["code"], error["error"]["status"]) == (code, code, status)
    assert error["error"]["message"]
    assert len(gke.api.gpu_nodes()) == 1


async def test_cancelling_ends_an_operation_with_an_error(gke: Gke) -> None:
    (node,) = gke.api.gpu_nodes()
    gke.api.pod("a", node)
    gke.api.grace.clear()
    name = await gke.resize(0)
    assert (await gke.call("POST", f"{OPERATIONS}/{name}:cancel", {}))[0] == 200
    operation = await gke.done(name)
    assert operation["error"]["code"] == 1
    assert gke.api.gpu_nodes() == [node]
    status, answer = await gke.call("POST", f"{OPERATIONS}/{name}:cancel", {})
    assert (status, answer["error"]["status"]) == (400, "FAILED_PRECONDITION")


async def test_a_stock_out_ends_the_operation_with_an_error_and_marks_the_pool(site: Site) -> None:
    site.directory.mkdir(parents=True)
    State(gpu_stock=2).save(site.directory / "gke.json")
    api = MemoryApi()
    task = await serve(site, api)
    async with aiohttp.ClientSession() as session:
        gke = Gke(site, api, session)
        operation = await gke.done(await gke.resize(3))
        _, pool = await gke.call("GET", POOL)
    await stop(task)
    assert operation["error"]["code"] == 8
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in operation["error"]["message"]
    assert len(api.gpu_nodes()) == 2
    assert pool["status"] == "RUNNING_WITH_ERROR"
    assert pool["conditions"][0]["code"] == "GCE_STOCKOUT"


async def test_an_interrupted_operation_is_taken_up_again(site: Site) -> None:
    api = MemoryApi()
    async with aiohttp.ClientSession() as session:
        task = await serve(site, api)
        gke = Gke(site, api, session)
        api.pod("a", api.gpu_nodes()[0])
        api.grace.clear()
        name = await gke.resize(0)
        await stop(task)
        saved = json.loads((site.directory / "gke.json").read_text())["operations"]
        assert [(op["name"], op["status"] == "DONE") for op in saved] == [(name, False)]
        api.grace.set()
        task = await serve(site, api)
        await gke.done(name)
        await stop(task)
    assert api.gpu_nodes() == []


@pytest.mark.parametrize(("notice", "grace_s"), [("0.01", 0), (None, 0)])
async def test_spot_capacity_that_is_taken_back_ends_its_pods_and_another_machine_comes(
    gke: Gke, notice: str | None, grace_s: int
) -> None:
    """Without a notice of its own it is 30 s times the scale, a thousandth here."""
    (name,) = gke.api.gpu_nodes()
    gke.api.pod("one", name)
    gke.api.pod("elsewhere", "another")
    node = gke.api.objects["nodes"][name]
    says = {KUBELET: "reclaimed"} | ({NOTICE: notice} if notice else {})
    gke.api.put("nodes", {**node, "metadata": {**node["metadata"], "annotations": says}})
    await gke.api.until(lambda: gke.api.gpu_nodes() not in ([name], []))
    assert gke.api.history == [("PATCH", name), (f"end within {grace_s} s", "one"), ("DELETE", name)]
    assert len(gke.api.gpu_nodes()) == 1


async def test_where_the_zone_has_no_more_machines_none_comes(gke: Gke) -> None:
    await gke.call("PUT", "/faults", {"gpu_stock": 0})
    (name,) = gke.api.gpu_nodes()
    node = gke.api.objects["nodes"][name]
    gke.api.put("nodes", {**node, "metadata": {**node["metadata"], "annotations": {KUBELET: "reclaimed"}}})
    await gke.api.until(lambda: not gke.api.gpu_nodes())
    await asyncio.sleep(0.1)  # twice what a machine takes to come
    assert gke.api.gpu_nodes() == []


@asynccontextmanager
async def sandbox(site: Site, **more: Any) -> AsyncIterator[Gke]:
    """A server whose site has these settings too."""
    other, api = replace(site, **more), MemoryApi()
    api.offering = True
    pki.write(other)
    task = await serve(other, api)
    async with aiohttp.ClientSession() as session:
        yield Gke(other, api, session)
    await stop(task)


async def bounded(gke: Gke, **bounds: int) -> None:
    _, operation = await gke.call("POST", POOL + ":setAutoscaling", {"autoscaling": {"enabled": True, **bounds}})
    await gke.done(operation["name"])


async def test_a_size_counts_a_zone(site: Site) -> None:
    async with sandbox(site, gpu_zones=2) as gke:
        a, b = "us-central1-a", "us-central1-b"
        assert gke.api.zones() == [a, b]
        _, pool = await gke.call("GET", POOL)
        assert (pool["locations"], pool["initialNodeCount"], len(pool["instanceGroupUrls"])) == ([a, b], 1, 2)
        await gke.done(await gke.resize(2))
        assert gke.api.zones() == [a, a, b, b]
        assert (await gke.call("POST", POOL + ":setSize", {"nodeCount": 5}))[0] == 403  # ten GPUs of eight
        await gke.done(await gke.resize(0))
        assert gke.api.zones() == []


async def test_bounds_of_the_whole_pool(site: Site) -> None:
    async with sandbox(site, gpu_zones=2) as gke:
        await bounded(gke, totalMinNodeCount=1, totalMaxNodeCount=5)
        _, pool = await gke.call("GET", POOL)
        assert pool["autoscaling"] == {
            "enabled": True,
            "totalMinNodeCount": 1,
            "totalMaxNodeCount": 5,
            "locationPolicy": "BALANCED",
        }


async def test_pods_that_wait_for_a_gpu_make_the_pool_grow_up_to_its_maximum(site: Site) -> None:
    async with sandbox(site, autoscaler_idle_s=3600.0) as gke:
        api, (first,) = gke.api, gke.api.gpu_nodes()
        api.waiting_pod("old")
        api.bind("old", first)
        await bounded(gke, maxNodeCount=2)
        api.waiting_pod("one")
        api.waiting_pod("two")
        await api.until(lambda: len(api.gpu_nodes()) == 2)
        _, operations = await gke.call("GET", OPERATIONS)
        assert [item["operationType"] for item in operations["operations"]] == ["UPDATE_CLUSTER"]
        (name, reason, message), *_ = api.said()
        assert (name, reason) == ("one", "TriggeredScaleUp")
        assert message.startswith("pod triggered scale-up: [{https://www.googleapis.com/compute/v1/projects/")
        assert message.endswith("-grp 1->2 (max: 2)}]")
        api.bind("one", next(node for node in api.gpu_nodes() if node != first))
        await api.until(lambda: len(api.said()) > 1)
        refusal = "pod didn't trigger scale-up: 1 max node group size reached"
        assert api.said()[1:] == [("two", "NotTriggerScaleUp", refusal)]
        assert len(api.gpu_nodes()) == 2


async def test_an_autoscaler_grows_zone_by_zone(site: Site) -> None:
    async with sandbox(site, gpu_zones=2, autoscaler_idle_s=3600.0) as gke:
        for number, node in enumerate(gke.api.gpu_nodes()):
            gke.api.waiting_pod(f"old-{number}")
            gke.api.bind(f"old-{number}", node)
        await bounded(gke, totalMaxNodeCount=3)
        for name in ("one", "two"):
            gke.api.waiting_pod(name)
        await gke.api.until(lambda: len(gke.api.gpu_nodes()) == 3)
        assert gke.api.zones() == ["us-central1-a", "us-central1-a", "us-central1-b"]


async def test_a_zone_without_machines_is_said_to_the_pods_that_wait(site: Site) -> None:
    async with sandbox(site, autoscaler_idle_s=3600.0) as gke:
        await gke.call("PUT", "/faults", {"gpu_stock": 1})
        await bounded(gke, maxNodeCount=3)
        for name in ("one", "two"):
            gke.api.waiting_pod(name)
        await gke.api.until(lambda: bool(gke.api.said()))
        assert gke.api.said()[0][:2] == ("one", "FailedScaleUp")
        assert "GCE out of resources" in gke.api.said()[0][2]
        assert len(gke.api.gpu_nodes()) == 1


async def test_idle_nodes_go_down_to_the_minimum(site: Site) -> None:
    async with sandbox(site, autoscaler_idle_s=0.1) as gke:
        await gke.done(await gke.resize(3))
        api, used = gke.api, gke.api.gpu_nodes()[0]
        api.waiting_pod("one")
        api.bind("one", used)
        await bounded(gke, minNodeCount=2, maxNodeCount=5)
        await api.until(lambda: len(api.gpu_nodes()) == 2)
        await asyncio.sleep(0.5)  # several looks later
        assert len(api.gpu_nodes()) == 2
        await bounded(gke, minNodeCount=0, maxNodeCount=5)
        await api.until(lambda: api.gpu_nodes() == [used])
        assert {reason for _, reason, _ in api.said()} == {"ScaleDown"}
        await gke.done(await gke.resize(2))  # by hand, in between
        await api.until(lambda: api.gpu_nodes() == [used])


@pytest.mark.parametrize(("idle_s", "bounds"), [(None, {"maxNodeCount": 5}), (0.1, None)])
async def test_without_autoscaling_nothing_acts(
    site: Site, idle_s: float | None, bounds: dict[str, int] | None
) -> None:
    """Neither where the sandbox has no autoscaler, nor on a pool without autoscaling."""
    async with sandbox(site, autoscaler_idle_s=idle_s) as gke:
        if bounds:
            await bounded(gke, **bounds)
        for name in ("one", "two"):
            gke.api.waiting_pod(name)
        await asyncio.sleep(0.5)
        assert (len(gke.api.gpu_nodes()), gke.api.events) == (1, [])


SPOT = {
    "name": "spot",
    "initialNodeCount": 2,
    "locations": ["us-central1-b"],
    "config": {
        "machineType": "n1-standard-4",
        "spot": True,
        "accelerators": [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": "1"}],
        "taints": [{"key": "cloud.google.com/gke-spot", "value": "true", "effect": "NO_SCHEDULE"}],
    },
}


async def test_a_spot_pool_is_created_and_deleted(gke: Gke) -> None:
    _, operation = await gke.call("POST", CLUSTER + "/nodePools", {"nodePool": SPOT})
    path = CLUSTER + "/nodePools/spot"
    await gke.done(operation["name"])
    _, pool = await gke.call("GET", path)
    assert (pool["status"], pool["locations"], pool["config"]["spot"]) == ("RUNNING", ["us-central1-b"], True)
    nodes = [node for node in gke.api.objects["nodes"].values() if "-spot-" in node["metadata"]["name"]]
    assert len(nodes) == 2
    labels = nodes[0]["metadata"]["labels"]
    assert (labels["cloud.google.com/gke-spot"], labels["topology.kubernetes.io/zone"]) == ("true", "us-central1-b")
    assert {taint["key"] for taint in nodes[0]["spec"]["taints"]} == {GPU, "cloud.google.com/gke-spot"}
    gke.api.pod("a", nodes[0]["metadata"]["name"])
    gke.api.grace.clear()
    _, operation = await gke.call("DELETE", path)
    assert (await gke.call("GET", path))[1]["status"] == "STOPPING"
    gke.api.grace.set()
    assert (await gke.done(operation["name"]))["operationType"] == "DELETE_NODE_POOL"
    assert (await gke.call("GET", path))[0] == 404
    assert not [name for name in gke.api.objects["nodes"] if "-spot-" in name]


async def test_cpus_count_in_the_quota_of_their_family(gke: Gke) -> None:
    gpus = [{"acceleratorType": "nvidia-tesla-a100", "acceleratorCount": "1"}]
    config = {"machineType": "a2-highgpu-1g", "accelerators": gpus}
    wanted = {"name": "large", "initialNodeCount": 2, "config": config}
    _, operation = await gke.call("POST", CLUSTER + "/nodePools", {"nodePool": wanted})
    await gke.done(operation["name"])
    _, region = await gke.call("GET", "/compute/v1/projects/sandbox-project/regions/us-central1")
    used = {item["metric"]: item["usage"] for item in region["quotas"]}
    assert (used["CPUS"], used["A2_CPUS"]) == (8.0, 24.0)


async def test_a_pool_of_machines_that_do_not_exist_is_refused(gke: Gke) -> None:
    wanted = SPOT | {"config": {"machineType": "n1-standard-5"}}
    status, answer = await gke.call("POST", CLUSTER + "/nodePools", {"nodePool": wanted})
    assert (status, answer["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert '"n1-standard-5" does not exist in zone "us-central1-b"' in answer["error"]["message"]


async def test_a_spot_pool_beyond_the_quota_is_refused_and_not_there(gke: Gke) -> None:
    wanted = {"nodePool": SPOT | {"initialNodeCount": 8}}
    status, answer = await gke.call("POST", CLUSTER + "/nodePools", wanted)
    assert (status, answer["error"]["status"]) == (403, "PERMISSION_DENIED")
    assert "PREEMPTIBLE_NVIDIA_T4_GPUS" in answer["error"]["message"]
    assert (await gke.call("GET", CLUSTER + "/nodePools/spot"))[0] == 404
