"""The Kubernetes client over real HTTP, against scripted answers."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, NODES, PODS, Kubernetes, Object, connect
from llmd_runbook.errors import (
    ApiError,
    ClusterError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    Unreachable,
    UsageError,
)
from tests.llmd_runbook.clients.server import Reply, Server, Silence, Stream, status

PATH = "/api/v1/namespaces/llm-d/pods"
WATCH = f"{PATH}?watch"


def pod(name: str, ready: bool = True) -> Object:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": "7"}, "ready": ready}


def pods(*items: Object) -> Reply:
    return Reply(body={"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": items})


def event(kind: str, what: Object) -> Object:
    return {"type": kind, "object": what}


def names(items: list[Object]) -> str:
    return ",".join(item["metadata"]["name"] for item in items)


def wait(kube: Kubernetes, wanted: str, timeout_s: float = 10) -> list[str]:
    """Every state until exactly the wanted pods are there."""
    states: list[str] = []

    def told(items: list[Object]) -> str:
        states.append(names(items))
        return f"pods: {names(items)}"

    def there(items: list[Object]) -> bool:
        return names(items) == wanted

    what, remedy = "the wanted pods", "look at the pods"
    kube.wait(PODS, there, what=what, timeout_s=timeout_s, remedy=remedy, namespace="llm-d", on_change=told)
    return states


def test_paths_of_kinds() -> None:
    assert NODES.path() == "/api/v1/nodes"
    assert PODS.path("llm-d", "p", "log") == "/api/v1/namespaces/llm-d/pods/p/log"
    assert HTTP_ROUTES.path("llm-d") == "/apis/gateway.networking.k8s.io/v1/namespaces/llm-d/httproutes"


def test_reads_with_the_credentials_of_the_kubeconfig(server: Server, kube: Kubernetes) -> None:
    server.on(f"{PATH}/a", Reply(body=pod("a")))
    assert kube.get(PODS, "a", "llm-d") == pod("a")
    assert server.requests[0].headers["authorization"] == "Bearer the-token-of-this-test"
    assert (kube.context, kube.server) == ("here", server.url)


def test_find_is_none_where_there_is_nothing(kube: Kubernetes) -> None:
    assert kube.find(PODS, "a", "llm-d") is None


def test_lists_with_selector_and_names_the_kind_of_each_item(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a"), pod("b")))
    found = kube.all(PODS, "llm-d", "app=web,tier in (x)")
    assert [(item["kind"], item["apiVersion"]) for item in found] == [("Pod", "v1")] * 2
    assert server.requests[0].query == {"labelSelector": "app=web,tier in (x)"}


def test_applies_on_the_servers_side(server: Server, kube: Kubernetes) -> None:
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    server.on(f"{PATH}/a", Reply(body=pod("a")))
    assert kube.apply(PODS, manifest, "llm-d") == pod("a")
    sent = server.requests[0]
    assert (sent.method, sent.headers["content-type"]) == ("PATCH", "application/apply-patch+yaml")
    assert sent.query == {"fieldManager": "llmd-runbook", "force": "true"}
    assert json.loads(sent.body) == manifest


def test_scales_through_the_subresource(server: Server, kube: Kubernetes) -> None:
    server.on(DEPLOYMENTS.path("llm-d", "web", "scale"), Reply(body={}))
    kube.scale("web", "llm-d", 0)
    assert json.loads(server.requests[0].body) == {"spec": {"replicas": 0}}
    assert server.requests[0].query == {"fieldManager": "llmd-runbook"}
    assert server.requests[0].headers["content-type"] == "application/merge-patch+json"


def test_patches_all_or_nothing(server: Server, kube: Kubernetes) -> None:
    operations = [{"op": "test", "path": "/metadata/uid", "value": "uid-a"}, {"op": "remove", "path": "/ready"}]
    server.on(f"{PATH}/a", Reply(body=pod("a")))
    assert kube.patch(PODS, "a", "llm-d", operations) == pod("a")
    sent = server.requests[0]
    assert (sent.method, sent.headers["content-type"]) == ("PATCH", "application/json-patch+json")
    assert sent.query == {"fieldManager": "llmd-runbook"}
    assert json.loads(sent.body) == operations


def test_gives_up_the_fields_that_it_patched_and_nobody_elses(server: Server, kube: Kubernetes) -> None:
    managers = [{"manager": name, "operation": "Update"} for name in ("helm", "llmd-runbook", "k", "llmd-runbook")]
    server.on(f"{PATH}/a", Reply(body=pod("a")))
    kube.disown(PODS, {"metadata": {"name": "a", "managedFields": managers[:1]}}, "llm-d")
    assert server.requests == []
    kube.disown(PODS, {"metadata": {"name": "a", "managedFields": managers}}, "llm-d")
    assert json.loads(server.requests[0].body) == [  # the last first, or the numbers would not hold
        {"op": "test", "path": "/metadata/managedFields/3/manager", "value": "llmd-runbook"},
        {"op": "remove", "path": "/metadata/managedFields/3"},
        {"op": "test", "path": "/metadata/managedFields/1/manager", "value": "llmd-runbook"},
        {"op": "remove", "path": "/metadata/managedFields/1"},
    ]


def test_deletes_exactly_that_object(server: Server, kube: Kubernetes) -> None:
    server.on(f"{PATH}/a", Reply(body=status(200, "", "")))
    kube.delete(PODS, "a", "llm-d", uid="uid-a", grace_s=0)
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("DELETE", f"{PATH}/a")
    assert json.loads(sent.body) == {"gracePeriodSeconds": 0, "preconditions": {"uid": "uid-a"}}


def test_asks_what_the_caller_may_do(server: Server, kube: Kubernetes) -> None:
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    asked = {"resourceAttributes": {"resource": "pods", "verb": "list"}}
    for allowed in (True, False):
        server.on(path, Reply(201, {"status": {"allowed": allowed}}))
        assert kube.may(asked) is allowed
    server.on(path, Reply(201, {"kind": "Status"}))
    with pytest.raises(ApiError, match="nonsense"):
        kube.may(asked)


def test_reads_logs_and_raw_paths_as_text(server: Server, kube: Kubernetes) -> None:
    server.on(f"{PATH}/a/log", Reply(body="last line\n"))
    server.on("/readyz", Reply(body="ok"))
    assert kube.logs("a", "llm-d", "vllm", tail=3) == "last line\n"
    assert server.requests[0].query == {"container": "vllm", "tailLines": "3"}
    assert kube.raw("/readyz") == "ok"
    assert kube.log_start("a", "llm-d", "epp") == "last line\n"
    assert server.requests[2].query == {"container": "epp", "limitBytes": "262144"}
    kube.logs("a", "llm-d", "vllm", previous=True)
    assert server.requests[3].query == {"container": "vllm", "tailLines": "200", "previous": "true"}
    kube.follow("a", "llm-d", "vllm", 2.1).close()
    assert server.requests[4].query == {"container": "vllm", "follow": "true", "sinceSeconds": "3"}


@pytest.mark.parametrize(
    ("code", "kind"),
    [(401, Forbidden), (403, Forbidden), (404, NotFound), (409, Conflict), (422, ApiError), (500, ApiError)],
)
def test_refusals_keep_the_servers_words(server: Server, kube: Kubernetes, code: int, kind: type[ClusterError]) -> None:
    server.on(f"{PATH}/a", Reply(code, status(code, "Because", 'pods "a" is what it is')))
    with pytest.raises(ClusterError) as caught:
        kube.get(PODS, "a", "llm-d")
    assert type(caught.value) is kind
    assert caught.value.where == f"GET {PATH}/a"
    assert caught.value.reason == 'pods "a" is what it is'
    assert caught.value.remedy
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", ["<html>gone away</html>", "[1]", '"text"', ""])
def test_refusals_without_a_status_keep_code_and_body(server: Server, kube: Kubernetes, body: str) -> None:
    server.on(f"{PATH}/a", Reply(502, body))
    with pytest.raises(ApiError, match="502") as caught:
        kube.get(PODS, "a", "llm-d")
    assert (body or "Bad Gateway") in (caught.value.reason or "")


def test_a_refusal_carries_no_token(server: Server, kube: Kubernetes) -> None:
    server.on(f"{PATH}/a", Reply(401, status(401, "Unauthorized", "bad Bearer abcdefgh.12345678")))
    with pytest.raises(Forbidden) as caught:
        kube.get(PODS, "a", "llm-d")
    assert "abcdefgh" not in str(caught.value)
    assert "[redacted]" in str(caught.value)


BUSY = Reply(429, "Too many requests, please try again later.\n", {"retry-after": "0"})


@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_too_many_requests_is_nothing_done_and_asked_again(server: Server, kube: Kubernetes, method: str) -> None:
    server.on(f"{PATH}/a", BUSY, BUSY, Reply(body=pod("a")))
    manifest = {"metadata": {"name": "a"}}
    found = kube.get(PODS, "a", "llm-d") if method == "GET" else kube.apply(PODS, manifest, "llm-d")
    assert found == pod("a")
    assert [request.method for request in server.requests] == [method] * 3
    assert len({request.body for request in server.requests}) == 1


def test_too_many_requests_for_too_long_is_told(server: Server, kube: Kubernetes) -> None:
    server.on(f"{PATH}/a", BUSY)
    with pytest.raises(ApiError, match="429") as caught:
        kube.get(PODS, "a", "llm-d")
    assert "Too many requests, please try again later." in (caught.value.reason or "")
    assert "then run again" in (caught.value.remedy or "")
    assert len(server.requests) == 11  # client-go's ten repetitions


def test_a_pause_that_is_too_long_is_told_at_once(server: Server, kube: Kubernetes) -> None:
    server.on(f"{PATH}/a", Reply(429, "Too many requests", {"retry-after": "3600"}))
    with pytest.raises(ApiError, match="429"):
        kube.get(PODS, "a", "llm-d")
    assert len(server.requests) == 1


def test_a_change_that_may_have_been_made_is_not_repeated(server: Server, kube: Kubernetes) -> None:
    broken = Reply(503, status(503, "ServiceUnavailable", "shutting down"), {"retry-after": "0"})
    server.on(f"{PATH}/a", broken, Reply(body=pod("a")))
    with pytest.raises(ApiError, match="503"):
        kube.apply(PODS, {"metadata": {"name": "a"}}, "llm-d")
    assert len(server.requests) == 1
    assert kube.get(PODS, "a", "llm-d") == pod("a")
    server.on(f"{PATH}/a", broken, Reply(body=pod("a")))
    assert kube.get(PODS, "a", "llm-d") == pod("a")


@pytest.mark.usefixtures("prompt")
def test_wait_obeys_a_watch_that_is_told_to_come_later(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    server.on(WATCH, BUSY, Stream(event("ADDED", pod("b"))))
    assert wait(kube, "a,b") == ["a", "a,b"]


def test_a_webhook_that_does_not_answer_is_named_with_what_to_do(server: Server, kube: Kubernetes) -> None:
    words = 'Internal error occurred: failed calling webhook "slow.example": context deadline exceeded'
    server.on(f"{PATH}/a", Reply(500, status(500, "InternalError", words)))
    with pytest.raises(ApiError, match="500") as caught:
        kube.apply(PODS, {"metadata": {"name": "a"}}, "llm-d")
    assert caught.value.reason == words
    assert "validatingwebhookconfigurations" in (caught.value.remedy or "")


@pytest.mark.parametrize("body", ["<html>", "", "[]", "null", "{}", '{"kind": 7}', '{"kind": "PodList", "items": {}}'])
def test_nonsense_is_named_so(server: Server, kube: Kubernetes, body: str) -> None:
    server.on(PATH, Reply(body=body))
    with pytest.raises(ApiError, match="nonsense") as caught:
        kube.all(PODS, "llm-d")
    assert (caught.value.where, bool(caught.value.reason), bool(caught.value.remedy)) == (f"GET {PATH}", True, True)


def test_a_closed_port_is_unreachable(server: Server, kubeconfig: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    kubeconfig.write_text(kubeconfig.read_text().replace(server.url, f"http://127.0.0.1:{port}"))
    with pytest.raises(Unreachable) as caught:
        connect("here", str(kubeconfig)).get(NODES, "n")
    assert "refused" in (caught.value.reason or "")
    assert "Max retries" not in (caught.value.reason or "")
    assert caught.value.where == "GET /api/v1/nodes/n"
    assert caught.value.remedy


def test_create_and_replace_send_the_whole_object(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, Reply(201, pod("a")))
    server.on(f"{PATH}/a", Reply(200, pod("a")))
    assert kube.create(PODS, pod("a"), "llm-d") == kube.replace(PODS, pod("a"), "llm-d") == pod("a")
    sent = [(request.method, request.path, json.loads(request.body)) for request in server.requests]
    assert sent == [("POST", PATH, pod("a")), ("PUT", f"{PATH}/a", pod("a"))]


def test_silence_is_unreachable(server: Server, kubeconfig: Path) -> None:
    server.on(f"{PATH}/a", Silence())
    kube = connect("", str(kubeconfig), read_s=0.1)
    with pytest.raises(Unreachable, match="timed out"):
        kube.get(PODS, "a", "llm-d")


def test_wait_is_done_at_once_when_it_is_true_already(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    assert wait(kube, "a") == ["a"]
    assert len(server.requests) == 1


def test_wait_gives_back_what_was_found(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    found = kube.wait(PODS, len, what="w", timeout_s=5, remedy="r", namespace="llm-d")
    assert found == 1


def test_zero_counts_as_found_and_false_does_not(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods())
    assert kube.wait(PODS, len, what="w", timeout_s=5, remedy="r", namespace="llm-d") == 0
    server.on(WATCH, Stream())
    with pytest.raises(DeadlineExceeded):
        kube.wait(PODS, lambda _: False, what="w", timeout_s=0.05, remedy="r", namespace="llm-d")


def test_wait_wakes_on_every_change(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    changes = [event("ADDED", pod("b")), event("MODIFIED", pod("a")), event("DELETED", pod("a"))]
    server.on(WATCH, Stream(*changes))
    assert wait(kube, "b") == ["a", "a,b", "a,b", "b"]
    watch = server.asked(WATCH)[0].query
    assert (watch["resourceVersion"], watch["watch"]) == ("5", "true")
    assert len(server.asked(PATH)) == 1


def test_wait_sleeps_until_an_event_comes(server: Server, kube: Kubernetes) -> None:
    stream = Stream()
    server.on(PATH, pods())
    server.on(WATCH, stream)
    timer = threading.Timer(0.1, lambda: stream.send(event("ADDED", pod("a"))))
    timer.start()
    assert wait(kube, "a") == ["", "a"]
    assert len(server.requests) == 2
    timer.join()


def test_bookmarks_are_no_changes(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods())
    bookmark = event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": "9"}})
    server.on(WATCH, Stream(bookmark, event("ADDED", pod("a"))))
    assert wait(kube, "a") == ["", "a"]


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended watches are opened again after a short time."""
    monkeypatch.setattr("llmd_runbook.clients.kubernetes._LEAST_WATCH_S", 0.02)


