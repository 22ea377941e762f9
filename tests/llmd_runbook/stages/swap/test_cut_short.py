"""A release tool that does not see the end of what it began: what is in the cluster decides, and the replicas."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import Kubernetes, Object, Resource
from llmd_runbook.clients.releases import Driver, OnLine, Outcome, Release
from llmd_runbook.errors import DeadlineExceeded, Forbidden, ToolCutShort, ToolError
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import gate
from llmd_runbook.stages.swap import cut_short, rollback, steps
from llmd_runbook.stages.waiting import pickers, replicas
from llmd_runbook.verdicts import Step, StepStatus

Open = Callable[[str], StageRun]

KINDS = {"Deployment": ("deployments", True), "Secret": ("secrets", True), "Job": ("jobs", True)}
TIME_OUT = ToolCutShort("helm failed with exit status 1", where="helm upgrade", reason="context deadline exceeded")


def rendered(name: str, replicas: int = 3) -> list[Object]:
    """A Deployment, a Secret whose values are not shown, and a hook that helm deletes after its use."""
    container = {"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "8Gi"}}}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"spec": {"containers": [container]}},
    }
    hook = {"name": f"{name}-hook", "annotations": {"helm.sh/hook": "post-install"}}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"{name}-s"}, "data": {"key": "[redacted]"}},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": hook, "spec": {}},
    ]


class Cluster:
    """Objects by name, as much of a client as the look-up needs."""

    context = "c"

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.forbidden = False

    def make(self, manifest: Object) -> None:
        """As the API server would hold it."""
        made = copy.deepcopy(manifest)
        made["metadata"] |= {"uid": "u", "namespace": "llm-d"}
        made["status"] = {}
        if made["kind"] == "Secret":
            made["data"] = {"key": "c2VjcmV0"}
        self.objects[made["metadata"]["name"]] = made

    def raw(self, path: str) -> str:
        listed = [f'{{"kind": "{kind}", "name": "{name}", "namespaced": true}}' for kind, (name, _) in KINDS.items()]
        return f'{{"resources": [{", ".join(listed)}]}}'

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        if self.forbidden:
            raise Forbidden("not permitted", reason="you may not get it")
        assert namespace == "llm-d"
        return self.objects.get(name)


@dataclass
class Tool:
    """A driver that is cut short as `ends` says: an error and how far the release had come by then."""

    cluster: Cluster
    releases: list[str] = field(default_factory=lambda: ["gaie", "ms"])
    ends: dict[str, tuple[ToolError, str, int]] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return self.releases

    def render(self, releases: Sequence[str] = ()) -> list[Object]:
        return [item for name in releases or self.releases for item in rendered(name)]

    def installed(self, namespace: str) -> list[Release]:
        when = datetime.now(UTC)
        return [Release(name, namespace, "c", 1, status, when) for name, status in self.status.items()]

    def apply(self, on_line: OnLine) -> list[Outcome]:
        outcomes = []
        for name in self.releases:
            if self.status.get(name) == "deployed":
                outcomes.append(Outcome(name, "ok"))
                continue
            self.asked.append(f"upgrade {name}")
            error, status, made = self.ends.get(name, (None, "deployed", 2))
            for item in rendered(name)[:made]:
                self.cluster.make(item)
            if status:
                self.status[name] = status
            if error:
                raise error
            outcomes.append(Outcome(name, "changed"))
        return outcomes

    def settle(self, releases: Sequence[str], on_line: OnLine) -> None:
        for name in releases:
            self.asked.append(f"settle {name}")
            self.status[name] = "deployed"


class Bench:
    """A stage with one step, a tool and a cluster."""

    def __init__(self, stage: StageRun) -> None:
        self.stage, self.cluster = stage, Cluster()
        self.tool = Tool(self.cluster)

    def apply(self) -> list[str]:
        with self.stage.step("install") as step:
            changed = cut_short.apply(
                cast(Kubernetes, self.cluster), cast(Driver, cast(object, self.tool)), "llm-d", step
            )
            step.changed("installed")
        return changed

    def steps(self) -> list[Step]:
        return self.stage.finish().steps


@pytest.fixture
def bench(open_stage: Open) -> Bench:
    return Bench(open_stage("03_swap_patterns"))


def test_where_nothing_is_cut_short_nothing_is_looked_up(bench: Bench) -> None:
    assert bench.apply() == ["gaie", "ms"]
    assert bench.apply() == []
    assert bench.steps()[0].detail == "installed"


@pytest.mark.parametrize("status", ["failed", "pending-install", "pending-upgrade"])
def test_a_time_out_of_the_last_release_whose_objects_are_there_is_no_verdict(bench: Bench, status: str) -> None:
    bench.tool.ends["ms"] = (TIME_OUT, status, 2)
    assert bench.apply() == ["ms"]
    assert bench.tool.asked == ["upgrade gaie", "upgrade ms", "settle ms"]
    (step,) = bench.steps()
    assert step.status is StepStatus.CHANGED
    assert step.detail.startswith("installed; helm failed with exit status 1, which is no verdict: looked up")
    assert "all objects of ms are there" in step.detail


def test_what_was_not_begun_is_begun_and_nothing_is_repeated(bench: Bench) -> None:
    bench.tool.ends["gaie"] = (TIME_OUT, "failed", 2)
    assert bench.apply() == ["gaie", "ms"]
    assert bench.tool.asked == ["upgrade gaie", "settle gaie", "upgrade ms"]


def test_an_answer_that_was_lost_after_everything_was_recorded(bench: Bench) -> None:
    bench.tool.ends["ms"] = (TIME_OUT, "deployed", 2)
    assert bench.apply() == ["gaie", "ms"]
    assert "settle ms" not in bench.tool.asked


@pytest.mark.parametrize("status", ["failed", "pending-install", ""])
@pytest.mark.parametrize("made", [0, 1])
def test_where_objects_are_missing_it_failed(bench: Bench, status: str, made: int) -> None:
    bench.tool.ends["ms"] = (TIME_OUT, status, made)
    with pytest.raises(ToolError) as caught:
        bench.apply()
    assert not isinstance(caught.value, ToolCutShort)
    assert caught.value.what == "helm failed with exit status 1"
    assert (caught.value.reason or "").splitlines()[0] == "context deadline exceeded"
    assert "v1 Secret llm-d/ms-s is absent" in (caught.value.reason or "")
    assert ("apps/v1 Deployment llm-d/ms is absent" in (caught.value.reason or "")) == (made == 0)
    assert bench.tool.asked[-1] == "upgrade ms"  # once
    assert bench.steps()[0].status is StepStatus.FAILED


def test_objects_of_before_an_upgrade_are_not_taken_for_it(bench: Bench) -> None:
    for item in rendered("ms"):
        bench.cluster.make(item)
    limits = bench.cluster.objects["ms"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits["memory"] = "4Gi"
    bench.tool.ends["ms"] = (TIME_OUT, "failed", 0)
    with pytest.raises(ToolError) as caught:
        bench.apply()
    assert "apps/v1 Deployment llm-d/ms differs" in (caught.value.reason or "")


def test_an_object_on_its_way_out_is_not_there_and_a_scaled_one_is(bench: Bench) -> None:
    bench.tool.ends["ms"] = (TIME_OUT, "failed", 0)
    for item in rendered("ms", replicas=0):
        bench.cluster.make(item)
    assert bench.apply() == ["ms"]
    bench.tool.status["ms"] = "failed"
    bench.cluster.objects["ms"]["metadata"]["deletionTimestamp"] = "now"
    with pytest.raises(ToolError, match="exit status 1"):
        bench.apply()


def test_where_nobody_may_look_the_error_says_so(bench: Bench) -> None:
    bench.tool.ends["ms"] = (TIME_OUT, "failed", 2)
    bench.cluster.forbidden = True
    with pytest.raises(ToolError) as caught:
        bench.apply()
    assert "what is there now could not be looked up: not permitted: you may not get it" in (caught.value.reason or "")
    assert "settle ms" not in bench.tool.asked


def test_a_release_that_is_cut_short_again_after_its_record_was_settled_ends_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.tool.ends["gaie"] = (TIME_OUT, "failed", 2)
    monkeypatch.setattr(bench.tool, "settle", lambda *_: None)
    with pytest.raises(ToolError, match="exit status 1") as caught:
        bench.apply()
    assert "settled once already" in (caught.value.reason or "")
    assert bench.tool.asked == ["upgrade gaie"] * 2


def test_what_failed_for_another_reason_is_not_looked_up(bench: Bench) -> None:
    refused = ToolError("helm failed with exit status 1", reason="admission webhook denied the request")
    bench.tool.ends["ms"] = (refused, "failed", 2)
    with pytest.raises(ToolError) as caught:
        bench.apply()
    assert caught.value is refused


# The same in a swap


@pytest.fixture
def swap(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A stage whose pattern's releases are the bench's; its pods are watched by `watched`."""
    bench.tool.releases = ["ms"]
    monkeypatch.setattr(site, "driver", lambda *_, **__: bench.tool)
    monkeypatch.setattr(site, "kubernetes", lambda _: bench.cluster)
    monkeypatch.setattr(gate, "guarded", lambda *_: nullcontext())
    return bench


