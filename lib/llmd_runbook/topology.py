"""Discovery: InferencePool -> pods -> endpoint picker -> its configuration; HTTPRoute -> Gateway -> Endpoint.

Nothing is assumed from names: each object is found through the reference that the one before it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmd_runbook.analysis.picker_flags import flag
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
    Kubernetes,
    Object,
)
from llmd_runbook.errors import NotFound
from llmd_runbook.profile import Profile

GPU = "nvidia.com/gpu"
NODE_POOL_LABEL = "cloud.google.com/gke-nodepool"
ACCELERATOR_LABEL = "cloud.google.com/gke-accelerator"
ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True)
class GpuNode:
    """A node of the GPU pool; `gpus` is what its kubelet offers to pods, `not_ready` why it is not Ready."""

    name: str
    ready: bool
    gpus: int
    accelerator: str
    schedulable: bool
    not_ready: str = ""
    zone: str = ""


@dataclass(frozen=True)
class Replica:
    """A model server's pod. `ready` is the pod's condition, not its containers'."""

    name: str
    node: str
    phase: str
    ready: bool
    restarts: int
    gpus: int
    terminating: bool
    manifest: Object


@dataclass(frozen=True)
class Picker:
    """The endpoint picker behind an InferencePool: the pods of its Service, and its configuration."""

    service: str
    deployment: str
    pods: list[str]
    config_map: str
    config_key: str
    config_text: str
    arguments: list[str]


@dataclass(frozen=True)
class PoolView:
    """An InferencePool and what it selects."""

    name: str
    selector: dict[str, str]
    target_port: int
    picker_service: str
    picker_port: int
    conditions: dict[str, str]


@dataclass(frozen=True)
class RouteView:
    """An HTTPRoute: the pools it sends to, its conditions at its parents, its hostnames, the paths of its rules."""

    name: str
    gateways: list[str]
    backends: list[str]
    conditions: dict[str, str]
    hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        to, at = " ".join(self.backends) or "nothing", " ".join(self.gateways) or "no Gateway"
        return f"sends to {to} at {at}; {words(self.conditions)}"


@dataclass(frozen=True)
class GatewayView:
    """A Gateway: class, address, its first HTTP listener, else its first HTTPS one, conditions."""

    name: str
    gateway_class: str
    address: str | None
    port: int | None
    conditions: dict[str, str]
    scheme: str = "http"
    host: str = ""

    def __str__(self) -> str:
        return f"{self.address or 'no address'}; {words(self.conditions)}"

    @property
    def programmed(self) -> bool:
        """The load balancer exists."""
        return self.conditions.get("Programmed", "").startswith("True")


def gpu_nodes(kube: Kubernetes, pool: str) -> list[GpuNode]:
    """The nodes of a node pool."""
    return [node_view(node) for node in kube.all(NODES, selector=f"{NODE_POOL_LABEL}={pool}")]


def node_view(node: Object) -> GpuNode:
    """What matters of a Node."""
    meta, spec, status = node["metadata"], node.get("spec", {}), node.get("status", {})
    says_nothing: Object = {"status": "Unknown", "reason": "NoStatus", "message": "its kubelet has said nothing yet"}
    ready = next((item for item in status.get("conditions", []) if item["type"] == "Ready"), says_nothing)
    return GpuNode(
        name=meta["name"],
        ready=ready["status"] == "True",
        gpus=int(status.get("allocatable", {}).get(GPU, "0")),
        accelerator=meta.get("labels", {}).get(ACCELERATOR_LABEL, ""),
        schedulable=not spec.get("unschedulable", False),
        not_ready="" if ready["status"] == "True" else f"{ready.get('reason', '')}: {ready.get('message', '')}",
        zone=meta.get("labels", {}).get(ZONE_LABEL, ""),
    )


def pool_view(kube: Kubernetes, namespace: str, name: str) -> PoolView | None:
    """An InferencePool; None where there is none."""
    pool = kube.find(INFERENCE_POOLS, name, namespace)
    if pool is None:
        return None
    spec = pool["spec"]
    parents = pool.get("status", {}).get("parents", [])
    return PoolView(
        name=name,
        selector=dict(spec["selector"]["matchLabels"]),
        target_port=int(spec["targetPorts"][0]["number"]),
        picker_service=spec["endpointPickerRef"]["name"],
        picker_port=int(spec["endpointPickerRef"].get("port", {}).get("number", 9002)),
        conditions=_conditions(parents),
    )


def replicas(kube: Kubernetes, namespace: str, pool: PoolView) -> list[Replica]:
    """The pods that an InferencePool selects, by name."""
    pods = kube.all(PODS, namespace, selector_text(pool.selector))
    return sorted((replica_view(pod) for pod in pods), key=lambda replica: replica.name)