@pytest.mark.usefixtures("prompt")
def test_wait_looks_again_in_time_though_nothing_changes(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    server.on(WATCH, Stream())
    looks: list[int] = []

    def told(items: list[Any]) -> str:
        looks.append(len(items))
        return ""

    def third(_: list[Any]) -> bool:
        return len(looks) == 3

    kube.wait(PODS, third, what="w", timeout_s=10, remedy="r", namespace="llm-d", on_change=told, look_s=0.05)
    assert looks == [1, 1, 1]


def test_lists_by_fields(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods())
    kube.all(PODS, "llm-d", fields="spec.nodeName=n")
    assert server.requests[0].query == {"fieldSelector": "spec.nodeName=n"}


@pytest.mark.parametrize(
    "broken",
    [
        Stream(event("ADDED", pod("b"))).end(),
        Stream(event("ADDED", pod("b"))).end(cut=True),
        Stream(event("ADDED", pod("b")), event("ERROR", status(410, "Expired", "too old resource version"))),
        Stream(event("ADDED", pod("b")), "no event"),
    ],
    ids=["closed", "cut", "410", "garbage"],
)
@pytest.mark.usefixtures("prompt")
def test_wait_survives_the_end_of_a_watch(server: Server, kube: Kubernetes, broken: Stream) -> None:
    server.on(PATH, pods(pod("a")), pods(pod("c")))
    server.on(WATCH, broken)
    assert wait(kube, "c") == ["a", "a,b", "c"]
    assert len(server.asked(PATH)) == 2


@pytest.mark.usefixtures("prompt")
def test_wait_survives_410_as_the_watchs_answer(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")), pods(pod("c")))
    server.on(WATCH, Reply(410, status(410, "Expired", "too old resource version")))
    assert wait(kube, "c") == ["a", "c"]


@pytest.mark.parametrize(
    "answer",
    [
        Stream(event("ERROR", status(403, "Forbidden", "no watching"))),
        Reply(403, status(403, "Forbidden", "no watching")),
    ],
)
def test_a_watch_that_is_refused_ends_the_wait(server: Server, kube: Kubernetes, answer: Any) -> None:
    server.on(PATH, pods())
    server.on(WATCH, answer)
    with pytest.raises(Forbidden) as caught:
        wait(kube, "a")
    assert "no watching" in (caught.value.reason or "")
    assert caught.value.where == f"watch of {PATH}"


@pytest.mark.parametrize("line", ['{"type": "ADDED"}', '{"type": "ADDED", "object": 7}', '{"object": {}}'])
def test_events_that_are_none_are_named_so(server: Server, kube: Kubernetes, line: str) -> None:
    server.on(PATH, pods())
    server.on(WATCH, Stream(line))
    with pytest.raises(ApiError, match="nonsense"):
        wait(kube, "a")


def test_wait_ends_at_its_deadline_with_the_last_state(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    server.on(WATCH, Stream(event("ADDED", pod("b"))))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="the wanted pods") as caught:
        wait(kube, "never", timeout_s=0.3)
    assert 0.3 <= time.monotonic() - began < 5
    assert (caught.value.reason, caught.value.where) == ("last state: pods: a,b", PATH)
    assert caught.value.remedy == "look at the pods"


@pytest.mark.usefixtures("prompt")
def test_wait_ends_at_its_deadline_when_the_watch_is_never_answered(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods(pod("a")))
    server.on(WATCH, Silence())
    with pytest.raises(DeadlineExceeded) as caught:
        wait(kube, "never", timeout_s=0.2)
    assert (caught.value.reason or "").startswith("last state: pods: a, and then no answer: ")


def test_wait_ends_at_its_deadline_however_much_happens(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods())
    stream = Stream()
    server.on(WATCH, stream)
    stop = threading.Event()

    def chatter() -> None:
        while not stop.wait(0.01):
            stream.send(event("MODIFIED", pod("a")))

    thread = threading.Thread(target=chatter)
    thread.start()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        wait(kube, "never", timeout_s=0.3)
    assert time.monotonic() - began < 5
    stop.set()
    thread.join()


def test_wait_does_not_spin_when_every_watch_ends_at_once(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, pods())
    server.on(WATCH, Stream().end(), Reply(410, status(410, "Expired", "too old")))
    with pytest.raises(DeadlineExceeded):
        wait(kube, "never", timeout_s=0.7)
    assert 1 <= len(server.asked(WATCH)) <= 2


def test_a_deadline_in_the_past_asks_nothing(server: Server, kube: Kubernetes) -> None:
    with pytest.raises(DeadlineExceeded, match="nothing"):
        wait(kube, "never", timeout_s=0)
    assert server.requests == []


def test_kubeconfigs_that_cannot_be_used(kubeconfig: Path, tmp_path: Path) -> None:
    for context, text in [
        ("nowhere", kubeconfig.read_text()),
        ("", ""),
        ("", "just text"),
        ("", "[1, 2]"),
        ("", "current-context: here"),
        ("", "a: 'b\nsecret: the-token-of-this-test"),
        ("", "{: }: }"),
    ]:
        path = tmp_path / "other"
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            connect(context, str(path))
        assert caught.value.where == str(path)
        assert caught.value.reason
        assert "kubectl config get-contexts" in (caught.value.remedy or "")
        assert "the-token-of-this-test" not in str(caught.value)


def test_no_kubeconfig_at_all(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(UsageError, match="cannot use the kubeconfig"):
            connect("", str(path))


def test_a_context_can_be_named_where_none_is_current(kubeconfig: Path) -> None:
    content = yaml.safe_load(kubeconfig.read_text())
    del content["current-context"]
    kubeconfig.write_text(yaml.safe_dump(content))
    assert connect("here", str(kubeconfig)).context == "here"
    with pytest.raises(UsageError, match="current"):
        connect("", str(kubeconfig))
