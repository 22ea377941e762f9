"""What a caller must be permitted to do on a cluster, and the RBAC objects that permit exactly that.

Sources: Kubernetes RBAC (https://kubernetes.io/docs/reference/access-authn-authz/rbac/), its rule against privilege
escalation, and server-side apply, which needs `create` beside `patch` where the object may be missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]

RBAC = "rbac.authorization.k8s.io"
CLUSTER_KINDS = frozenset(
    {
        *("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "GatewayClass", "Namespace", "Node"),
        *("PersistentVolume", "PriorityClass", "StorageClass"),
        *("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"),
    }
)
"""Kinds without a namespace; every other kind that a chart renders counts as namespaced."""
RELEASE_VERBS = ("create", "delete", "get", "patch")
"""What helm does with an object of a release: it reads what is there, and patches what differs."""


@dataclass(frozen=True, order=True)
class Need:
    """One verb on one resource.

    Attributes:
        namespace: empty for a resource without one, and for all namespaces.
        group: API group; empty for the core group.
        resource: plural, with its subresource: `pods/log`.
        name: the one object; empty for any.
        path: a path outside all resources instead, such as `/metrics`.
    """

    namespace: str
    group: str
    resource: str
    verb: str
    name: str = ""
    path: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        what = self.path or resource + (f"/{self.name}" if self.name else "")
        return f"{self.verb} {what} in {self.namespace or 'the whole cluster'}"

    def review(self) -> Json:
        """The `spec` of a SelfSubjectAccessReview that asks for it."""
        if self.path:
            return {"nonResourceAttributes": {"path": self.path, "verb": self.verb}}
        resource, _, sub = self.resource.partition("/")
        asked = {"group": self.group, "resource": resource, "subresource": sub, "verb": self.verb}
        asked |= {"namespace": self.namespace, "name": self.name}
        return {"resourceAttributes": {key: value for key, value in asked.items() if value}}


def needs(namespace: str, group: str, verbs: str, *resources: str, name: str = "") -> list[Need]:
    """Every one of `verbs` (words) on every one of the resources.

    >>> [str(need) for need in needs("llm-d", "apps", "get list", "deployments")]
    ['get deployments.apps in llm-d', 'list deployments.apps in llm-d']
    """
    return [Need(namespace, group, resource, verb, name) for resource in resources for verb in verbs.split()]


def plural(kind: str) -> str:
    """A kind as the API's paths name it, by the rule of English that all kinds used here follow.

    >>> [plural(kind) for kind in ("Deployment", "Gateway", "HealthCheckPolicy", "Ingress")]
    ['deployments', 'gateways', 'healthcheckpolicies', 'ingresses']
    """
    word = kind.lower()
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def release_needs(manifests: Iterable[Mapping[str, Any]], namespace: str) -> list[Need]:
    """What helm needs to install, change and remove these objects, and to keep its own record, in Secrets.

    Whoever creates a role must hold what it grants, and whoever binds one that is not rendered must be let to.
    """
    rendered = list(manifests)
    roles = {(item["kind"], item["metadata"]["name"]) for item in rendered if item["kind"] in ("Role", "ClusterRole")}
    found = needs(namespace, "", "create delete get list update", "secrets")
    for item in rendered:
        group = item["apiVersion"].rpartition("/")[0]
        where = item["metadata"].get("namespace") or namespace
        where = "" if item["kind"] in CLUSTER_KINDS else where
        found += needs(where, group, " ".join(RELEASE_VERBS), plural(item["kind"]))
        if item["kind"] in ("Role", "ClusterRole"):
            found += _granted(item, where)
        if item["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            role = item["roleRef"]
            if (role["kind"], role["name"]) not in roles:
                found += needs(where, RBAC, "bind", plural(role["kind"]), name=role["name"])
    return sorted(set(found))


def _granted(role: Mapping[str, Any], namespace: str) -> list[Need]:
    found = []
    for rule in role.get("rules") or []:
        for verb in rule["verbs"]:
            found += [Need("", "", "", verb, path=path) for path in rule.get("nonResourceURLs") or []]
            found += [
                Need(namespace, group, resource, verb, name)
                for group in rule.get("apiGroups") or []
                for resource in rule.get("resources") or []
                for name in rule.get("resourceNames") or [""]
            ]
    return found


def role_manifests(who: str, namespace: str, wanted: Iterable[Need]) -> list[Json]:
    """A ServiceAccount in `namespace`, and roles with their bindings that permit it exactly what is wanted.

    Always in the same order, so that two runs print the same.
    """
    account = {"kind": "ServiceAccount", "name": who, "namespace": namespace}
    found: list[Json] = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": who, "namespace": namespace}}
    ]
    by_namespace: dict[str, list[Need]] = defaultdict(list)
    for need in sorted(set(wanted)):
        by_namespace[need.namespace].append(need)
    for where, inside in sorted(by_namespace.items()):
        kind = "Role" if where else "ClusterRole"
        # one outside of the namespace carries that in its name: two profiles must not share one, nor its binding
        meta = {"name": who if where == namespace else f"{who}-{namespace}"} | ({"namespace": where} if where else {})
        found.append({"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": meta, "rules": rules(inside)})
        found.append(
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": f"{kind}Binding",
                "metadata": dict(meta),
                "roleRef": {"apiGroup": RBAC, "kind": kind, "name": meta["name"]},
                "subjects": [dict(account)],
            }
        )
    return found


def rules(wanted: Sequence[Need]) -> list[Json]:
    """PolicyRules for these needs, whose namespace is not looked at; resources with the same verbs share one."""
    verbs: dict[tuple[str, str, str, str], set[str]] = defaultdict(set)
    for need in wanted:
        verbs[need.group, need.resource, need.name, need.path].add(need.verb)
    together: dict[tuple[str, str, tuple[str, ...], bool], list[str]] = defaultdict(list)
    for (group, resource, name, path), found in sorted(verbs.items()):
        together[group, name, tuple(sorted(found)), bool(path)].append(path or resource)
    written = []
    for (group, name, allowed, is_path), what in sorted(together.items()):
        rule: Json = {"nonResourceURLs": what} if is_path else {"apiGroups": [group], "resources": what}
        rule |= {"resourceNames": [name]} if name else {}
        written.append({**rule, "verbs": list(allowed)})
    return written
