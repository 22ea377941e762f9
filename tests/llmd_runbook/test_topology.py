"""Discovery through references, in a cluster in memory."""

from __future__ import annotations

from typing import Any

import pytest

from llmd_runbook import topology
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    GATEWAYS,
    HTTP_ROUTES,
    INFERENCE_POOLS,
    NODES,
    PODS,
    SERVICES,
    Object,
)
from llmd_runbook.errors import NotFound
from llmd_runbook.profile import PARAMETERS, Profile, Route, load
from llmd_runbook.topology import PoolView, RouteView
from tests.llmd_runbook.memory import Memory

NS = "llm-d"
READY = {"type": "Ready", "status": "True", "reason": "Fine"}
CONFIG = "/config/picker.yaml"


def named(name: str, labels: dict[str, str] | None = None, **rest: Any) -> Object:
    return {"metadata": {"name": name, "namespace": NS, "labels": labels or {}}, **rest}


def conditions(*items: tuple[str, str, int]) -> list[Object]:
    return [{"type": kind, "status": status, "reason": "R", "observedGeneration": seen} for kind, status, seen in items]


def pod(name: str, labels: dict[str, str], *, ready: str = "True", gpus: str = "1") -> Object:
    limits = {topology.GPU: gpus} if gpus != "0" else {}
    spec = {"nodeName": "n1", "containers": [{"name": "vllm", "resources": {"limits": limits}}, {"name": "side"}]}
    states = [{"restartCount": 2}, {"restartCount": 1}]
    status = {"phase": "Running", "conditions": [{**READY, "status": ready}], "containerStatuses": states}
    return named(name, labels, spec=spec, status=status)


def pool_object(port: dict[str, int] | None = None) -> Object:
    reference = {"name": "gaie-epp", **({"port": port} if port else {})}
    spec = {"selector": {"matchLabels": {"b": "2", "a": "1"}}, "targetPorts": [{"number": 8000}]}
    parents = [{"conditions": conditions(("Accepted", "True", 1), ("ResolvedRefs", "False", 1))}]
    return named("gaie", spec={**spec, "endpointPickerRef": reference}, status={"parents": parents})


def view(kube: Memory) -> PoolView:
    found = topology.pool_view(kube, NS, "gaie")
    assert found is not None
    return found


def picker_in(kube: Memory, *, container: Object | None = None, volumes: list[Object] | None = None) -> None:
    """A pool, its picker's Service, Deployment, pods and ConfigMap."""
    kube.add(INFERENCE_POOLS, pool_object())
    kube.add(SERVICES, named("gaie-epp", spec={"selector": {"app": "epp"}}))
    given = {"args": ["--config-file", CONFIG], "volumeMounts": [{"name": "config", "mountPath": "/config"}]}
    spec = {
        "containers": [container or given],
        "volumes": volumes or [{"name": "config", "configMap": {"name": "epp-config"}}],
    }
    template = {"metadata": {"labels": {"app": "epp", "more": "x"}}, "spec": spec}
    kube.add(DEPLOYMENTS, named("other", spec={"template": {"metadata": {}, "spec": {"containers": [{}]}}}))
    kube.add(DEPLOYMENTS, named("gaie-epp", spec={"template": template}))
    kube.add(PODS, named("gaie-epp-1", {"app": "epp", "more": "x"}))
    kube.add(CONFIG_MAPS, named("epp-config", data={"picker.yaml": "kind: EndpointPickerConfig"}))


