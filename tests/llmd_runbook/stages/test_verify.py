"""Where the guide's quick verification script is content with nothing, or with too little, stage 04 is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, INFERENCE_POOLS, PODS, Object
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site, verify
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.clients.server import Reply, serving
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.rendered import servers

NS, LABELS = "llm-d", {"m": "qwen"}
MODELS = {"object": "list", "data": [{"id": "b", "object": "model"}]}
Open = Callable[[str], StageRun]


class Driver:
    """The servers of Pattern 3 as they render."""

    def render(self) -> list[Object]:
        return [servers("qwen", "b", LABELS)]


@pytest.fixture
def kube(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Memory:
    """Pattern 3's pool with a Deployment that says three available, and no pod."""
    bench.notebook("04_verify")
    made = Memory()
    spec = {"selector": {"matchLabels": LABELS}, "targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "e"}}
    made.add(INFERENCE_POOLS, {"metadata": {"name": "three", "namespace": NS}, "spec": spec})
    status = {"availableReplicas": 3}
    made.add(DEPLOYMENTS, {"metadata": {"name": "qwen", "namespace": NS}, "spec": {}, "status": status})
    monkeypatch.setattr(site, "kubernetes", lambda _: made)
    monkeypatch.setattr(site, "driver", lambda *_: Driver())
    return made


def pod(name: str, *, ready: str = "True", **meta: Any) -> Object:
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
    spec = {"nodeName": "n", "containers": []}
    return {"metadata": {"name": name, "namespace": NS, "labels": LABELS, **meta}, "spec": spec, "status": status}


def judged(stage: StageRun) -> dict[str, Check]:
    return {check.id: check for check in stage.finish().checks}


@pytest.mark.parametrize(
    ("pods", "said"),
    [
        ([], "0 selected, 0 Ready, 3 available"),
        ([pod("a"), pod("b"), pod("c", ready="False")], "3 selected, 2 Ready, 3 available"),
        (
            [pod("a"), pod("b"), pod("c", deletionTimestamp="2026-01-01T00:00:00Z")],
            "3 selected, 2 Ready, 3 available",
        ),
        ([pod("a"), pod("b"), pod("c"), pod("d")], "4 selected, 4 Ready, 3 available"),
    ],
)
def test_running_pods_are_not_replicas_that_serve(
    kube: Memory, open_stage: Open, pods: list[Object], said: str
) -> None:
    """`grep Running` counts pods that are not Ready, that end, and that are too many; `grep -o True` those as well."""
    for item in pods:
        kube.add(PODS, item)
    stage = open_stage("04_verify")
    verify.replicas_and_gpus(stage)
    check = judged(stage)["verify.replicas"]
    assert (check.verdict, check.observed) == (Verdict.FAIL, said)


@pytest.mark.usefixtures("kube")
@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (Reply(body={"choices": [{"text": "Paris."}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}), "pass"),
        (Reply(body={"choices": [{"text": ""}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}), "fail"),
        (Reply(body={"choices": [{"text": "Paris."}], "usage": {"prompt_tokens": 7, "completion_tokens": 0}}), "fail"),
        (Reply(body={"choices": []}), "fail"),
        (Reply(body="<html>"), "fail"),
        (Reply(404, "no route"), "fail"),
    ],
)
def test_an_answer_has_text_and_tokens(open_stage: Open, reply: Reply, verdict: str) -> None:
    """`jq -e .choices[0].text` is content with an empty text."""
    stage = open_stage("04_verify")
    with serving() as gateway:
        gateway.on("/v1/completions", reply)
        gateway.on("/v1/models", Reply(body=MODELS))
        verify.answers(stage, Endpoint(gateway.url))
    found = judged(stage)
    assert found["verify.answer"].verdict == verdict
    assert found["verify.models"].verdict is Verdict.PASS


@pytest.mark.usefixtures("kube")
@pytest.mark.parametrize("names", [[], ["a"], ["b", "a"]])
def test_the_list_of_models_is_exactly_what_was_announced(open_stage: Open, names: list[str]) -> None:
    stage = open_stage("04_verify")
    with serving() as gateway:
        gateway.on("/v1/models", Reply(body={"object": "list", "data": [{"id": name} for name in names]}))
        verify.answers(stage, Endpoint(gateway.url))
    assert judged(stage)["verify.models"].verdict is Verdict.FAIL


@pytest.mark.usefixtures("kube")
def test_without_a_replica_no_cache_is_on(open_stage: Open) -> None:
    """Where the script finds no line it warns, and ends with success."""
    stage = open_stage("04_verify")
    verify.prefix_caching(stage)
    check = judged(stage)["verify.prefix_caching"]
    assert (check.verdict, check.observed) == (Verdict.FAIL, "on: 0, off or unsaid: 0, unread: 0")
