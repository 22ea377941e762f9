"""Waiting for replicas on a cluster in memory, whose clock and changes the tests make."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, Object
from llmd_runbook.errors import DeadlineExceeded, Forbidden, Unreachable
from llmd_runbook.profile import Pattern, ProgressDeadlines
from llmd_runbook.run import StageRun
from llmd_runbook.stages.site import ModelServers
from llmd_runbook.stages.waiting import replicas
from llmd_runbook.stages.waiting.starting import key_of
from tests.llmd_runbook.stages.waiting.pods import (
    BACK_OFF,
    BAR,
    CRASHED,
    CREATING,
    CUDA_OOM,
    FETCHED,
    LOADED,
    NAMESPACE,
    RUNNING,
    STARTED,
    World,
    pod,
)

SERVERS = ModelServers("ms", "app=ms", 1)
SHORT = ProgressDeadlines(capacity_s=100, image_pull_s=100, download_s=60, load_s=50, warm_up_s=50)
TOKEN = "hf_" + "abcdefghijklmnop"


class Waits:
    """A wait of a stage for Pattern 1's replicas."""

    def __init__(self, stage: StageRun) -> None:
        self.stage, self.kube = stage, World()
        self.shown: list[str] = []

    def __call__(self, *, replicas_wanted: int = 1, mode: str = "resize", deadlines: ProgressDeadlines = SHORT) -> Any:
        pattern = self._pattern(replicas_wanted, deadlines)
        pool = self.stage.profile.pool.model_copy(update={"mode": mode})
        self.stage.profile = self.stage.profile.model_copy(update={"pattern1": pattern, "pool": pool})
        with (
            self.stage.step("wait") as step,
            patch.object(step, "progress", lambda text, **_: self.shown.append(text)),
        ):
            return replicas.wait_for(self.stage, self.kube, pattern, SERVERS, step, lambda: self.kube.now_s)

    def _pattern(self, count: int, deadlines: ProgressDeadlines) -> Pattern:
        return self.stage.profile.pattern1.model_copy(update={"replicas": count, "progress_deadlines": deadlines})

    @property
    def rows(self) -> list[list[Any]]:
        (table,) = self.stage.finish().tables
        return table.rows


@pytest.fixture
def waits(open_stage: Callable[[str], StageRun]) -> Iterator[Waits]:
    made = Waits(open_stage("03_swap_patterns"))
    yield made
    made.stage.abandon("Done", "only waited")


def test_replicas_that_are_ready_are_given_back_at_once_and_no_table_is_made(waits: Waits) -> None:
    waits.kube.at(0, pod("b", container=RUNNING, ready=True), pod("a", container=RUNNING, ready=True))
    assert [view.name for view in waits(replicas_wanted=2)] == ["a", "b"]
    assert waits.stage.finish().tables == []


@pytest.mark.parametrize("name", ["pattern1", "pattern3"])
def test_another_number_of_replicas_has_the_deadlines_of_the_same_section(waits: Waits, name: str) -> None:
    profile = waits.stage.profile
    assert key_of(profile, getattr(profile, name).model_copy(update={"replicas": 7})) == name


def test_a_quarter_of_an_hour_of_download_passes_and_is_shown(waits: Waits) -> None:
    kube = waits.kube
    kube.event("a", "05:00:00", "Scheduled", "Successfully assigned llm-d/a to node-1")
    kube.at(0, pod("a", container=CREATING))
    kube.event("a", "05:00:30", "Started", "Started container vllm")
    kube.at(30, pod("a", container=RUNNING), log={"a": STARTED})
    for minute in range(15):
        bar = BAR.format(part=6 * minute, clock=minute)
        kube.at(40 + 60 * minute - 1, pod("a", container=RUNNING), log={"a": bar})
    kube.at(950, pod("a", container=RUNNING), log={"a": FETCHED})
    kube.at(970, pod("a", container=RUNNING), log={"a": LOADED})
    kube.at(990, pod("a", container=RUNNING, ready=True))
    (view,) = waits()
    assert view.name == "a"
    assert "0 of 1 replicas Ready | a: download 9 s, 0 restarts; Started: Started container vllm;" in waits.shown[2]
    assert "log: model-00001-of-00002.safetensors:   6%" in waits.shown[3]
    ((name, phase, restarts, spent, event, line),) = waits.rows
    assert (name, phase, restarts) == ("a", "ready", 0)
    assert spent == "image pull 30 s, download 920 s, load 20 s, warm up 20 s"
    assert (event, line.split("] ")[1]) == ("Started: Started container vllm", "Model loading took 5.7916 GiB")


