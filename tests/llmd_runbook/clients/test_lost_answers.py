"""Changes whose answers are lost, over real HTTP: each is asked for once, and then looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmd_runbook.clients import made
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, LEASES, PODS, Kubernetes, Object, Tell, connect
from llmd_runbook.errors import ApiError, ClusterError, Conflict, LockLost, Unreachable
from tests.guards import anything
from tests.llmd_runbook.clients.server import Answer, Cut, Reply, Server, Silence, status


def item(version: str = "7", **content: object) -> Object:
    meta = {"name": "a", "uid": "uid-a", "resourceVersion": version, "generation": 3}
    return {"metadata": meta, "status": {"by": "the server"}, **content}


def managed(*managers: str) -> Object:
    return {"metadata": {**item()["metadata"], "managedFields": [{"manager": name} for name in managers]}}


ROUTE = {"metadata": {"name": "a"}, "spec": {"rules": [{"backendRefs": [{"name": "three"}]}]}}
OPERATIONS: list[Object] = [
    {"op": "test", "path": "/metadata/uid", "value": "uid-a"},
    {"op": "add", "path": "/metadata/annotations", "value": {"ours": "1"}},
    {"op": "add", "path": "/spec/containers/0/args", "value": ["-v", "4"]},
    {"op": "remove", "path": "/spec/paused"},
]


def pod_template(args: list[str], **more: object) -> Object:
    found = item(spec={"containers": [{"name": "epp", "args": args}], **more})
    found["metadata"]["annotations"] = {"theirs": "2"} | ({"ours": "1"} if "4" in args else {})
    return found


@dataclass(frozen=True)
class Change:
    """A change, where it is sent, where it is looked up, and the object with it and without it."""

    make: Callable[[Kubernetes, Tell], object]
    sent: tuple[str, str]
    after: Object | None
    before: Object | None
    looked_at: str = ""

    def script(self, server: Server, lost: Answer, *then: Answer) -> None:
        """The change is not answered; its object is."""
        path = self.looked_at or self.sent[1]
        if path == self.sent[1]:
            server.on(path, lost, *then)
        else:
            server.on(self.sent[1], lost)
            server.on(path, *then)


def there(found: Object | None) -> Reply:
    return Reply(body=found) if found else Reply(404, status(404, "NotFound", 'it "a" not found'))


DEPLOYMENT, POD = DEPLOYMENTS.path("n", "a"), PODS.path("n", "a")
LEASE = {"holderIdentity": "us", "renewTime": "now"}
CHANGES = {
    "apply": Change(
        lambda kube, tell: kube.apply(HTTP_ROUTES, ROUTE, "n", tell=tell),
        ("PATCH", HTTP_ROUTES.path("n", "a")),
        item(spec={"rules": [{"backendRefs": [{"name": "three", "weight": 1}], "matches": []}]}),
        item(spec={"rules": [{"backendRefs": [{"name": "one", "weight": 1}], "matches": []}]}),
    ),
    "apply of what is new": Change(
        lambda kube, tell: kube.apply(HTTP_ROUTES, ROUTE, "n", tell=tell),
        ("PATCH", HTTP_ROUTES.path("n", "a")),
        item(spec=ROUTE["spec"]),
        None,
    ),
    "scale": Change(
        lambda kube, tell: kube.scale("a", "n", 3, tell=tell),
        ("PATCH", f"{DEPLOYMENT}/scale"),
        item(spec={"replicas": 3}),
        item(spec={"replicas": 0}),
        DEPLOYMENT,
    ),
    "patch": Change(
        lambda kube, tell: kube.patch(DEPLOYMENTS, "a", "n", OPERATIONS, tell=tell),
        ("PATCH", DEPLOYMENT),
        pod_template(["-v", "4"]),
        pod_template(["-v", "1"], paused=True),
    ),
    "disown": Change(
        lambda kube, tell: kube.disown(DEPLOYMENTS, managed("helm", "llmd-runbook"), "n", tell=tell),
        ("PATCH", DEPLOYMENT),
        managed("helm"),
        managed("helm", "llmd-runbook"),
    ),
    "delete": Change(
        lambda kube, tell: kube.delete(PODS, "a", "n", uid="uid-a", grace_s=0, tell=tell),
        ("DELETE", POD),
        None,
        item(),
    ),
    "create": Change(
        lambda kube, tell: kube.create(LEASES, {"metadata": {"name": "a"}, "spec": LEASE}, "n"),
        ("POST", LEASES.path("n")),
        item(spec=LEASE),
        None,
        LEASES.path("n", "a"),
    ),
    "replace": Change(
        lambda kube, tell: kube.replace(LEASES, item("7", spec=LEASE), "n"),
        ("PUT", LEASES.path("n", "a")),
        item("8", spec=LEASE),
        item("7", spec={**LEASE, "renewTime": "before"}),
    ),
}
SILENT = {"create", "replace"}
"""Nobody need hear of these: they are compare-and-swap, and are asked again by who needs them."""


@pytest.fixture
def kube(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    """A client that waits 0.2 s for an answer, and looks for a lost one's change once."""
    monkeypatch.setattr("llmd_runbook.clients.kubernetes._LOOK_UP_S", 0.0)
    return connect("", str(kubeconfig), before_change=anything, read_s=0.2)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("lost", [Cut(), Silence(), Reply(504, status(504, "Timeout", "did not complete in time"))])
