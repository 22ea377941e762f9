"""Waiting until a pattern's replicas are Ready."""

from __future__ import annotations

from llmd_runbook.clients.kubernetes import PODS, Kubernetes
from llmd_runbook.profile import Pattern
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages import site
from llmd_runbook.stages.waiting import progress
from llmd_runbook.stages.waiting.starting import Awaited, Clock, Start, key_of
from llmd_runbook.topology import Replica


def wait_for(
    stage: StageRun,
    kube: Kubernetes,
    pattern: Pattern,
    servers: site.ModelServers,
    step: StepHandle,
    clock: Clock | None = None,
) -> list[Replica]:
    """Watch until exactly the pattern's number of pods is Ready and none is left over; how they came is in a table.

    The Deployment's conditions are not asked: `ProgressDeadlineExceeded` ends nothing, its pods go on starting.

    Raises:
        DeadlineExceeded: a pod came no further for as long as its phase allows, or `ready_timeout_s` has passed; with
            what each pod that is not Ready says.
    """
    profile, key = stage.profile, key_of(stage.profile, pattern)
    limits = progress.limits(pattern.progress_deadlines)
    awaited = Awaited(servers.name, pattern.replicas, key, limits, by_log=True)
    start = Start(kube, profile, awaited, step, clock)
    try:
        return kube.wait(
            PODS,
            start.done,
            what=f"{pattern.replicas} Ready replicas of {servers.name}",
            timeout_s=pattern.ready_timeout_s,
            remedy=f"act on what the pods say (kubectl -n {profile.namespace} describe pods -l {servers.selector}); "
            f"where they came further all the time, raise {key}.ready_timeout_s; then run the stage again",
            namespace=profile.namespace,
            selector=servers.selector,
            on_change=start.state,
            look_s=start.look_s,
        )
    finally:
        start.keep(stage)
