"""What must hold before the number of Pattern 3's replicas is changed: GPUs for them, and nobody else who keeps it."""

from __future__ import annotations

from llmd_runbook.clients.kubernetes import AUTOSCALERS, DEPLOYMENTS, PODS, Kubernetes, Object
from llmd_runbook.errors import Conflict
from llmd_runbook.profile import Profile
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import owned
from llmd_runbook.stages.pool import gpu_wait
from llmd_runbook.stages.site import ModelServers
from llmd_runbook.topology import GPU, gpu_nodes, replica_view

_ENDED = ("Succeeded", "Failed")


def gpus(kube: Kubernetes, profile: Profile, live: Object, servers: ModelServers, most: int) -> tuple[bool, str]:
    """Whether Pattern 3's pool can hold so many replicas, and the arithmetic; other namespaces are not looked at."""
    pool = profile.pool
    nodes = [node for node in gpu_nodes(kube, pool.of_pattern3) if gpu_wait.usable(node)]
    names, offered = {node.name for node in nodes}, sum(node.gpus for node in nodes)
    said = f"{len(nodes)} usable nodes of pool {pool.of_pattern3} offer {offered}"
    if pool.mode == "autoscale" and pool.max_nodes > offered:  # one GPU each
        offered, said = pool.max_nodes, f"pool {pool.name} grows to {pool.max_nodes} nodes with one each"
    own = {pod.name for pod in site.server_pods(kube, profile.namespace, servers)}
    pods = [replica_view(pod) for pod in kube.all(PODS, profile.namespace)]
    others = [pod for pod in pods if pod.node in names and pod.name not in own and pod.phase not in _ENDED]
    held = sum(pod.gpus for pod in others)
    containers = live["spec"]["template"]["spec"]["containers"]
    needed = most * sum(int(item.get("resources", {}).get("limits", {}).get(GPU, "0")) for item in containers)
    left = offered - held
    said += f", other pods of namespace {profile.namespace} hold {held}: {left} are left"
    return needed <= left, f"{most} replicas need {needed} {GPU}; {said}"


def refuse_other_keepers(kube: Kubernetes, profile: Profile, servers: ModelServers, option: str) -> None:
    """Return where the number of replicas is the operator's to change.

    Args:
        servers: with another number than there is.
        option: of the profile's `load`, that asks for the change.

    Raises:
        Conflict: an autoscaler or a GitOps tool would undo the change.
    """
    meta = {"name": servers.name}
    applied: Object = {"apiVersion": DEPLOYMENTS.api_version, "kind": "Deployment", "metadata": meta}
    owned.refuse(kube, profile, applied=[applied | {"spec": {"replicas": servers.replicas}}])
    keepers = [
        f"HorizontalPodAutoscaler {item['metadata']['name']}"
        for item in kube.all(AUTOSCALERS, profile.namespace)
        if item["spec"]["scaleTargetRef"].get("kind") == "Deployment"
        and item["spec"]["scaleTargetRef"].get("name") == servers.name
    ]
    if keepers:
        raise Conflict(
            "an autoscaler keeps the number of replicas and would undo the change; nothing was changed",
            where=f"deployment {profile.namespace}/{servers.name}",
            reason=", ".join(keepers),
            remedy=f"take it away for the time of the measurement, or leave load.{option} out of the profile",
        )