def test_a_stalled_download_names_pod_phase_time_words_and_what_to_do(waits: Waits) -> None:
    kube = waits.kube
    kube.event("b", "05:00:30", "Started", "Started container vllm")
    waiting = [pod("a", container=RUNNING, ready=True), pod("b", container=RUNNING)]
    kube.at(0, *waiting, log={"b": STARTED})
    kube.at(30, *waiting, log={"b": BAR.format(part=3, clock=5)})
    kube.at(60, *waiting, log={"b": BAR.format(part=3, clock=35)})
    kube.at(89, *waiting, log={"b": "WARNING Error while downloading: timed out. Trying to resume\n"})
    kube.at(90, *waiting)
    with pytest.raises(DeadlineExceeded) as caught:
        waits(replicas_wanted=2)
    error = caught.value
    assert kube.now_s == 90
    assert error.what == "pod b showed no progress for 60 s in its phase download; 60 s are allowed"
    assert error.where == "pod llm-d/b on node-1"
    reason = str(error.reason)
    assert "1 of 2 replicas Ready | a: Ready | b: download 90 s, 0 restarts" in reason
    assert "Started: Started container vllm" in reason
    assert "its log ends: " in reason
    assert "resume" in reason
    assert "model hub" in str(error.remedy)
    assert "kubectl -n llm-d describe pod b" in str(error.remedy)
    assert "pattern1.progress_deadlines.download_s" in str(error.remedy)
    assert [row[:2] for row in waits.rows] == [["a", "ready"], ["b", "download"]]


def test_what_was_said_since_the_last_look_counts_before_a_pod_is_given_up(waits: Waits) -> None:
    kube = waits.kube
    kube.at(0, pod("a", container=RUNNING), log={"a": STARTED})
    kube.at(59, pod("a", container=RUNNING))
    kube.at(60, pod("a", container=RUNNING), log={"a": FETCHED})
    kube.at(70, pod("a", container=RUNNING, ready=True))
    assert waits()


def test_pods_that_change_often_are_not_read_at_each_change(waits: Waits) -> None:
    for now_s in (0, 0.1, 0.5, 1.9, 2.0):
        waits.kube.at(now_s, pod("a", container=RUNNING), log={"a": STARTED})
    waits.kube.at(3, pod("a", container=RUNNING, ready=True))
    waits()
    assert waits.kube.reads == ["events", "log of a"] * 2


def test_the_watch_looks_again_often_enough_for_the_shortest_deadline(waits: Waits) -> None:
    waits.kube.at(0, pod("a", container=RUNNING, ready=True))
    waits(deadlines=SHORT.model_copy(update={"load_s": 6}))
    assert waits.kube.options["look_s"] == 3
    waits()
    assert waits.kube.options["look_s"] == 10


def test_that_a_deployments_progress_deadline_is_exceeded_is_no_verdict(waits: Waits) -> None:
    exceeded = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    deployment = {"metadata": {"name": "ms", "namespace": NAMESPACE}, "status": {"conditions": [exceeded]}}
    waits.kube.add(DEPLOYMENTS, deployment)
    waits.kube.at(0, pod("a", container=RUNNING), log={"a": STARTED})
    waits.kube.at(50, pod("a", container=RUNNING), log={"a": FETCHED})
    waits.kube.at(80, pod("a", container=RUNNING, ready=True))
    assert [view.name for view in waits()] == ["a"]