def test_nodes_of_a_pool() -> None:
    kube = Memory()
    labels = {topology.NODE_POOL_LABEL: "gpus", topology.ACCELERATOR_LABEL: "nvidia-tesla-t4"}
    good: Object = {"metadata": {"name": "n1", "labels": labels}, "spec": {}}
    good["status"] = {"conditions": [READY], "allocatable": {topology.GPU: "1"}}
    bad = {"metadata": {"name": "n2", "labels": labels}, "spec": {"unschedulable": True}, "status": {}}
    lost = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting."}
    silent: Object = {"metadata": {"name": "n4", "labels": labels}, "status": {"conditions": [lost]}}
    for node in (good, bad, {"metadata": {"name": "n3"}, "status": {}}, silent):
        kube.add(NODES, node)
    first, second, third = topology.gpu_nodes(kube, "gpus")
    assert (first.name, first.ready, first.gpus, first.schedulable) == ("n1", True, 1, True)
    assert first.accelerator == "nvidia-tesla-t4"
    assert (first.not_ready, third.ready) == ("", False)
    assert third.not_ready == "NodeStatusUnknown: Kubelet stopped posting."
    assert second.not_ready == "NoStatus: its kubelet has said nothing yet"
    assert (second.name, second.ready, second.gpus, second.schedulable) == ("n2", False, 0, False)


def test_a_pool_and_what_it_selects() -> None:
    kube = Memory()
    kube.add(INFERENCE_POOLS, pool_object())
    for name, labels in [("p2", {"a": "1", "b": "2"}), ("p1", {"a": "1", "b": "2", "c": "3"}), ("q", {"a": "1"})]:
        kube.add(PODS, pod(name, labels))
    pool = view(kube)
    assert (pool.selector, pool.target_port, pool.picker_service) == ({"b": "2", "a": "1"}, 8000, "gaie-epp")
    assert pool.conditions == {"Accepted": "True (R)", "ResolvedRefs": "False (R)"}
    found = topology.replicas(kube, NS, pool)
    assert [replica.name for replica in found] == ["p1", "p2"]
    assert (found[0].node, found[0].ready, found[0].gpus, found[0].restarts) == ("n1", True, 1, 3)
    assert topology.pool_view(kube, NS, "nothing") is None


@pytest.mark.parametrize(("port", "number"), [(None, 9002), ({"number": 9900}, 9900)])
def test_the_pickers_port_has_a_default(port: dict[str, int] | None, number: int) -> None:
    kube = Memory()
    kube.add(INFERENCE_POOLS, pool_object(port))
    assert view(kube).picker_port == number


def test_a_pod_is_ready_when_its_condition_says_so() -> None:
    assert not topology.replica_view(pod("p", {}, ready="Unknown")).ready
    bare = named("p", spec={"containers": []})
    found = topology.replica_view(bare)
    assert (found.phase, found.ready, found.node, found.gpus, found.terminating) == ("Unknown", False, "", 0, False)
    bare["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert topology.replica_view(bare).terminating


OOM: Object = {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ({}, ""),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({"containerStatuses": [{"state": {"running": {}}}]}, ""),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}}]},
            "ImagePullBackOff: no image",
        ),
        ({"initContainerStatuses": [{"state": {"waiting": {"reason": "Other"}}}]}, "Other"),
        (
            {"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]},
            "OOMKilled: exit code 137",
        ),
        ({"initContainerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}, ""),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "5m"}}, **OOM}]},
            "CrashLoopBackOff after OOMKilled: exit code 137; 5m",
        ),
        (
            {"containerStatuses": [{"state": {"running": {}}, "restartCount": 2, **OOM}]},
            "started again after OOMKilled: exit code 137, 2 restarts",
        ),
        ({"containerStatuses": [{"state": {"running": {}}, "ready": True, "restartCount": 2, **OOM}]}, ""),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]},
            "Unschedulable: 0/3",
        ),
    ],
)
def test_trouble_in_kubernetes_own_words(status: Object, said: str) -> None:
    assert topology.trouble({"status": status}) == said


def test_the_picker_behind_a_pool() -> None:
    kube = Memory()
    picker_in(kube)
    found = topology.picker(kube, NS, view(kube))
    assert (found.service, found.deployment, found.pods) == ("gaie-epp", "gaie-epp", ["gaie-epp-1"])
    assert (found.config_map, found.config_key) == ("epp-config", "picker.yaml")
    assert found.config_text == "kind: EndpointPickerConfig"
    assert found.arguments == ["--config-file", CONFIG]