def watched(monkeypatch: pytest.MonkeyPatch, pods: Callable[..., Any]) -> None:
    monkeypatch.setattr(replicas, "wait_for", pods)
    monkeypatch.setattr(pickers, "wait_for", lambda *_: None)
    monkeypatch.setattr(traffic, "wait_programmed", lambda *_: Endpoint("http://gateway"))


def test_a_swap_goes_on_to_its_replicas_which_are_the_verdict(swap: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    swap.tool.ends["ms"] = (TIME_OUT, "failed", 2)
    watched(monkeypatch, lambda *_: [SimpleNamespace(name="ms-0", node="n")])
    assert steps.install_servers(swap.stage, swap.stage.profile.pattern3) == Endpoint("http://gateway")
    done = swap.steps()
    assert [step.status for step in done[:2]] == [StepStatus.CHANGED, StepStatus.OK]
    assert done[0].detail.startswith("installed ms; helm failed with exit status 1, which is no verdict")


def test_replicas_that_do_not_come_end_it(swap: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise DeadlineExceeded("waited 5 s for 3 Ready replicas")

    swap.tool.ends["ms"] = (TIME_OUT, "failed", 2)
    watched(monkeypatch, never)
    with pytest.raises(DeadlineExceeded):
        steps.install_servers(swap.stage, swap.stage.profile.pattern3)
    assert DeadlineExceeded in rollback.REASONS


@pytest.mark.parametrize("left", [True, False])
def test_a_removal_that_timed_out_is_one_where_no_release_is_left(
    swap: Bench, monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    def destroy(_: OnLine) -> list[Outcome]:
        swap.tool.status = {"ms": "uninstalling"} if left else {}
        raise TIME_OUT

    monkeypatch.setattr(swap.tool, "destroy", destroy, raising=False)
    monkeypatch.setattr(site, "wait_until_gone", lambda *_: None)
    if left:
        with pytest.raises(ToolCutShort):
            steps.remove(swap.stage, swap.stage.profile.pattern3)
    else:
        steps.remove(swap.stage, swap.stage.profile.pattern3)
        assert swap.steps()[0].detail == (
            "removed ms; helm failed with exit status 1: looked up, and none of its releases is left"
        )