def test_a_change_that_was_made_is_found_and_not_repeated(
    server: Server, kube: Kubernetes, name: str, lost: Answer
) -> None:
    change = CHANGES[name]
    change.script(server, lost, there(change.after))
    heard: list[str] = []
    change.make(kube, heard.append)
    assert [(request.method, request.path) for request in server.requests if request.method != "GET"] == [change.sent]
    assert len(heard) == (name not in SILENT)
    assert all("looked up, and the change is there" in text and " ".join(change.sent) in text for text in heard)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_was_not_made_is_an_error_and_not_repeated(server: Server, kube: Kubernetes, name: str) -> None:
    change = CHANGES[name]
    change.script(server, Cut(), there(change.before))
    heard: list[str] = []
    with pytest.raises(Unreachable, match="the answer to a change was lost; it was looked up") as caught:
        change.make(kube, heard.append)
    assert caught.value.where == " ".join(change.sent)
    assert "the change is not there" in (caught.value.reason or "")
    assert "the Kubernetes API does not answer" in (caught.value.reason or "")
    assert "run the stage again" in (caught.value.remedy or "")
    assert len([request for request in server.requests if request.method != "GET"]) == 1
    assert heard == []


@pytest.mark.parametrize("name", CHANGES)
def test_where_nobody_can_look_the_error_says_that_it_is_unknown(server: Server, kube: Kubernetes, name: str) -> None:
    change = CHANGES[name]
    change.script(server, Cut(), Reply(403, status(403, "Forbidden", "you may not get it")))
    with pytest.raises(Unreachable, match="lost; whether it was made is unknown") as caught:
        change.make(kube, print)
    assert "you may not get it" in (caught.value.reason or "")


