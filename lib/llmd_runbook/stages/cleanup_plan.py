"""07: the plan of the clean-up: what the option changes, what it costs, and what is approved."""

from __future__ import annotations

from typing import Any

from llmd_runbook.clients.gke import PoolState
from llmd_runbook.clients.kubernetes import HTTP_ROUTES, Kubernetes
from llmd_runbook.plans import Change, Duration, Plan
from llmd_runbook.profile import Pattern, Profile
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
)
from llmd_runbook.stages.pool import spot as spot_pool
from llmd_runbook.stages.pool.shrink import bounds_left, minimum_afterwards
from llmd_runbook.stages.pool.size import left_for
from llmd_runbook.stages.pool.target import nodes_left
from llmd_runbook.topology import RouteView, gpu_nodes, route_of


def plan(stage: StageRun) -> None:
    """Show what will change for the profile's option and ask whether it is approved; nothing is changed."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    with stage.step("render both patterns"):
        one, three = rendered(profile, profile.pattern1), rendered(profile, profile.pattern3)
    if profile.cleanup.option == "restore_pattern1":
        shared_gateway.refuse(profile, removed=three, stays=one)
    beside.before(stage)
    with stage.step("ask who owns what will change"):
        _refuse_owned(kube, profile, one, three)
    readers: dict[str, gate.Read] = {
        release_change(profile.pattern3): lambda: release_facts(kube, profile, three),
        POOL_CHANGE: lambda: pool_facts(site.gke_pool(profile)),
    }
    if profile.pool.spot:
        readers[spot_pool.CHANGE] = lambda: spot_pool.facts(profile)
    if profile.cleanup.option == "restore_pattern1":
        readers[release_change(profile.pattern1)] = lambda: release_facts(kube, profile, one)
        readers[ROUTE_CHANGE] = lambda: route_facts(kube, profile)
    gate.propose(stage, lambda: _plan(stage, kube, one, three), lambda: target(profile), readers)


def target(profile: Profile) -> dict[str, Any]:
    """What is approved: it depends on the profile and the charts alone, so it may be approved before stage 03 ran."""
    option, pool = profile.cleanup.option, profile.pool
    found: dict[str, Any] = {
        "option": option,
        "namespace": profile.namespace,
        "pool": f"projects/{pool.project}/locations/{pool.location}/clusters/{pool.cluster}/nodePools/{pool.name}",
        "pool_mode": pool.mode,
        "nodes": nodes_after(profile),
        "delete_pool": pool.spot or None,
        "autoscaling_minimum": minimum_afterwards(profile, nodes_after(profile)),
    }
    if option == "scale_to_zero":
        return found | {"scale_to_zero": rendered(profile, profile.pattern3).servers.name}
    found["remove"] = sorted(site.driver(profile, profile.pattern3).names())
    if option == "restore_pattern1":
        found |= {"install": pinned(profile, profile.pattern1), "route": traffic.manifest(profile, profile.pattern1)}
    return found


def _refuse_owned(kube: Kubernetes, profile: Profile, one: Rendered, three: Rendered) -> None:
    if profile.cleanup.option == "scale_to_zero":
        servers = next(item for item in three.manifests if item["metadata"]["name"] == three.servers.name)
        owned.refuse(kube, profile, applied=[servers | {"spec": servers["spec"] | {"replicas": 0}}])
        return
    back = [*one.manifests, traffic.manifest(profile, one.pattern)]
    comes = back if profile.cleanup.option == "restore_pattern1" else []
    owned.refuse(kube, profile, applied=comes, removed=three.manifests)


def pods_after(profile: Profile) -> list[tuple[Pattern, int]]:
    """Each pattern with the model servers that the option leaves of it."""
    back = profile.pattern1.replicas if profile.cleanup.option == "restore_pattern1" else 0
    return [(profile.pattern1, back), (profile.pattern3, 0)]


def nodes_after(profile: Profile) -> int:
    """GPU nodes that the option leaves: one a pod, Pattern 2's among them."""
    return sum(count for _, count in pods_after(profile)) + profile.nodes_beside


def _plan(stage: StageRun, kube: Kubernetes, one: Rendered, three: Rendered) -> Plan:
    profile, option = stage.profile, stage.profile.cleanup.option
    back = option == "restore_pattern1"
    with stage.step(f"compare the cluster with the option {option}"):
        first = plan_parts.look(kube, profile, one, comes=back)
        third = plan_parts.look(kube, profile, three, comes=False)
        left = one.pattern.replicas if back else 0
        nodes, wanted = len(gpu_nodes(kube, profile.pool.name)), nodes_after(profile)
        state = site.gke_pool(profile).describe()
        then = nodes_left(profile, state, wanted, nodes, least=wanted)
        bounds = bounds_left(profile, state, minimum_afterwards(profile, wanted))
        changes = [
            *plan_parts.release_changes(first, keep=True, replicas=left),
            *plan_parts.release_changes(third, keep=option == "scale_to_zero", replicas=0),
            plan_parts.gpu_change([first, third], left),
            Change("nodes of the pool", str(nodes), str(then)),
            Change("autoscaling of the pool (nodes)", state.autoscaling, str(bounds) if bounds else "off"),
        ]
        if profile.pool.spot:
            spot = site.spot_pool(profile).find()
            spot_pool.require_ours(profile, spot)
            changes += spot_pool.changes(profile, kube, spot, None)
        diffs = [] if option == "scale_to_zero" else plan_parts.removed_diffs(profile, third)
        compared = plan_parts.compare(kube, profile, first) if back else plan_parts.Compared([], [], [])
        here = kube.find(HTTP_ROUTES, profile.route.name, profile.namespace)
        changes += _clients(kube, profile, route_of(here) if here else None, third)
        if back:
            diffs += [*compared.diffs, *plan_parts.object_diff(profile, here, traffic.manifest(profile, one.pattern))]
    empty = not any(change.needed for change in changes)
    parts = _durations(stage)
    said = [] if empty else _warnings(profile, one, sum(part.at_most_s for part in parts))
    if profile.pattern2 and then < nodes:
        said.append(
            "GKE chooses which nodes go. One that holds Pattern 2 takes its pod along: it loads its model anew on a "
            f"node that stays, and {profile.pattern2.model} does not answer meanwhile."
        )
    if not empty:
        said += _idle_nodes(profile, state, nodes, wanted)
    if first.pods and not back:
        said.append(f"Pattern 1 still runs ({first.pods} pods) and is not removed: its pods lose their nodes.")
    return Plan(
        changes,
        [*said, *compared.warnings],
        diffs=diffs,
        durations=[] if empty else parts,
        prices=plan_parts.prices(kube, profile, nodes_now=nodes, nodes_then=then, spot_then=0),
        prices_as_of=plan_parts.as_of(profile),
        not_previewed=[*(plan_parts.NOT_PREVIEWED if back and not empty else []), *compared.unread],
        not_undone=[] if empty else _NOT_UNDONE,
    )


