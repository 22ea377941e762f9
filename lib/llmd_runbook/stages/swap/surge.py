"""Pattern 3 beside Pattern 1, proved on a route of its own before it gets traffic; Pattern 1 goes when it is idle."""

from __future__ import annotations

from llmd_runbook.analysis.cutover import NEW, OLD
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import DeadlineExceeded, GateFailed
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site, verify
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.pool import gpu_wait
from llmd_runbook.stages.pool import shrink as pool_shrink
from llmd_runbook.stages.swap import compare, drain, gates, plan, steps
from llmd_runbook.stages.swap.probe import SwapProbe
from llmd_runbook.stages.waiting import replicas
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Verdict

_BEFORE = 40
"""Requests under the old name that are seen before the route moves; streams among them are open when it does."""


def swap(stage: StageRun, probe: SwapProbe) -> None:
    """Do it; each step looks first.

    Raises:
        RunbookError: a deadline, a tool, the cluster, or a gate; there is a way back without an outage.
    """
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    target = steps.install_servers(stage, profile.pattern3)
    pods = steps.pods_of(stage, kube, profile.pattern3)
    before = gates.restarts(pods)
    if not steps.serves(stage, kube, profile.pattern3):
        own = _prove(stage, kube, target)
        with stage.step("read the counters of Pattern 1") as step:
            step.ok(f"{len(drain.read(stage, kube, profile.pattern1))} replicas")
        compare.measure(stage, _old_address(stage, kube), own)
        probe.wait_for(OLD, _BEFORE)
    probe.ask(NEW, target)
    probe.mark("moved")
    steps.switch(stage, profile.pattern3, target)
    probe.mark("serving")
    if drain.live(stage, kube, profile.pattern1):
        with stage.step(f"drain {profile.pattern1.model}") as step:
            still_s = drain.until_quiet(stage, kube, profile.pattern1, step)
            probe.mark("drained", ago_s=still_s)
            step.ok(f"its counters stand still since {still_s:.0f} s, nothing runs or waits")
    gates.hold(stage, kube, probe, target, before)


def finish(stage: StageRun, probe: SwapProbe) -> None:
    """Our own route goes, Pattern 1, and the nodes that only the overlap needed: Pattern 3 holds, and stays."""
    with stage.step("remove the route of our own") as step:
        traffic.close_own(site.kubernetes(stage.profile), stage.profile, stage.profile.pattern3, step)
    probe.mark("removed")
    steps.remove(stage, stage.profile.pattern1)
    shrink(stage)


def shrink(stage: StageRun) -> None:
    """Give the nodes back that only the overlap needed, and see that Pattern 3 is whole afterwards."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    with stage.step("shrink the GPU pool") as step:
        if profile.pool.mode == "autoscale":
            step.skipped("the autoscaler takes what is idle")
        else:
            wanted = plan.nodes_afterwards(profile)
            pool_shrink.shrink(stage, kube, step, wanted, least=0, minimum=wanted)
    with stage.step("see that no replica went with a node") as step:
        servers = site.model_servers(site.driver(profile, profile.pattern3).render(), profile)
        pods = replicas.wait_for(stage, kube, profile.pattern3, servers, step)
        step.ok(", ".join(f"{pod.name} on {pod.node}" for pod in pods))


def wait_for_gpus(stage: StageRun, kube: Kubernetes) -> None:
    """Wait until the pool has the nodes for both patterns; nothing is changed.

    Raises:
        DeadlineExceeded: GPUs are missing; how many, and what to do.
    """
    profile = stage.profile
    if profile.pool.mode == "autoscale":
        return  # the nodes come for pods that wait
    old = 0 if profile.pool.spot else len(steps.pods_of(stage, kube, profile.pattern1))
    needed, pool = old + profile.pattern3.replicas, profile.pool.of_pattern3
    with stage.step(f"wait for {needed} nodes with GPUs") as step:
        try:
            usable = gpu_wait.wait_for_gpus(kube, pool, needed, profile.pool.ready_timeout_s, step)
        except DeadlineExceeded as error:
            raise DeadlineExceeded(
                f"surge needs {needed} GPU nodes at once: {old} for Pattern 1 and {profile.pattern3.replicas} "
                "for Pattern 3; nothing was changed",
                where=f"pool {pool}",
                reason=error.reason,
                remedy="run stage 02, which sizes the pool for surge; where there are no more GPUs, "
                "set swap.strategy to recreate",
            ) from None
        step.ok(f"{usable} nodes")


def _old_address(stage: StageRun, kube: Kubernetes) -> Endpoint:
    profile = stage.profile
    return endpoint(kube, profile, profile.pattern1.gateway)


def _prove(stage: StageRun, kube: Kubernetes, target: Endpoint) -> Endpoint:
    """Stage 04's checks of Pattern 3, through a route that no client takes; where that is.

    Raises:
        GateFailed: one failed; no client has met Pattern 3.
    """
    profile, pattern = stage.profile, stage.profile.pattern3
    own = traffic.by_own_route(target, pattern)
    with stage.step("open a route of our own to Pattern 3") as step:
        traffic.open_own(kube, profile, pattern, step)
    with stage.step("wait until requests arrive by our own route") as step:
        answer = traffic.wait_for_answer(own, profile, pattern.model, step)
        step.ok(f"{answer.output_tokens} tokens in {answer.elapsed_s:.2f} s")
    verify.replicas_and_gpus(stage)
    verify.answers(stage, own)
    verify.prefix_caching(stage)
    verify.scorer_weights(stage)
    ids = (spec.id for spec in verify.CHECKS)
    failed = [check for check in stage.checks(ids) if check.verdict is Verdict.FAIL]
    if failed:
        raise GateFailed(
            f"Pattern 3 did not hold {', '.join(check.id for check in failed)} on its own route; no client has met it",
            where=own.url,
            reason=f"expected {failed[0].expected}; observed {failed[0].observed}",
            remedy=failed[0].remedy,
        )
    return own
