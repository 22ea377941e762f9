"""07: scale to zero, delete, or go back to Pattern 1; and what still costs money afterwards."""

from __future__ import annotations

from llmd_runbook.clients.gke import PoolState
from llmd_runbook.clients.inference import Inference
from llmd_runbook.clients.kubernetes import GATEWAYS, NODES, Kubernetes
from llmd_runbook.errors import ClusterError, Forbidden
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun, StepHandle, changes
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.cleanup_plan import nodes_after, pods_after
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import beside, gate
from llmd_runbook.stages.planning import parts as plan_parts
from llmd_runbook.stages.planning.facts import release_change
from llmd_runbook.stages.pool import spot as spot_pool
from llmd_runbook.stages.pool.shrink import minimum_afterwards, shrink
from llmd_runbook.stages.pool.size import left_for
from llmd_runbook.stages.swap import patterns
from llmd_runbook.topology import NODE_POOL_LABEL, endpoint, gpu_nodes, route_view
from llmd_runbook.verdicts import Check, Table, declare

HOURS_PER_MONTH = 730

PODS = declare(
    "cleanup.pods",
    "the model servers that run are those that the option leaves, each Ready, and no others",
    "run the stage again; look at pods that stay or do not get Ready",
)
NODES_LEFT = declare(
    "cleanup.nodes",
    "the GPU pool has the nodes that the option leaves, or what GKE has for that many in several zones, so nothing "
    "more that is idle is paid for",
    "run the stage again; the autoscaler or a pending pod may have added a node",
)
SERVES = declare(
    "cleanup.serves",
    "back on Pattern 1 the route points at it and a request is answered; otherwise nothing answers",
    "see the HTTPRoute's conditions and the pods; run the stage again",
)


def apply(stage: StageRun) -> None:
    """Make it so: pods first, nodes last, or the autoscaler would bring the nodes back."""
    if gate.permitted(stage, f"clean up: {stage.profile.cleanup.option}"):
        _apply(stage)


@changes
def _apply(stage: StageRun) -> None:
    profile = stage.profile
    kube = site.kubernetes(profile)
    option = profile.cleanup.option
    if option == "scale_to_zero":
        with stage.step("scale Pattern 3 to zero") as step:
            servers = site.model_servers(site.driver(profile, profile.pattern3).render(), profile)
            pods = site.server_pods(kube, profile.namespace, servers)
            with gate.guarded(stage, release_change(profile.pattern3)):
                kube.scale(servers.name, profile.namespace, 0, tell=step.remark)
            site.wait_until_gone(kube, profile, servers, step, profile.pattern3.ready_timeout_s)
            if pods:
                step.changed(f"{len(pods)} to 0 pods")
    else:
        patterns.remove(stage, profile.pattern3)
        if option == "restore_pattern1":
            patterns.install(stage, profile.pattern1)
    with stage.step("shrink the GPU pool") as step:
        _shrink(stage, kube, step)
    if profile.pool.spot:
        spot_pool.remove(stage, kube)


def verify(stage: StageRun) -> Shown:
    """Look again, and list what still costs money; neither where the plan was not approved."""
    if shown := gate.refused(stage):
        return shown
    profile = stage.profile
    kube = site.kubernetes(profile)
    with stage.step("verify the end state") as step:
        observed, evidence, right = [], [], True
        for pattern, wanted in pods_after(stage.profile):
            servers = site.model_servers(site.driver(profile, pattern).render(), profile)
            pods = site.server_pods(kube, profile.namespace, servers)
            ready = sum(pod.ready for pod in pods)
            right = right and len(pods) == ready == wanted
            observed.append(f"{pattern.model}: {ready} Ready of {len(pods)}")
            evidence += [f"{pod.name}: {pod.phase}, ready {pod.ready}" for pod in pods]
        nodes = gpu_nodes(kube, profile.pool.name)
        served, why = _serves(stage, step)
    expected = ", ".join(f"{pattern.model}: {count}" for pattern, count in pods_after(stage.profile))
    stage.check(PODS.judge(right, expected=expected, observed=", ".join(observed), evidence=evidence))
    stage.check(judge_nodes(profile, site.gke_pool(profile).describe(), [node.name for node in nodes]))
    if profile.pool.spot:
        spot_pool.verify_removed(stage, kube)
    wanted_service = "Pattern 1 answers" if profile.cleanup.option == "restore_pattern1" else "nothing answers"
    stage.check(SERVES.judge(served, expected=wanted_service, observed=why))
    beside.after(stage)
    return _costs(stage, kube, len(nodes))


