from pathlib import Path
from typing import Any

import pytest

from llmd_sandbox.gateway.envoy_config import EXT_PROC, BodyMode, Paths
from llmd_sandbox.gateway.objects import World
from llmd_sandbox.gateway.translate import BODY_MODE_ANNOTATION, DOWN_ANNOTATION, Translation, our_gateways, translate

PATHS = Paths(Path("/files"), Path("/access.log"))
ADDRESSES = {"gateway-uid": "127.0.1.1"}


def virtual_hosts(found: Translation) -> dict[str, list[str]]:
    """By host, the clusters of its routes in order."""
    [configuration] = found.snapshot.routes.values()
    return {
        host["name"]: [route["route"].get("cluster", "?") for route in host["routes"]]
        for host in configuration["virtual_hosts"]
    }


def route(world: World, name: str, **spec: Any) -> None:
    """Add a route like the first, younger than it."""
    first = world.routes["llm-d/llm"]
    meta = {**first["metadata"], "name": name, "creationTimestamp": "2026-02-01T00:00:00Z"}
    other = {**first, "metadata": meta, "spec": {**first["spec"], **spec}}
    assert isinstance(world.routes, dict)
    world.routes[f"llm-d/{name}"] = other


def to_service(path: str) -> list[dict[str, Any]]:
    return [{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "plain", "port": 80}]}]


def test_a_gateway_that_is_not_set_up_yet_has_no_listener(world: World) -> None:
    found = translate(world, {}, PATHS)
    assert (found.snapshot.listeners, found.snapshot.routes) == ([], {})
    assert len(found.attachments) == 1


def test_a_gateway_that_is_down_has_no_listener_and_keeps_its_routes(world: World) -> None:
    (gateway,) = world.gateways.values()
    gateway["metadata"]["annotations"] = {DOWN_ANNOTATION: "down"}
    found = translate(world, ADDRESSES, PATHS)
    assert found.snapshot.listeners == []
    assert not any(attachment.refused for attachment in found.attachments)
    gateway["metadata"]["annotations"] = {}
    assert translate(world, ADDRESSES, PATHS).snapshot.listeners != []


def test_gateways_of_other_classes_are_left_alone(world: World) -> None:
    world.classes["gke-l7-regional-external-managed"]["spec"]["controllerName"] = "example.com/other"
    assert our_gateways(world) == {}
    assert translate(world, ADDRESSES, PATHS).attachments == []


def test_longest_prefix_goes_first_whatever_the_age(world: World) -> None:
    route(world, "younger", rules=to_service("/v1"))
    assert virtual_hosts(translate(world, ADDRESSES, PATHS)) == {
        "*": ["service/llm-d/plain/80", "pool/llm-d/pool", "no-backend"]
    }


def test_of_equal_matches_the_older_route_wins(world: World) -> None:
    route(world, "younger", rules=to_service("/"))
    route(world, "a-later-name-sorts-first", rules=to_service("/"))
    found = virtual_hosts(translate(world, ADDRESSES, PATHS))
    assert found["*"][0] == "pool/llm-d/pool"


def test_the_more_specific_host_goes_first_and_falls_through(world: World) -> None:
    route(world, "named", hostnames=["a.example.com"], rules=to_service("/v1"))
    assert virtual_hosts(translate(world, ADDRESSES, PATHS)) == {
        "*": ["pool/llm-d/pool", "no-backend"],
        "a.example.com": ["service/llm-d/plain/80", "pool/llm-d/pool", "no-backend"],
    }


def test_a_request_belongs_to_the_most_specific_listener(world: World) -> None:
    listeners = world.gateways["llm-d/front"]["spec"]["listeners"]
    listeners.append({**listeners[0], "name": "named", "hostname": "*.example.com"})
    route(world, "named", parentRefs=[{"name": "front", "sectionName": "named"}], rules=to_service("/v1"))
    world.routes["llm-d/llm"]["spec"]["parentRefs"] = [{"name": "front", "sectionName": "default"}]
    found = translate(world, ADDRESSES, PATHS)
    assert [listener["name"] for listener in found.snapshot.listeners] == ["llm-d/front/8080"]
    assert virtual_hosts(found) == {
        "*": ["pool/llm-d/pool", "no-backend"],
        "*.example.com": ["service/llm-d/plain/80", "no-backend"],
    }


def test_the_listener_is_the_same_whatever_the_routes(world: World) -> None:
    before = translate(world, ADDRESSES, PATHS).snapshot.listeners
    world.routes["llm-d/llm"]["spec"]["rules"] = to_service("/v1")
    world.pools["llm-d/pool"]["spec"]["endpointPickerRef"]["failureMode"] = "FailOpen"
    assert translate(world, ADDRESSES, PATHS).snapshot.listeners == before


def test_a_pool_keeps_its_clusters_when_its_route_moves(world: World) -> None:
    world.routes["llm-d/llm"]["spec"]["rules"] = to_service("/")
    names = {cluster["name"] for cluster in translate(world, ADDRESSES, PATHS).snapshot.clusters}
    assert names == {"pool/llm-d/pool", "picker/llm-d/pool", "service/llm-d/plain/80"}


@pytest.mark.parametrize(
    ("annotation", "default", "expected"),
    [
        (None, BodyMode.FULL_DUPLEX_STREAMED, "FULL_DUPLEX_STREAMED"),
        (None, BodyMode.BUFFERED, "BUFFERED"),
        ("BUFFERED", BodyMode.FULL_DUPLEX_STREAMED, "BUFFERED"),
    ],
)
def test_body_mode(world: World, annotation: str | None, default: BodyMode, expected: str) -> None:
    if annotation:
        world.gateways["llm-d/front"]["metadata"]["annotations"] = {BODY_MODE_ANNOTATION: annotation}
    [configuration] = translate(world, ADDRESSES, PATHS, default).snapshot.routes.values()
    filters = configuration["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"]
    assert filters[EXT_PROC]["overrides"]["processing_mode"]["request_body_mode"] == expected


def test_an_unknown_body_mode_takes_the_gateway_out(world: World) -> None:
    world.gateways["llm-d/front"]["metadata"]["annotations"] = {BODY_MODE_ANNOTATION: "SOMEHOW"}
    found = translate(world, ADDRESSES, PATHS)
    assert found.snapshot.listeners == []
    assert found.attachments[0].refused is not None
    assert "SOMEHOW" in found.attachments[0].refused[1]


def test_an_unsupported_route_is_refused_and_not_served(world: World) -> None:
    world.routes["llm-d/llm"]["spec"]["rules"][0]["filters"] = [{"type": "RequestMirror"}]
    found = translate(world, ADDRESSES, PATHS)
    assert found.attachments[0].refused == ("UnsupportedValue", "filter RequestMirror is not supported")
    assert virtual_hosts(found) == {"*": ["no-backend"]}


def test_names_of_route_files_cannot_meet() -> None:
    assert PATHS.routes("a/b.c/80") == Path("/files/rds.a.b.c.80.json")
