"""Waiting for an endpoint picker on a cluster in memory, whose clock and changes the tests make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, Object
from llmd_runbook.errors import DeadlineExceeded, NotFound
from llmd_runbook.profile import ProgressDeadlines
from llmd_runbook.run import StageRun
from llmd_runbook.stages.waiting import pickers
from tests.llmd_runbook.stages.waiting.pods import BACK_OFF, CRASHED, NAMESPACE, RUNNING, World, pod

NAME = "gaie-epp"
SHORT = ProgressDeadlines(capacity_s=30, image_pull_s=40, download_s=500, load_s=500, warm_up_s=50)
NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nowhere/epp:v1"'}}


def picker(name: str, node: str = "node-1", container: Object | None = None, **more: Any) -> Object:
    """A pod of one container without a GPU."""
    made = pod(name, node, container, **more)
    made["spec"]["containers"] = [{"name": "epp"}]
    for status in made["status"].get("containerStatuses", [])[1:]:
        made["status"]["containerStatuses"] = [status | {"name": "epp"}]
    return made


class Rollout(World):
    """A Deployment of one picker; `rolled_out_s` is when the Deployment says that all of it is new and available."""

    def __init__(self) -> None:
        super().__init__()
        self.container, self.rolled_out_s = "epp", 0.0
        spec = {"replicas": 1, "selector": {"matchLabels": {"inferencepool": NAME}}}
        self.add(DEPLOYMENTS, {"metadata": {"name": NAME, "namespace": NAMESPACE, "generation": 2}, "spec": spec})

    def all(self, resource: Any, namespace: str | None = None, selector: str = "", fields: str = "") -> list[Object]:
        found = super().all(resource, namespace, selector, fields)
        if resource is DEPLOYMENTS:
            new = int(self.now_s >= self.rolled_out_s)
            counts = {"replicas": 1, "updatedReplicas": new, "availableReplicas": 1}
            found[0]["status"] = {"observedGeneration": 2, **counts}
        return found


class Waits:
    """A wait of a stage for Pattern 3's picker."""

    def __init__(self, stage: StageRun) -> None:
        self.stage, self.kube = stage, Rollout()
        self.shown: list[str] = []

    def __call__(self, deadlines: ProgressDeadlines = SHORT) -> None:
        pattern = self.stage.profile.pattern3.model_copy(update={"progress_deadlines": deadlines})
        with (
            self.stage.step("wait") as step,
            patch.object(step, "progress", lambda text, **_: self.shown.append(text)),
        ):
            pickers.wait_for(self.stage, self.kube, pattern, NAME, step, lambda: self.kube.now_s)


@pytest.fixture
def waits(open_stage: Callable[[str], StageRun]) -> Iterator[Waits]:
    made = Waits(open_stage("03_swap_patterns"))
    yield made
    made.stage.abandon("Done", "only waited")


def test_one_that_is_available_is_not_waited_for_and_no_table_is_made(waits: Waits) -> None:
    waits.kube.at(0, picker("a", container=RUNNING, ready=True))
    waits()
    assert waits.stage.finish().tables == []
    assert waits.kube.options["timeout_s"] == waits.stage.profile.pattern3.ready_timeout_s


def test_one_that_does_not_exist_is_said_so(waits: Waits) -> None:
    waits.kube.objects.clear()
    with pytest.raises(NotFound):
        waits()


def test_the_old_pod_of_a_rollout_is_no_verdict_and_the_new_ones_way_is_kept(waits: Waits) -> None:
    kube = waits.kube
    kube.rolled_out_s = 35
    old = picker("old", container=RUNNING, ready=True)
    kube.at(0, old)
    kube.at(5, old, picker("new", node=""))
    kube.at(15, old, picker("new", container={"waiting": {"reason": "ContainerCreating"}}))
    kube.at(25, old, picker("new", container=RUNNING), log={"new": "listening\n"})
    kube.at(35, picker("new", container=RUNNING, ready=True))
    waits()
    assert kube.now_s == 35
    assert "old: Ready" in waits.shown[1]
    assert "new: capacity 0 s, 0 restarts; Unschedulable: 0/3 nodes are available" in waits.shown[1]
    assert "new: start 0 s, 0 restarts; log: listening" in waits.shown[3]
    (table,) = waits.stage.finish().tables
    assert table.title == f"How the pods of {NAME} started"
    ((name, phase, _, spent, *_),) = table.rows
    assert (name, phase, spent) == ("new", "ready", "capacity 10 s, image pull 10 s, start 10 s")


@pytest.mark.parametrize(
    ("given", "phase", "limit_s", "said", "key"),
    [
        (picker("new", node=""), "capacity", 30, "0/3 nodes are available", "capacity_s"),
        (
            picker("new", container=NO_IMAGE),
            "image pull",
            40,
            'pulling image "nowhere/epp:v1"',
            "image_pull_s",
        ),
        (picker("new", container=RUNNING), "start", 50, "log: listening", "warm_up_s"),
    ],
)
def test_each_phase_has_its_deadline_and_ends_in_the_pods_own_words(
    waits: Waits, given: Object, phase: str, limit_s: int, said: str, key: str
) -> None:
    kube = waits.kube
    kube.rolled_out_s = 1000
    old = picker("old", container=RUNNING, ready=True)
    for now_s in (0, limit_s - 1, limit_s):
        kube.at(now_s, old, given, log={"new": "listening\n"})
    with pytest.raises(DeadlineExceeded) as caught:
        waits()
    assert kube.now_s == limit_s
    given_up = f"pod new showed no progress for {limit_s} s in its phase {phase}; {limit_s} s are allowed"
    assert caught.value.what == given_up
    assert said in str(caught.value.reason)
    assert f"raise pattern3.progress_deadlines.{key}" in str(caught.value.remedy)


def test_an_image_that_comes_after_all_extends_the_wait(waits: Waits) -> None:
    kube = waits.kube
    kube.rolled_out_s = 85
    kube.at(0, picker("new", container=NO_IMAGE))
    kube.at(39, picker("new", container=RUNNING))
    kube.at(85, picker("new", container=RUNNING, ready=True))
    waits()


def test_a_log_line_for_each_request_is_no_progress(waits: Waits) -> None:
    kube = waits.kube
    kube.rolled_out_s = 1000
    for now_s in range(0, 60, 5):
        kube.at(now_s, picker("new", container=RUNNING), log={"new": f"request {now_s}\n"})
    with pytest.raises(DeadlineExceeded, match="no progress for 50 s in its phase start"):
        waits()


def test_a_picker_that_refuses_its_configuration_says_so(waits: Waits) -> None:
    kube = waits.kube
    kube.rolled_out_s = 1000
    loop = picker("new", container=BACK_OFF, last=CRASHED, restarts=4)
    for now_s in (0, 50):
        kube.at(now_s, loop, log={"new": "ERROR the configuration names no such plugin\n"})
    with pytest.raises(DeadlineExceeded) as caught:
        waits()
    assert "4 restarts; CrashLoopBackOff" in str(caught.value.reason)
    assert "its log ends: ERROR the configuration names no such plugin" in str(caught.value.reason)