def _idle_nodes(profile: Profile, state: PoolState, now: int, wanted: int) -> list[str]:
    """What of the pool is not this run's to decide, or not GKE's to do."""
    spare = now - wanted
    if profile.pool.mode == "observe" and spare > 0:
        return [f"pool.mode observe leaves the pool as it is: {spare} nodes will be idle, and are paid for."]
    if profile.pool.mode == "autoscale" and spare > 0:
        return [
            f"The autoscaler takes the {spare} nodes that are idle then, ten minutes later; this stage waits "
            f"{profile.pool.ready_timeout_s:.0f} s at most for it."
        ]
    zones = max(1, len(state.locations))
    if (left := left_for(wanted, zones)) > wanted and profile.pool.mode == "resize":
        price = (left - wanted) * profile.prices.gpu_node_usd_per_hour
        return [
            f"{wanted} nodes are needed, and GKE gives each of the pool's {zones} zones the same number: "
            f"{left // zones} x {zones} = {left} nodes may be left, for {price:.2f} USD/h more."
        ]
    return []


def _clients(kube: Kubernetes, profile: Profile, route: RouteView | None, third: plan_parts.Looked) -> list[Change]:
    """Route, address and model name, as clients meet them."""
    one, three = profile.pattern1, profile.pattern3
    to_one = traffic.points_to(route, one)
    gateway = route.gateways[0] if route and route.gateways else three.gateway
    address = plan_parts.address(kube, profile, gateway)
    leads, name = " ".join(route.backends) if route else "absent", f"HTTPRoute {profile.route.name}"
    if profile.cleanup.option == "restore_pattern1":
        return [
            Change(name, leads, f"InferencePool/{one.inference_pool}"),
            Change("clients' address", address, plan_parts.address(kube, profile, one.gateway)),
            Change("clients' model name", one.model if to_one else three.model, one.model),
        ]
    served = three.model if third.pods and traffic.points_to(route, three) else NOBODY
    return [
        Change(name, leads, leads),
        Change("clients' address", address, address),
        Change("clients' model name", served, NOBODY),
    ]


NOBODY = "none: nothing serves"


def _warnings(profile: Profile, one: Rendered, at_most_s: float) -> list[str]:
    match profile.cleanup.option:
        case "scale_to_zero":
            return ["Nothing serves afterwards: requests get 503 until Pattern 3 is scaled up again."]
        case "delete":
            return ["Pattern 3 is removed, nothing serves afterwards, the HTTPRoute points at nothing."]
    return [
        "Outage: from the end of Pattern 3's pods until Pattern 1 answers, requests fail; "
        f"the waits below may take {at_most_s:.0f} s in all, and helm's work comes on top.",
        plan_parts.fate(profile.pattern3.model, one.pattern.model, one.manifests),
    ]


def _durations(stage: StageRun) -> list[Duration]:
    profile = stage.profile
    one, three, route_s = profile.pattern1, profile.pattern3, profile.route.ready_timeout_s
    end = [("shrink the GPU pool", profile.pool.ready_timeout_s, "pool.ready_timeout_s")]
    if profile.pool.spot:
        end.append(("delete the spot pool", profile.pool.ready_timeout_s, "pool.ready_timeout_s"))
    if profile.cleanup.option == "scale_to_zero":
        return plan_parts.durations(
            stage, [("scale Pattern 3 to zero", three.ready_timeout_s, "pattern3.ready_timeout_s"), *end]
        )
    gone = (f"wait until the pods of {three.model} are gone", three.ready_timeout_s, "pattern3.ready_timeout_s")
    if profile.cleanup.option == "delete":
        return plan_parts.durations(stage, [gone, *end])
    return plan_parts.durations(
        stage,
        [
            gone,
            (f"wait for {one.replicas} replicas", one.ready_timeout_s, "pattern1.ready_timeout_s"),
            ("wait for the endpoint picker and the Gateway", one.ready_timeout_s + route_s, "pattern1 and route"),
            (f"move the HTTPRoute to {one.inference_pool}", route_s, "route.ready_timeout_s"),
            ("wait until requests arrive", route_s, "route.ready_timeout_s"),
            *end,
        ],
    )


_NOT_UNDONE = [
    "Requests that fail or end meanwhile are lost.",
    "Pattern 3's prefix caches and downloaded weights go with its pods: after a way back it starts cold.",
]
