"""The GKE client over real HTTP, against the sandbox's stand-in and canned answers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.container_v1 import ClusterManagerClient, NodePool
from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerRestTransport

from llmd_runbook.clients import gke as gke_client
from llmd_runbook.clients.gke import ENDPOINT_VARIABLE, Bounds, GkePool, OperationState
from llmd_runbook.errors import (
    ApiError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    Unreachable,
    UsageError,
)
from llmd_sandbox.control_plane import pki
from llmd_sandbox.gke.server import GkeServer
from llmd_sandbox.gke.state import State
from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.site import Site
from tests.guards import anything
from tests.llmd_runbook.clients.network import proxying, serving_tls
from tests.llmd_runbook.clients.server import Reply


class NodesOnly(KubeApi):
    """As much of an API server as pools without pods need."""

    def __init__(self) -> None:
        super().__init__("http://memory", None, None)
        self._nodes: list[Object] = []
        self._events: asyncio.Queue[Object] = asyncio.Queue()

    async def call(self, method: str, url: str, body: Any = None, **_: Any) -> Object:
        if url == "/version":
            return {"gitVersion": "v1.36.3"}
        if method == "POST":
            body["metadata"]["resourceVersion"] = "1"
            self._events.put_nowait({"type": "ADDED", "object": body})
            return {}
        assert method == "GET"
        kind = "NodeList" if url.endswith("nodes") else "PodList"
        return {"kind": kind, "apiVersion": "v1", "items": [], "metadata": {"resourceVersion": "1"}}

    async def _watch(self, url: str, version: str, params: dict[str, str]) -> AsyncIterator[Object]:
        if url.endswith("pods"):
            await asyncio.Event().wait()
        while True:
            yield await self._events.get()


SLOW = pytest.mark.parametrize("gke", [0.03], indirect=True)
"""For tests that must act while an operation runs: it takes seconds then."""


@pytest.fixture
def gke(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The stand-in, serving in a thread of its own, with two GPUs in stock; its parameter is the start-up scale."""
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    site = free_site(getattr(request, "param", 0.001))
    pki.write(site)
    State(gpu_stock=2).save(site.directory / "gke.json")
    started, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(site, started, stop)))
    thread.start()
    try:
        assert started.wait(10)
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://{site.gke[0]}:{site.gke[1]}/")
        yield site
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


async def serve(site: Site, started: threading.Event, stop: threading.Event) -> None:
    server = GkeServer(site, NodesOnly())
    task = asyncio.create_task(server.run())
    await asyncio.wait_for(server.ready.wait(), 10)
    started.set()
    await asyncio.to_thread(stop.wait)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def free_site(startup_scale: float) -> Site:
    while True:
        site = Site("test", random.randint(100, 250), startup_scale=startup_scale)
        with socket.socket() as probe:
            try:
                probe.bind(site.gke)
            except OSError:
                continue
            return site


def pool(name: str = "nvidia-t4-pool", project: str = "sandbox-project") -> GkePool:
    return GkePool(project, "us-central1-a", "llm-d-cluster", name, before_change=anything)


def test_describes_pool_and_cluster(gke: Site) -> None:
    state = pool().describe()
    assert (state.name, state.status, state.machine_type) == ("nvidia-t4-pool", "RUNNING", "n1-standard-4")
    assert (state.accelerator_type, state.accelerator_count) == ("nvidia-tesla-t4", 1)
    assert state.bounds is None
    assert (state.locations, state.conditions, state.version) == (("us-central1-a",), (), "1.36.3")
    assert pool("default-pool").describe().accelerator_type is None
    cluster = pool().cluster()
    assert (cluster.name, cluster.status, cluster.version) == ("llm-d-cluster", "RUNNING", "1.36.3")
    assert cluster.endpoints == {"public": "{}:{}".format(*gke.api_server)}
    assert cluster.authority == gke.authority.read_text()
    assert not cluster.autopilot