@pytest.mark.parametrize(
    "words", [{"args": [f"--config-file={CONFIG}"]}, {"args": [f"-config-file={CONFIG}"]}, {"command": None}]
)
def test_the_ways_to_write_a_flag(words: Object) -> None:
    words = words if "args" in words else {"command": ["epp", "-v=4", "--config-file", CONFIG]}
    kube = Memory()
    picker_in(kube, container={**words, "volumeMounts": [{"name": "config", "mountPath": "/config/"}]})
    assert topology.picker(kube, NS, view(kube)).config_text == "kind: EndpointPickerConfig"


def test_a_key_that_the_config_map_lacks_is_an_empty_text() -> None:
    kube = Memory()
    picker_in(kube)
    kube.add(CONFIG_MAPS, named("epp-config"))
    assert topology.picker(kube, NS, view(kube)).config_text == ""


@pytest.mark.parametrize(
    "gone",
    [SERVICES.path(NS, "gaie-epp"), DEPLOYMENTS.path(NS, "gaie-epp"), CONFIG_MAPS.path(NS, "epp-config")],
)
def test_a_missing_link_to_the_picker_is_named(gone: str) -> None:
    kube = Memory()
    picker_in(kube)
    pool = view(kube)
    del kube.objects[gone]
    with pytest.raises(NotFound) as caught:
        topology.picker(kube, NS, pool)
    assert gone.rpartition("/")[2] in (caught.value.where or "")


@pytest.mark.parametrize(
    ("container", "volumes"),
    [
        ({"args": []}, None),
        ({"args": ["--config-file"], "volumeMounts": [{"name": "config", "mountPath": "/config"}]}, None),
        ({"args": ["--config-file=/elsewhere/x"], "volumeMounts": [{"name": "config", "mountPath": "/config"}]}, None),
        (None, [{"name": "config", "emptyDir": {}}]),
    ],
)
def test_a_configuration_outside_config_maps_is_told(container: Object | None, volumes: list[Object] | None) -> None:
    kube = Memory()
    picker_in(kube, container=container, volumes=volumes)
    with pytest.raises(NotFound, match="in no ConfigMap") as caught:
        topology.picker(kube, NS, view(kube))
    assert caught.value.remedy


def test_a_service_without_selector_has_no_deployment() -> None:
    kube = Memory()
    picker_in(kube)
    kube.add(SERVICES, named("gaie-epp", spec={}))
    with pytest.raises(NotFound, match="no Deployment"):
        topology.picker(kube, NS, view(kube))


def route(generation: int, *parents: list[Object]) -> RouteView:
    made = named("r", spec={"parentRefs": [{"name": "g"}], "rules": [{"backendRefs": [{"name": "web"}]}, {}]})
    made["metadata"]["generation"] = generation
    made["status"] = {"parents": [{"conditions": items} for items in parents]}
    return topology.route_of(made)


def test_a_route_says_where_it_sends_to() -> None:
    found = route(1, conditions(("Accepted", "True", 1)))
    assert (found.gateways, found.backends) == (["g"], ["Service/web"])
    assert str(found) == "sends to Service/web at g; Accepted True (R)"
    assert str(RouteView("r", [], [], {})) == "sends to nothing at no Gateway; no conditions"


def test_conditions_of_an_older_generation_are_unknown() -> None:
    assert route(2, conditions(("Accepted", "True", 1))).conditions == {"Accepted": "Unknown (an older generation)"}
    assert route(2, [{"type": "Accepted", "status": "True"}]).conditions == {"Accepted": "True ()"}


@pytest.mark.parametrize("order", [("True", "False"), ("False", "True")])
def test_the_worst_parent_counts(order: tuple[str, str]) -> None:
    found = route(1, *(conditions(("Accepted", status, 1)) for status in order))
    assert found.conditions == {"Accepted": "False (R)"}


def profile(said: Route | None = None) -> Profile:
    return load("sandbox").model_copy(update={"namespace": NS, "route": said or Route(name="r")})


def test_routes_by_name() -> None:
    kube = Memory()
    kube.add(HTTP_ROUTES, named("r", spec={}))
    assert topology.route_view(kube, NS, "r") == RouteView("r", [], [], {})
    assert topology.route_view(kube, NS, "other") is None


