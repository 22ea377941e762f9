"""What the runbook's own calls need on the cluster: `observer` reads, `operator` also changes.

`tests/llmd_runbook/stages/test_roles.py` compares the lists below with the calls in the code.
"""

from __future__ import annotations

from typing import Any, Literal

from llmd_runbook.analysis.access import Need, needs, release_needs, role_manifests
from llmd_runbook.profile import Profile
from llmd_runbook.run import lock
from llmd_runbook.stages import site

Who = Literal["observer", "operator"]

_GATEWAY, _POOL, _GKE = "gateway.networking.k8s.io", "inference.networking.k8s.io", "networking.gke.io"
_LEASE = "coordination.k8s.io"


def observer(profile: Profile) -> list[Need]:
    """What stages 01, 04, 05 and 06 (without their opt-in changes) read. No Secret is among it: reading one, or helm's
    record of releases, which lies in Secrets too, would show the token to everybody who may look.
    """
    here = profile.namespace
    return [
        *needs(here, "apps", "get list watch", "deployments"),
        *needs(here, "", "get list watch", "pods"),
        *needs(here, "", "get", "pods/log", "pods/proxy"),
        *needs(here, "", "get", "configmaps", "services"),
        *needs(here, _GATEWAY, "get list watch", "gateways", "httproutes"),
        *needs(here, _POOL, "get list", "inferencepools"),
        *needs(here, _GKE, "list", "healthcheckpolicies"),
        *needs("", "", "list watch", "nodes"),
        *needs("", "", "get", "namespaces", name="kube-system"),
        *needs("kube-public", "", "get", "configmaps", name="llmd-sandbox"),
    ]


def operator(profile: Profile) -> list[Need]:
    """What the whole run needs: the observer's, helm's for both patterns as they render, and the stages' own changes.

    Raises:
        ToolError: a pattern cannot be rendered.
    """
    here = profile.namespace
    rendered = [
        item
        for pattern in (profile.pattern1, profile.pattern3)
        for item in site.driver(profile, pattern, offline=True).render()
    ]
    return sorted(
        {
            *observer(profile),
            *release_needs(rendered, here),
            *needs(here, _GATEWAY, "create delete patch", "httproutes"),
            *needs(here, "apps", "patch", "deployments", "deployments/scale"),
            *needs(here, "", "delete", "pods"),
            *needs(here, "autoscaling", "list", "horizontalpodautoscalers"),  # who else would change the replicas
            *needs(here, "", "list", "events"),  # what is said of pods that a stage waits for
            *needs(lock.NAMESPACE, _LEASE, "create list watch", "leases"),  # which cannot be bound to a name
            *needs(lock.NAMESPACE, _LEASE, "get update", "leases", name=lock.lease_name(profile)),
            *needs("", _GATEWAY, "list", "gateways"),  # stage 07 counts every load balancer that costs money
        }
    )


def manifests(profile: Profile, who: Who) -> list[dict[str, Any]]:
    """ServiceAccount, roles and bindings; always the same for the same profile and charts.

    Raises:
        ToolError: a pattern cannot be rendered (operator).
    """
    wanted = observer(profile) if who == "observer" else operator(profile)
    return role_manifests(f"llmd-runbook-{who}", profile.namespace, wanted)
