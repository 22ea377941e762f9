"""The sandbox of `test_each_check_fails_*.py`, its quick profile, and what the tests do to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmd_runbook.clients.gke import GkePool
from llmd_runbook.clients.inference import Inference
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, PODS, connect
from llmd_runbook.errors import ClusterError
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT, Profile, load
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.topology import endpoint, replica_view, route_of, trouble
from llmd_runbook.verdicts import Check, Verdict
from tests.end_to_end.cases import saw
from tests.end_to_end.conftest import Sandbox
from tests.guards import anything

PICKER3 = "gaie-pattern3-epp"
QWEN = "llm-d.ai/model=Qwen2.5-3B-Instruct"
"""Selects the pods of Pattern 3."""
SERVERS1, SERVERS3 = (f"ms-pattern{n}-llm-d-modelservice-decode" for n in (1, 3))
QUICK = {
    "ready_timeout_s: 120": "ready_timeout_s: 90",
    "ready_timeout_s: 60": "ready_timeout_s: 15",
    "requests: 96": "requests: 36",
    "concurrency: 12": "concurrency: 6",
    "output_tokens: 32": "output_tokens: 8",
    "groups: 10": "groups: 8",
    "independent: 30": "independent: 18",
    "prefix_tokens: 256": "prefix_tokens: 128",
    "cleanup:": "swap:\n  rollback: never  # a failure is looked at where it happened\ncleanup:",
    "../lib/": f"{PROJECT_ROOT}/lib/",
    "[helm/": f"[{PARAMETERS}/helm/",
}
"""A shorter load and shorter deadlines; the rest of the sandbox's profile as it is."""

Call = Callable[[StageRun], object]


