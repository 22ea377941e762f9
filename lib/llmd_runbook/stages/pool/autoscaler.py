"""Whether the cluster's autoscaler made the nodes that Pattern 3's pods waited for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.pool.scale_events import TRIGGERED, words
from llmd_runbook.topology import Replica, gpu_nodes
from llmd_runbook.verdicts import Check, declare

GROWS = declare(
    "pool.grows",
    "with `pool.mode: autoscale`, the autoscaler made nodes for replicas of Pattern 3 that waited for a GPU, and each "
    "replica runs on a node of the pool",
    "act on the autoscaler's words: its maximum, a quota, a stock-out, or a pod that fits no node of the pool",
)


def verify(stage: StageRun) -> None:
    """Judge what the autoscaler did, where the profile leaves the pool's size to it."""
    profile = stage.profile
    if profile.pool.mode != "autoscale":
        return
    with stage.step("read what the autoscaler said"):
        kube = site.kubernetes(profile)
        servers = site.model_servers(site.driver(profile, profile.pattern3).render(), profile)
        pods = site.server_pods(kube, profile.namespace, servers)
        said = words(kube, profile.namespace, [pod.name for pod in pods])
        nodes = {node.name for node in gpu_nodes(kube, profile.pool.name)}
    stage.check(judge(profile, pods, nodes, said))


def judge(profile: Profile, pods: Sequence[Replica], nodes: set[str], said: Mapping[str, str]) -> Check:
    """Each replica on a node of the pool, and one at least that the autoscaler made a node for."""
    placed = [pod for pod in pods if pod.node in nodes]
    helped = [name for name, text in said.items() if text.startswith(TRIGGERED)]
    refused = [f"{pod.name}: {said[pod.name]}" for pod in pods if pod not in placed and pod.name in said]
    whole = len(placed) == len(pods) >= profile.pattern3.replicas
    observed = f"{len(placed)} of {len(pods)} on nodes of the pool; new ones were made for {len(helped)}"
    if refused:
        observed = f"{len(placed)} of {len(pods)} on nodes of the pool; {refused[0]}"
    nothing_shown = whole and not helped
    return GROWS.judge(
        None if nothing_shown else whole,
        expected=f"{profile.pattern3.replicas} replicas on nodes of the pool, and {TRIGGERED} of those that waited",
        observed=observed,
        evidence=[f"{name}: {text}" for name, text in said.items()],
        remedy="nothing had to wait, or its Events are forgotten: the autoscaler was not seen at work"
        if nothing_shown
        else "",
    )
