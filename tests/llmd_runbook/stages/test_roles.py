"""The roles against the code: every call of the Kubernetes client that the product makes, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llmd_runbook
from llmd_runbook.clients import kubernetes
from llmd_runbook.clients.kubernetes import Resource
from llmd_runbook.profile import PARAMETERS, load
from llmd_runbook.run import lock
from llmd_runbook.stages import roles, site
from tests.llmd_runbook.stages.rendered import servers

VERBS = {
    "all": "list",
    "apply": "create patch get",
    "create": "create get",
    "delete": "delete get",
    "disown": "patch get",
    "find": "get",
    "get": "get",
    "patch": "patch get",
    "replace": "update get",
    "wait": "list watch",
}
"""What a method of the client asks of the API server, also to look up a change that got no answer; those that name no
resource are in `BY_PATH`."""
BY_PATH = {
    "follow": ("pods/log", "get"),
    "log_start": ("pods/log", "get"),
    "logs": ("pods/log", "get"),
    "raw": ("pods/proxy", "get"),
    "scale": ("deployments/scale", "patch"),
}
ASKS_EVERYBODY_MAY = {"may"}
HELMS = {"secrets"}
"""Only helm lists and writes them; stage 01 reads one, and says where it may not."""


def calls() -> Iterator[tuple[str, str, str]]:
    """File, resource and verb of every call of a method of `Kubernetes` on a resource's constant."""
    for file in sorted(Path(llmd_runbook.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            method, first = node.func.attr, node.args[0] if node.args else None
            if method in VERBS and isinstance(first, ast.Name) and first.id.isupper():
                resource = getattr(kubernetes, first.id, None)
                if isinstance(resource, Resource):
                    yield from ((file.name, resource.plural, verb) for verb in VERBS[method].split())
            elif method in BY_PATH and "kube" in ast.unparse(node.func.value):
                yield (file.name, *BY_PATH[method])


@pytest.fixture
def permitted(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Resource and verb of the operator's role, whose releases render one Deployment."""

    class Driver:
        def render(self) -> list[kubernetes.Object]:
            return [servers("ms", "a", {"model": "a"})]

    monkeypatch.setattr(site, "driver", lambda *_, offline: Driver())
    return {(need.resource, need.verb) for need in roles.operator(load(str(PARAMETERS / "sandbox.yaml")))}


def test_every_method_of_the_client_is_known_here() -> None:
    public = {name for name in vars(kubernetes.Kubernetes) if not name.startswith("_")} - {"server", "authority"}
    assert public - VERBS.keys() - BY_PATH.keys() - ASKS_EVERYBODY_MAY == set()


def test_every_call_is_permitted(permitted: set[tuple[str, str]]) -> None:
    found = list(calls())
    assert len(found) > 40
    assert [call for call in found if call[1:] not in permitted] == [], "add them to stages/roles.py"


def test_nothing_is_permitted_that_nobody_calls(permitted: set[tuple[str, str]]) -> None:
    called = {call[1:] for call in calls()}
    release = {("deployments", verb) for verb in ("create", "delete", "get", "patch")}
    lock = {("leases", verb) for verb in ("create", "get", "list", "update", "watch")}
    helm = {pair for pair in permitted if pair[0] in HELMS}
    in_loop = {
        ("httproutes", "list"),
        ("gateways", "list"),
        ("inferencepools", "list"),
        ("healthcheckpolicies", "list"),
    }
    assert permitted - called - release - lock - helm - in_loop == set()


@pytest.mark.usefixtures("permitted")
def test_an_operator_may_write_no_other_lease_than_the_lock_of_its_pool() -> None:
    wanted = roles.operator(load(str(PARAMETERS / "sandbox.yaml")))
    written = {(need.namespace, need.name) for need in wanted if (need.resource, need.verb) == ("leases", "update")}
    assert written == {(lock.NAMESPACE, "llmd-runbook-nvidia-t4-pool")}


def test_an_observer_changes_nothing_and_sees_no_secret() -> None:
    found = roles.observer(load(str(PARAMETERS / "sandbox.yaml")))
    assert {need.verb for need in found} == {"get", "list", "watch"}
    assert "secrets" not in {need.resource for need in found}