def gateway_in(kube: Memory, address: str | None, port: int = 80, protocol: str = "HTTP") -> None:
    listeners = [{"port": 443, "protocol": "TLS"}, {"port": port, "protocol": protocol}]
    status: Object = {"conditions": conditions(("Programmed", "True", 1))}
    status["addresses"] = [{"value": address}] if address else []
    kube.add(GATEWAYS, named("g", spec={"gatewayClassName": "c", "listeners": listeners}, status=status))


@pytest.mark.parametrize(
    ("address", "port", "url"),
    [
        ("192.0.2.1", 80, "http://192.0.2.1"),
        ("192.0.2.1", 8080, "http://192.0.2.1:8080"),
        ("gw.example", 80, "http://gw.example"),
        ("2001:db8::1", 8080, "http://[2001:db8::1]:8080"),
    ],
)
def test_where_clients_reach_a_gateway(address: str, port: int, url: str) -> None:
    kube = Memory()
    gateway_in(kube, address, port)
    found = topology.gateway_view(kube, NS, "g")
    assert found is not None
    assert (found.programmed, str(found)) == (True, f"{address}; Programmed True (R)")
    assert topology.endpoint(kube, profile(), "g") == Endpoint(url)


def test_a_given_url_overrides_the_gateway() -> None:
    """As behind a port-forward: no Gateway is asked."""
    said = Route(name="r", url="https://127.0.0.1:8443/v/", host="models.example", bearer_variable="TOKEN")
    found = topology.endpoint(Memory(), profile(said), "g")
    assert found == Endpoint(
        "https://127.0.0.1:8443/v",
        headers={"Host": "models.example"},
        server_name="models.example",
        bearer_variable="TOKEN",
    )


def test_files_of_the_profile_are_beside_it() -> None:
    said = Route(name="r", url="https://gw", ca_file="ca.pem", bearer_file="token")
    found = topology.endpoint(Memory(), profile(said), "g")
    assert (found.ca_file, found.bearer_file) == (str(PARAMETERS / "ca.pem"), str(PARAMETERS / "token"))


@pytest.mark.parametrize(
    ("of_route", "of_listener", "headers"),
    [
        (["models.example"], "", {"Host": "models.example"}),
        (["*.example", "models.example"], "other.example", {"Host": "models.example"}),
        ([], "models.example", {"Host": "models.example"}),
        ([], "*.example", {}),
    ],
)
def test_host_and_path_of_the_clients_route(of_route: list[str], of_listener: str, headers: dict[str, str]) -> None:
    kube = Memory()
    listener = {"port": 443, "protocol": "HTTPS", "hostname": of_listener}
    status: Object = {"addresses": [{"value": "192.0.2.1"}]}
    kube.add(GATEWAYS, named("g", spec={"gatewayClassName": "c", "listeners": [listener]}, status=status))
    rule = {"matches": [{"path": {"type": "PathPrefix", "value": "/qwen/"}}]}
    kube.add(HTTP_ROUTES, named("r", spec={"hostnames": of_route, "rules": [rule]}))
    found = topology.endpoint(kube, profile(), "g")
    assert (found.url, found.headers) == ("https://192.0.2.1/qwen", headers)
    assert found.server_name == headers.get("Host", "")


def test_gateways_that_cannot_be_reached_say_why() -> None:
    kube = Memory()
    with pytest.raises(NotFound, match="no such Gateway"):
        topology.endpoint(kube, profile(), "g")
    gateway_in(kube, None)
    with pytest.raises(NotFound, match="Programmed") as caught:
        topology.endpoint(kube, profile(), "g")
    assert caught.value.where == f"gateway {NS}/g"
    gateway_in(kube, "192.0.2.1", protocol="TCP")
    with pytest.raises(NotFound):
        topology.endpoint(kube, profile(), "g")


def test_conditions_and_selectors_as_text() -> None:
    assert topology.condition({"conditions": [READY]}, "Ready") == "True (Fine)"
    assert topology.condition({}, "Ready") == ""
    assert topology.selector_text({"b": "2", "a": "1"}) == "a=1,b=2"
