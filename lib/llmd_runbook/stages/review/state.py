"""01: what runs now, and what Pattern 1 does before anything is changed. Changes nothing."""

from __future__ import annotations

from llmd_runbook.analysis.access import needs
from llmd_runbook.analysis.latency import least_samples
from llmd_runbook.clients.kubernetes import SECRETS
from llmd_runbook.errors import NotFound
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.load import measurement
from llmd_runbook.topology import endpoint, gateway_view, gpu_nodes, pool_view, replicas, route_view, words
from llmd_runbook.verdicts import Table, declare

POOL = declare(
    "pool.present",
    "GKE and Kubernetes agree on the GPU node pool: it runs, its nodes are Ready and offer GPUs",
    "compare `pool` in the profile with `gcloud container node-pools list`; look at nodes that are not Ready",
)
RELEASES = declare(
    "pattern1.releases",
    "every release of Pattern 1 is deployed",
    "install what is missing, or correct `pattern1.releases`; a failed release shows why in `helm status`",
)
READY = declare(
    "pattern1.ready",
    "Pattern 1 has all its replicas, each Ready as Kubernetes judges pods, each holding its GPU",
    "look at the pods that are not Ready (kubectl -n NAMESPACE describe pod POD)",
)
ROUTE = declare(
    "pattern1.route",
    "the HTTPRoute is accepted, resolves, and sends the clients' traffic on every path to Pattern 1's InferencePool",
    "apply the HTTPRoute: no chart renders one; see its conditions; the swap replaces its rules, and would lose paths "
    "other than `/`: have a gateway in front strip them, and set `route.url`",
)
GATEWAY = declare(
    "gateway.programmed",
    "the Gateway has a load balancer and an address",
    "check the proxy-only subnet and the Gateway's events",
)
BASELINE = declare(
    "baseline.answers",
    "Pattern 1 answered every request of the baseline",
    "see the failures by kind in the table; a gateway that fails now cannot prove that the swap worked",
)
SAMPLES = declare(
    "baseline.samples",
    "the baseline has the samples that its p50 and p95 need, which stage 06 compares with Pattern 3's",
    "raise `load.requests` in the profile: a p95 with its interval needs 59 answers, a p99 299",
)

JUDGED_PERCENTILES = (0.5, 0.95)
"""Those that later verdicts rest on; others are shown where the samples suffice, else refused."""


def node_pool(stage: StageRun) -> Shown:
    """The node pool as GKE describes it beside the nodes that Kubernetes sees."""
    profile = stage.profile
    with stage.step("read the GPU node pool") as step:
        try:
            state = site.gke_pool(profile).describe()
        except NotFound as error:
            step.ok("there is none")
            stage.check(
                POOL.judge(
                    False,
                    expected=f"a node pool {profile.pool.name}",
                    observed=error.reason,
                    evidence=[error.what],
                )
            )
            rows: list[list[str | int | float | None]] = [[profile.pool.name, "absent"]]
            return stage.table(Table(title="GPU node pool", columns=["pool", "status"], rows=rows))
        nodes = gpu_nodes(site.kubernetes(profile), profile.pool.name)
        step.ok(f"{len(nodes)} nodes")
    offered = sum(node.gpus for node in nodes if node.ready)
    least = profile.pattern1.replicas + profile.nodes_beside
    right_kind = state.accelerator_type == profile.pool.accelerator
    stage.check(
        POOL.judge(
            state.status == "RUNNING" and right_kind and all(node.ready for node in nodes) and offered >= least,
            expected=f"RUNNING with {profile.pool.accelerator}, all nodes Ready, at least {least} GPUs",
            observed=f"{state.status} with {state.accelerator_type}, "
            f"{sum(n.ready for n in nodes)} of {len(nodes)} nodes Ready, {offered} GPUs",
            evidence=[f"{n.name}: ready {n.ready}, {n.gpus} GPUs ({n.accelerator or 'no label'})" for n in nodes]
            + list(state.conditions),
        )
    )
    stage.data["gpu_nodes"] = len(nodes)
    return stage.table(
        Table(
            title="GPU node pool",
            columns=["pool", "status", "machine", "accelerator", "live nodes", "GPUs offered", "autoscaling"],
            rows=[
                [
                    state.name,
                    state.status,
                    state.machine_type,
                    state.accelerator_type,
                    len(nodes),
                    offered,
                    state.autoscaling,
                ]
            ],
        )
    )


