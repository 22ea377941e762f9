from typing import Any

import pytest

from llmd_sandbox.gateway.attach import Attachment, attach, common_hosts, listeners
from llmd_sandbox.gateway.objects import World


def try_to(world: World, **parent_ref: Any) -> Attachment | None:
    route = world.routes["llm-d/llm"]
    return attach(route, {"name": "front", **parent_ref}, dict(world.gateways), world)


def listener(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.gateways["llm-d/front"]["spec"]["listeners"][0]
    return found


def reason(attachment: Attachment | None) -> str:
    assert attachment is not None
    return attachment.refused[0] if attachment.refused else "Accepted"


@pytest.mark.parametrize(
    ("parent_ref", "expected"),
    [
        ({}, "Accepted"),
        ({"sectionName": "default", "port": 8080}, "Accepted"),
        ({"sectionName": "other"}, "NoMatchingParent"),
        ({"port": 80}, "NoMatchingParent"),
    ],
)
def test_parent_refs(world: World, parent_ref: dict[str, Any], expected: str) -> None:
    assert reason(try_to(world, **parent_ref)) == expected


@pytest.mark.parametrize("parent_ref", [{"name": "absent"}, {"kind": "Service"}, {"namespace": "other"}])
def test_parents_of_others_are_left_alone(world: World, parent_ref: dict[str, Any]) -> None:
    assert try_to(world, **parent_ref) is None


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ({"namespaces": {"from": "All"}}, "Accepted"),
        ({}, "NotAllowedByListeners"),
        ({"namespaces": {"from": "Same"}}, "NotAllowedByListeners"),
        ({"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}}, "Accepted"),
        (
            {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "b"}}}},
            "NotAllowedByListeners",
        ),
        ({"namespaces": {"from": "All"}, "kinds": [{"kind": "GRPCRoute"}]}, "NotAllowedByListeners"),
    ],
)
def test_allowed_routes_of_another_namespace(world: World, allowed: dict[str, Any], expected: str) -> None:
    listener(world)["allowedRoutes"] = allowed
    namespaces = {"apps": {"metadata": {"name": "apps", "labels": {"team": "a"}}}}
    world = World(gateways=world.gateways, routes=world.routes, namespaces=namespaces)
    world.routes["llm-d/llm"]["metadata"]["namespace"] = "apps"
    assert reason(try_to(world, namespace="llm-d")) == expected


@pytest.mark.parametrize(
    ("own", "hostnames", "expected"),
    [
        (None, None, ["*"]),
        (None, ["a.example.com"], ["a.example.com"]),
        ("a.example.com", None, ["a.example.com"]),
        ("*.example.com", ["a.example.com", "b.org"], ["a.example.com"]),
        ("a.example.com", ["*.example.com"], ["a.example.com"]),
        ("*.example.com", ["*.b.example.com"], ["*.b.example.com"]),
        ("*.example.com", ["example.com"], []),
    ],
)
def test_hostnames_in_common(world: World, own: str | None, hostnames: list[str] | None, expected: list[str]) -> None:
    listener(world)["hostname"] = own
    world.routes["llm-d/llm"]["spec"]["hostnames"] = hostnames
    [only] = listeners(world.gateways["llm-d/front"])
    assert common_hosts(only, world.routes["llm-d/llm"]) == expected
    assert reason(try_to(world)) == ("Accepted" if expected else "NoMatchingListenerHostname")


def test_listeners_that_cannot_be_served(world: World) -> None:
    gateway = world.gateways["llm-d/front"]
    first = listener(world)
    gateway["spec"]["listeners"] = [
        first,
        {**first, "name": "twin"},
        {**first, "name": "named", "hostname": "a.example.com"},
        {**first, "name": "tls", "port": 443, "protocol": "HTTPS"},
    ]
    refused = {item.name: item.refused for item in listeners(gateway)}
    assert refused == {
        "default": "HostnameConflict",
        "twin": "HostnameConflict",
        "named": None,
        "tls": "UnsupportedProtocol",
    }
    attachment = try_to(world)
    assert attachment is not None
    assert list(attachment.hosts) == ["named"]
