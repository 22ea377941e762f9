"""The guide's order: Pattern 1 goes, Pattern 3 comes, the HTTPRoute moves; between the two nothing serves."""

from __future__ import annotations

from llmd_runbook.analysis.cutover import NEW, OLD
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.swap import gates, steps
from llmd_runbook.stages.swap.probe import SwapProbe

_BEFORE = 10
"""Requests under the old name that are seen before anything is removed."""


def swap(stage: StageRun, probe: SwapProbe) -> None:
    """Do it; each step looks first.

    Raises:
        RunbookError: a deadline, a tool, the cluster, or a gate.
    """
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    with stage.step(f"render {profile.pattern3.model}"):  # what cannot be rendered must not cost an outage
        site.model_servers(site.driver(profile, profile.pattern3).render(), profile)
    pods = steps.pods_of(stage, kube, profile.pattern1)
    if steps.serves(stage, kube, profile.pattern1) and any(pod.ready and not pod.terminating for pod in pods):
        steps.admitted(stage, kube, profile.pattern1)
        probe.wait_for(OLD, _BEFORE)
        probe.mark("removed")
    else:
        probe.marks["removed"] = 0.0  # by an earlier attempt: the outage is older than the probe
    steps.remove(stage, profile.pattern1)
    target = steps.install_servers(stage, profile.pattern3)
    before = gates.restarts(steps.pods_of(stage, kube, profile.pattern3))
    probe.ask(NEW, target)
    probe.mark("moved")
    steps.switch(stage, profile.pattern3, target)
    probe.mark("serving")
    gates.hold(stage, kube, probe, target, before)
