from typing import Any

import pytest

from llmd_sandbox.gateway.backends import picker_problem, pool_clusters, resolve, serves_tls
from llmd_sandbox.gateway.envoy_config import EXT_PROC, FAULT, BodyMode
from llmd_sandbox.gateway.objects import World

POOL = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "pool"}


def clusters(world: World) -> dict[str, Any]:
    return {cluster["name"]: cluster for cluster in pool_clusters(world.pools["llm-d/pool"], world)}


def endpoints(cluster: dict[str, Any]) -> list[tuple[str, int]]:
    addresses = [
        entry["endpoint"]["address"]["socket_address"]
        for entry in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    ]
    return [(address["address"], address["port_value"]) for address in addresses]


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        (POOL, None),
        ({"name": "plain", "port": 80}, None),
        ({**POOL, "name": "absent"}, "BackendNotFound"),
        ({**POOL, "group": "inference.networking.x-k8s.io"}, "InvalidKind"),
        ({"kind": "ConfigMap", "name": "plain"}, "InvalidKind"),
        ({"name": "absent", "port": 80}, "BackendNotFound"),
        ({"name": "plain", "port": 81}, "BackendNotFound"),
        ({"name": "plain"}, "BackendNotFound"),
        ({**POOL, "namespace": "other"}, "RefNotPermitted"),
    ],
)
def test_references(world: World, ref: dict[str, Any], reason: str | None) -> None:
    found = resolve(ref, world.routes["llm-d/llm"], world, BodyMode.FULL_DUPLEX_STREAMED)
    assert (found.problem[0] if found.problem else None) == reason
    if reason:
        assert found.filters[FAULT]["abort"]["http_status"] == 500


@pytest.mark.parametrize(
    ("failure_mode", "fail_open", "kind"),
    [("FailClose", False, "ORIGINAL_DST"), ("FailOpen", True, "STATIC")],
)
def test_failure_mode(world: World, failure_mode: str, fail_open: bool, kind: str) -> None:
    pool = world.pools["llm-d/pool"]
    pool["spec"]["endpointPickerRef"]["failureMode"] = failure_mode
    found = resolve(POOL, world.routes["llm-d/llm"], world, BodyMode.BUFFERED)
    overrides = found.filters[EXT_PROC]["overrides"]
    assert overrides["failure_mode_allow"] is fail_open
    assert overrides["processing_mode"]["request_body_mode"] == "BUFFERED"
    cluster = clusters(world)[found.cluster]
    assert cluster["type"] == kind
    assert not fail_open or endpoints(cluster) == [("127.0.0.3", 8000)]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], True),
        (["--secure-serving"], True),
        (["--secure-serving=true"], True),
        (["--secure-serving=false"], False),
        (["-secureServing=false"], False),
        (["--metrics-secure-serving=false"], True),
    ],
)
def test_whether_the_picker_serves_tls(world: World, args: list[str], expected: bool) -> None:
    pod = world.pods["llm-d/epp-0"]
    pod["spec"]["containers"][0]["args"] = args
    assert serves_tls(pod) is expected
    assert ("transport_socket" in clusters(world)["picker/llm-d/pool"]) is expected


def test_the_picker_is_where_its_service_leads(world: World) -> None:
    assert endpoints(clusters(world)["picker/llm-d/pool"]) == [("127.0.0.2", 9002)]
    world.pods["llm-d/epp-0"]["status"]["conditions"][0]["status"] = "False"
    assert endpoints(clusters(world)["picker/llm-d/pool"]) == []


@pytest.mark.parametrize(
    ("ref", "word"),
    [
        ({"name": "epp", "port": {"number": 9002}}, None),
        ({"name": "absent", "port": {"number": 9002}}, "does not exist"),
        ({"name": "epp", "port": {"number": 1}}, "no port 1"),
        ({"name": "epp", "kind": "Deployment"}, "Deployment"),
        (None, "no endpointPickerRef"),
    ],
)
def test_picker_references(world: World, ref: dict[str, Any] | None, word: str | None) -> None:
    pool = world.pools["llm-d/pool"]
    pool["spec"]["endpointPickerRef"] = ref
    problem = picker_problem(pool, world)
    assert (problem is None) if word is None else (problem is not None and word in problem)
    if ref and problem:
        assert endpoints(clusters(world)["picker/llm-d/pool"]) == []
