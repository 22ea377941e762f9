"""03: Pattern 3 takes over from Pattern 1: in the guide's order, with its outage, or beside it, without one."""

from __future__ import annotations

from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import ClusterError, DeadlineExceeded
from llmd_runbook.run import StageRun, StepHandle, changes
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import beside, gate
from llmd_runbook.stages.pool import autoscaler
from llmd_runbook.stages.swap import recreate, report, rollback, steps
from llmd_runbook.stages.swap import surge as swap_surge
from llmd_runbook.stages.swap.probe import SwapProbe
from llmd_runbook.stages.swap.report import plot
from llmd_runbook.stages.swap.steps import install, remove
from llmd_runbook.topology import route_view
from llmd_runbook.verdicts import Table, declare

__all__ = ["apply", "install", "plot", "remove", "verify"]

GONE = declare(
    "pattern1.gone",
    "no release and no pod of Pattern 1 is left, so its GPU is free",
    "run the stage again; pods that stay have a finalizer or sit on a node that is not Ready",
)
READY = declare(
    "pattern3.ready",
    "Pattern 3 has all its replicas, each Ready as Kubernetes judges pods",
    "look at the pods that are not Ready (kubectl -n NAMESPACE describe pod POD)",
)
ROUTE = declare(
    "pattern3.route",
    "the HTTPRoute is accepted, resolves, and sends all traffic to Pattern 3's InferencePool",
    "see the HTTPRoute's conditions; apply it again by running the stage again",
)
TRAFFIC = declare(
    "pattern3.answers",
    "a request through the gateway, under Pattern 3's model name, was answered",
    "see the reason: 404 is the route, 500 the endpoint picker, 503 no Ready replica",
)


def apply(stage: StageRun) -> None:
    """Swap by the profile's strategy, under a probe's eyes; each step may run again, from whatever state.

    Raises:
        RolledBack: Pattern 3 did not hold; Pattern 1 serves again.
        RollbackFailed: ... and the way back failed; with the state and the commands to finish by hand.
        RunbookError: anything else that stopped it; run the stage again.
    """
    if gate.permitted(stage, "swap the patterns"):
        _apply(stage)


@changes
def _apply(stage: StageRun) -> None:
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    if steps.serves(stage, kube, profile.pattern3) and not steps.left_of(stage, kube, profile.pattern1):
        steps.install(stage, profile.pattern3)  # the swap is over: only what has been lost since is put back
        if profile.swap.strategy == "surge":
            swap_surge.shrink(stage)
        return
    if profile.swap.strategy == "surge":
        swap_surge.wait_for_gpus(stage, kube)
    try:
        with SwapProbe(stage, kube) as probe:
            _swap(stage, probe)
    finally:
        report.judge(stage)


def _swap(stage: StageRun, probe: SwapProbe) -> None:
    """The strategy, and the way back where it does not hold; once all gates of a surge have held there is none."""
    surge = stage.profile.swap.strategy == "surge"
    try:
        (swap_surge if surge else recreate).swap(stage, probe)
    except rollback.REASONS as cause:
        rollback.go_back(stage, probe, cause)
    if surge:
        swap_surge.finish(stage, probe)


def verify(stage: StageRun) -> Shown:
    """Look again, whatever `apply` reported; at nothing where the plan was not approved."""
    if shown := gate.refused(stage):
        return shown
    profile = stage.profile
    beside.after(stage)
    old, new = profile.pattern1, profile.pattern3
    kube = site.kubernetes(profile)
    with stage.step("verify the swap") as step:
        old_driver, new_driver = site.driver(profile, old), site.driver(profile, new)
        mine, old_servers = old_driver.names(), site.model_servers(old_driver.render(), profile)
        left = [item.name for item in old_driver.installed(profile.namespace) if item.name in mine]
        left += [pod.name for pod in site.server_pods(kube, profile.namespace, old_servers)]
        new_servers = site.model_servers(new_driver.render(), profile)
        pods = site.server_pods(kube, profile.namespace, new_servers)
        route = route_view(kube, profile.namespace, profile.route.name)
        answered, said, evidence = _asked(stage, kube, step)
    autoscaler.verify(stage)
    stage.check(GONE.judge(not left, expected="nothing left", observed=", ".join(left) or "nothing left"))
    ready = [pod for pod in pods if pod.ready and not pod.terminating]
    stage.check(
        READY.judge(
            len(ready) == len(pods) == new.replicas,
            expected=f"{new.replicas} of {new.replicas} Ready",
            observed=f"{len(ready)} of {len(pods)} Ready",
            evidence=[
                f"{pod.name} on {pod.node}: {pod.phase}, ready {pod.ready}, {pod.restarts} restarts" for pod in pods
            ],
        )
    )
    stage.check(
        ROUTE.judge(
            traffic.points_to(route, new) and traffic.accepted(route),
            expected=f"{profile.route.name} -> InferencePool/{new.inference_pool}, Accepted and ResolvedRefs",
            observed=str(route) if route else "no such HTTPRoute",
        )
    )
    stage.check(
        TRAFFIC.judge(
            answered,
            expected="an answer with at least one token",
            observed=said,
            evidence=evidence,
        )
    )
    rows: list[list[str | int | float | None]] = [
        [pod.name, pod.node, pod.phase, "yes" if pod.ready else "no", pod.restarts] for pod in pods
    ]
    return stage.table(Table(title="Replicas", columns=["pod", "node", "phase", "Ready", "restarts"], rows=rows))


def _asked(stage: StageRun, kube: Kubernetes, step: StepHandle) -> tuple[bool, str, list[str]]:
    """Whether Pattern 3 answers within the route's deadline, what was seen, and where."""
    profile, pattern = stage.profile, stage.profile.pattern3
    try:
        target = traffic.wait_programmed(kube, profile, pattern, step)
        answer = traffic.wait_for_answer(target, profile, pattern.model, step)
    except (ClusterError, DeadlineExceeded) as error:
        return False, error.in_short, [error.where] if error.where else []
    seen = f"{answer.output_tokens} tokens in {answer.elapsed_s:.2f} s"
    return answer.output_tokens > 0, seen, [f"{target.url}, request {answer.request_id}"]
