"""The steps that swaps are made of, each of which looks first and does only what is missing."""

from __future__ import annotations

from llmd_runbook.clients.inference import Endpoint, Inference
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import ClusterError, Forbidden, ToolCutShort
from llmd_runbook.profile import Pattern
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import gate
from llmd_runbook.stages.planning.facts import ROUTE_CHANGE, release_change
from llmd_runbook.stages.swap import cut_short
from llmd_runbook.stages.waiting import pickers, replicas
from llmd_runbook.topology import Replica, endpoint, route_view


def pods_of(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> list[Replica]:
    """The model servers of a pattern that are there."""
    servers = site.model_servers(site.driver(stage.profile, pattern).render(), stage.profile)
    return site.server_pods(kube, stage.profile.namespace, servers)


def releases_of(stage: StageRun, pattern: Pattern) -> list[str]:
    """Names of the releases of a pattern that are there, in whatever state."""
    driver = site.driver(stage.profile, pattern)
    mine = driver.names()
    return [item.name for item in driver.installed(stage.profile.namespace) if item.name in mine]


def left_of(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> list[str]:
    """Names of the releases and pods of a pattern that are there."""
    return [*releases_of(stage, pattern), *(pod.name for pod in pods_of(stage, kube, pattern))]


def serves(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> bool:
    """Whether the HTTPRoute sends to that pattern alone, and is accepted."""
    route = route_view(kube, stage.profile.namespace, stage.profile.route.name)
    return traffic.points_to(route, pattern) and traffic.accepted(route)


def admitted(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> None:
    """See that the gateway lets our requests in to a pattern that serves, before an outage that they are to judge.

    Raises:
        Forbidden: it wants a bearer token, or another one.
        UsageError: there is no token where the profile says.
    """
    profile = stage.profile
    with stage.step("see that the gateway lets our requests in") as step:
        try:
            target = endpoint(kube, profile, pattern.gateway)
            client = Inference(target, timeout_s=profile.load.request_timeout_s)
            answer = client.complete(pattern.model, "Say hello.", max_tokens=1)
        except Forbidden:
            raise
        except ClusterError as error:  # a pattern that does not answer may be replaced
            step.ok(error.in_short)
        else:
            step.ok(f"{answer.output_tokens} tokens in {answer.elapsed_s:.2f} s")


def remove(stage: StageRun, pattern: Pattern) -> None:
    """Remove a pattern's releases and wait until its pods are gone."""
    profile = stage.profile
    driver = site.driver(profile, pattern)
    with stage.step(f"remove {pattern.model}") as step:
        servers = site.model_servers(driver.render(), profile)
        with gate.guarded(stage, release_change(pattern)):
            try:
                gone = [item.release for item in driver.destroy(step.progress) if item.status == "changed"]
            except ToolCutShort as error:
                if releases_of(stage, pattern):
                    raise
                gone = driver.names()
                step.remark(f"{error.what}: looked up, and none of its releases is left")
        if gone:
            step.changed(f"removed {', '.join(gone)}")
        else:
            step.ok("absent already")
    with stage.step(f"wait until the pods of {pattern.model} are gone") as step:
        kube = site.kubernetes(profile)
        site.wait_until_gone(kube, profile, servers, step, pattern.ready_timeout_s)


def install_servers(stage: StageRun, pattern: Pattern) -> Endpoint:
    """Install a pattern's releases and wait for its replicas, picker and Gateway; where the Gateway is."""
    profile = stage.profile
    driver, kube = site.driver(profile, pattern), site.kubernetes(profile)
    with stage.step(f"install {pattern.model}") as step:
        manifests = driver.render()
        servers = site.model_servers(manifests, profile)
        with gate.guarded(stage, release_change(pattern)):
            changed = cut_short.apply(kube, driver, profile.namespace, step)
            if site.rescale(kube, profile.namespace, servers, step):
                changed.append(f"{servers.name} to {servers.replicas} replicas")
        if changed:
            step.changed(f"installed {', '.join(changed)}")
        else:
            step.ok("as it is")
    with stage.step(f"wait for {pattern.replicas} replicas") as step:
        pods = replicas.wait_for(stage, kube, pattern, servers, step)
        step.ok(", ".join(f"{pod.name} on {pod.node}" for pod in pods))
    with stage.step("wait for the endpoint picker and the Gateway") as step:
        others = [item["metadata"]["name"] for item in manifests if item["kind"] == "Deployment"]
        for name in others:
            if name != servers.name:
                pickers.wait_for(stage, kube, pattern, name, step)
        target = traffic.wait_programmed(kube, profile, pattern, step)
        step.ok(target.url)
    return target


def switch(stage: StageRun, pattern: Pattern, target: Endpoint) -> None:
    """Move the HTTPRoute to a pattern whose servers are ready, and wait until requests arrive."""
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    with stage.step(f"move the HTTPRoute to {pattern.inference_pool}") as step, gate.guarded(stage, ROUTE_CHANGE):
        traffic.move(kube, profile, pattern, step)
    with stage.step("wait until requests arrive") as step:
        answer = traffic.wait_for_answer(target, profile, pattern.model, step)
        step.ok(f"{answer.output_tokens} tokens in {answer.elapsed_s:.2f} s")


def install(stage: StageRun, pattern: Pattern) -> None:
    """Install a pattern's releases; when replicas, picker and Gateway are ready, move the route to it."""
    switch(stage, pattern, install_servers(stage, pattern))
