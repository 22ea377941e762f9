"""03: the plan of the swap: what will change, what clients will see, what it costs, and what is approved."""

from __future__ import annotations

from typing import Any

from llmd_runbook.analysis.served_names import served_names
from llmd_runbook.clients.kubernetes import HTTP_ROUTES, Kubernetes
from llmd_runbook.clients.releases.pending import INSTALLED_ANEW
from llmd_runbook.errors import ProfileError
from llmd_runbook.plans import Change, Duration, Plan
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import beside, gate, owned, shared_gateway
from llmd_runbook.stages.planning import parts as plan_parts
from llmd_runbook.stages.planning.facts import (
    POOL_CHANGE,
    ROUTE_CHANGE,
    Rendered,
    pinned,
    pool_facts,
    release_change,
    release_facts,
    rendered,
    route_facts,
    target_nodes,
)
from llmd_runbook.stages.pool.shrink import bounds_left
from llmd_runbook.stages.pool.size import nodes_needed
from llmd_runbook.stages.pool.target import nodes_left
from llmd_runbook.topology import gpu_nodes, route_of


def plan(stage: StageRun) -> None:
    """Show what will change and ask whether it is approved; nothing is changed."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    with stage.step("render both patterns"):
        old, new = rendered(profile, profile.pattern1), rendered(profile, profile.pattern3)
    _require_announced_names(profile, new)
    shared_gateway.refuse(profile, removed=old, stays=new)
    if profile.swap.rollback == "auto":
        shared_gateway.refuse(profile, removed=new, stays=old)
    beside.before(stage)
    with stage.step("ask who owns what will change"):
        route = traffic.manifest(profile, profile.pattern3)
        owned.refuse(kube, profile, applied=[*new.manifests, route], removed=old.manifests)
    readers: dict[str, gate.Read] = {
        release_change(profile.pattern1): lambda: release_facts(kube, profile, old),
        release_change(profile.pattern3): lambda: release_facts(kube, profile, new),
        ROUTE_CHANGE: lambda: route_facts(kube, profile),
    }
    if profile.swap.strategy == "surge":
        readers[POOL_CHANGE] = lambda: pool_facts(site.gke_pool(profile))
    gate.propose(stage, lambda: _plan(stage, kube, old, new), lambda: target(profile), readers)


def target(profile: Profile) -> dict[str, Any]:
    """What is approved: it depends on the profile and the charts alone, not on how far an earlier attempt came."""
    surge = profile.swap.strategy == "surge"
    back = {"pattern1": pinned(profile, profile.pattern1)} if profile.swap.rollback == "auto" else {}
    return {
        "namespace": profile.namespace,
        "strategy": profile.swap.strategy,
        "remove": sorted(site.driver(profile, profile.pattern1).names()),
        "install": pinned(profile, profile.pattern3),
        "route": traffic.manifest(profile, profile.pattern3),
        "rollback": {"policy": profile.swap.rollback, **back},
        "nodes_afterwards": nodes_afterwards(profile) if surge else None,
    }


def _require_announced_names(profile: Profile, new: Rendered) -> None:
    """What the profile announces of the old model name must be what the rendered servers do with it.

    Raises:
        ProfileError: it is not; with what is rendered.
    """
    old, served = profile.pattern1.model, [new.pattern.model, *served_names(new.manifests)]
    if (old in served) != (old in profile.names(new.pattern)):
        raise ProfileError(
            "the profile and the values of Pattern 3 say different things of the old model name; nothing was changed",
            where=f"{profile.path}: swap.old_name: {profile.swap.old_name}",
            reason=f"Pattern 3's servers are rendered to answer to {', '.join(dict.fromkeys(served))}",
            remedy=f"for an alias set swap.old_name: alias and, in the values' arguments of the server, "
            f"--served-model-name {new.pattern.model} {old}; without one leave both out",
        )


def nodes_afterwards(profile: Profile) -> int:
    """Nodes that a surge leaves in the pool once Pattern 1 is gone; its own, where Pattern 3 is on a spot pool."""
    if profile.pool.spot:
        return profile.pattern1.replicas + profile.nodes_beside
    return nodes_needed(
        "recreate",
        pool_nodes=profile.pool.nodes,
        pattern1_replicas=0,
        pattern3_replicas=profile.pattern3.replicas,
        max_nodes=profile.pool.max_nodes,
        pattern2_replicas=profile.nodes_beside,
    )


def _plan(stage: StageRun, kube: Kubernetes, old: Rendered, new: Rendered) -> Plan:
    profile = stage.profile
    with stage.step("compare releases, pods and route with the profile") as step:
        one = plan_parts.look(kube, profile, old, comes=False)
        three = plan_parts.look(kube, profile, new, comes=True)
        changes = [
            *plan_parts.release_changes(one, keep=False, replicas=0),
            *plan_parts.release_changes(three, keep=True, replicas=new.pattern.replicas),
            plan_parts.gpu_change([one, three], new.pattern.replicas),
            *_changes(profile, kube, old, new),
        ]
        here = kube.find(HTTP_ROUTES, profile.route.name, profile.namespace)
        compared = plan_parts.compare(kube, profile, three)
        diffs = [
            *plan_parts.removed_diffs(profile, one),
            *compared.diffs,
            *plan_parts.object_diff(profile, here, traffic.manifest(profile, new.pattern)),
        ]
        step.ok(f"{sum(change.needed for change in changes)} changes")
    now = len(gpu_nodes(kube, profile.pool.name))
    empty = not any(change.needed for change in changes)
    gateways = len({new.pattern.gateway} - {old.pattern.gateway}) - len({old.pattern.gateway} - {new.pattern.gateway})
    parts = durations(stage)
    needed = target_nodes(profile, kube)
    short = f"Nodes of the pool: {now}, needed: {needed}. " + (
        "The autoscaler makes them once pods wait for a GPU."
        if profile.pool.mode == "autoscale"
        else "Run stage 02 first, or pods will wait for a node."
    )
    return Plan(
        changes,
        [
            *([] if empty else warnings(profile, new, sum(part.at_most_s for part in parts))),
            *([short] if now < needed and not empty else []),
            *_installed_anew(three),
            *compared.warnings,
        ],
        diffs=diffs,
        durations=[] if empty else parts,
        prices=plan_parts.prices(
            kube,
            profile,
            nodes_now=now,
            nodes_then=_nodes_then(profile, now, needed),
            gateways_more=0 if empty else gateways,
        ),
        prices_as_of=plan_parts.as_of(profile),
        not_previewed=[*([] if empty else plan_parts.NOT_PREVIEWED), *compared.unread],
        not_undone=[] if empty else _NOT_UNDONE,
    )


def _changes(profile: Profile, kube: Kubernetes, old: Rendered, new: Rendered) -> list[Change]:
    """Nodes, route, and what clients see."""
    nodes = len(gpu_nodes(kube, profile.pool.name))
    here = kube.find(HTTP_ROUTES, profile.route.name, profile.namespace)
    route = route_of(here) if here else None
    gateway = route.gateways[0] if route and route.gateways else old.pattern.gateway
    moved, named = traffic.points_to(route, new.pattern), ", ".join(profile.names(new.pattern))
    return [
        *_pool_changes(profile, kube, nodes),
        Change(
            f"HTTPRoute {profile.route.name}",
            " ".join(route.backends) if route else "absent",
            f"InferencePool/{new.pattern.inference_pool}",
        ),
        Change(
            "clients' address",
            plan_parts.address(kube, profile, gateway),
            plan_parts.address(kube, profile, new.pattern.gateway),
        ),
        Change("clients' model name", named if moved else old.pattern.model, named),
    ]


def _pool_changes(profile: Profile, kube: Kubernetes, now: int) -> list[Change]:
    then = _nodes_then(profile, now, target_nodes(profile, kube))
    changes = [Change("nodes of the pool", str(now), str(then))]
    if profile.swap.strategy == "surge" and profile.pool.mode == "resize":
        state = site.gke_pool(profile).describe()
        bounds = bounds_left(profile, state, nodes_afterwards(profile))
        changes.append(Change("autoscaling of the pool (nodes)", state.autoscaling, str(bounds) if bounds else "off"))
    return changes


def _nodes_then(profile: Profile, now: int, needed: int) -> int:
    """A surge shrinks the pool afterwards; `recreate` leaves it alone; an autoscaler makes what pods wait for."""
    if profile.pool.mode == "autoscale":
        return max(now, needed)
    if profile.swap.strategy == "recreate":
        return now
    return nodes_left(profile, site.gke_pool(profile).describe(), nodes_afterwards(profile), now, least=0)


def warnings(profile: Profile, new: Rendered, at_most_s: float) -> list[str]:
    """What clients will see, and what a surge needs for a while."""
    old = profile.pattern1
    said = plan_parts.fate(old.model, new.pattern.model, new.manifests)
    if profile.swap.strategy == "surge":
        more = old.replicas
        warn = [
            f"For a while {more + new.pattern.replicas} GPUs are needed, {more} more than Pattern 3 alone: from its "
            f"installation until Pattern 1 has drained. The waits below may take {at_most_s:.0f} s in all, and "
            f"helm's work comes on top. {_POOL_MEANWHILE[profile.pool.mode]}",
            said,
        ]
    else:
        warn = [
            "Outage: from the end of Pattern 1's pods until Pattern 3 answers, requests fail (404, 500 or 503); "
            f"the waits below may take {at_most_s:.0f} s in all, and helm's work comes on top.",
            said,
            "Requests in flight on Pattern 1 end with its pod's grace period.",
        ]
    if old.gateway != new.pattern.gateway:
        warn.append(f"The clients' address changes: from Gateway {old.gateway} to {new.pattern.gateway}.")
    return warn


def _installed_anew(seen: plan_parts.Looked) -> list[str]:
    """What a removal that was broken off costs, though its pods may still answer."""
    left = [f"{name} was left {status}" for name, status in seen.status.items() if status in INSTALLED_ANEW]
    if not left:
        return []
    model = seen.rendered.pattern.model
    return [f"Outage: {', '.join(left)}; helm can only finish that, and nothing answers for {model} until it is back."]


def durations(stage: StageRun) -> list[Duration]:
    """The steps of the swap that may take long, in order."""
    profile = stage.profile
    old, new, route_s = profile.pattern1, profile.pattern3, profile.route.ready_timeout_s
    gone = (f"wait until the pods of {old.model} are gone", old.ready_timeout_s, "pattern1.ready_timeout_s")
    come = [
        (f"wait for {new.replicas} replicas", new.ready_timeout_s, "pattern3.ready_timeout_s"),
        ("wait for the endpoint picker and the Gateway", new.ready_timeout_s + route_s, "pattern3 and route"),
        (f"move the HTTPRoute to {new.inference_pool}", route_s, "route.ready_timeout_s"),
        ("wait until requests arrive", route_s, "route.ready_timeout_s"),
    ]
    return plan_parts.durations(stage, [*come, gone] if profile.swap.strategy == "surge" else [gone, *come])


_POOL_MEANWHILE = {
    "resize": "Stage 02 sizes the pool for it, and it shrinks afterwards.",
    "autoscale": "The autoscaler makes the nodes, and takes those that are idle afterwards.",
    "observe": "The nodes must be there, and they stay afterwards.",
}

_NOT_UNDONE = [
    "Requests that fail or end during the swap are lost.",
    "Pattern 1's prefix cache and its downloaded weights go with its pods: after a way back it starts cold.",
]
