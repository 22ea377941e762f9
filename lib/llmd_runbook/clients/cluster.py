"""One identity for the cluster that a profile names, before anything else is read from it."""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from llmd_runbook.clients import access
from llmd_runbook.clients.gke import ClusterState
from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.kubernetes import CONFIG_MAPS, NAMESPACES, READ_S, Kubernetes, connect, connect_as_pod
from llmd_runbook.clients.releases import helmfile
from llmd_runbook.clients.releases.binary import Helm
from llmd_runbook.errors import ApiError, Forbidden, NotFound, ToolError, UsageError
from llmd_runbook.manifest import ClusterIdentity
from llmd_runbook.profile import HelmfileReleases, Profile

_SIMULATION = ("llmd-sandbox", "kube-public")
"""ConfigMap and namespace in which a simulated cluster says so, and what in it is real."""
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def of(profile: Profile, before_change: Guard = read_only, read_s: float = READ_S) -> Kubernetes:
    """The Kubernetes API that the profile names, to look unless a guard is given.

    Raises:
        UsageError: it cannot be reached as the profile says.
        ClusterError: GKE, which is to say where it is, does not answer, or refuses.
    """
    reached = access.of(profile)
    if profile.cluster.access == "in_cluster":
        return connect_as_pod(reached.context, before_change=before_change, read_s=read_s)
    own = profile.cluster.access == "gke"  # a kubeconfig that this process made
    return connect(reached.context, reached.kubeconfig, before_change=before_change, read_s=read_s, shared=own)


def identify(profile: Profile) -> ClusterIdentity:
    """Who the cluster is, and whether it is a simulated one, as the cluster itself says.

    Raises:
        UsageError: the profile says simulated and the cluster does not, or the other way round; helm, helmfile or GKE
            mean another cluster than the Kubernetes client; or it is an Autopilot cluster.
        ClusterError: the cluster or GKE does not answer, or refuses.
    """
    kube = of(profile)
    version = _version(kube.raw("/version"))
    uid = kube.get(NAMESPACES, "kube-system")["metadata"]["uid"]
    says = kube.find(CONFIG_MAPS, *_SIMULATION)
    parts = dict(says.get("data", {})) if says else {}
    simulated = parts.pop("simulated", "") == "true"
    if simulated != profile.cluster.simulated:
        meant, found = ("simulated", "real") if profile.cluster.simulated else ("real", "simulated")
        raise UsageError(
            f"the profile is for a {meant} cluster, and this is a {found} one; nothing was started",
            where=f"context {kube.context}, {kube.server}",
            reason=f"{profile.path}: cluster.simulated is {str(profile.cluster.simulated).lower()}",
            remedy="use the profile of this cluster, or set KUBECONFIG and context to the profile's cluster",
        )
    return ClusterIdentity(
        context=kube.context,
        server=kube.server,
        kube_system_uid=uid,
        kubernetes_version=version,
        simulated=simulated,
        real=parts,
        confirmed_by=[*_by_helm(profile, kube, uid), *_by_helmfile(profile, kube), *_by_gke(profile, kube)],
    )


def _by_helm(profile: Profile, kube: Kubernetes, uid: str) -> list[str]:
    """That helm reaches the same cluster; nothing where there is no helm (stage 01 says so) or it cannot tell."""
    reached = access.of(profile)
    helm = Helm(Path(reached.kubeconfig).expanduser() if reached.kubeconfig else None, reached.context)
    try:
        helm.require()
    except ToolError:
        return []
    try:
        found = helm.cluster_uid(profile.namespace)
    except ToolError as error:
        raise UsageError(
            "helm does not get to the cluster of the kubeconfig; nothing was started",
            where=f"context {kube.context}, {kube.server}",
            reason=error.in_short,
            remedy=f"{error.remedy}; helm's own variables (HELM_KUBE*) win over the kubeconfig that it is given",
        ) from None
    if found is None:
        return []
    if found != uid:
        raise _another("helm", kube, f"UID of kube-system: {uid} by the Kubernetes client, {found} by helm")
    return [f"helm {helm.version}: UID of kube-system"]


def _by_helmfile(profile: Profile, kube: Kubernetes) -> list[str]:
    """That helmfile leads helm nowhere else; nothing where there is none, or it cannot be read (stage 01 says so)."""
    confirmed: dict[str, None] = {}
    for pattern in (profile.pattern1, profile.pattern3):
        if isinstance(pattern.releases, HelmfileReleases):
            driver = helmfile.of(profile, pattern.releases, access.of(profile))
            try:
                found = driver.elsewhere()
            except ToolError:
                return []
            if found:
                where = profile.resolve(pattern.releases.file)
                raise _another("helmfile", kube, f"{where}: {'; '.join(found)}", helmfile.TO_STAY)
            confirmed[f"helmfile {driver.version}: context of each release"] = None
    return list(confirmed)


def _by_gke(profile: Profile, kube: Kubernetes) -> list[str]:
    """That the node pool's cluster is the same one; nothing where GKE may not be asked."""
    pool = profile.pool
    try:
        found = access.described(pool)
    except Forbidden:
        return []
    except NotFound as error:
        raise _another("GKE", kube, f"{error.reason}") from None
    if found.autopilot:
        raise UsageError(
            "the cluster is an Autopilot one, and its node pools are GKE's own; nothing was started",
            where=f"projects/{pool.project}/locations/{pool.location}/clusters/{pool.cluster}",
            reason="on Autopilot nobody sizes a pool: nodes come and go with the pods that ask for GPUs",
            remedy="use a Standard cluster, whose GPU pool stages 02 and 07 can size",
        )
    if said := same_cluster(found, kube.server, kube.authority):
        return [f"GKE: {said}"]
    named = ", ".join(f"{kind} {address}" for kind, address in found.endpoints.items()) or "none"
    reason = f"{kube.server} is no endpoint of cluster {pool.cluster} ({named}), and its certificate authority differs"
    raise _another("GKE", kube, reason)


def same_cluster(cluster: ClusterState, server: str, authority: str) -> str:
    """By what an API server is that of a GKE cluster; empty where nothing says so.

    Its URL is one of the cluster's endpoints, or (behind a tunnel, in a pod) both trust the same authority.
    """
    host = _address(server)
    for kind, address in cluster.endpoints.items():
        if host == _address(f"https://{address}"):
            return f"{kind} endpoint"
    return "certificate authority" if _certificates(cluster.authority) & _certificates(authority) else ""


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 443


def _certificates(pem: str) -> set[bytes]:
    return {ssl.PEM_cert_to_DER_cert(found) for found in _CERTIFICATE.findall(pem)}


_MAKE_ONE = (
    "make them one: `cluster.context`, KUBECONFIG and helm's own variables (HELM_KUBE*), `pool.project`, "
    "`pool.location` and `pool.cluster`; or set `cluster.access: gke`, which needs no kubeconfig"
)


def _another(who: str, kube: Kubernetes, reason: str, remedy: str = _MAKE_ONE) -> UsageError:
    return UsageError(
        f"{who} means another cluster than the kubeconfig; nothing was started",
        where=f"context {kube.context}, {kube.server}",
        reason=reason,
        remedy=remedy,
    )


def _version(text: str) -> str:
    try:
        return str(json.loads(text)["gitVersion"])
    except (ValueError, LookupError, TypeError):
        raise ApiError(
            "what answers is no Kubernetes API",
            where="/version",
            reason=text[:200] or "(empty body)",
            remedy="check the server in the kubeconfig's context",
        ) from None