def test_a_crash_loop_is_given_up_with_how_it_ended(waits: Waits) -> None:
    kube = waits.kube
    kube.at(0, pod("a", container=RUNNING), log={"a": STARTED + FETCHED})
    kube.event("a", "05:00:30", "BackOff", "Back-off restarting failed container vllm", "Warning")
    for run in range(1, 4):
        loop = pod("a", container=BACK_OFF, last=CRASHED, restarts=run)
        kube.at(15 * run, loop, log={"a": f"Time spent downloading weights {run}\nValueError: run {run}\n"})
    kube.at(61, loop)
    with pytest.raises(DeadlineExceeded) as caught:
        waits()
    assert "pod a showed no progress for 61 s in its phase load" in caught.value.what
    assert "3 restarts; CrashLoopBackOff" in str(caught.value.reason)
    assert "exit code 137" in str(caught.value.reason)
    assert "log: ValueError: run 3" in str(caught.value.reason)
    assert "what ended it: ValueError: run 3" in str(caught.value.reason)


def test_a_container_that_was_started_again_is_given_up_with_what_ended_the_one_before(waits: Waits) -> None:
    """It runs at the moment, and says nothing of why it ended."""
    kube = waits.kube
    kube.said_before["a"] = STARTED + FETCHED + LOADED + CUDA_OOM
    kube.at(0, pod("a", container=RUNNING, last=CRASHED, restarts=1), log={"a": STARTED})
    kube.at(30, pod("a", container=RUNNING, last=CRASHED, restarts=1))
    kube.at(60, pod("a", container=RUNNING, last=CRASHED, restarts=1))
    with pytest.raises(DeadlineExceeded) as caught:
        waits()
    assert "its log before: RuntimeError: CUDA out of memory occurred when warming up sampler with" in waits.shown[0]
    assert "what ended it: RuntimeError: CUDA out of memory" in str(caught.value.reason)
    assert "`gpu_memory_utilization` when initializing the engine." in str(caught.value.reason)
    assert waits.kube.reads.count("log of a before") == 1, "it is read once a restart"


def test_a_warning_is_not_what_ended_a_container(waits: Waits) -> None:
    """One that Kubernetes killed says nothing of it; of an end before that one nothing is left."""
    kube = waits.kube
    kube.at(0, pod("a", container=BACK_OFF, last=CRASHED, restarts=1), log={"a": STARTED + CUDA_OOM})
    kube.said_before["a"] = STARTED + "WARNING Falling back to torch.float16\n"
    kube.at(10, pod("a", container=RUNNING, last=CRASHED, restarts=2))
    kube.at(200, pod("a", container=RUNNING, last=CRASHED, restarts=2))
    with pytest.raises(DeadlineExceeded) as caught:
        waits()
    assert "log: RuntimeError: CUDA out of memory" in waits.shown[0]
    assert "what ended it" not in str(caught.value.reason)
    assert "its log before" not in str(caught.value.reason)


def test_a_pod_that_talks_for_ever_ends_at_the_deadline_of_all(waits: Waits) -> None:
    for look in range(50):
        waits.kube.at(10.0 * look, pod("a", container=RUNNING), log={"a": f"INFO still here {look}\n"})
    with pytest.raises(DeadlineExceeded, match="1 Ready replicas of ms") as caught:
        waits()
    assert waits.kube.options["timeout_s"] == waits.stage.profile.pattern1.ready_timeout_s
    assert "raise pattern1.ready_timeout_s" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("given", "phase", "remedy"),
    [
        (pod("a", node=""), "capacity", "a stock-out"),
        (pod("a", container=CREATING), "image pull", "the image and its registry"),
    ],
)
def test_each_phase_says_what_to_do(waits: Waits, given: Object, phase: str, remedy: str) -> None:
    waits.kube.at(0, given)
    waits.kube.at(100, given)
    with pytest.raises(DeadlineExceeded, match=f"in its phase {phase}") as caught:
        waits()
    assert remedy in str(caught.value.remedy)
    assert f"progress_deadlines.{phase.replace(' ', '_')}_s" in str(caught.value.remedy)


