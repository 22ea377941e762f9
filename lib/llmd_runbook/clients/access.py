"""How the API server of a profile's cluster is reached, by this program and by the tools that it starts alike.

Every tool is handed kubeconfig and context explicitly, so that none falls back to one of its own. A kubeconfig that is
made here holds no token: it names a file or a plug-in that gives one. It lies in a folder that only its owner may
enter, and goes with the process.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmd_runbook.clients import gke_credential
from llmd_runbook.clients.gke import ClusterState, GkePool
from llmd_runbook.clients.kubernetes import SERVICE_ACCOUNT, current_context
from llmd_runbook.errors import UsageError
from llmd_runbook.profile import Pool, Profile

_API_SERVER = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")


@dataclass(frozen=True)
class Access:
    """A context of a kubeconfig; without a file it is that of `KUBECONFIG`, else the default one."""

    kubeconfig: str
    context: str


_made: dict[tuple[str, ...], Access] = {}
"""Kubeconfigs of this process; their folders go when it ends."""


def of(profile: Profile) -> Access:
    """What the profile's `cluster.access` says.

    Raises:
        UsageError: no kubeconfig, no such context, no such endpoint, or this is no pod.
        ClusterError: GKE does not answer, or refuses.
    """
    wanted, pool = profile.cluster, profile.pool
    if wanted.access == "kubeconfig":
        return Access(wanted.kubeconfig, wanted.context or current_context(wanted.kubeconfig))
    key = (wanted.access, wanted.endpoint, wanted.proxy, pool.project, pool.location, pool.cluster)
    if key not in _made:
        config = of_service_account() if wanted.access == "in_cluster" else of_gke(profile, described(pool))
        folder = tempfile.mkdtemp(prefix="llmd-runbook-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = Path(folder) / "kubeconfig"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump(config, stream)
        _made[key] = Access(str(file), config["current-context"])
    return _made[key]


def described(pool: Pool) -> ClusterState:
    """The cluster that the profile's `pool` names, as GKE describes it.

    Raises:
        ClusterError: GKE does not answer, or refuses.
    """
    return GkePool(pool.project, pool.location, pool.cluster, pool.name).cluster()


def of_gke(profile: Profile, cluster: ClusterState) -> dict[str, Any]:
    """A kubeconfig made from GKE's description of a cluster, under the name that gcloud would give its context.

    Raises:
        UsageError: the cluster has no endpoint of the kind that the profile asks for.
    """
    kind, pool = profile.cluster.endpoint, profile.pool
    if kind not in cluster.endpoints:
        raise UsageError(
            f"the cluster has no {kind} endpoint",
            where=f"{profile.path}: cluster.endpoint",
            reason=f"GKE names: {', '.join(cluster.endpoints) or 'none'}",
            remedy="set `cluster.endpoint` to one of these, or have the endpoint switched on",
        )
    server = {"server": f"https://{cluster.endpoints[kind]}"}
    if kind != "dns":  # which has a certificate of a public authority
        server["certificate-authority-data"] = base64.b64encode(cluster.authority.encode()).decode()
    if profile.cluster.proxy:
        server["proxy-url"] = profile.cluster.proxy
    plugin = {
        "apiVersion": gke_credential.API_VERSION,
        "command": sys.executable,
        "args": ["-m", gke_credential.__name__],
        "interactiveMode": "Never",
    }
    return _kubeconfig(f"gke_{pool.project}_{pool.location}_{pool.cluster}", server, {"exec": plugin})


def of_service_account() -> dict[str, Any]:
    """A kubeconfig of the pod that this process runs in.

    Raises:
        UsageError: it runs in none, or in one without a service account.
    """
    host, port = (os.environ.get(name, "") for name in _API_SERVER)
    if not host or not port or not (SERVICE_ACCOUNT / "token").is_file():
        raise UsageError(
            "this process runs in no pod with a service account",
            where="cluster.access: in_cluster",
            reason=f"{' and '.join(_API_SERVER)} or {SERVICE_ACCOUNT / 'token'} are missing",
            remedy="run it in a pod, or set `cluster.access` to kubeconfig or gke",
        )
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    authority = {"certificate-authority": str(SERVICE_ACCOUNT / "ca.crt")}
    return _kubeconfig("in-cluster", {"server": server, **authority}, {"tokenFile": str(SERVICE_ACCOUNT / "token")})


def _kubeconfig(name: str, cluster: dict[str, str], user: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