@SLOW
def test_sets_autoscaling_and_size_and_waits(gke: Site) -> None:
    seen: list[tuple[OperationState, float]] = []
    scaling = pool().set_autoscaling(Bounds(0, 3))
    pool().wait(scaling, 60)
    resizing = pool().set_size(2)
    assert [operation.name for operation in pool().running_operations()] == [resizing]
    done = pool().wait(resizing, 60, lambda state, waited_s: seen.append((state, waited_s)))
    assert (done.type, done.done, done.error) == ("SET_NODE_POOL_SIZE", True, "")
    assert seen[-1][0] == done
    assert pool().running_operations() == []
    state = pool().describe()
    assert state.bounds == Bounds(0, 3)


@SLOW
def test_sets_bounds_of_the_whole_pool(gke: Site) -> None:
    bounds = Bounds(1, 5, totals=True)
    pool().wait(pool().set_autoscaling(bounds), 60)
    assert pool().describe().bounds == bounds


@SLOW
def test_a_spot_pool_is_created_like_another_found_and_deleted(gke: Site) -> None:
    spot = pool("spot")
    assert spot.find() is None
    spot.wait(spot.create_spot("nvidia-t4-pool", "us-central1-b", 0), 60)
    found, like = spot.find(), pool().describe()
    assert found is not None
    assert (found.provisioning, found.ours, found.locations) == ("spot", True, ("us-central1-b",))
    assert (found.machine_type, found.accelerator_type) == (like.machine_type, like.accelerator_type)
    assert (like.provisioning, like.ours) == ("standard", False)
    spot.wait(spot.delete(), 60)
    assert spot.find() is None
    with pytest.raises(NotFound):
        spot.delete()


@pytest.mark.usefixtures("gke")
def test_that_a_pool_is_not_there_is_not_said_of_a_cluster_that_is_not_there() -> None:
    with pytest.raises(NotFound, match="cannot read cluster"):
        GkePool("sandbox-project", "us-central1-a", "other", "spot").find()


@pytest.mark.parametrize(
    ("bounds", "in_all", "said"),
    [
        (Bounds(1, 5), (1, 5), "1 to 5"),
        (Bounds(1, 2, 3), (3, 6), "1 to 2 in each of 3 zones"),
        (Bounds(1, 5, 3, totals=True), (1, 5), "1 to 5 in all"),
    ],
)
def test_bounds_count_a_zone_or_the_pool(bounds: Bounds, in_all: tuple[int, int], said: str) -> None:
    assert ((bounds.least_in_all, bounds.most_in_all), str(bounds)) == (in_all, said)


@SLOW
def test_a_second_operation_is_a_conflict_with_the_servers_words(gke: Site) -> None:
    running = pool().set_size(2)
    with pytest.raises(Conflict) as caught:
        pool().set_autoscaling(Bounds(0, 3))
    assert caught.value.reason == f"Cluster is running incompatible operation {running}."
    pool().wait(running, 60)


@SLOW
def test_a_second_operators_operation_is_named_and_waited_for(gke: Site) -> None:
    other, mine = pool(), pool("default-pool")
    theirs = other.set_size(2)
    with pytest.raises(Conflict) as caught:
        mine.set_size(2)
    assert theirs in str(caught.value.reason)
    assert "wait until the operation" in str(caught.value.remedy)
    (found,) = mine.running_operations()
    assert (found.name, found.type, found.started[:2]) == (theirs, "SET_NODE_POOL_SIZE", "20")
    assert [item.name for item in mine.begun_since([], 0.0)] == [theirs]
    assert mine.begun_since([theirs], 0.1) == []
    assert other.describe().status == "RECONCILING"
    assert mine.cluster().status == "RECONCILING"
    mine.wait(theirs, 60)
    assert mine.wait(mine.set_autoscaling(Bounds(0, 2)), 60).error == ""
    assert other.describe().bounds is None
    assert mine.describe().bounds == Bounds(0, 2)


@SLOW
def test_an_operation_that_somebody_cancels_is_an_error_and_leaves_the_cluster_free(gke: Site) -> None:
    name = pool().set_size(2)
    google_client().cancel_operation(name=f"projects/sandbox-project/locations/us-central1-a/operations/{name}")
    with pytest.raises(ApiError, match="ended with an error") as caught:
        pool().wait(name, 60)
    assert "cancelled" in str(caught.value.reason)
    assert pool().running_operations() == []
    pool().wait(pool().set_size(2), 60)


