"""What somebody else keeps as it is, is refused with the patch to commit, and nothing else is."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, Object, Resource
from llmd_runbook.errors import Conflict, Forbidden
from llmd_runbook.stages.planning import owned
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.memory import Memory

NS = "llm-d"
WEB: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": NS},
    "spec": {"replicas": 3},
}
ARGO = {"annotations": {"argocd.argoproj.io/tracking-id": "models:apps/Deployment:llm-d/web"}}
OWNERS = [
    (ARGO, "Argo CD application models"),
    ({"labels": {"argocd.argoproj.io/instance": "models"}}, "Argo CD application models"),
    (
        {"labels": {"app.kubernetes.io/instance": "models"}, "managedFields": [{"manager": "argocd-controller"}]},
        "Argo CD (field manager argocd-controller)",
    ),
    (
        {"labels": {"kustomize.toolkit.fluxcd.io/name": "models", "kustomize.toolkit.fluxcd.io/namespace": "flux"}},
        "Flux Kustomization flux/models",
    ),
    (
        {"labels": {"helm.toolkit.fluxcd.io/name": "models", "helm.toolkit.fluxcd.io/namespace": "flux"}},
        "Flux HelmRelease flux/models",
    ),
]
NOBODY = [
    {},
    {"labels": {"app.kubernetes.io/instance": "ms-pattern3", "app.kubernetes.io/managed-by": "Helm"}},
    {"managedFields": [{"manager": "helm"}, {"manager": "llmd-runbook"}]},
]


def cluster(meta: dict[str, Any], replicas: int = 1) -> Memory:
    kube, there = Memory(), copy.deepcopy(WEB)
    there["metadata"] |= meta
    there["spec"]["replicas"] = replicas
    kube.add(DEPLOYMENTS, there)
    return kube


@pytest.mark.parametrize(("meta", "who"), OWNERS)
def test_an_object_in_a_gitops_tools_care(bench: Bench, meta: dict[str, Any], who: str) -> None:
    with pytest.raises(Conflict, match="in somebody else's care; nothing was changed") as caught:
        owned.refuse(cluster(meta), bench.profile, applied=[WEB])
    assert caught.value.reason == f"apps/v1 Deployment llm-d/web: {who}"
    assert "-  replicas: 1\n+  replicas: 3" in str(caught.value.remedy)


@pytest.mark.parametrize("meta", NOBODY)
def test_an_object_in_nobodys_care(bench: Bench, meta: dict[str, Any]) -> None:
    owned.refuse(cluster(meta), bench.profile, applied=[WEB])
    owned.refuse(cluster(meta), bench.profile, removed=[WEB])


def test_an_owned_object_that_would_be_removed(bench: Bench) -> None:
    with pytest.raises(Conflict) as caught:
        owned.refuse(cluster(ARGO), bench.profile, removed=[WEB])
    assert "+++ (absent)" in str(caught.value.remedy)


def test_an_owned_object_that_is_as_it_shall_be(bench: Bench) -> None:
    """What the plan asked to commit has been committed: the run goes on."""
    owned.refuse(cluster(ARGO, replicas=3), bench.profile, applied=[WEB])


def test_what_is_not_there_yet(bench: Bench) -> None:
    owned.refuse(Memory(), bench.profile, applied=[WEB], removed=[WEB])


def test_what_may_not_be_read_is_not_judged(bench: Bench) -> None:
    class Closed(Memory):
        def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
            raise Forbidden("no")

    owned.refuse(Closed(), bench.profile, applied=[WEB])
