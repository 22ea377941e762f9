"""Statuses of GatewayClass, Gateway, HTTPRoute and InferencePool as a GKE gateway controller writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmd_sandbox.gateway.attach import GROUP, Attachment, Listener, listeners
from llmd_sandbox.gateway.backends import Backend, picker_problem
from llmd_sandbox.gateway.objects import World, condition
from llmd_sandbox.gateway.translate import CONTROLLER, Translation, invalid, listener_name
from llmd_sandbox.kube import Object, key, path

Condition = dict[str, Any]
_PENDING = "the load balancer is being set up"


@dataclass(frozen=True)
class Write:
    """A status that is not yet what it should be: where to patch it, and with what."""

    url: str
    status: Object


@dataclass(frozen=True)
class Served:
    """What the data path does: addresses of provisioned Gateways by uid, and why a listener cannot be served.

    `errors` has Envoy's words by name of its listener; a listener neither there nor in `listeners` is not
    served yet. `failure` is why Envoy did not take its newest configuration.
    """

    addresses: Mapping[str, str]
    listeners: frozenset[str]
    errors: Mapping[str, str]
    failure: str | None = None


def writes(world: World, found: Translation, served: Served, now: str) -> Iterator[Write]:
    """Every status that has to be written; `now` is the time of transitions, RFC 3339."""
    for item in world.classes.values():
        if item["spec"].get("controllerName") == CONTROLLER:
            accepted = [condition("Accepted", True, "Accepted", "this class is the sandbox's", of=item)]
            yield from _differing(item, "gatewayclasses", {"conditions": accepted}, now)
    for gateway in found.gateways.values():
        wanted = _gateway_status(gateway, found.attachments, served)
        yield from _differing(gateway, "gateways", wanted, now)
    for route in world.routes.values():
        parents = [
            _route_parent(attachment, backends, served)
            for attachment, backends in zip(found.attachments, found.backends, strict=True)
            if attachment.route is route
        ]
        yield from _differing(route, "httproutes", {"parents": _with_foreign(route, parents)}, now)
    for pool in world.pools.values():
        parents = [_pool_parent(gateway, pool, world) for gateway in _users(pool, found)]
        yield from _differing(pool, "inferencepools", {"parents": _with_foreign(pool, parents)}, now)


def _gateway_status(gateway: Object, attachments: list[Attachment], served: Served) -> Object:
    address = served.addresses.get(gateway["metadata"]["uid"])
    problem = invalid(gateway)
    shown = listeners(gateway)
    states = {item.name: _programmed(item, address, served) for item in shown}
    working = [name for name, (holds, _, _) in states.items() if holds is True]
    if problem:
        accepted = condition("Accepted", False, "InvalidParameters", problem, of=gateway)
        programmed = condition("Programmed", False, "Invalid", problem, of=gateway)
    else:
        refused = any(item.refused for item in shown)
        reason = "ListenersNotValid" if refused else "Accepted"
        usable = not all(item.refused for item in shown)
        accepted = condition("Accepted", usable, reason, "", of=gateway)
        worst = next(((reason, text) for holds, reason, text in states.values() if holds is not True), None)
        reason, text = ("Programmed", "") if working or worst is None else worst
        programmed = condition("Programmed", bool(working), reason, text, of=gateway)
    return {
        "addresses": [{"type": "IPAddress", "value": address}] if address and not problem else [],
        "conditions": [accepted, programmed],
        "listeners": [_listener_status(item, states[item.name], attachments) for item in shown],
    }


def _programmed(item: Listener, address: str | None, served: Served) -> tuple[bool, str, str]:
    """Status, reason and message of a listener's condition Programmed."""
    name = listener_name(key(item.gateway), item.port)
    if item.refused:
        return False, "Invalid", f"listener {item.name} is not accepted: {item.refused}"
    if name in served.errors:
        return False, "Invalid", _bind_message(item, address, served.errors[name])
    if address is None or name not in served.listeners:
        return False, "Pending", _PENDING
    return True, "Programmed", ""


def _bind_message(item: Listener, address: str | None, error: str) -> str:
    text = f"listener {item.name} cannot be served at {address}:{item.port}: {error}"
    if item.port < 1024 and "ermission denied" in error:
        text += (
            f"; ports below 1024 need `sysctl net.ipv4.ip_unprivileged_port_start={item.port}`, "
            "or another port in the Gateway"
        )
    return text


