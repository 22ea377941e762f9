"""One identity for the cluster that a profile names, before anything else is read from it."""

from __future__ import annotations

import json

from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.kubernetes import CONFIG_MAPS, NAMESPACES, Kubernetes, connect
from llmd_runbook.errors import ApiError, UsageError
from llmd_runbook.manifest import ClusterIdentity
from llmd_runbook.profile import Profile

_SIMULATION = ("llmd-sandbox", "kube-public")
"""ConfigMap and namespace in which a simulated cluster says so, and what in it is real."""


def of(profile: Profile, before_change: Guard = read_only) -> Kubernetes:
    """The Kubernetes API that the profile names, to look unless a guard is given.

    Raises:
        UsageError: no kubeconfig, or no such context.
    """
    return connect(profile.cluster.context, profile.cluster.kubeconfig, before_change=before_change)


def identify(profile: Profile) -> ClusterIdentity:
    """Who the cluster is, and whether it is a simulated one, as the cluster itself says.

    Raises:
        UsageError: the profile says simulated and the cluster does not, or the other way round.
        ClusterError: the cluster does not answer, or refuses.
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
