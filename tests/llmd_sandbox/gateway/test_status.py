from pathlib import Path
from typing import Any

import pytest

from llmd_sandbox.gateway.envoy_config import Paths
from llmd_sandbox.gateway.objects import World
from llmd_sandbox.gateway.status import Served, writes
from llmd_sandbox.gateway.translate import translate

PATHS = Paths(Path("/files"), Path("/access.log"))
NOW, LATER = "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"
SERVED = Served({"gateway-uid": "127.0.1.1"}, frozenset({"llm-d/front/8080"}), {})
NOT_YET = Served({}, frozenset(), {})


def written(world: World, served: Served = SERVED, now: str = NOW) -> dict[str, dict[str, Any]]:
    """Statuses to be written, by plural."""
    found = translate(world, served.addresses, PATHS)
    return {write.url.split("/")[-3]: write.status["status"] for write in writes(world, found, served, now)}


def put(world: World, statuses: dict[str, dict[str, Any]]) -> None:
    """Show the statuses in the objects, as the API server does."""
    places = {
        "gatewayclasses": world.classes["gke-l7-regional-external-managed"],
        "gateways": world.gateways["llm-d/front"],
        "httproutes": world.routes["llm-d/llm"],
        "inferencepools": world.pools["llm-d/pool"],
    }
    for plural, status in statuses.items():
        places[plural]["status"] = status


def verdicts(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}


def route_verdicts(world: World, served: Served = SERVED) -> dict[str, tuple[str, str]]:
    [parent] = written(world, served)["httproutes"]["parents"]
    return verdicts(parent)


def test_all_is_well(world: World) -> None:
    statuses = written(world)
    assert verdicts(statuses["gatewayclasses"]) == {"Accepted": ("True", "Accepted")}
    gateway = statuses["gateways"]
    assert gateway["addresses"] == [{"type": "IPAddress", "value": "127.0.1.1"}]
    assert verdicts(gateway) == {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
    [listener] = gateway["listeners"]
    assert (listener["name"], listener["attachedRoutes"]) == ("default", 1)
    assert listener["supportedKinds"] == [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}]
    assert verdicts(listener) == {
        "Accepted": ("True", "Accepted"),
        "Programmed": ("True", "Programmed"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
        "Conflicted": ("False", "NoConflicts"),
    }
    [parent] = statuses["httproutes"]["parents"]
    assert parent["parentRef"] == {"name": "front"}
    assert parent["controllerName"] == "networking.gke.io/gateway"
    assert {entry["observedGeneration"] for entry in parent["conditions"]} == {3}
    assert verdicts(parent) == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("True", "ResolvedRefs"),
        "Reconciled": ("True", "ReconciliationSucceeded"),
    }
    [parent] = statuses["inferencepools"]["parents"]
    assert parent["parentRef"]["name"] == "front"
    assert verdicts(parent) == {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


def test_while_the_load_balancer_is_set_up(world: World) -> None:
    gateway = written(world, NOT_YET)["gateways"]
    assert gateway["addresses"] == []
    assert verdicts(gateway) == {"Accepted": ("True", "Accepted"), "Programmed": ("False", "Pending")}
    assert verdicts(gateway["listeners"][0])["Programmed"] == ("False", "Pending")
    assert route_verdicts(world, NOT_YET)["Reconciled"] == ("False", "Pending")


def test_what_stands_already_is_not_written_again(world: World) -> None:
    put(world, written(world))
    assert written(world, now=LATER) == {}


def test_what_the_api_server_prunes_does_not_make_us_write_again(world: World) -> None:
    put(world, written(world))
    del world.pools["llm-d/pool"]["status"]["parents"][0]["controllerName"]
    assert written(world, now=LATER) == {}


def test_transition_times_change_with_the_status_only(world: World) -> None:
    put(world, written(world, NOT_YET))
    gateway = written(world, now=LATER)["gateways"]
    times = {entry["type"]: entry["lastTransitionTime"] for entry in gateway["conditions"]}
    assert times == {"Accepted": NOW, "Programmed": LATER}


@pytest.mark.parametrize("port", [80, 8080])
def test_a_port_that_cannot_be_bound(world: World, port: int) -> None:
    world.gateways["llm-d/front"]["spec"]["listeners"][0]["port"] = port
    name = f"llm-d/front/{port}"
    served = Served(SERVED.addresses, frozenset({name}), {name: "cannot bind: Permission denied"})
    gateway = written(world, served)["gateways"]
    assert verdicts(gateway)["Programmed"] == ("False", "Invalid")
    [message] = [entry["message"] for entry in gateway["conditions"] if entry["type"] == "Programmed"]
    assert f"127.0.1.1:{port}: cannot bind: Permission denied" in message
    assert ("ip_unprivileged_port_start=80" in message) is (port == 80)


def test_a_gateway_with_one_good_listener_is_programmed(world: World) -> None:
    listeners = world.gateways["llm-d/front"]["spec"]["listeners"]
    listeners.append({"name": "tls", "port": 443, "protocol": "HTTPS"})
    gateway = written(world)["gateways"]
    assert verdicts(gateway) == {
        "Accepted": ("True", "ListenersNotValid"),
        "Programmed": ("True", "Programmed"),
    }
    assert verdicts(gateway["listeners"][1])["Accepted"] == ("False", "UnsupportedProtocol")
    assert gateway["listeners"][1]["attachedRoutes"] == 0


def test_refused_routes_and_missing_backends(world: World) -> None:
    world.routes["llm-d/llm"]["spec"]["rules"][0]["backendRefs"][0]["name"] = "absent"
    assert route_verdicts(world) == {
        "Accepted": ("True", "Accepted"),
        "ResolvedRefs": ("False", "BackendNotFound"),
        "Reconciled": ("False", "ReconciliationFailed"),
    }
    world.routes["llm-d/llm"]["spec"]["parentRefs"] = [{"name": "front", "sectionName": "absent"}]
    assert route_verdicts(world)["Accepted"] == ("False", "NoMatchingParent")
    assert written(world)["gateways"]["listeners"][0]["attachedRoutes"] == 0


def test_a_configuration_that_envoy_refuses_shows_in_the_route(world: World) -> None:
    served = Served(SERVED.addresses, SERVED.listeners, {}, failure="Envoy did not take it")
    assert route_verdicts(world, served)["Reconciled"] == ("False", "ReconciliationFailed")


def test_a_pool_whose_pickers_service_is_missing(world: World) -> None:
    world.pools["llm-d/pool"]["spec"]["endpointPickerRef"]["name"] = "absent"
    [parent] = written(world)["inferencepools"]["parents"]
    assert verdicts(parent)["ResolvedRefs"] == ("False", "InvalidExtensionRef")
    assert route_verdicts(world)["ResolvedRefs"] == ("True", "ResolvedRefs")


def test_entries_of_other_controllers_stay_and_ours_go(world: World) -> None:
    foreign = {"parentRef": {"name": "mesh"}, "controllerName": "example.com/mesh", "conditions": []}
    put(world, written(world))
    route = world.routes["llm-d/llm"]
    route["status"]["parents"].append(foreign)
    assert "httproutes" not in written(world) or written(world)["httproutes"]["parents"][0] == foreign
    route["spec"]["parentRefs"] = [{"name": "another"}]
    statuses = written(world)
    assert statuses["httproutes"]["parents"] == [foreign]
    assert statuses["inferencepools"]["parents"] == []
