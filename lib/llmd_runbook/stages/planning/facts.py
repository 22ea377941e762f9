"""What plans are made of: a pattern as it would be installed, and what must still hold before it is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmd_runbook.analysis.manifest_diff import digests
from llmd_runbook.clients.gke import GkePool
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, Kubernetes, Object
from llmd_runbook.clients.releases.base import Driver
from llmd_runbook.clients.releases.pending import half_done
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.pool.size import arithmetic, nodes_needed
from llmd_runbook.stages.site import ModelServers
from llmd_runbook.topology import route_of


@dataclass(frozen=True)
class Rendered:
    """A pattern as its releases render it now."""

    pattern: Pattern
    driver: Driver
    names: list[str]
    manifests: list[Object]
    servers: ModelServers


def rendered(profile: Profile, pattern: Pattern) -> Rendered:
    """A pattern as it would be installed.

    Raises:
        ToolError, ProfileError: it cannot be rendered, or has not exactly one Deployment that asks for GPUs.
    """
    driver = site.driver(profile, pattern)
    manifests = driver.render()
    return Rendered(pattern, driver, driver.names(), manifests, site.model_servers(manifests, profile))


def pinned(profile: Profile, pattern: Pattern) -> dict[str, Any]:
    """What of a pattern is approved: charts and rendered objects by digest, model and replicas."""
    found = rendered(profile, pattern)
    return {
        "charts": found.driver.charts(),
        "objects": digests(found.manifests, profile.namespace),
        "model": pattern.model,
        "replicas": pattern.replicas,
    }


def target_nodes(profile: Profile, kube: Kubernetes) -> int:
    """Nodes that stage 02 gives the pool; what of Pattern 1 still runs beside Pattern 3 counts.

    Raises:
        UsageError: more than the pool's maximum.
    """
    return nodes_needed(
        profile.swap.strategy,
        pool_nodes=0 if profile.pool.spot else profile.pool.nodes,
        pattern1_replicas=_replicas_beside(profile, kube),
        pattern3_replicas=0 if profile.pool.spot else profile.pattern3.replicas,
        max_nodes=profile.pool.max_nodes,
        pattern2_replicas=profile.nodes_beside,
    )


def target_sum(profile: Profile, kube: Kubernetes) -> str:
    """The sum that `target_nodes` is."""
    strategy, replicas, nodes = profile.swap.strategy, profile.pattern3.replicas, profile.pool.nodes
    if profile.pool.spot:
        replicas = nodes = 0
    return arithmetic(strategy, nodes, _replicas_beside(profile, kube), replicas, profile.nodes_beside)[1]


def _replicas_beside(profile: Profile, kube: Kubernetes) -> int:
    """Pattern 1's replicas, those that a surge needs nodes for beside Pattern 3's."""
    if profile.swap.strategy == "recreate" or profile.pool.spot:
        return profile.pattern1.replicas
    gone = not _runs(kube, profile, rendered(profile, profile.pattern1).servers)
    return 0 if gone else profile.pattern1.replicas


UNDER_WAY = "under way"
"""The one fact where a change runs already, such as one that a killed attempt began: it will move all the others."""


def release_change(pattern: Pattern) -> str:
    """Name of the change to a pattern's releases, for `gate.guarded`."""
    return f"releases of {pattern.inference_pool}"


ROUTE_CHANGE, POOL_CHANGE = "HTTPRoute", "node pool"


def release_facts(kube: Kubernetes, profile: Profile, found: Rendered) -> dict[str, Any]:
    """Revisions and states of the releases; UIDs and generations of their Deployments."""
    releases = [item for item in found.driver.installed(profile.namespace) if item.name in found.names]
    if busy := [f"{item.name} {item.status}" for item in releases if half_done(item)]:
        return {UNDER_WAY: ", ".join(busy)}
    present = {item.name: f"{item.status}, revision {item.revision}" for item in releases}
    facts: dict[str, Any] = {f"release {name}": present.get(name, "absent") for name in found.names}
    for item in found.manifests:
        if item["kind"] == "Deployment":
            facts |= _identity(kube.find(DEPLOYMENTS, item["metadata"]["name"], profile.namespace), "Deployment", item)
    return facts


def route_facts(kube: Kubernetes, profile: Profile) -> dict[str, Any]:
    """UID and generation of the HTTPRoute, and where it leads."""
    found = kube.find(HTTP_ROUTES, profile.route.name, profile.namespace)
    facts = _identity(found, "HTTPRoute", traffic.manifest(profile, profile.pattern3))
    view = route_of(found) if found else None
    return facts | {f"HTTPRoute {profile.route.name}: backends": " ".join(view.backends) if view else "absent"}


def pool_facts(pool: GkePool) -> dict[str, Any]:
    """What the pool is; its size is left out, for a target size is right whatever it is."""
    if busy := [f"{item.name} {item.type}" for item in pool.running_operations()]:
        return {UNDER_WAY: ", ".join(busy)}
    state = pool.describe()
    gpus = f"{state.accelerator_count} x {state.accelerator_type}"
    return {
        f"node pool {state.name}: machine": f"{state.machine_type}, {gpus}",
        f"node pool {state.name}: zones": " ".join(state.locations),
        f"node pool {state.name}: autoscaling": state.autoscaling,
    }


def _identity(found: Object | None, kind: str, named: Object) -> dict[str, Any]:
    name, meta = f"{kind} {named['metadata']['name']}", found["metadata"] if found else {}
    return {f"{name}: UID": meta.get("uid", "absent"), f"{name}: generation": meta.get("generation", "absent")}


def _runs(kube: Kubernetes, profile: Profile, servers: ModelServers) -> bool:
    found = kube.find(DEPLOYMENTS, servers.name, profile.namespace)
    return found is not None and bool(found["spec"].get("replicas", 1))
