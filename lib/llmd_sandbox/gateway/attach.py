"""Which listeners of which Gateway an HTTPRoute attaches to, and why not. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmd_sandbox.gateway.objects import World, selects
from llmd_sandbox.kube import Object, key

GROUP = "gateway.networking.k8s.io"
ANY_HOST = "*"


@dataclass(frozen=True)
class Listener:
    """One listener of a Gateway; `refused` is why it takes no traffic: a reason of condition Accepted."""

    gateway: Object
    spec: Object
    refused: str | None = None

    @property
    def name(self) -> str:
        """Its name, unique within the Gateway."""
        return str(self.spec["name"])

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.spec["port"])

    @property
    def hostname(self) -> str:
        """The hostname that it serves; `*` for any."""
        return str(self.spec.get("hostname") or ANY_HOST)


@dataclass(frozen=True)
class Attachment:
    """One parentRef of a route to a Gateway of ours.

    `hosts` has, for each listener that the route attaches to, the hostnames that they have in common.
    `refused` is (reason, message) of the condition Accepted when there is none.
    """

    route: Object
    parent_ref: Object
    gateway: Object
    hosts: dict[str, list[str]] = field(default_factory=dict)
    refused: tuple[str, str] | None = None


def listeners(gateway: Object) -> list[Listener]:
    """The Gateway's listeners, each judged by itself and against the others."""
    specs = gateway["spec"]["listeners"]
    taken = [(spec["port"], spec.get("hostname") or ANY_HOST) for spec in specs]
    found = []
    for spec, own in zip(specs, taken, strict=True):
        refused = None
        if spec["protocol"] != "HTTP":
            refused = "UnsupportedProtocol"
        elif taken.count(own) > 1:
            refused = "HostnameConflict"
        found.append(Listener(gateway, spec, refused))
    return found


def attach(route: Object, parent_ref: Object, gateways: dict[str, Object], world: World) -> Attachment | None:
    """Attach a route to the Gateway that `parent_ref` names; None when that is no Gateway of ours."""
    namespace = parent_ref.get("namespace", route["metadata"]["namespace"])
    gateway = gateways.get(f"{namespace}/{parent_ref['name']}")
    is_gateway = parent_ref.get("group", GROUP) == GROUP and parent_ref.get("kind", "Gateway") == "Gateway"
    if gateway is None or not is_gateway:
        return None

    def refuse(reason: str, message: str) -> Attachment:
        return Attachment(route, parent_ref, gateway, refused=(reason, message))

    named = [
        listener
        for listener in listeners(gateway)
        if listener.refused is None
        and parent_ref.get("sectionName", listener.name) == listener.name
        and parent_ref.get("port", listener.port) == listener.port
    ]
    if not named:
        return refuse("NoMatchingParent", f"no usable listener of Gateway {key(gateway)} fits the parentRef")
    allowed = [listener for listener in named if _allows(listener, route, world)]
    if not allowed:
        return refuse("NotAllowedByListeners", f"allowedRoutes of Gateway {key(gateway)} excludes this route")
    hosts = {listener.name: common_hosts(listener, route) for listener in allowed}
    hosts = {name: found for name, found in hosts.items() if found}
    if not hosts:
        return refuse("NoMatchingListenerHostname", "no hostname is both the route's and a listener's")
    return Attachment(route, parent_ref, gateway, hosts)


def common_hosts(listener: Listener, route: Object) -> list[str]:
    """Hostnames that both the listener and the route serve."""
    return [
        host if covers(listener.hostname, host) else listener.hostname
        for host in route["spec"].get("hostnames") or [ANY_HOST]
        if covers(listener.hostname, host) or covers(host, listener.hostname)
    ]


def covers(pattern: str, host: str) -> bool:
    """Whether every name that `host` (a name or a wildcard) stands for fits `pattern`.

    >>> covers("*.example.com", "a.b.example.com"), covers("*.example.com", "example.com")
    (True, False)
    """
    if pattern in (ANY_HOST, host):
        return True
    return pattern.startswith("*.") and host != ANY_HOST and host.endswith(pattern[1:])


def _allows(listener: Listener, route: Object, world: World) -> bool:
    rules = listener.spec.get("allowedRoutes", {})
    kinds = rules.get("kinds") or [{"kind": "HTTPRoute"}]
    if not any(kind["kind"] == "HTTPRoute" and kind.get("group", GROUP) == GROUP for kind in kinds):
        return False
    namespaces = rules.get("namespaces", {})
    own = route["metadata"]["namespace"]
    match namespaces.get("from", "Same"):
        case "All":
            return True
        case "Selector":
            labels = world.namespaces.get(own, {}).get("metadata", {}).get("labels", {})
            return selects(namespaces.get("selector", {}), labels)
        case _:
            return bool(own == listener.gateway["metadata"]["namespace"])
