"""A cluster that misbehaves as real ones do, and what the suite then says: each docstring states what is expected.

One sandbox serves the whole file, from Pattern 1 to Pattern 3, in the order of the tests. Its nodes count as Ready
for 10 s after their last word, not 50, and its requests follow a change of routes 10 s after the conditions that
announce it. Each fault is ended by the test that made it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmd_runbook.clients.inference import Endpoint, Inference
from llmd_runbook.clients.kubernetes import HTTP_ROUTES, PODS, Object
from llmd_runbook.errors import ApiError, DeadlineExceeded
from llmd_runbook.manifest import Attempt, Status
from llmd_runbook.run import StepHandle, begin
from llmd_runbook.run.store import all_runs
from llmd_runbook.stages import site, verify
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.swap import patterns, plan, steps
from llmd_runbook.topology import endpoint, replica_view, route_view
from llmd_runbook.verdicts import StepStatus
from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.proxy import ApiProxy, before_api_server
from llmd_sandbox.site import Site
from tests.end_to_end.bench import QWEN, SERVERS3, Bench, all_pass, broken
from tests.end_to_end.conftest import PROGRAMS, Sandbox

pytestmark = pytest.mark.timeout(300)

SANDBOX_OPTIONS = ("--node-grace-s", "10", "--route-lag-s", "500")
SILENCE = "llmd-sandbox/kubelet"
WEBHOOK = "never.answers.example"


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        patch.setenv("LLMD_SANDBOX_STATE", str(sandbox.folder.parent.parent))
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))


@contextmanager
def faulty(bench: Bench, *faults: Fault) -> Iterator[ApiProxy]:
    """The API server that this process meets has these faults."""
    with before_api_server(Site.load(bench.sandbox.name), faults) as door, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(door.kubeconfig))
        yield door


@contextmanager
def dead_webhook(bench: Bench, folder: Path, group: str, plural: str) -> Iterator[None]:
    """An admission webhook for changes of a kind in the releases' namespace; it accepts connections, never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        rule = {"apiGroups": [group], "apiVersions": ["v1"], "resources": [plural], "operations": ["CREATE", "UPDATE"]}
        webhook = {
            "name": WEBHOOK,
            "clientConfig": {"url": url},
            "rules": [rule],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "llm-d"}},
            "failurePolicy": "Fail",
            "timeoutSeconds": 1,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        bench.create(json.dumps({**kind, "metadata": {"name": "dead"}, "webhooks": [webhook]}), folder)
        try:
            until_it_bites(bench, plural)
            yield
        finally:
            bench.kubectl("delete", "validatingwebhookconfiguration", "dead")


def until_it_bites(bench: Bench, plural: str) -> None:
    """The API server reads webhooks by a watch: until then changes pass, of an object that nobody needs here."""
    probes = {
        "deployments": ("create", "deployment", "probe", "--image=none", "--replicas=0"),
        "httproutes": ("annotate", "httproute", "llm-d-route", "probe=1", "--overwrite"),
    }
    words = ("kubectl", "--namespace", "llm-d", *probes[plural], "--dry-run=server")
    for _ in range(100):
        if WEBHOOK in bench.sandbox.start(*words).stderr:
            return
    raise AssertionError("the webhook was never called")


