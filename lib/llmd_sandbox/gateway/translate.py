"""From Kubernetes objects to Envoy's whole configuration, and what statuses follow from. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby

from llmd_sandbox.gateway import envoy_config
from llmd_sandbox.gateway.attach import ANY_HOST, Attachment, Listener, attach, covers, listeners
from llmd_sandbox.gateway.backends import Backend, pool_clusters, resolve
from llmd_sandbox.gateway.envoy_config import BodyMode, Config, Paths, Snapshot
from llmd_sandbox.gateway.objects import World, by_age
from llmd_sandbox.gateway.routes import Match, matches, not_found, unsupported
from llmd_sandbox.kube import Object, key

CONTROLLER = "networking.gke.io/gateway"
GATEWAY_CLASS = "gke-l7-regional-external-managed"
BODY_MODE_ANNOTATION = "sandbox.llm-d.ai/ext-proc-body-mode"
"""On a Gateway: how its pools' pickers get bodies, a name of `BodyMode`."""
DOWN_ANNOTATION = "llmd-sandbox/gateway"
"""On a Gateway: `down` takes its listeners away (faults)."""


@dataclass(frozen=True)
class Translation:
    """Envoy's configuration, and what was found on the way.

    `backends` are those of each attachment, by the attachment's place in `attachments`.
    """

    snapshot: Snapshot
    gateways: dict[str, Object]
    attachments: list[Attachment]
    backends: list[list[Backend]]


@dataclass
class _Bound:
    """An accepted route at one listener: a host that both serve, and its matches in order."""

    host: str
    matches: list[Match] = field(default_factory=list)


def our_gateways(world: World) -> dict[str, Object]:
    """Gateways whose class names this controller."""
    classes = {name for name, item in world.classes.items() if item["spec"].get("controllerName") == CONTROLLER}
    return {name: item for name, item in world.gateways.items() if item["spec"]["gatewayClassName"] in classes}


def body_mode(gateway: Object, default: BodyMode) -> BodyMode:
    """The Gateway's body mode.

    Raises:
        ValueError: its annotation names no such mode.
    """
    return BodyMode(gateway["metadata"].get("annotations", {}).get(BODY_MODE_ANNOTATION, default))


def is_down(gateway: Object) -> bool:
    """Whether an operator of the sandbox wants every connection to it refused."""
    return bool((gateway["metadata"].get("annotations") or {}).get(DOWN_ANNOTATION) == "down")


def invalid(gateway: Object) -> str | None:
    """Why the Gateway cannot be accepted; None when it can."""
    try:
        body_mode(gateway, BodyMode.FULL_DUPLEX_STREAMED)
    except ValueError as error:
        return f"annotation {BODY_MODE_ANNOTATION}: {error}; one of {', '.join(BodyMode)}"
    return None


def translate(
    world: World,
    addresses: Mapping[str, str],
    paths: Paths,
    default_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
) -> Translation:
    """Translate everything.

    Args:
        addresses: by uid, of the Gateways that are provisioned; others get no listener yet.
    """
    gateways = our_gateways(world)
    attachments, backends = [], []
    clusters = {c["name"]: c for pool in world.pools.values() for c in pool_clusters(pool, world)}
    bound: dict[tuple[str, str], list[_Bound]] = {}
    for route in by_age(world.routes.values()):
        for parent_ref in route["spec"].get("parentRefs", []):
            attachment = attach(route, parent_ref, gateways, world)
            if attachment is None:
                continue
            reason = unsupported(route) or invalid(attachment.gateway)
            if reason and not attachment.refused:
                attachment = Attachment(route, parent_ref, attachment.gateway, refused=("UnsupportedValue", reason))
            attachments.append(attachment)
            mode = BodyMode.FULL_DUPLEX_STREAMED
            if not attachment.refused:
                mode = body_mode(attachment.gateway, default_mode)
            rules = route["spec"].get("rules") or [{}]
            resolved = [[resolve(ref, route, world, mode) for ref in rule.get("backendRefs", [])] for rule in rules]
            backends.append([backend for rule in resolved for backend in rule])
            if attachment.refused:
                continue
            clusters |= {c["name"]: c for backend in backends[-1] for c in backend.clusters}
            found = [m for rule, behind in zip(rules, resolved, strict=True) for m in matches(rule, behind)]
            for listener, hosts in attachment.hosts.items():
                place = bound.setdefault((key(attachment.gateway), listener), [])
                place += [_Bound(host, found) for host in hosts]
    snapshot = Snapshot(clusters=[clusters[name] for name in sorted(clusters)])
    for name, gateway in sorted(gateways.items()):
        address = addresses.get(gateway["metadata"]["uid"])
        if address and not invalid(gateway) and not is_down(gateway):
            _add_listeners(snapshot, name, gateway, address, bound, paths)
    return Translation(snapshot, gateways, attachments, backends)


def listener_name(gateway: str, port: int) -> str:
    """Envoy's listener for all of a Gateway's listeners on one port."""
    return f"{gateway}/{port}"


def _add_listeners(
    snapshot: Snapshot,
    name: str,
    gateway: Object,
    address: str,
    bound: Mapping[tuple[str, str], list[_Bound]],
    paths: Paths,
) -> None:
    usable = sorted((item for item in listeners(gateway) if item.refused is None), key=lambda item: item.port)
    for port, group in groupby(usable, key=lambda item: item.port):
        own = listener_name(name, port)
        snapshot.listeners.append(envoy_config.listener(own, address, port, paths))
        at = [(item, bound.get((name, item.name), [])) for item in group]
        snapshot.routes[own] = _route_configuration(own, at)


def _route_configuration(name: str, at: list[tuple[Listener, list[_Bound]]]) -> Config:
    """One virtual host for each host that a listener or a route names, and one for all others.

    A request belongs to the most specific listener; of that, routes with the more specific host go first.
    """
    hosts = {ANY_HOST} | {listener.hostname for listener, _ in at}
    hosts |= {item.host for _, items in at for item in items}
    virtual_hosts = []
    for host in sorted(hosts):
        owners = [entry for entry in at if covers(entry[0].hostname, host)]
        items = max(owners, key=lambda entry: _specificity(entry[0].hostname))[1] if owners else []
        candidates = [
            ((_specificity(item.host), match.precedence), match.route)
            for item in items
            if covers(item.host, host)
            for match in item.matches
        ]
        candidates.sort(key=lambda entry: entry[0], reverse=True)  # stable: older routes, earlier rules first
        routes = [route for _, route in candidates]
        virtual_hosts.append({"name": host, "domains": [host], "routes": [*routes, not_found()]})
    return {"name": name, "virtual_hosts": virtual_hosts, "ignore_port_in_host_matching": True}


def _specificity(host: str) -> tuple[bool, int]:
    return (not host.startswith("*"), len(host))
