"""Waiting for pods that come no further, each given up at its phase's deadline and in its own words.

A replica whose download takes longer than its phase may be without progress, with and without any: 1200 s take 24 s
here. A server that ends as it starts, again and again. And a picker without an image, or without a node. The tests
share a sandbox; each starts what it waits for anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, PODS
from llmd_runbook.errors import DeadlineExceeded
from llmd_runbook.profile import ProgressDeadlines
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages import site
from llmd_runbook.stages.waiting import pickers, replicas
from llmd_runbook.topology import Replica, condition
from tests.end_to_end.bench import SERVERS1, Bench
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(300)

PICKER1 = "gaie-pattern1-epp"
DOWNLOAD_S = "1200"
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))


@pytest.fixture
def stage(bench: Bench) -> Iterator[StageRun]:
    opened = begin("03_swap_patterns", str(bench.file), "new", output=bench.output)
    yield opened
    opened.abandon("Done", "only waited")


def start_anew(bench: Bench, selector: str, *annotations: str, position: str = "0") -> None:
    """Pattern 1's server starts on nodes so annotated, with that TQDM_POSITION; the rollout's deadline is short."""
    bench.scaled(SERVERS1, 0)
    bench.pods(selector, 0)
    bench.kubectl("annotate", "node", "--all", "--overwrite", *(f"llmd-sandbox/{each}" for each in annotations))
    environment = [{"name": "TQDM_POSITION", "value": position}]
    template = {"spec": {"containers": [{"name": "vllm", "env": environment}]}}
    bench.kubectl(
        "patch",
        "deployment",
        SERVERS1,
        "-p",
        json.dumps({"spec": {"replicas": 1, "progressDeadlineSeconds": 5, "template": template}}),
    )
    bench.pods(selector, 1)


def waited(bench: Bench, stage: StageRun, servers: site.ModelServers, **limits_s: float) -> list[Replica]:
    deadlines = ProgressDeadlines(**{"download_s": LIMIT_S, **limits_s})
    pattern = stage.profile.pattern1.model_copy(update={"progress_deadlines": deadlines})
    with stage.step("wait") as step:
        return replicas.wait_for(stage, bench.kube, pattern, servers, step)


def servers_of(stage: StageRun) -> site.ModelServers:
    return site.model_servers(site.driver(stage.profile, stage.profile.pattern1).render(), stage.profile)


def test_a_download_that_advances_passes_though_kubernetes_calls_the_rollout_failed(
    bench: Bench, stage: StageRun
) -> None:
    servers = servers_of(stage)
    start_anew(bench, servers.selector, f"download-s={DOWNLOAD_S}", position="-1")

    def exceeded(items: list[dict[str, Any]]) -> bool:
        status = next(item for item in items if item["metadata"]["name"] == SERVERS1).get("status", {})
        return condition(status, "Progressing") == "False (ProgressDeadlineExceeded)"

    bench.kube.wait(DEPLOYMENTS, exceeded, what="the deadline to pass", timeout_s=20, remedy="look", namespace="llm-d")
    assert len(waited(bench, stage, servers)) == 1
    (table,) = stage.finish().tables
    ((_, phase, restarts, spent, event, line),) = table.rows
    assert (phase, restarts) == ("ready", 0)
    assert event
    assert "download" in str(spent)
    assert int(str(spent).split("download ")[1].split(" ")[0]) > LIMIT_S
    assert str(line).startswith("log: ")


def test_a_download_that_says_nothing_is_given_up_with_its_last_words(bench: Bench, stage: StageRun) -> None:
    servers = servers_of(stage)
    start_anew(bench, servers.selector, f"download-s={DOWNLOAD_S}")
    with pytest.raises(DeadlineExceeded) as caught:
        waited(bench, stage, servers)
    (pod,) = bench.kube.all(PODS, "llm-d", servers.selector)
    assert f"pod {pod['metadata']['name']} showed no progress for 1" in caught.value.what
    assert "in its phase download; 10 s are allowed" in caught.value.what
    assert "Unhealthy: Startup probe failed" in str(caught.value.reason)
    assert "Starting to load model google/gemma-2b-it..." in str(caught.value.reason)
    assert "pattern1.progress_deadlines.download_s" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("changed", "phase", "said"),
    [
        ({"image": "nowhere.example/none:v1"}, "image pull", 'image "nowhere.example/none:v1"'),
        ({"resources": {"requests": {"cpu": "64"}}}, "capacity", "Insufficient cpu"),
    ],
)
def test_a_picker_that_cannot_start_is_given_up_at_its_phases_deadline(
    bench: Bench, stage: StageRun, changed: dict[str, Any], phase: str, said: str
) -> None:
    deadlines = ProgressDeadlines(capacity_s=LIMIT_S, image_pull_s=LIMIT_S)
    pattern = stage.profile.pattern1.model_copy(update={"progress_deadlines": deadlines})
    template = {"spec": {"containers": [{"name": "epp", **changed}]}}
    bench.kubectl("patch", "deployment", PICKER1, "-p", json.dumps({"spec": {"template": template}}))
    with pytest.raises(DeadlineExceeded) as caught, stage.step("wait") as step:
        pickers.wait_for(stage, bench.kube, pattern, PICKER1, step)
    bench.kubectl("rollout", "undo", f"deployment/{PICKER1}")
    with stage.step("wait again") as step:
        pickers.wait_for(stage, bench.kube, pattern, PICKER1, step)
    assert f"in its phase {phase}; {LIMIT_S:.0f} s are allowed" in caught.value.what
    assert said in str(caught.value.reason)
    assert f"pattern1.progress_deadlines.{phase.replace(' ', '_')}_s" in str(caught.value.remedy)
    given_up, again = stage.finish().tables
    assert [row[1] for row in given_up.rows] == [phase]
    assert [row[1] for row in again.rows] == ["ready"]


@pytest.mark.parametrize(
    ("how", "phase", "limits_s", "said"),
    [
        (
            "cuda-oom",
            "warm up",
            {"warm_up_s": 4.0},
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try "
            "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine.",
        ),
        ("forbidden", "download", {"download_s": 4.0}, "OSError: You are trying to access a gated repo."),
    ],
)
def test_a_server_that_ends_as_it_starts_is_given_up_with_its_own_words(
    bench: Bench, stage: StageRun, how: str, phase: str, limits_s: dict[str, float], said: str
) -> None:
    """The guide's Issues 3 and 2; whether the container runs again at the moment or waits to, its cause is told."""
    servers = servers_of(stage)
    start_anew(bench, servers.selector, "download-s=0", f"start={how}")
    with pytest.raises(DeadlineExceeded, match=f"in its phase {phase}; 4 s are allowed") as caught:
        waited(bench, stage, servers, **limits_s)
    bench.kubectl("annotate", "node", "--all", "llmd-sandbox/start-")
    reason = str(caught.value.reason)
    assert f"what ended it: {said}" in reason
    assert "Error: exit code 1" in reason
