"""Phases of pods as an API server has them, told apart by vLLM's own lines."""

from __future__ import annotations

import pytest

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.stages.waiting.phases import Phase, advances, lines, phase_of, runs, server_container, telling
from tests.llmd_runbook.stages.waiting.pods import (
    BACK_OFF,
    BAR,
    CRASHED,
    CREATING,
    CUDA_OOM,
    FETCHED,
    FORBIDDEN,
    LOADED,
    RUNNING,
    SHARD,
    STARTED,
    pod,
)


@pytest.mark.parametrize(
    ("given", "log", "phase"),
    [
        (pod("a", node=""), None, Phase.CAPACITY),
        (pod("a"), None, Phase.IMAGE_PULL),
        (pod("a", container=CREATING), None, Phase.IMAGE_PULL),
        (pod("a", container={"waiting": {"reason": "ImagePullBackOff"}}), None, Phase.IMAGE_PULL),
        (pod("a", container={"waiting": {"reason": "CreateContainerConfigError"}}), None, Phase.IMAGE_PULL),
        (pod("a", container=RUNNING), None, Phase.START),
        (pod("a", container=RUNNING), "", Phase.DOWNLOAD),
        (pod("a", container=RUNNING), STARTED, Phase.DOWNLOAD),
        (pod("a", container=RUNNING), STARTED + BAR.format(part=10, clock=5), Phase.DOWNLOAD),
        (pod("a", container=RUNNING), STARTED + FETCHED, Phase.LOAD),
        (pod("a", container=RUNNING), STARTED + SHARD.format(part=0), Phase.LOAD),
        (pod("a", container=RUNNING), "Loading safetensors using Fastsafetensor loader:   0% Completed", Phase.LOAD),
        (pod("a", container=RUNNING), STARTED + FETCHED + LOADED, Phase.WARM_UP),
        (pod("a", container=RUNNING), "Capturing CUDA graphs (mixed prefill-decode):  50%|#  | 1/2", Phase.WARM_UP),
        (pod("a", container=BACK_OFF, last=CRASHED, restarts=2), STARTED + FETCHED, Phase.LOAD),
        (pod("a", container=RUNNING, ready=True), None, Phase.READY),
        (pod("a", phase="Failed"), None, Phase.ENDING),
    ],
)
def test_phases(given: Object, log: str | None, phase: Phase) -> None:
    assert phase_of(given, None if log is None else lines(log)) is phase


def test_a_pod_that_is_deleted_ends_whatever_else_it_is() -> None:
    going = pod("a", container=RUNNING, ready=True)
    going["metadata"]["deletionTimestamp"] = "2026-11-28T05:00:00Z"
    assert phase_of(going, None) is Phase.ENDING


def test_a_pod_without_a_status_has_no_node() -> None:
    assert phase_of({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "x"}]}}, None) is Phase.CAPACITY


def test_the_model_server_is_the_container_with_the_gpu() -> None:
    assert server_container(pod("a")) == "vllm"
    assert server_container({"spec": {"containers": [{"name": "x"}]}}) == "x"


def test_the_same_said_later_looks_the_same_and_more_of_a_download_does_not() -> None:
    first, later, more = (lines(BAR.format(part=part, clock=clock)) for part, clock in ((10, 5), (10, 9), (11, 9)))
    assert first == later != more
    assert lines(STARTED)[0] == "INFO [api_server.py:1839] vLLM API server version 0.11.2"
    assert lines(STARTED) == lines(STARTED.replace("05:01", "06:02"))


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("INFO [weight_utils.py] Time spent downloading weights", True),
        ("WARNING [x.py] Trying to resume download", False),
        ("ConnectionError: the hub does not answer", False),
        ("Error while downloading from https://hub: timed out", False),
        ("Retrying in 5s [Retry 2/5].", False),
    ],
)
def test_troubles_are_no_progress(line: str, progress: bool) -> None:
    assert advances(line) is progress


def test_of_several_tracebacks_the_cause_matters() -> None:
    """vLLM's server prints one of its own after that of its engine."""
    log = lines(CUDA_OOM)
    assert telling(log, runs=False).startswith("RuntimeError: CUDA out of memory occurred when warming up sampler")
    assert telling(log[:4], runs=False).startswith("ERROR [core.py:708] RuntimeError: CUDA out of memory occurred")
    assert telling(lines(FORBIDDEN), runs=False) == "OSError: You are trying to access a gated repo."


def test_the_line_that_matters() -> None:
    log = ["INFO loading", "ValueError: no memory", "RuntimeError: failed. See root cause above.", "INFO bye"]
    assert telling(log, runs=True) == "INFO bye"
    assert telling(log, runs=False) == "ValueError: no memory"
    assert telling(["INFO bye"], runs=False) == "INFO bye"
    assert telling([], runs=True) == ""
    assert telling(["WARNING slow", "INFO bye"], runs=False) == "WARNING slow"
    assert runs(pod("a", container=RUNNING))
    assert not runs(pod("a", container=BACK_OFF, last=CRASHED))