class Bench:
    """The sandbox, its profile, and what the tests do to it."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        text = (PARAMETERS / "sandbox.yaml").read_text()
        for old, new in QUICK.items():
            assert old in text, f"{old!r} is not in the profile any more"
            text = text.replace(old, new)
        self.file = folder / "quick.yaml"
        self.file.write_text(text)
        self.profile: Profile = load(str(self.file))
        self.sandbox, self.output = sandbox, folder / "runs"
        self.kube = connect(self.profile.cluster.context, before_change=anything)
        pool = self.profile.pool
        self.pool = GkePool(pool.project, pool.location, pool.cluster, pool.name, before_change=anything)

    def judge(self, stage: str, *calls: Call, run: str = "new") -> dict[str, Check]:
        """A stage's checks after these of its steps."""
        opened = begin(stage, str(self.file), run, output=self.output)
        for call in calls:
            call(opened)
        return {check.id: check for check in opened.finish().checks}

    def kubectl(self, *words: str) -> str:
        return self.sandbox.kubectl(*words)

    def saved(self, kind: str, name: str) -> str:
        """An object as it can be created again."""
        item = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        for key in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
            item["metadata"].pop(key, None)
        item.pop("status", None)
        return json.dumps(item)

    def create(self, manifest: str, folder: Path) -> None:
        file = folder / "again.json"
        file.write_text(manifest)
        self.kubectl("apply", "-f", str(file))

    def settled(self, deployment: str) -> None:
        """Wait until a Deployment is what its specification says, and nothing of an earlier one is left."""

        def there(items: list[dict[str, Any]]) -> bool:
            item = next(item for item in items if item["metadata"]["name"] == deployment)
            status, wanted = item.get("status", {}), item["spec"].get("replicas", 1)
            numbers = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
            return bool(status.get("observedGeneration") == item["metadata"]["generation"] and numbers == [wanted] * 3)

        self.kube.wait(
            DEPLOYMENTS, there, what=f"{deployment} to settle", timeout_s=90, remedy="look", namespace="llm-d"
        )

    def scaled(self, deployment: str, replicas: int) -> None:
        self.kubectl("scale", f"deployment/{deployment}", f"--replicas={replicas}")

    def pods(self, selector: str, count: int) -> None:
        """Wait for so many pods."""
        self.kube.wait(
            PODS,
            lambda pods: len(pods) == count,
            what=f"{count} pods of {selector}",
            timeout_s=60,
            remedy="look",
            namespace="llm-d",
            selector=selector,
        )

    def names(self, selector: str) -> list[str]:
        """The pods of a selector."""
        return [pod["metadata"]["name"] for pod in self.kube.all(PODS, "llm-d", selector)]

    def unready(self, selector: str) -> list[str]:
        """Those that are not Ready."""
        pods = self.kube.all(PODS, "llm-d", selector)
        return [pod["metadata"]["name"] for pod in pods if not replica_view(pod).ready]

    def pod_says(self, selector: str, word: str) -> None:
        """Wait until a pod says why it is not Ready."""
        self.kube.wait(
            PODS,
            lambda pods: any(word in trouble(pod) for pod in pods),
            what=f"a pod that says {word}",
            timeout_s=60,
            remedy="look",
            namespace="llm-d",
            selector=selector,
        )

    @contextmanager
    def without_picker(self, pattern: str) -> Iterator[None]:
        """The pool's endpoint picker is gone."""
        name = f"gaie-{pattern}-epp"
        self.scaled(name, 0)
        self.pods(f"inferencepool={name}", 0)
        try:
            yield
        finally:
            self.scaled(name, 1)
            self.settled(name)
            self.answers(self.profile.pattern1.model if pattern == "pattern1" else self.profile.pattern3.model)

    @contextmanager
    def route_to_no_listener(self, model: str) -> Iterator[None]:
        """The clients' HTTPRoute names a listener that its Gateway does not have, and is not accepted; whose it is."""
        place = "/spec/parentRefs/0/sectionName"
        self._route({"op": "add", "path": place, "value": "nowhere"}, "False (NoMatchingParent)")
        try:
            yield
        finally:
            self._route({"op": "remove", "path": place}, "True (Accepted)")
            self.answers(model)

    def _route(self, change: dict[str, str], accepted: str) -> None:
        name = self.profile.route.name
        self.kubectl("patch", "httproute", name, "--type=json", "-p", json.dumps([change]))

        def said(items: list[dict[str, Any]]) -> bool:
            item = next(item for item in items if item["metadata"]["name"] == name)
            return route_of(item).conditions.get("Accepted") == accepted

        self.kube.wait(HTTP_ROUTES, said, what=f"Accepted {accepted}", timeout_s=30, remedy="look", namespace="llm-d")

    @contextmanager
    def blind_picker(self, folder: Path) -> Iterator[None]:
        """Pattern 3's picker gives prefixes no weight."""
        before = self.saved("configmap", "gaie-pattern3-epp")
        try:
            self._configured(before.replace("weight: 3", "weight: 0"), folder)
            yield
        finally:
            self._configured(before, folder)

    def _configured(self, config_map: str, folder: Path) -> None:
        self.create(config_map, folder)
        self.kubectl("rollout", "restart", "deployment/gaie-pattern3-epp")
        self.settled("gaie-pattern3-epp")
        self.answers(self.profile.pattern3.model)

    @contextmanager
    def with_arguments(self, *words: str) -> Iterator[None]:
        """Pattern 3's servers run with more arguments."""
        deployment = json.loads(self.kubectl("get", "deployment", SERVERS3, "-o", "json"))
        before = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
        try:
            self._arguments([*before, *words])
            yield
        finally:
            self._arguments(before)

    def _arguments(self, words: list[str]) -> None:
        self.container({"args": words})

    def container(self, changes: dict[str, Any]) -> None:
        """Change Pattern 3's servers, and wait until they are new."""
        container = {"name": "vllm", **changes}
        spec = {
            "strategy": {"type": "Recreate", "rollingUpdate": None},  # every GPU is taken: no place for a fourth
            "template": {"spec": {"containers": [container]}},
        }
        self.kubectl("patch", "deployment", SERVERS3, "-p", json.dumps({"spec": spec}))
        self.settled(SERVERS3)

    @contextmanager
    def picker_container(self, changed: dict[str, Any]) -> Iterator[None]:
        """Pattern 3's picker is patched in these fields of its container."""
        deployment = json.loads(self.kubectl("get", "deployment", PICKER3, "-o", "json"))
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        try:
            self._picker_container(changed)
            yield
        finally:
            self._picker_container({key: container.get(key) or None for key in changed})  # {} would be merged
            self.settled(PICKER3)

    def _picker_container(self, fields: dict[str, Any]) -> None:
        container = {"name": "epp", **fields}
        spec = {"template": {"spec": {"containers": [container]}}}
        self.kubectl("patch", "deployment", PICKER3, "-p", json.dumps({"spec": spec}))

    @contextmanager
    def picker_file(self, old: str, new: str, folder: Path, *, restarts: bool = True) -> Iterator[None]:
        """Another text in the ConfigMap of Pattern 3's picker, which reads it when it starts, and not before."""
        before = self.saved("configmap", PICKER3)
        assert old in before
        try:
            if restarts:
                self._configured(before.replace(old, new), folder)
            else:
                self.create(before.replace(old, new), folder)
            yield
        finally:
            self._configured(before, folder)

    def swapped(self) -> None:
        """Pattern 3 in Pattern 1's place, from a sandbox that just came up; how well the swap went is not looked at."""
        all_pass(self.judge("02_scale_pool", scale.plan, scale.apply, scale.verify))
        found = self.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify)
        all_pass({name: check for name, check in found.items() if name.startswith("pattern3.")})

    def refuses(self, model: str) -> None:
        """Wait until the gateway does not answer for a model."""
        client = Inference(endpoint(self.kube, self.profile, self.profile.pattern3.gateway), 20)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                client.complete(model, "still there?", max_tokens=1)
            except ClusterError:
                return
            time.sleep(0.2)  # a route has no event that says that Envoy follows it
        raise AssertionError(f"{model} is still answered")

    def answers(self, model: str) -> None:
        """Wait until the gateway answers for a model."""
        opened = begin("04_verify", str(self.file), "new", output=self.output)
        target = endpoint(self.kube, self.profile, self.profile.pattern3.gateway)
        with opened.step("wait") as step:
            traffic.wait_for_answer(target, self.profile.model_copy(update={"route": self._patient()}), model, step)
        opened.abandon("Done", "only waited")

    def _patient(self) -> Any:
        return self.profile.route.model_copy(update={"ready_timeout_s": 60.0})

    def resized(self, nodes: int) -> None:
        self.pool.wait(self.pool.set_size(nodes), 60)


def broken(found: dict[str, Check], name: str, *also: str, verdict: Verdict = Verdict.FAIL) -> Check:
    """The check that does not pass; every other one does, but for those that the same fault must reach too."""
    saw(found.values(), name, *also)
    assert found[name].verdict is verdict, found[name]
    assert found[name].remedy
    assert found[name].observed
    others = [check for check in found.values() if check.id not in (name, *also)]
    assert [check for check in others if check.verdict is not Verdict.PASS] == []
    return found[name]


def all_pass(found: dict[str, Check]) -> None:
    assert found
    others = [check for check in found.values() if check.verdict is not Verdict.PASS]
    assert [(check.id, check.observed, check.evidence) for check in others] == []