def deployments(stage: StageRun) -> Shown:
    """Releases, pods, InferencePool, route and Gateway of Pattern 1."""
    profile = stage.profile
    pattern, kube = profile.pattern1, site.kubernetes(profile)
    with stage.step("read releases, pods, pool, route and Gateway"):
        driver = site.driver(profile, pattern)
        wanted = driver.names()
        may_look = kube.may(needs(profile.namespace, "", "list", SECRETS.plural)[0].review())
        installed = {item.name: item for item in driver.installed(profile.namespace)} if may_look else {}
        pool = pool_view(kube, profile.namespace, pattern.inference_pool)
        pods = replicas(kube, profile.namespace, pool) if pool else []
        route = route_view(kube, profile.namespace, profile.route.name)
        gateway = gateway_view(kube, profile.namespace, pattern.gateway)
    absent = "absent" if may_look else "unseen"
    status = {name: installed[name].status if name in installed else absent for name in wanted}
    stage.check(
        RELEASES.judge(
            all(value == "deployed" for value in status.values()) if may_look else None,
            expected="deployed: " + ", ".join(wanted),
            observed=", ".join(f"{name}: {value}" for name, value in status.items()),
            remedy=""
            if may_look
            else "helm keeps releases in Secrets, which this caller may not list: run as an operator",
        )
    )
    ready = [pod for pod in pods if pod.ready and pod.gpus]
    stage.check(
        READY.judge(
            len(ready) == pattern.replicas == len(pods),
            expected=f"{pattern.replicas} pods, Ready, with a GPU",
            observed=f"{len(ready)} of {len(pods)} pods" if pool else f"no InferencePool {pattern.inference_pool}",
            evidence=[
                f"{p.name} on {p.node}: {p.phase}, ready {p.ready}, {p.gpus} GPU, {p.restarts} restarts" for p in pods
            ],
        )
    )
    backend = f"InferencePool/{pattern.inference_pool}"
    stage.check(
        ROUTE.judge(
            route is not None
            and route.backends == [backend]
            and pattern.gateway in route.gateways
            and route.paths == ("/",)  # the swap applies one rule for all, and would take clients' paths away
            and all(route.conditions.get(kind, "").startswith("True") for kind in ("Accepted", "ResolvedRefs")),
            expected=f"{profile.route.name} -> {backend} for every path, Accepted and ResolvedRefs",
            observed=f"{route}; paths {' '.join(route.paths)}" if route else "no such HTTPRoute",
        )
    )
    stage.check(
        GATEWAY.judge(
            gateway is not None and gateway.programmed and gateway.address is not None,
            expected="Programmed, with an address",
            observed=str(gateway) if gateway else "no such Gateway",
        )
    )
    rows: list[list[str | int | float | None]] = []
    rows += [
        ["release", name, value, installed[name].chart if name in installed else ""] for name, value in status.items()
    ]
    rows += [["pod", pod.name, f"{pod.phase}, {'Ready' if pod.ready else 'not Ready'}", pod.node] for pod in pods]
    if pool:
        labels = ", ".join(f"{key}={value}" for key, value in pool.selector.items())
        rows.append(["InferencePool", pool.name, f"selects {labels}", f"picker {pool.picker_service}"])
    if route:
        rows.append(["HTTPRoute", route.name, words(route.conditions), " ".join(route.backends)])
    if gateway:
        rows.append(["Gateway", gateway.name, words(gateway.conditions), f"{gateway.address}:{gateway.port}"])
    return stage.table(Table(title="What runs", columns=["kind", "name", "state", "detail"], rows=rows))


def baseline(stage: StageRun) -> Shown:
    """A short load on Pattern 1, of the very shape that stage 06 puts on Pattern 3."""
    profile = stage.profile
    with stage.step("measure Pattern 1") as step:
        kube = site.kubernetes(profile)
        target = endpoint(kube, profile, profile.pattern1.gateway)
        in_flight, seed = profile.load.concurrency, measurement.fresh_seed()
        measured = measurement.measure(profile, target, profile.pattern1, in_flight, step, seed=seed)
        step.ok(str(measured))
    stage.check(
        BASELINE.judge(
            measured.answered,
            expected=f"{profile.load.requests} answers, no failures",
            observed=str(measured),
            evidence=measured.failures(),
        )
    )
    stage.data["baseline"] = measured.data()
    return stage.table(measurement.table("Baseline of Pattern 1", {"Pattern 1": measured}))


def samples(stage: StageRun) -> None:
    """Whether what was measured supports what is asked of it later; needs `baseline`."""
    found = len(stage.data["baseline"]["latencies_s"])
    needed = max(map(least_samples, JUDGED_PERCENTILES))
    names = " and ".join(f"p{100 * p:g}" for p in JUDGED_PERCENTILES)
    stage.check(SAMPLES.judge(found >= needed, expected=f"{needed} answers, for {names}", observed=f"{found} answers"))