def replica_view(pod: Object) -> Replica:
    """What matters of a model server's pod."""
    status = pod.get("status", {})
    containers = pod["spec"]["containers"]
    return Replica(
        name=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName", ""),
        phase=status.get("phase", "Unknown"),
        ready=condition(status, "Ready").startswith("True"),
        restarts=sum(item.get("restartCount", 0) for item in status.get("containerStatuses", [])),
        gpus=sum(int(item.get("resources", {}).get("limits", {}).get(GPU, "0")) for item in containers),
        terminating="deletionTimestamp" in pod["metadata"],
        manifest=pod,
    )


def trouble(pod: Object) -> str:
    """Why a pod is not Ready, in Kubernetes' own words; empty when nothing is said."""
    status = pod.get("status", {})
    for item in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = item.get("state", {}).get("waiting") or {}
        ended = _ended(item.get("state", {}))
        before = "" if item.get("ready") else _ended(item.get("lastState", {}))
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            why = f"{waiting['reason']} after {before};" if before else f"{waiting['reason']}:"
            return f"{why} {waiting.get('message', '')}".rstrip(":; ")
        if ended:
            return ended
        if before:
            return f"started again after {before}, {item.get('restartCount', 0)} restarts"
    for item in status.get("conditions", []):
        if item["type"] == "PodScheduled" and item["status"] != "True":
            return f"{item.get('reason', '')}: {item.get('message', '')}"
    return ""


def _ended(state: Object) -> str:
    """How a container ended that did not end well; empty where it runs, waits, or ended with 0."""
    ended = state.get("terminated") or {}
    return f"{ended.get('reason', 'Error')}: exit code {ended['exitCode']}" if ended.get("exitCode") else ""


def picker(kube: Kubernetes, namespace: str, pool: PoolView) -> Picker:
    """The endpoint picker that a pool names: Service -> pods -> owner, its arguments, its configuration file.

    Raises:
        NotFound: a link of that chain is missing; the message says which.
    """
    owner, pods = picker_workload(kube, namespace, pool)
    config_map, key = picker_config(kube, namespace, owner)
    return Picker(
        service=pool.picker_service,
        deployment=owner["metadata"]["name"],
        pods=sorted(pod["metadata"]["name"] for pod in pods),
        config_map=config_map["metadata"]["name"],
        config_key=key,
        config_text=config_map.get("data", {}).get(key, ""),
        arguments=picker_arguments(owner),
    )


def picker_workload(kube: Kubernetes, namespace: str, pool: PoolView) -> tuple[Object, list[Object]]:
    """The Deployment behind the Service that a pool names as its endpoint picker, and the Service's pods.

    Raises:
        NotFound: there is no such Service, or no such Deployment.
    """
    service = kube.get(SERVICES, pool.picker_service, namespace)
    selector = service["spec"].get("selector") or {}
    pods = kube.all(PODS, namespace, selector_text(selector))
    owner = next((item for item in kube.all(DEPLOYMENTS, namespace) if _selects(item, selector)), None)
    if owner is None:
        raise NotFound(
            "no Deployment stands behind the endpoint picker's Service",
            where=f"{namespace}/{pool.picker_service}",
            remedy="install the InferencePool's release again",
        )
    return owner, pods