def test_googles_client_sets_and_reads_autoscaling_by_the_pools_own_method(gke: Site) -> None:
    client = google_client()
    bounds = {"enabled": True, "min_node_count": 1, "max_node_count": 4}
    started = client.set_node_pool_autoscaling(request={"name": pool().name, "autoscaling": bounds})
    assert (started.operation_type.name, started.status.name) == ("UPDATE_CLUSTER", "PENDING")
    pool().wait(started.name, 10)
    parent = pool().name.rsplit("/nodePools", 1)[0]
    listed = {item.name: item.autoscaling for item in client.list_node_pools(parent=parent).node_pools}
    assert (listed["nvidia-t4-pool"].min_node_count, listed["nvidia-t4-pool"].max_node_count) == (1, 4)
    assert listed["default-pool"].enabled is False


def test_after_a_stock_out_what_there_is_can_be_had(gke: Site) -> None:
    with pytest.raises(ApiError):
        pool().wait(pool().set_size(3), 10)
    assert pool().wait(pool().set_size(2), 10).error == ""
    state = pool().describe()
    assert (state.status, state.conditions) == ("RUNNING", ())


def test_a_refused_quota_starts_no_operation(gke: Site) -> None:
    with pytest.raises(Forbidden):
        pool().set_size(9)
    assert pool().running_operations() == []
    assert pool().describe().status == "RUNNING"


def google_client() -> Any:
    """google-cloud-container's own client, unmodified but for its address, as ours is built."""
    host = urlsplit(os.environ[ENDPOINT_VARIABLE]).netloc
    transport = ClusterManagerRestTransport(host=host, url_scheme="http", credentials=AnonymousCredentials())
    return ClusterManagerClient(transport=transport)


def test_a_stock_out_carries_the_operations_error(gke: Site) -> None:
    operation = pool().set_size(3)
    with pytest.raises(ApiError, match="ended with an error") as caught:
        pool().wait(operation, 10)
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in str(caught.value.reason)
    state = pool().describe()
    assert state.status == "RUNNING_WITH_ERROR"
    assert state.conditions[0].startswith("GCE_STOCKOUT: ")


def test_refusals_by_kind(gke: Site) -> None:
    with pytest.raises(NotFound, match="nodePools/none") as missing:
        pool("none").describe()
    assert missing.value.reason == (
        "Not found: projects/sandbox-project/zones/us-central1-a/clusters/llm-d-cluster/nodePools/none."
    )
    with pytest.raises(Forbidden) as foreign:
        pool(project="other").describe()
    assert "clusterAdmin" in str(foreign.value.remedy)
    with pytest.raises(Forbidden) as quota:
        pool().set_size(20)
    assert "NVIDIA_T4_GPUS" in str(quota.value.reason)
    assert "quota" in str(quota.value.remedy)
    with pytest.raises(ApiError) as invalid:
        pool().set_size(-1)
    assert "not -1" in str(invalid.value.reason)


