from __future__ import annotations

from typing import Any

from llmd_runbook.analysis.access import Need, needs, release_needs, role_manifests, rules


def rendered(kind: str, api: str, name: str = "x", **more: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **more}


def test_a_need_is_asked_for_as_the_review_wants_it() -> None:
    log = Need("llm-d", "", "pods/log", "get")
    assert log.review() == {
        "resourceAttributes": {"resource": "pods", "subresource": "log", "verb": "get", "namespace": "llm-d"}
    }
    metrics = Need("", "", "", "get", path="/metrics")
    assert metrics.review() == {"nonResourceAttributes": {"path": "/metrics", "verb": "get"}}
    assert str(Need("", "", "nodes", "list")) == "list nodes in the whole cluster"
    assert str(Need("a", "apps", "deployments", "get", "web")) == "get deployments.apps/web in a"


def test_helm_needs_its_secrets_and_every_rendered_kind_where_it_lives() -> None:
    other = rendered("ConfigMap", "v1")
    other["metadata"]["namespace"] = "elsewhere"
    cluster = rendered("ClusterRole", "rbac.authorization.k8s.io/v1", rules=[])
    found = release_needs([rendered("Deployment", "apps/v1"), other, cluster], "llm-d")
    assert {(need.namespace, need.resource) for need in found} == {
        ("llm-d", "secrets"),
        ("llm-d", "deployments"),
        ("elsewhere", "configmaps"),
        ("", "clusterroles"),
    }
    assert {need.verb for need in found if need.resource == "secrets"} == {"create", "delete", "get", "list", "update"}
    assert {need.verb for need in found if need.resource == "deployments"} == {"create", "delete", "get", "patch"}


def test_who_creates_a_role_must_hold_what_it_grants() -> None:
    granted = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["watch"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
    ]
    found = release_needs([rendered("Role", "rbac.authorization.k8s.io/v1", rules=granted)], "llm-d")
    assert Need("llm-d", "", "pods", "watch") in found
    assert Need("", "", "", "get", path="/metrics") in found
    assert Need("llm-d", "", "secrets", "get", "one") in found


def test_binding_a_role_that_is_not_rendered_needs_bind() -> None:
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    binding = rendered("RoleBinding", "rbac.authorization.k8s.io/v1", roleRef=reference)
    bind = Need("llm-d", "rbac.authorization.k8s.io", "clusterroles", "bind", "view")
    assert bind in release_needs([binding], "llm-d")
    view = rendered("ClusterRole", "rbac.authorization.k8s.io/v1", "view", rules=[])
    assert bind not in release_needs([binding, view], "llm-d")


def test_rules_join_resources_with_the_same_verbs_and_grant_no_more() -> None:
    wanted = [*needs("a", "", "get list", "pods", "services"), *needs("a", "", "get", "secrets", name="one")]
    assert rules(wanted) == [
        {"apiGroups": [""], "resources": ["pods", "services"], "verbs": ["get", "list"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
    ]
    assert rules([Need("", "", "", "get", path="/metrics")]) == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


def test_roles_stand_where_they_hold_and_do_not_depend_on_the_order() -> None:
    wanted = [*needs("", "", "list", "nodes"), *needs("a", "", "get", "pods"), *needs("b", "", "get", "pods")]
    found = role_manifests("who", "a", wanted)
    assert found == role_manifests("who", "a", list(reversed(wanted)))
    names = [(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace")) for item in found]
    assert names == [
        ("ServiceAccount", "who", "a"),
        ("ClusterRole", "who-a", None),
        ("ClusterRoleBinding", "who-a", None),
        ("Role", "who", "a"),
        ("RoleBinding", "who", "a"),
        ("Role", "who-a", "b"),
        ("RoleBinding", "who-a", "b"),
    ]
    subjects = [item["subjects"] for item in found if "subjects" in item]
    assert subjects == [[{"kind": "ServiceAccount", "name": "who", "namespace": "a"}]] * 3