def test_a_pod_without_a_node_says_the_schedulers_or_the_autoscalers_words(waits: Waits) -> None:
    kube = waits.kube
    kube.event("a", "05:00:00", "TriggeredScaleUp", "pod triggered scale-up: [{pool 1->2 (max: 5)}]")
    kube.event("a", "05:00:10", "FailedScheduling", "0/1 nodes are available", "Warning")
    kube.at(0, pod("a", node=""))
    kube.at(1, pod("a", container=RUNNING, ready=True))
    waits()
    assert "FailedScheduling: 0/1 nodes are available" in waits.shown[0]
    assert "Insufficient nvidia.com/gpu" in waits.shown[0]
    waits.shown.clear()
    waits(mode="autoscale")
    assert "TriggeredScaleUp: pod triggered scale-up" in waits.shown[0]


def test_an_autoscaler_at_work_is_progress_and_one_that_refuses_is_not(waits: Waits) -> None:
    kube = waits.kube

    def says(now_s: float, when: str, reason: str) -> None:
        def happen(world: World) -> list[Object]:
            world.event("a", when, reason, f"at {when}")
            return [pod("a", node="")]

        kube.moments.append((now_s, happen))

    says(0, "05:00:00", "NotTriggerScaleUp")
    says(90, "05:01:30", "TriggeredScaleUp")
    says(180, "05:03:00", "NotTriggerScaleUp")
    says(190, "05:03:10", "NotTriggerScaleUp")
    with pytest.raises(DeadlineExceeded, match="no progress for 100 s in its phase capacity"):
        waits(mode="autoscale")
    assert kube.now_s == 190


def test_where_logs_and_events_are_forbidden_the_wait_goes_on_and_says_so(waits: Waits) -> None:
    kube = waits.kube
    kube.refused = {
        "events": Forbidden("not permitted", reason='cannot list "events"'),
        "log": Forbidden("not permitted", reason='cannot get "pods/log"'),
    }
    for now_s in (0, 30, 150):
        kube.at(now_s, pod("a", container=RUNNING))
    kube.at(159, pod("a", container=RUNNING, ready=True))
    assert waits()
    assert "a: start 30 s, 0 restarts" in waits.shown[1]
    assert 'Events cannot be read (not permitted: cannot list "events")' in waits.shown[1]
    assert 'logs cannot be read (not permitted: cannot get "pods/log")' in waits.shown[1]
    assert kube.reads == ["events", "log of a"], "what is forbidden is asked once"


def test_without_a_log_a_start_has_the_time_of_its_three_phases(waits: Waits) -> None:
    waits.kube.refused = {"log": Forbidden("not permitted", reason="no")}
    waits.kube.at(0, pod("a", container=RUNNING))
    waits.kube.at(160, pod("a", container=RUNNING))
    with pytest.raises(DeadlineExceeded, match="no progress for 160 s in its phase start; 160 s are allowed"):
        waits()


def test_a_log_that_hangs_is_not_asked_again(waits: Waits) -> None:
    waits.kube.refused = {"log": Unreachable("the Kubernetes API does not answer", reason="Read timed out.")}
    for now_s in (0, 10, 20):
        waits.kube.at(now_s, pod("a", container=RUNNING), pod("b", container=RUNNING))
    with pytest.raises(DeadlineExceeded):
        waits(replicas_wanted=2)
    assert waits.kube.reads.count("log of a") == 1
    assert "log of b" not in waits.kube.reads


def test_an_interruption_while_it_reads_stays_one(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(waits.kube, "logs", interrupted)
    waits.kube.at(0, pod("a", container=RUNNING))
    with pytest.raises(KeyboardInterrupt):
        waits()
    assert waits.rows == []


@pytest.mark.parametrize("before", ["", "x" * 142 + " "], ids=["whole", "cut where lines are cut"])
def test_no_secret_is_in_what_is_shown_and_kept(waits: Waits, before: str) -> None:
    waits.kube.event("a", "05:00:00", "Pulling", f"{before}{TOKEN}")
    waits.kube.at(0, pod("a", container=RUNNING), log={"a": f"{before}{TOKEN} is used\n"})
    waits.kube.at(60, pod("a", container=RUNNING))
    with pytest.raises(DeadlineExceeded) as caught:
        waits()
    kept = json.dumps(waits.stage.finish().model_dump(mode="json"))
    for text in (str(caught.value), kept, *waits.shown):
        assert TOKEN[:8] not in text
    assert "[redacted" in str(caught.value)