def picker_arguments(deployment: Object) -> list[str]:
    """The command line of an endpoint picker's Deployment."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return [*container.get("command", []), *container.get("args", [])]


def picker_config(kube: Kubernetes, namespace: str, deployment: Object) -> tuple[Object, str]:
    """The ConfigMap behind the file that an endpoint picker's `--config-file` names, and its key there.

    Raises:
        NotFound: the file is mounted from no ConfigMap, or that is gone.
    """
    spec = deployment["spec"]["template"]["spec"]
    file = flag(picker_arguments(deployment), "config-file") or ""
    for mount in spec["containers"][0].get("volumeMounts", []):
        folder = mount["mountPath"].rstrip("/") + "/"
        if not file.startswith(folder):
            continue
        volume = next(item for item in spec.get("volumes", []) if item["name"] == mount["name"])
        name = volume.get("configMap", {}).get("name", "")
        if name:
            return kube.get(CONFIG_MAPS, name, namespace), file.removeprefix(folder)
    raise NotFound(
        "the endpoint picker's configuration file is in no ConfigMap",
        where=f"--config-file {file or '(not given)'}",
        remedy="install the InferencePool's release again",
    )


def route_view(kube: Kubernetes, namespace: str, name: str) -> RouteView | None:
    """An HTTPRoute; None where there is none."""
    route = kube.find(HTTP_ROUTES, name, namespace)
    return None if route is None else route_of(route)


def route_of(route: Object) -> RouteView:
    """What matters of an HTTPRoute."""
    spec = route["spec"]
    backends = [ref for rule in spec.get("rules", []) for ref in rule.get("backendRefs", [])]
    generation = route["metadata"].get("generation")
    parents = route.get("status", {}).get("parents", [])
    return RouteView(
        name=route["metadata"]["name"],
        gateways=[ref["name"] for ref in spec.get("parentRefs", [])],
        backends=[f"{ref.get('kind', 'Service')}/{ref['name']}" for ref in backends],
        conditions=_conditions(parents, generation),
        hosts=tuple(spec.get("hostnames", [])),
        paths=tuple(dict.fromkeys(path for rule in spec.get("rules", []) for path in _paths(rule))),
    )


def _paths(rule: Object) -> list[str]:
    return [match.get("path", {}).get("value", "/") for match in rule.get("matches") or [{}]]


def gateway_view(kube: Kubernetes, namespace: str, name: str) -> GatewayView | None:
    """A Gateway; None where there is none."""
    gateway = kube.find(GATEWAYS, name, namespace)
    return None if gateway is None else gateway_of(gateway)


def gateway_of(gateway: Object) -> GatewayView:
    """What matters of a Gateway."""
    status, listeners = gateway.get("status", {}), gateway["spec"].get("listeners", [])
    addresses = status.get("addresses", [])
    web = [item for kind in ("HTTP", "HTTPS") for item in listeners if item["protocol"] == kind]
    listener: Object = web[0] if web else {"protocol": "HTTP"}
    return GatewayView(
        name=gateway["metadata"]["name"],
        gateway_class=gateway["spec"]["gatewayClassName"],
        address=addresses[0]["value"] if addresses else None,
        port=listener.get("port"),
        scheme=listener["protocol"].lower(),
        host=listener.get("hostname", ""),
        conditions={item["type"]: f"{item['status']} ({item['reason']})" for item in status.get("conditions", [])},
    )


def endpoint(kube: Kubernetes, profile: Profile, gateway: str) -> Endpoint:
    """Where clients reach a Gateway: what the profile's `route` says, and for the rest what the cluster does.

    The URL is the Gateway's address and listener with the path of the clients' HTTPRoute; the host that of the
    HTTPRoute, else of the listener. An authority cannot be discovered: it would lie in a Secret.

    Raises:
        NotFound: no such Gateway, or it has no address yet.
    """
    said, namespace = profile.route, profile.namespace
    route = route_view(kube, namespace, said.name)
    url, host = said.url.rstrip("/"), said.host
    if not url:
        view = gateway_view(kube, namespace, gateway)
        if view is None or view.address is None or view.port is None:
            why = "there is no such Gateway" if view is None else f"conditions: {view.conditions or 'none'}"
            raise NotFound(
                "the Gateway has no address to send requests to",
                where=f"gateway {namespace}/{gateway}",
                reason=why,
                remedy="install the infra release and wait for Programmed, or set `route.url`",
            )
        address = f"[{view.address}]" if ":" in view.address else view.address
        path = route.paths[0].rstrip("/") if route and len(route.paths) == 1 else ""
        default = 443 if view.scheme == "https" else 80
        url = f"{view.scheme}://{address}" + ("" if view.port == default else f":{view.port}") + path
        named = [name for name in [*(route.hosts if route else ()), view.host] if name and "*" not in name]
        host = host or next(iter(named), "")
    secure = url.startswith("https:")
    return Endpoint(
        url,
        headers={"Host": host} if host else {},
        ca_file=str(profile.resolve(said.ca_file)) if said.ca_file else None,
        server_name=host if secure else "",
        bearer_variable=said.bearer_variable,
        bearer_file=str(profile.resolve(said.bearer_file)) if said.bearer_file else "",
    )


def condition(status: Object, kind: str) -> str:
    """`True (Reason)` of one condition; empty when it is not there."""
    for item in status.get("conditions", []):
        if item["type"] == kind:
            return f"{item['status']} ({item.get('reason', '')})"
    return ""


def unmet(status: Object) -> list[str]:
    """The messages of the conditions that are not True, each with its type."""
    found = status.get("conditions", [])
    return [f"{item['type']}: {item['message']}" for item in found if item["status"] != "True" and item.get("message")]


def words(conditions: dict[str, str]) -> str:
    """Conditions as a person reads them."""
    return ", ".join(f"{kind} {value}" for kind, value in sorted(conditions.items())) or "no conditions"


def selector_text(labels: dict[str, str]) -> str:
    """Labels as a label selector."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _conditions(parents: list[Object], generation: int | None = None) -> dict[str, str]:
    """Conditions over all parents, the worst of each type; one of an older generation counts as Unknown."""
    found: dict[str, str] = {}
    for parent in parents:
        for item in parent.get("conditions", []):
            old = generation is not None and item.get("observedGeneration", generation) != generation
            text = "Unknown (an older generation)" if old else f"{item['status']} ({item.get('reason', '')})"
            if not found.get(item["type"], "True").startswith(("False", "Unknown")):
                found[item["type"]] = text
    return found


def _selects(deployment: Object, selector: dict[str, str]) -> bool:
    labels = deployment["spec"]["template"]["metadata"].get("labels", {})
    return bool(selector) and selector.items() <= labels.items()