def cli_run(bench: Bench, *words: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `llmd-runbook run` with the bench's profile."""
    done = bench.sandbox.start("llmd-runbook", "run", bench.file, "--output", bench.output, *words, **environment)
    return done.returncode, done.stdout, done.stderr


def last_attempt(bench: Bench, stage: str) -> Attempt:
    """The newest run's last attempt at a stage, as its record has it."""
    return all_runs(bench.output)[0].read().stage(stage).attempts[-1]


def throttled_then(door: ApiProxy) -> list[tuple[float, str]]:
    """For each request that was told to come later: after how many seconds the same one came again, and its method."""
    seen, pauses = door.seen, []
    for index, first in enumerate(seen):
        if first.fault is Kind.THROTTLE:
            again = next(late for late in seen[index + 1 :] if (late.method, late.path) == (first.method, first.path))
            pauses.append((again.at_s - first.at_s, first.method))
    return pauses


# --- 429, too many requests -------------------------------------------------------------------------------------


def test_a_throttled_stage_waits_as_it_is_told_and_goes_on(bench: Bench) -> None:
    """429 with Retry-After: the suite pauses as long as it is told, and the stage passes."""
    with faulty(bench, Fault(Kind.THROTTLE, "GET", r"/nodes\?(?!.*watch)", times=2)) as door:
        all_pass(bench.judge("02_scale_pool", scale.plan, scale.apply, scale.verify))
    pauses = throttled_then(door)
    assert len(pauses) == 2
    assert all(pause_s >= 1 for pause_s, _ in pauses)


def test_a_throttled_watch_misses_nothing(bench: Bench) -> None:
    """429 with Retry-After to a watch: the suite pauses as long as it is told, and goes on where it was."""
    states: list[list[Object]] = []

    def told(routes: list[Object]) -> str:
        if not states:  # between the list and the watch: only the watch can show it
            bench.kubectl("annotate", "httproute", routes[0]["metadata"]["name"], "throttled=meanwhile")
        states.append(routes)
        return ""

    def changed(routes: list[Object]) -> bool:
        return any("throttled" in route["metadata"].get("annotations", {}) for route in routes)

    what, remedy = "a change", "look"
    with faulty(bench, Fault(Kind.THROTTLE, "GET", "/httproutes.*watch=true")) as door:
        kube = site.kubernetes(bench.profile)
        kube.wait(HTTP_ROUTES, changed, what=what, timeout_s=30, remedy=remedy, namespace="llm-d", on_change=told)
    assert len(states) == 2
    ((pause_s, _),) = throttled_then(door)
    assert pause_s >= 1


def test_an_api_server_that_throttles_for_ever(bench: Bench, tmp_path: Path) -> None:
    """After the pauses that the server asked for: one message with its own words, nothing started, exit status 2."""
    file = tmp_path / "faults.yaml"
    file.write_text("[{kind: throttle, times: 0, retry_after_s: 0}]")
    command = (PROGRAMS / "llmd-runbook", "run", bench.file, "--stages", "01", "--output", tmp_path / "runs")
    words = ("llmd-sandbox", "run", "--name", bench.sandbox.name, "--api-faults", file, "--", *command)
    done = bench.sandbox.start(*words, LLMD_SANDBOX_STATE=str(bench.sandbox.folder.parent.parent))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("the Kubernetes API has too much to do (429)") == 1
    assert "Too many requests, please try again later." in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert all_runs(tmp_path / "runs") == []


# --- 410, gone --------------------------------------------------------------------------------------------------


def test_a_watch_whose_state_is_gone_lists_again(bench: Bench) -> None:
    """410 Gone, in the API server's own words, to a watch: the suite lists again, and misses no change."""
    states: list[list[Object]] = []

    def told(routes: list[Object]) -> str:
        if not states:  # between the list and the watch: only another list can show it
            bench.kubectl("annotate", "httproute", routes[0]["metadata"]["name"], "changed=meanwhile")
        states.append(routes)
        return ""

    def changed(routes: list[Object]) -> bool:
        return any("changed" in route["metadata"].get("annotations", {}) for route in routes)

    what, remedy = "a change", "look"
    with faulty(bench, Fault(Kind.EXPIRE, "GET", "/httproutes", times=2)) as door:
        kube = site.kubernetes(bench.profile)
        kube.wait(HTTP_ROUTES, changed, what=what, timeout_s=30, remedy=remedy, namespace="llm-d", on_change=told)
    assert len(states) == 2
    watches = [seen for seen in door.seen if "watch=true" in seen.path]
    assert [seen.fault for seen in watches] == [Kind.EXPIRE]
    assert len([seen for seen in door.seen if seen not in watches]) == 2


# --- a webhook that does not answer -----------------------------------------------------------------------------


def test_a_webhook_that_times_out_while_helm_installs(bench: Bench, tmp_path: Path) -> None:
    """The swap stops at Pattern 3's installation, one message with the server's own reason; the record says failed."""
    with dead_webhook(bench, tmp_path, "apps", "deployments"):
        code, _, errors = cli_run(bench, "--stages", "03")
    assert code == 1, errors
    attempt = last_attempt(bench, "03_swap_patterns")
    assert (attempt.status, attempt.verdict) == (Status.FAILED, None)
    assert attempt.error is not None
    assert attempt.error.kind == "ToolError"
    assert f'failed calling webhook "{WEBHOOK}"' in attempt.error.message
    assert "context deadline exceeded" in attempt.error.message
    assert "to do:" in attempt.error.message
    assert attempt.result is not None
    failed = [step.name for step in attempt.result.steps if step.status is StepStatus.FAILED]
    assert failed == [f"install {bench.profile.pattern3.model}"]
    assert "Traceback" not in errors


# --- helm's own time-out ----------------------------------------------------------------------------------------


def test_helms_own_time_out_is_no_verdict(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """helm waits for the pods, in vain, and records the release as failed: its objects are there, so the replicas are
    watched, come, and helm's record says deployed."""
    real = next(found for part in os.environ["PATH"].split(os.pathsep) if (found := Path(part) / "helm").is_file())
    wrapper = tmp_path / "helm"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$1" in upgrade) exec {real} "$@" --wait --timeout 100ms;; esac\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    pattern = bench.profile.pattern3
    opened = begin("03_swap_patterns", str(bench.file), "new", output=bench.output)
    plan.plan(opened)
    with opened.changing():
        steps.install_servers(opened, pattern)
    result = last_attempt(bench, "03_swap_patterns").result
    assert result is not None
    (installed,) = [step for step in result.steps if step.name == f"install {pattern.model}"]
    assert installed.status is StepStatus.CHANGED
    assert installed.detail.count("which is no verdict: looked up, and all objects of ") == 2
    assert [step.status for step in result.steps if step.name.startswith("wait for")] == [StepStatus.OK] * 2
    driver = site.driver(bench.profile, pattern)
    assert {item.status for item in driver.installed("llm-d") if item.name in driver.names()} == {"deployed"}
    assert driver.differing() == []
    opened.abandon("Done", "the rest of the stage is not meant")


# --- a webhook again, once Pattern 3 is there ---------------------------------------------------------------------


def test_a_webhook_that_times_out_when_the_route_moves(bench: Bench, tmp_path: Path) -> None:
    """The run after goes on where the first one stopped, and ends at the route, with the reason and what to do."""
    opened = begin("03_swap_patterns", str(bench.file), "new", output=bench.output)
    plan.plan(opened)
    with dead_webhook(bench, tmp_path, "gateway.networking.k8s.io", "httproutes"), pytest.raises(ApiError) as caught:
        patterns.apply(opened)
    assert caught.value.where is not None
    assert caught.value.where.startswith("PATCH /apis/gateway.networking.k8s.io/v1/namespaces/llm-d/httproutes/")
    assert f'failed calling webhook "{WEBHOOK}"' in (caught.value.reason or "")
    assert "validatingwebhookconfigurations" in (caught.value.remedy or "")
    result = last_attempt(bench, "03_swap_patterns").result
    assert result is not None
    assert [(step.name, step.status) for step in result.steps if step.status is StepStatus.FAILED] == [
        (f"move the HTTPRoute to {bench.profile.pattern3.inference_pool}", StepStatus.FAILED)
    ]
    opened.abandon("Done", "it was meant to fail")


# --- a route that lags, and changes through an API server in trouble --------------------------------------------


def test_a_route_that_lags_is_believed_only_when_requests_arrive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage asks until Pattern 3 answers, and says meanwhile what came back; a throttled change is made once."""
    said: list[str] = []
    monkeypatch.setattr(StepHandle, "progress", lambda _, text, *__, **___: said.append(text))
    with faulty(bench, Fault(Kind.THROTTLE, "PATCH", "httproutes")) as door:
        found = bench.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify)
    all_pass(found)
    asked = [text for text in said if text.startswith("request ")]
    assert len(asked) > 2
    assert any("; before: the gateway answered " in text for text in asked)
    assert [seen.status for seen in door.seen if seen.method == "PATCH"] == [429, 200]
    assert throttled_then(door)[0][0] >= 1


def test_a_change_whose_answer_is_lost_is_looked_up_and_not_made_again(bench: Bench) -> None:
    """The connection breaks after the change: it is found made, the step says so and goes on; no second change."""
    impatient = bench.profile.route.model_copy(update={"ready_timeout_s": 1.0})
    profile = bench.profile.model_copy(update={"route": impatient})
    before = bench.kube.get(HTTP_ROUTES, "llm-d-route", "llm-d")["metadata"]["generation"]
    opened = begin("03_swap_patterns", str(bench.file), "new", output=bench.output)
    cut = Fault(Kind.CUT, "PATCH", "httproutes")
    with faulty(bench, cut) as door, opened.changing(), opened.step("move") as step:
        kube = site.kubernetes(bench.profile)
        with pytest.raises(DeadlineExceeded, match="to be accepted"):  # by then: its pool is gone
            traffic.move(kube, profile, profile.pattern1, step)
    (remark,) = step.remarks
    assert remark.startswith("no answer to PATCH /apis/gateway.networking.k8s.io/v1/namespaces/llm-d/httproutes/")
    assert remark.endswith("looked up, and the change is there")
    opened.abandon("Done", "it was meant to fail")
    assert [seen.method for seen in door.seen].count("PATCH") == 1
    route = bench.kube.get(HTTP_ROUTES, "llm-d-route", "llm-d")
    assert route["metadata"]["generation"] == before + 1
    assert route["spec"]["rules"][0]["backendRefs"][0]["name"] == bench.profile.pattern1.inference_pool


def test_a_route_that_lags_longer_than_the_deadline_fails(bench: Bench) -> None:
    """Conditions alone prove nothing: where they are all true and no answer comes, the gateway's words are told."""
    model = bench.profile.pattern3.model
    impatient = bench.profile.route.model_copy(update={"ready_timeout_s": 1.0})
    target = endpoint(bench.kube, bench.profile, bench.profile.pattern3.gateway)
    until_refused(bench, target)
    opened = begin("03_swap_patterns", str(bench.file), "new", output=bench.output)
    with opened.step("move") as step:
        traffic.move(bench.kube, bench.profile, bench.profile.pattern3, step)
    with (
        pytest.raises(DeadlineExceeded, match=f"no answer for {model} within 1 s") as caught,
        opened.step("ask") as step,
    ):
        traffic.wait_for_answer(target, bench.profile.model_copy(update={"route": impatient}), model, step)
    assert traffic.accepted(route_view(bench.kube, "llm-d", "llm-d-route"))
    assert "the gateway answered 500" in (caught.value.reason or "")
    opened.abandon("Done", "it was meant to fail")
    bench.answers(model)
    all_pass(bench.judge("03_swap_patterns", patterns.verify))


def until_refused(bench: Bench, target: Endpoint) -> None:
    """Ask until the route has followed its last change, which led to a pool that is gone."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            Inference(target, 10).complete(bench.profile.pattern3.model, "hello", max_tokens=1)
        except ApiError:
            return
        time.sleep(0.1)
    raise AssertionError("the route never followed")


# --- a node that says nothing, and one that is gone -------------------------------------------------------------


def pods(bench: Bench) -> list[Object]:
    return bench.kube.all(PODS, "llm-d", QWEN)


def on_a_node(bench: Bench) -> tuple[Object, str]:
    """One of Pattern 3's pods, and its node."""
    pod = pods(bench)[0]
    return pod, str(pod["spec"]["nodeName"])


def wait_for(bench: Bench, uid: str, wanted: Callable[[Object | None], bool], what: str) -> None:
    """Watch until what is wanted holds for a pod, or for None when it is gone."""

    def there(items: list[Object]) -> bool:
        return wanted(next((item for item in items if item["metadata"]["uid"] == uid), None))

    bench.kube.wait(PODS, there, what=what, timeout_s=120, remedy="look", namespace="llm-d", selector=QWEN)


def test_a_kubelet_that_says_nothing_any_more(bench: Bench) -> None:
    """Containers that look ready prove nothing: the pod's own condition counts, and the node's words are told."""
    pod, node = on_a_node(bench)
    uid = pod["metadata"]["uid"]
    bench.kubectl("annotate", "node", node, f"{SILENCE}=silent")
    try:
        wait_for(bench, uid, lambda item: item is not None and not replica_view(item).ready, "the pod to be doubted")
        verified = bench.judge("04_verify", verify.replicas_and_gpus)
        swapped = bench.judge("03_swap_patterns", patterns.verify)
        scaled = bench.judge("02_scale_pool", scale.verify)
        (now,) = [item for item in pods(bench) if item["metadata"]["uid"] == uid]
        assert [status["ready"] for status in now["status"]["containerStatuses"]] == [True]
    finally:
        bench.kubectl("annotate", "node", node, f"{SILENCE}-")
    words = "NodeStatusUnknown: Kubelet stopped posting node status."
    replicas = broken(verified, "verify.replicas")
    assert replicas.observed == "3 selected, 2 Ready, 2 available"
    assert f"{pod['metadata']['name']}: Running, ready False, on {node}, which is not Ready ({words})" in str(replicas)
    assert "2 of 3 Ready" in broken(swapped, "pattern3.ready").observed
    allocatable = broken(scaled, "pool.allocatable")
    assert allocatable.observed == "2 of 3 nodes"
    assert f"{node}: ready False ({words})" in str(allocatable.evidence)
    assert "kubectl describe node" in (allocatable.remedy or "")
    wait_for(bench, uid, lambda item: item is not None and replica_view(item).ready, "the pod to be trusted again")
    bench.settled(SERVERS3)
    all_pass(bench.judge("02_scale_pool", scale.verify))
    all_pass(bench.judge("04_verify", verify.replicas_and_gpus))


def test_a_node_that_vanishes(bench: Bench) -> None:
    """A pod without its node is no replica, whatever its status says; once it is collected, its heir finds no GPU.

    Stage 02, run again, brings a node back, and then everything passes.
    """
    pod, node = on_a_node(bench)
    uid = pod["metadata"]["uid"]
    bench.kubectl("annotate", "node", node, f"{SILENCE}=silent")
    bench.kubectl("delete", "node", node)
    verified = bench.judge("04_verify", verify.replicas_and_gpus)
    scaled = bench.judge("02_scale_pool", scale.verify)
    gpus = broken(verified, "verify.gpus")
    assert gpus.observed == "2 of 3"
    assert f"{pod['metadata']['name']} on {node}, which is not in the pool (any more)" in str(gpus.evidence)
    assert "2 nodes" in broken(scaled, "pool.size").observed

    wait_for(bench, uid, lambda item: item is None, "the pod's collection")
    bench.pods(QWEN, 3)
    verified = bench.judge("04_verify", verify.replicas_and_gpus)
    replicas = broken(verified, "verify.replicas", "verify.gpus")
    assert replicas.observed == "3 selected, 2 Ready, 2 available"
    assert "Insufficient nvidia.com/gpu" in str(replicas.evidence)

    all_pass(bench.judge("02_scale_pool", scale.plan, scale.apply, scale.verify))
    bench.settled(SERVERS3)
    all_pass(bench.judge("04_verify", verify.replicas_and_gpus, verify.answers))
