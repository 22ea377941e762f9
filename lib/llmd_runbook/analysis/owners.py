"""Who keeps an object as it is, and would undo what somebody else changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ARGO = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance", "argocd.argoproj.io/installation-id")
_FLUX = {"kustomize.toolkit.fluxcd.io": "Kustomization", "helm.toolkit.fluxcd.io": "HelmRelease"}
_MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
}
"""Field managers, as the two tools apply under them."""


def owner(item: Mapping[str, Any]) -> str:
    """The GitOps tool or the controller that owns an object; empty where nobody but its author does.

    Sources: Argo CD "Resource Tracking", Flux "Kustomization" and "HelmRelease" (labels), `ownerReferences`, and the
    field managers, which stay where labels are stripped. helm alone owns nothing in this sense: it undoes no change.

    >>> owner({"metadata": {"annotations": {"argocd.argoproj.io/tracking-id": "web:apps/Deployment:ns/web"}}})
    'Argo CD application web'
    """
    meta = item["metadata"]
    labels = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
    for key in _ARGO:
        if key in labels:
            return f"Argo CD application {labels[key].partition(':')[0]}"
    for prefix, kind in _FLUX.items():
        if f"{prefix}/name" in labels:
            namespace = labels.get(f"{prefix}/namespace", "")
            return f"Flux {kind} {namespace}{'/' if namespace else ''}{labels[f'{prefix}/name']}"
    for reference in meta.get("ownerReferences") or []:
        if reference.get("controller"):
            return f"{reference['kind']} {reference['name']}"
    for entry in meta.get("managedFields") or []:
        if entry.get("manager") in _MANAGERS:
            return f"{_MANAGERS[entry['manager']]} (field manager {entry['manager']})"
    return ""
