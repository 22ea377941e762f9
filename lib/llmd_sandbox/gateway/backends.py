"""What stands behind a route: InferencePools with their pickers, Services with their pods. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from llmd_sandbox.gateway import envoy_config
from llmd_sandbox.gateway.envoy_config import BodyMode, Config
from llmd_sandbox.gateway.objects import World, is_ready, permits, ready_pods, service_endpoints, service_port
from llmd_sandbox.kube import Object, key

POOL_GROUP = "inference.networking.k8s.io"
NO_BACKEND = "no-backend"
"""The cluster of routes without a usable backend; it does not exist, their requests are aborted before."""

_INSECURE = re.compile(r"--?secure-?serving=(false|f|0)", re.IGNORECASE)


@dataclass(frozen=True)
class Backend:
    """One backendRef, resolved; `problem` is (reason, message) of the route's condition ResolvedRefs."""

    cluster: str = NO_BACKEND
    weight: int = 1
    filters: Config = field(default_factory=dict)
    clusters: list[Config] = field(default_factory=list)
    pool: Object | None = None
    problem: tuple[str, str] | None = None


def resolve(ref: Object, route: Object, world: World, mode: BodyMode) -> Backend:
    """Find the InferencePool or Service that a backendRef names."""
    group, kind = ref.get("group", ""), ref.get("kind", "Service")
    namespace = ref.get("namespace", route["metadata"]["namespace"])
    weight, name = ref.get("weight", 1), f"{namespace}/{ref['name']}"

    def broken(reason: str, message: str) -> Backend:
        return Backend(weight=weight, filters=envoy_config.abort(500), problem=(reason, message))

    if (group, kind) not in ((POOL_GROUP, "InferencePool"), ("", "Service")):
        return broken("InvalidKind", f"backendRef {group or 'core'}/{kind} is no kind of backend known here")
    if not permits(world.grants, route, group, kind, namespace, ref["name"]):
        return broken("RefNotPermitted", f"no ReferenceGrant in {namespace} lets this route use {kind} {name}")
    if kind == "InferencePool":
        pool = world.pools.get(name)
        if pool is None:
            return broken("BackendNotFound", f"InferencePool {name} does not exist")
        return _pool_backend(pool, weight, mode)
    service = world.services.get(name)
    if service is None or "port" not in ref or service_port(service, ref["port"]) is None:
        return broken("BackendNotFound", f"Service {name} with port {ref.get('port')} does not exist")
    cluster = f"service/{name}/{ref['port']}"
    endpoints = service_endpoints(service, ref["port"], world.pods)
    return Backend(cluster, weight, clusters=[envoy_config.static_cluster(cluster, endpoints)])


def _pool_backend(pool: Object, weight: int, mode: BodyMode) -> Backend:
    picker, cluster = _cluster_names(pool)
    return Backend(cluster, weight, filters=envoy_config.picker(picker, mode, _fails_open(pool)), pool=pool)


def pool_clusters(pool: Object, world: World) -> list[Config]:
    """The clusters of a pool: its picker, and the endpoint that the picker chooses.

    They exist as long as the pool does: Envoy ends requests whose picker's cluster goes, and a route that moves
    to another pool must not cut the answers that still stream from the old one.
    """
    picker, cluster = _cluster_names(pool)
    if _fails_open(pool):
        pods = envoy_config.chosen_or_any_cluster(cluster, pool_endpoints(pool, world))
    else:
        pods = envoy_config.chosen_cluster(cluster)
    return [_picker_cluster(picker, pool, world), pods]


def _cluster_names(pool: Object) -> tuple[str, str]:
    return f"picker/{key(pool)}", f"pool/{key(pool)}"


def _fails_open(pool: Object) -> bool:
    return bool(pool["spec"].get("endpointPickerRef", {}).get("failureMode") == "FailOpen")


def pool_endpoints(pool: Object, world: World) -> list[tuple[str, int]]:
    """Address and first target port of each Ready pod that the pool selects."""
    labels = pool["spec"]["selector"].get("matchLabels", {})
    port = int(pool["spec"]["targetPorts"][0]["number"])
    pods = ready_pods(world.pods, pool["metadata"]["namespace"], labels)
    return [(str(pod["status"]["podIP"]), port) for pod in pods]


def picker_problem(pool: Object, world: World) -> str | None:
    """Why the pool's endpointPickerRef leads nowhere; None when it leads to a Service."""
    ref = pool["spec"].get("endpointPickerRef")
    if not ref:
        return "the pool has no endpointPickerRef"
    if (ref.get("group", ""), ref.get("kind", "Service")) != ("", "Service"):
        return f"endpointPickerRef is of kind {ref.get('kind')}, not a Service"
    name = f"{pool['metadata']['namespace']}/{ref['name']}"
    service = world.services.get(name)
    if service is None:
        return f"Service {name} does not exist"
    port = ref.get("port", {}).get("number")
    return None if port and service_port(service, port) else f"Service {name} has no port {port}"


def _picker_cluster(cluster: str, pool: Object, world: World) -> Config:
    if picker_problem(pool, world):
        return envoy_config.picker_cluster(cluster, [], secure=True)
    ref, namespace = pool["spec"]["endpointPickerRef"], pool["metadata"]["namespace"]
    service = world.services[f"{namespace}/{ref['name']}"]
    endpoints = service_endpoints(service, ref["port"]["number"], world.pods)
    ips = {ip for ip, _ in endpoints}
    pods = [pod for pod in world.pods.values() if is_ready(pod) and pod["status"]["podIP"] in ips]
    return envoy_config.picker_cluster(cluster, endpoints, secure=all(serves_tls(pod) for pod in pods))


def serves_tls(pod: Object) -> bool:
    """Whether a picker's pod serves TLS, the picker's default, as its containers' arguments say."""
    words = [
        word
        for container in pod["spec"]["containers"]
        for word in (*container.get("command", []), *container.get("args", []))
    ]
    return not any(_INSECURE.fullmatch(word) for word in words)
