"""The systems that a stage works on, opened from its profile; they change something only while its lock is held."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmd_runbook.clients import access, cluster
from llmd_runbook.clients.gke import GkePool
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, PODS, Kubernetes, Object
from llmd_runbook.clients.releases import helmfile
from llmd_runbook.clients.releases.base import Driver
from llmd_runbook.clients.releases.helm import HelmDriver, ReleaseSpec
from llmd_runbook.errors import NotFound, ProfileError
from llmd_runbook.profile import HelmReleases, Pattern, Profile
from llmd_runbook.run import StepHandle, lock
from llmd_runbook.topology import GPU, PoolView, Replica, pool_view, replica_view, selector_text


def kubernetes(profile: Profile) -> Kubernetes:
    """The profile's cluster."""
    return cluster.of(profile, lock.guard(profile))


def gke_pool(profile: Profile) -> GkePool:
    """The profile's GPU node pool."""
    return _pool(profile, profile.pool.name)


def spot_pool(profile: Profile) -> GkePool:
    """The spot pool that the profile names for Pattern 3."""
    return _pool(profile, profile.pool.spot)


def _pool(profile: Profile, name: str) -> GkePool:
    pool = profile.pool
    return GkePool(pool.project, pool.location, pool.cluster, name, before_change=lock.guard(profile))


def driver(profile: Profile, pattern: Pattern, *, offline: bool = False) -> Driver:
    """What installs and removes a pattern's releases; one that is `offline` can only render them.

    Raises:
        UsageError, ClusterError: the cluster cannot be reached as the profile says.
    """
    reached = access.Access("", "") if offline else access.of(profile)
    before_change, releases = lock.guard(profile), pattern.releases
    if isinstance(releases, HelmReleases):
        specs = [
            ReleaseSpec(
                name=item.name,
                chart=item.chart if "://" in item.chart else str(profile.resolve(item.chart)),
                version=item.version,
                values=tuple(profile.resolve(value) for value in item.values),
            )
            for item in releases.releases
        ]
        kubeconfig = Path(reached.kubeconfig).expanduser() if reached.kubeconfig else None
        return HelmDriver(
            specs, profile.namespace, kubeconfig=kubeconfig, context=reached.context, before_change=before_change
        )
    return helmfile.of(profile, releases, reached, before_change)


def pattern3_pool(kube: Kubernetes, profile: Profile) -> PoolView:
    """Pattern 3's InferencePool.

    Raises:
        NotFound: there is none.
    """
    name = profile.pattern3.inference_pool
    pool = pool_view(kube, profile.namespace, name)
    if pool is None:
        raise NotFound("there is no InferencePool", where=f"{profile.namespace}/{name}", remedy="run stage 03 first")
    return pool


@dataclass(frozen=True)
class ModelServers:
    """The Deployment of a pattern's model servers, as its rendered releases describe it."""

    name: str
    selector: str
    replicas: int


def model_servers(manifests: list[Object], profile: Profile) -> ModelServers:
    """The one rendered Deployment whose pods ask for GPUs.

    Raises:
        ProfileError: the releases render none, or several.
    """
    found = [item for item in manifests if item["kind"] == "Deployment" and _asks_for_gpus(item)]
    if len(found) != 1:
        names = ", ".join(item["metadata"]["name"] for item in found) or "none"
        raise ProfileError(
            f"the releases render {len(found)} Deployments that ask for {GPU}; exactly one is needed",
            where=str(profile.path),
            reason=names,
            remedy="correct the values files that the profile names",
        )
    spec = found[0]["spec"]
    return ModelServers(
        name=found[0]["metadata"]["name"],
        selector=selector_text(spec["selector"]["matchLabels"]),
        replicas=int(spec.get("replicas", 1)),
    )


def rescale(kube: Kubernetes, namespace: str, servers: ModelServers, step: StepHandle) -> bool:
    """Undo a `scale` behind the release tool's back, which the tool does not see; whether there was one."""
    deployment = kube.find(DEPLOYMENTS, servers.name, namespace)
    if deployment is None or deployment["spec"].get("replicas", 1) == servers.replicas:
        return False
    kube.scale(servers.name, namespace, servers.replicas, tell=step.remark)
    return True


def server_pods(kube: Kubernetes, namespace: str, servers: ModelServers) -> list[Replica]:
    """The pods of a pattern's model servers, by name."""
    pods = kube.all(PODS, namespace, servers.selector)
    return sorted((replica_view(pod) for pod in pods), key=lambda replica: replica.name)


def wait_until_gone(
    kube: Kubernetes, profile: Profile, servers: ModelServers, step: StepHandle, timeout_s: float
) -> None:
    """Watch until no pod of a pattern is left.

    Raises:
        DeadlineExceeded: pods remain.
    """

    def state(pods: list[Object]) -> str:
        step.progress(f"{len(pods)} pods left")
        return ", ".join(pod["metadata"]["name"] for pod in pods) or "no pods"

    kube.wait(
        PODS,
        lambda pods: not pods,
        what=f"the pods of {servers.name} to end",
        timeout_s=timeout_s,
        remedy="look for finalizers and for nodes that are NotReady, then run the stage again",
        namespace=profile.namespace,
        selector=servers.selector,
        on_change=state,
    )


def available(deployments: list[Object], name: str) -> bool:
    """Whether a Deployment among these has all its replicas available, each of the template that it has now."""
    for item in deployments:
        if item["metadata"]["name"] == name:
            status = item.get("status", {})
            current = status.get("observedGeneration", 0) >= item["metadata"]["generation"]
            wanted = item["spec"].get("replicas", 1)
            counts = [status.get(kind, 0) for kind in ("replicas", "updatedReplicas", "availableReplicas")]
            return bool(current and counts == [wanted] * 3)  # pods of the template before do not count
    return False


def wait_available(
    kube: Kubernetes, namespace: str, name: str, timeout_s: float, step: StepHandle | None = None
) -> None:
    """Watch a Deployment until all its replicas are available.

    Raises:
        DeadlineExceeded: they are not.
    """

    if step:
        step.progress(f"waiting for {name}")
    kube.wait(
        DEPLOYMENTS,
        lambda items: available(items, name),
        what=f"deployment {name} to be available",
        timeout_s=timeout_s,
        remedy=f"kubectl -n {namespace} describe deployment {name}",
        namespace=namespace,
    )


def _asks_for_gpus(deployment: Object) -> bool:
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return any(GPU in item.get("resources", {}).get("limits", {}) for item in containers)