def _shrink(stage: StageRun, kube: Kubernetes, step: StepHandle) -> None:
    wanted = nodes_after(stage.profile)
    shrink(stage, kube, step, wanted, least=wanted, minimum=minimum_afterwards(stage.profile, wanted))


def judge_nodes(profile: Profile, state: PoolState, names: list[str]) -> Check:
    """The pool's nodes against those that the option leaves; idle ones that others are to take prove nothing."""
    wanted, zones, live = nodes_after(profile), max(1, len(state.locations)), len(names)
    left = left_for(wanted, zones)
    expected = f"{wanted} nodes" if left == wanted else f"{wanted} to {left} nodes: GKE counts {left // zones} a zone"
    right: bool | None = wanted <= live <= left
    remedy = ""
    if live > left and profile.pool.mode != "resize":
        right, price = None, (live - left) * profile.prices.gpu_node_usd_per_hour
        idle = f"{live - left} nodes more than needed cost {price:.2f} USD/h"
        remedy = (
            f"{idle}; the autoscaler takes them once they are idle for ten minutes: look at the pool later"
            if profile.pool.mode == "autoscale"
            else f"{idle}; pool.mode observe leaves them: resize the pool, or let its autoscaler do it"
        )
    return NODES_LEFT.judge(right, expected=expected, observed=f"{live} nodes", evidence=names, remedy=remedy)


def _serves(stage: StageRun, step: StepHandle) -> tuple[bool | None, str]:
    """Whether the end state serves as the option says (None: the gateway keeps us out), and the evidence."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    if profile.cleanup.option == "restore_pattern1":
        route = route_view(kube, profile.namespace, profile.route.name)
        if not (traffic.points_to(route, profile.pattern1) and traffic.accepted(route)):
            return (
                False,
                f"the route {route}" if route else "no such HTTPRoute",
            )
        target = traffic.wait_programmed(kube, profile, profile.pattern1, step)
        answer = traffic.wait_for_answer(target, profile, profile.pattern1.model, step)
        return answer.output_tokens > 0, f"{answer.output_tokens} tokens in {answer.elapsed_s:.2f} s"
    try:
        target = endpoint(kube, profile, profile.pattern3.gateway)
        answer = Inference(target, timeout_s=10).complete(profile.pattern3.model, "Say hello.", max_tokens=1)
    except ClusterError as error:
        return None if isinstance(error, Forbidden) else True, error.in_short
    return False, f"{answer.output_tokens} tokens: something still serves {profile.pattern3.model}"


def _costs(stage: StageRun, kube: Kubernetes, gpu: int) -> Shown:
    """What is still paid for: GPU nodes, other nodes, load balancers, the control plane."""
    profile, prices = stage.profile, stage.profile.prices
    nodes = kube.all(NODES)
    pools = [node["metadata"].get("labels", {}).get(NODE_POOL_LABEL) for node in nodes]
    others = [pool for pool in pools if pool not in (profile.pool.name, profile.pool.of_pattern3)]
    spot = profile.pool.spot
    gateways = [g for g in kube.all(GATEWAYS) if g.get("status", {}).get("addresses")]
    parts = [
        ("GPU nodes", gpu, prices.gpu_node_usd_per_hour),
        *([("GPU nodes, spot", pools.count(spot), plan_parts.spot_price(profile))] if spot else []),
        ("other nodes", len(others), prices.cpu_node_usd_per_hour),
        ("Gateways with an address (load balancers)", len(gateways), prices.load_balancer_usd_per_hour),
        ("control plane", 1, prices.control_plane_usd_per_hour),
    ]
    rows: list[list[str | int | float | None]] = [
        [name, count, price, round(count * price, 3), round(count * price * HOURS_PER_MONTH, 2)]
        for name, count, price in parts
    ]
    total = sum(count * price for _, count, price in parts)
    rows.append(["in all", None, None, round(total, 3), round(total * HOURS_PER_MONTH, 2)])
    stage.data["usd_per_hour_after"] = total
    stage.note(
        "Prices and what they leave out",
        f"As of {prices.as_of}: {prices.source}. Disks, addresses, logs and network traffic are left out.",
    )
    columns = ["what", "count", "USD/h each", "USD/h", f"USD/month ({HOURS_PER_MONTH} h)"]
    return stage.table(Table(title="What still costs money", columns=columns, rows=rows))