class Canned(BaseHTTPRequestHandler):
    """Answers everything with one status and body."""

    status, answer = 200, "{}"

    def do_GET(self) -> None:
        body = self.answer.encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Canned]]:
    handler = type("Answer", (Canned,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://127.0.0.1:{server.server_port}")
        yield handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "word", "message", "kind"),
    [
        (400, "FAILED_PRECONDITION", "Operation operation-1 is currently upgrading cluster c.", Conflict),
        (400, "FAILED_PRECONDITION", "Node pool is being deleted.", ApiError),
        (400, "INVALID_ARGUMENT", "Cluster is running incompatible operation operation-1.", ApiError),
        (409, "ABORTED", "Try again.", Conflict),
        (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric.", ApiError),
    ],
)
def test_google_errors(canned: type[Canned], status: int, word: str, message: str, kind: type[Exception]) -> None:
    canned.status = status
    canned.answer = json.dumps({"error": {"code": status, "status": word, "message": message}})
    with pytest.raises(kind) as caught:
        pool().describe()
    assert type(caught.value) is kind
    assert getattr(caught.value, "reason", None) == message


def test_refused_credentials_say_how_to_get_better_ones(canned: type[Canned]) -> None:
    canned.status = 401
    with pytest.raises(Forbidden) as caught:
        pool().describe()
    assert "gcloud auth application-default login" in str(caught.value.remedy)


def test_an_error_that_is_no_json_is_still_an_error(canned: type[Canned]) -> None:
    canned.status, canned.answer = 404, "<html>no</html>"
    with pytest.raises(NotFound, match="<html>no</html>"):
        pool().describe()


@pytest.mark.parametrize("answer", ["", "<html>Sign in</html>", '{"locations": 3}'])
def test_an_answer_that_is_not_gkes_is_one_message(canned: type[Canned], answer: str) -> None:
    canned.answer = answer
    with pytest.raises(ApiError, match="what answers is not GKE's API") as caught:
        pool().describe()
    assert ENDPOINT_VARIABLE in str(caught.value.remedy)


def test_a_wait_ends_at_its_deadline(canned: type[Canned]) -> None:
    canned.answer = json.dumps({"name": "operation-1", "operationType": "UPGRADE_NODES", "status": "RUNNING"})
    with pytest.raises(DeadlineExceeded, match="UPGRADE_NODES is still RUNNING"):
        pool().wait("operation-1", 0.05)


def test_a_slow_api_is_one_message_with_what_was_asked_and_how_long(
    canned: type[Canned], monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = threading.Event()
    monkeypatch.setattr(canned, "do_GET", lambda _: patient.wait())
    monkeypatch.setattr("llmd_runbook.clients.gke._CALL_TIMEOUT_S", 0.1)
    try:
        with pytest.raises(Unreachable, match="cannot read node pool projects/") as caught:
            pool().describe()
    finally:
        patient.set()
    assert "no answer within 0.1 s" in str(caught.value.reason)
    assert str(caught.value.where).startswith("http://127.0.0.1:")
    assert "VPN or proxy" in str(caught.value.remedy)


def test_nobody_listening_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(Unreachable, match=ENDPOINT_VARIABLE):
            pool().describe()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://container.example.com/", "plain http to container.example.com"),
        ("http://10.0.0.1:80/", "plain http to 10.0.0.1"),
        ("127.0.0.1:8080", "is not an address"),
        ("http://user:secret@127.0.0.1/", "is not an address"),
    ],
)
def test_unusable_endpoints_are_refused(monkeypatch: pytest.MonkeyPatch, address: str, words: str) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, address)
    with pytest.raises(UsageError, match=words):
        pool()


def test_through_a_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = "projects/sandbox-project/locations/us-central1-a/clusters/llm-d-cluster/nodePools/nvidia-t4-pool"
    monkeypatch.setattr(gke_client, "default_credentials", AnonymousCredentials)
    with serving_tls(tmp_path) as (server, authority), proxying() as proxy:
        server.on(f"/v1/{path}", Reply(body={"name": "nvidia-t4-pool", "status": "RUNNING"}))
        monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        assert pool().describe().status == "RUNNING"
        assert proxy.asked == [server.url.removeprefix("https://")]


def test_without_credentials_the_error_says_how_to_get_some(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(Forbidden, match="no Google credentials") as caught:
        pool()
    assert "gcloud auth application-default login" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("fields", "provisioning", "reservation"),
    [
        ({}, "standard", ""),
        ({"config": {"spot": True}}, "spot", ""),
        ({"config": {"preemptible": True}}, "preemptible", ""),
        ({"config": {"flex_start": True}}, "flex-start", ""),
        ({"queued_provisioning": {"enabled": True}}, "queued", ""),
        (
            {"config": {"reservation_affinity": {"consume_reservation_type": "ANY_RESERVATION"}}},
            "standard",
            "ANY_RESERVATION",
        ),
        (
            {
                "config": {
                    "reservation_affinity": {"consume_reservation_type": "SPECIFIC_RESERVATION", "values": ["t4s"]}
                }
            },
            "standard",
            "t4s",
        ),
    ],
)
def test_how_a_pool_gets_its_machines(
    fields: dict[str, Any], provisioning: str, reservation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://127.0.0.1:9/")
    mine = pool()
    monkeypatch.setattr(mine._client, "get_node_pool", lambda **_: NodePool(fields))
    state = mine.describe()
    assert (state.provisioning, state.reservation) == (provisioning, reservation)
