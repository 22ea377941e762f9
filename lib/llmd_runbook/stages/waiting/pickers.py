"""Waiting until an endpoint picker is available: its pods pass the phases of model servers, but for the model's."""

from __future__ import annotations

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, PODS, Kubernetes, Object
from llmd_runbook.profile import Pattern
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages import site
from llmd_runbook.stages.waiting import progress
from llmd_runbook.stages.waiting.starting import Awaited, Clock, Start, key_of
from llmd_runbook.topology import selector_text


def wait_for(
    stage: StageRun,
    kube: Kubernetes,
    pattern: Pattern,
    name: str,
    step: StepHandle,
    clock: Clock | None = None,
) -> None:
    """Watch a picker's Deployment until it is available with the template it has now; how its pods came is in a table.

    The Deployment is the verdict, for while it is rolled out an old pod is Ready too; the pods say how far it is.

    Args:
        name: of the Deployment.

    Raises:
        NotFound: there is no such Deployment.
        DeadlineExceeded: a pod came no further for as long as its phase allows, or `ready_timeout_s` has passed; with
            what each pod that is not Ready says.
    """
    namespace, key = stage.profile.namespace, key_of(stage.profile, pattern)
    spec = kube.get(DEPLOYMENTS, name, namespace)["spec"]
    selector = selector_text(spec["selector"]["matchLabels"])
    limits = progress.picker_limits(pattern.progress_deadlines)
    awaited = Awaited(name, spec.get("replicas", 1), key, limits, by_log=False)
    start = Start(kube, stage.profile, awaited, step, clock)

    def state(_: list[Object]) -> str:
        return start.state(kube.all(PODS, namespace, selector))

    try:
        kube.wait(
            DEPLOYMENTS,
            lambda items: site.available(items, name),
            what=f"the endpoint picker {name} to be available",
            timeout_s=pattern.ready_timeout_s,
            remedy=f"act on what its pods say (kubectl -n {namespace} describe pods -l {selector}); "
            f"where they came further all the time, raise {key}.ready_timeout_s; then run the stage again",
            namespace=namespace,
            on_change=state,
            look_s=start.look_s,
        )
    finally:
        start.keep(stage)
