from __future__ import annotations

from typing import Any

import pytest

from llmd_runbook.analysis.owners import owner


@pytest.mark.parametrize(
    ("meta", "who"),
    [
        ({"labels": {"argocd.argoproj.io/instance": "web"}}, "Argo CD application web"),
        (
            {"annotations": {"argocd.argoproj.io/tracking-id": "web:gateway.networking.k8s.io/HTTPRoute:ns/r"}},
            "Argo CD application web",
        ),
        (
            {"labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
            "Flux Kustomization flux/apps",
        ),
        ({"labels": {"helm.toolkit.fluxcd.io/name": "infra"}}, "Flux HelmRelease infra"),
        ({"ownerReferences": [{"kind": "Stack", "name": "one", "controller": True}]}, "Stack one"),
        ({"managedFields": [{"manager": "argocd-controller"}]}, "Argo CD (field manager argocd-controller)"),
        ({"managedFields": [{"manager": "kustomize-controller"}]}, "Flux (field manager kustomize-controller)"),
    ],
)
def test_owners_are_known_by_what_they_leave(meta: dict[str, Any], who: str) -> None:
    assert owner({"metadata": meta}) == who


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"labels": {"app.kubernetes.io/managed-by": "Helm"}, "managedFields": [{"manager": "helm"}]},
        {"ownerReferences": [{"kind": "Stack", "name": "one"}]},
        {"labels": None, "annotations": None},
    ],
)
def test_an_object_that_nobody_would_put_back(meta: dict[str, Any]) -> None:
    assert owner({"metadata": meta}) == ""