def _listener_status(item: Listener, state: tuple[bool, str, str], attachments: list[Attachment]) -> dict[str, Any]:
    kinds = item.spec.get("allowedRoutes", {}).get("kinds", [])
    known = all(kind["kind"] == "HTTPRoute" and kind.get("group", GROUP) == GROUP for kind in kinds)
    shows_http = not kinds or any(kind["kind"] == "HTTPRoute" for kind in kinds)
    conflict = item.refused == "HostnameConflict"
    programmed, reason, message = state
    gateway = item.gateway
    return {
        "name": item.name,
        "attachedRoutes": len(
            {key(a.route) for a in attachments if a.gateway is gateway and not a.refused and item.name in a.hosts}
        ),
        "supportedKinds": [{"group": GROUP, "kind": "HTTPRoute"}] if shows_http else [],
        "conditions": [
            condition("Accepted", item.refused is None, item.refused or "Accepted", of=gateway),
            condition("Programmed", programmed, reason, message, of=gateway),
            condition("ResolvedRefs", known, "ResolvedRefs" if known else "InvalidRouteKinds", of=gateway),
            condition("Conflicted", conflict, "HostnameConflict" if conflict else "NoConflicts", of=gateway),
        ],
    }


def _route_parent(attachment: Attachment, backends: list[Backend], served: Served) -> dict[str, Any]:
    route = attachment.route
    reason, message = attachment.refused or ("Accepted", "")
    problem = next((backend.problem for backend in backends if backend.problem), None)
    unresolved, unresolved_message = problem or ("ResolvedRefs", "")
    provisioned = attachment.gateway["metadata"]["uid"] in served.addresses
    failure = message or unresolved_message or served.failure
    if failure:
        reconciled = (False, "ReconciliationFailed", failure)
    elif provisioned:
        reconciled = (True, "ReconciliationSucceeded", "")
    else:
        reconciled = (False, "Pending", _PENDING)
    return {
        "parentRef": attachment.parent_ref,
        "controllerName": CONTROLLER,
        "conditions": [
            condition("Accepted", not attachment.refused, reason, message, of=route),
            condition("ResolvedRefs", not problem, unresolved, unresolved_message, of=route),
            condition("Reconciled", *reconciled, of=route),
        ],
    }


def _users(pool: Object, found: Translation) -> list[Object]:
    """Gateways that have an accepted route to the pool."""
    gateways: dict[str, Object] = {}
    for attachment, backends in zip(found.attachments, found.backends, strict=True):
        if not attachment.refused and any(backend.pool is pool for backend in backends):
            gateways[key(attachment.gateway)] = attachment.gateway
    return [gateways[name] for name in sorted(gateways)]


def _pool_parent(gateway: Object, pool: Object, world: World) -> dict[str, Any]:
    problem = picker_problem(pool, world)
    reason = "InvalidExtensionRef" if problem else "ResolvedRefs"
    meta = gateway["metadata"]
    return {
        "parentRef": {
            "group": GROUP,
            "kind": "Gateway",
            "namespace": meta["namespace"],
            "name": meta["name"],
        },
        "controllerName": CONTROLLER,
        "conditions": [
            condition("Accepted", True, "Accepted", of=pool),
            condition("ResolvedRefs", not problem, reason, problem or "", of=pool),
        ],
    }


def _with_foreign(item: Object, ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our entries after those of other controllers; an entry without a controller is ours."""
    existing = item.get("status", {}).get("parents", [])
    return [entry for entry in existing if entry.get("controllerName", CONTROLLER) != CONTROLLER] + ours


def _differing(item: Object, plural: str, wanted: Object, now: str) -> Iterator[Write]:
    """The write of `wanted`, unless the object's status says it already."""
    current = {name: item.get("status", {}).get(name) for name in wanted}
    _keep_transition_times(current, wanted, now)
    if _comparable(current) != _comparable(wanted):
        meta = item["metadata"]
        url = path(item["apiVersion"], plural, meta.get("namespace"), meta["name"], "status")
        yield Write(url, {"status": wanted})


def _keep_transition_times(current: Any, wanted: Any, now: str) -> None:
    """Give each condition of `wanted` its time: that of the current one with the same status, else `now`."""
    known = {_place(where, entry): entry for where, entry in _conditions(current)}
    for where, entry in _conditions(wanted):
        if "lastTransitionTime" not in entry:
            old = known.get(_place(where, entry), {})
            same = old.get("status") == entry["status"]
            entry["lastTransitionTime"] = old.get("lastTransitionTime", now) if same else now


def _conditions(status: Object) -> Iterator[tuple[str, Condition]]:
    """Every condition in a status, with the name of what it is about."""
    for entry in status.get("conditions") or []:
        yield "", entry
    for listener in status.get("listeners") or []:
        for entry in listener["conditions"]:
            yield listener["name"], entry
    for parent in status.get("parents") or []:
        for entry in parent.get("conditions") or []:
            yield repr(sorted(parent["parentRef"].items())), entry


def _place(where: str, entry: Condition) -> tuple[str, str]:
    return where, entry["type"]


def _comparable(value: Any) -> Any:
    """The value without what the API server adds or drops: empty fields, controller names."""
    if isinstance(value, dict):
        pairs = {name: _comparable(inner) for name, inner in value.items() if name != "controllerName"}
        return {name: inner for name, inner in pairs.items() if inner not in (None, "", [], {})}
    return [_comparable(inner) for inner in value] if isinstance(value, list) else value
