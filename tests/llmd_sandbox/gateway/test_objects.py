from typing import Any

import pytest

from llmd_sandbox.gateway.objects import World, permits, ready_pods, selects, service_endpoints


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_selectors(selector: dict[str, Any], expected: bool) -> None:
    assert selects(selector, {"a": "1"}) is expected


def test_only_ready_pods_of_the_namespace_take_traffic(world: World) -> None:
    pod = world.pods["llm-d/model-0"]
    assert ready_pods(world.pods, "llm-d", {"app": "model"}) == [pod]
    assert ready_pods(world.pods, "other", {"app": "model"}) == []
    assert ready_pods(world.pods, "llm-d", {}) == [], "a Service without a selector selects nothing"
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert ready_pods(world.pods, "llm-d", {"app": "model"}) == []
    del pod["metadata"]["deletionTimestamp"]
    pod["status"]["conditions"][0]["status"] = "False"
    assert ready_pods(world.pods, "llm-d", {"app": "model"}) == []


def test_a_named_target_port_is_the_pods_own(world: World) -> None:
    service = world.services["llm-d/plain"]
    assert service_endpoints(service, 80, world.pods) == [("127.0.0.3", 8000)]
    assert service_endpoints(service, 81, world.pods) == []
    service["spec"]["ports"][0]["targetPort"] = "absent"
    assert service_endpoints(service, 80, world.pods) == []


@pytest.mark.parametrize(
    ("origin", "to", "expected"),
    [
        ({"namespace": "apps"}, {"kind": "Service", "group": ""}, True),
        ({"namespace": "apps"}, {"kind": "Service", "group": "", "name": "plain"}, True),
        ({"namespace": "apps"}, {"kind": "Service", "group": "", "name": "other"}, False),
        ({"namespace": "other"}, {"kind": "Service", "group": ""}, False),
        ({"namespace": "apps"}, {"kind": "InferencePool", "group": "inference.networking.k8s.io"}, False),
    ],
)
def test_reference_grants(world: World, origin: dict[str, str], to: dict[str, str], expected: bool) -> None:
    route = world.routes["llm-d/llm"]
    assert permits({}, route, "", "Service", "llm-d", "plain")
    route["metadata"]["namespace"] = "apps"
    assert not permits({}, route, "", "Service", "llm-d", "plain")
    origin = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", **origin}
    grant = {"metadata": {"name": "g", "namespace": "llm-d"}, "spec": {"from": [origin], "to": [to]}}
    assert permits({"llm-d/g": grant}, route, "", "Service", "llm-d", "plain") is expected