def test_an_api_server_that_comes_back_is_asked_until_it_tells(
    server: Server, kube: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked again, also for a change that the server is still at; what it was asked for it is asked once."""
    monkeypatch.setattr("llmd_runbook.clients.kubernetes._LOOK_UP_S", 60.0)
    monkeypatch.setattr("llmd_runbook.clients.kubernetes._LOOK_AGAIN_S", 0.0)
    change = CHANGES["apply"]
    change.script(server, Cut(), Cut(), Cut(), there(change.before), there(change.after))
    heard: list[str] = []
    change.make(kube, heard.append)
    assert [request.method for request in server.requests] == ["PATCH", "GET", "GET", "GET", "GET"]
    assert len(heard) == 1


def test_what_is_refused_is_not_looked_up(server: Server, kube: Kubernetes) -> None:
    change = CHANGES["apply"]
    for code, kind in ((409, Conflict), (422, ApiError), (500, ApiError), (503, ApiError)):
        server.requests.clear()
        server.on(change.sent[1], Reply(code, status(code, "Because", "no")), there(change.after))
        with pytest.raises(kind, match=r"refused|somebody else") as caught:
            change.make(kube, print)
        assert type(caught.value) is kind
        assert len(server.requests) == 1


def test_a_store_that_timed_out_may_have_kept_it(server: Server, kube: Kubernetes) -> None:
    change, words = CHANGES["scale"], status(500, "InternalError", "etcdserver: request timed out")
    change.script(server, Reply(500, words), there(change.after))
    change.make(kube, print)
    change.script(server, Reply(500, words), there(change.before))
    with pytest.raises(ApiError, match="the change is not there"):
        change.make(kube, print)


def test_what_was_never_sent_is_not_looked_up(server: Server, kube: Kubernetes, kubeconfig: Path) -> None:
    server.http.server_close()
    with pytest.raises(Unreachable, match="the Kubernetes API does not answer") as caught:
        CHANGES["apply"].make(kube, print)
    assert "looked up" not in str(caught.value)


def test_nonsense_in_place_of_an_answer_is_looked_up(server: Server, kube: Kubernetes) -> None:
    change = CHANGES["apply"]
    change.script(server, Reply(body="<html>log in</html>"), there(change.after))
    change.make(kube, print)
    change.script(server, Reply(body="<html>log in</html>"), Reply(body="<html>log in</html>"))
    with pytest.raises(ApiError, match="whether it was made is unknown"):
        change.make(kube, print)


def test_the_guard_is_asked_before_the_change_and_not_for_the_look(server: Server, kubeconfig: Path) -> None:
    asked: list[None] = []

    def once() -> None:
        asked.append(None)
        if len(asked) > 1:
            raise LockLost("lost")

    kube, change = connect("", str(kubeconfig), before_change=once), CHANGES["apply"]
    change.script(server, Cut(), there(change.after))
    change.make(kube, print)
    assert len(asked) == 1
    with pytest.raises(LockLost):
        change.make(kube, print)


def test_an_object_of_another_uid_or_on_its_way_is_a_deletion_made() -> None:
    other, going = item(), item()
    other["metadata"]["uid"], going["metadata"]["deletionTimestamp"] = "uid-b", "now"
    assert [made.deleted("uid-a")(found) for found in (other, going, item(), None)] == [True, True, False, True]


def test_what_a_patch_does_to_a_list_cannot_be_told(server: Server, kube: Kubernetes) -> None:
    removed = [{"op": "remove", "path": "/spec/list/0"}]
    server.on(DEPLOYMENT, Cut(), Reply(body=item(spec={"list": ["a"]})))
    with pytest.raises(ClusterError, match="whether it was made is unknown") as caught:
        kube.patch(DEPLOYMENTS, "a", "n", removed)
    assert "does not tell" in (caught.value.reason or "")


@pytest.mark.parametrize(
    ("path", "op", "is_made"),
    [
        ("/metadata/annotations/a~1b", "remove", True),
        ("/spec/no/such", "remove", True),
        ("/spec/no/such", "add", False),
        ("/spec/list/9/key", "add", False),
        ("/spec/x", "replace", True),
        ("/spec/y", "replace", False),
        ("/spec/list/-", "add", None),
    ],
)
def test_a_patch_is_judged_by_its_values(path: str, op: str, is_made: bool | None) -> None:
    found = item(spec={"x": 1, "y": 2, "list": [{}]})
    assert made.patched([{"op": op, "path": path, "value": 1}])(found) is is_made


def test_a_replacement_is_judged_by_the_whole_content() -> None:
    given_back = item("7", spec={"renewTime": "now"})  # without a holder
    assert made.replaced(given_back)(item("8", spec={"renewTime": "now"})) is True
    assert made.replaced(given_back)(item("8", spec={"renewTime": "now", "holderIdentity": "other"})) is False
    assert made.replaced(given_back)(item("7", spec={"renewTime": "now"})) is False  # not written since
    assert made.replaced(given_back)(None) is False
