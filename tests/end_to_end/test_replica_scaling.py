"""Pattern 3 on 1 to 3 replicas of a sandbox: measured and put back, after a kill too; and clusters that fail it."""

from __future__ import annotations

import copy
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmd_runbook.clients.kubernetes import HTTP_ROUTES
from llmd_runbook.errors import ApprovalNeeded
from llmd_runbook.manifest import Run, Status
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages.load import replica_scaling, traffic
from llmd_runbook.verdicts import Check, StepStatus, Verdict
from tests.end_to_end.bench import QWEN, SERVERS3, Bench, broken
from tests.end_to_end.callers import called_by, printed_roles, variant
from tests.end_to_end.cases import fails
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(600)

STAGE = "06_throughput_and_cost"
CELLS = (replica_scaling.plan, replica_scaling.restore, replica_scaling.measure, replica_scaling.judge)
TWO_SIZES = {"scale_up_to: 3": "scale_up_to: 2"}
"""Enough for what goes wrong whatever the size; the release has three replicas all the same."""
FEW_IN_FLIGHT = {
    "requests: 30": "requests: 20",
    "concurrency: 6": "concurrency: 2",
    "prompt_tokens: 70": "prompt_tokens: 4",
    "output_tokens: 8": "output_tokens: 16",
    "client_tolerance: 0.1": "client_tolerance: 0.5",  # the client adds the same to each size; a busy machine adds much
}
SOON_WITHOUT_A_NODE = {
    "inference_pool: gaie-pattern3": "inference_pool: gaie-pattern3\n  progress_deadlines: {capacity_s: 15}"
}
KILLED = """
import os, pathlib, signal
from llmd_runbook.run import begin
from llmd_runbook.stages.load import measurement, replica_scaling
stage = begin("06_throughput_and_cost", {!r}, "new", {!r}, output=pathlib.Path({!r}))
replica_scaling.plan(stage)
replica_scaling.restore(stage)
measured = measurement.measure
def measure(profile, target, pattern, *rest, **named):
    if pattern.replicas == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return measured(profile, target, pattern, *rest, **named)
measurement.measure = measure
replica_scaling.measure(stage)
"""


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Pattern 3 serves; the profile asks for 1 to 3 replicas, by hash, and the caller may do what the role says."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        made = Bench(sandbox, tmp_path_factory.mktemp("bench"))
        done = sandbox.start("llmd-runbook", "run", made.file, "--stages", "02,03", "--output", made.output)
        assert done.returncode == 0, done.stderr
        asked = {
            "approval: self": "approval: hash",
            "requests: 36": "requests: 30",  # with two replicas 60, one more than a p95 needs
            "  concurrency: 6": "  concurrency: 6\n  scale_up_to: 3",
        }
        made = variant(made, tmp_path_factory.mktemp("asked"), asked)
        yield called_by(made, tmp_path_factory.mktemp("operator"), printed_roles(sandbox, "operator"))


def opened(bench: Bench, approve: str = "") -> StageRun:
    return begin(STAGE, str(bench.file), "new", approve, output=bench.output)


def hash_of(bench: Bench) -> str:
    stage = opened(bench)
    replica_scaling.plan(stage)
    (waiting,) = stage.finish().unapproved
    return waiting.hash


def scaled(bench: Bench) -> dict[str, Check]:
    """The verdicts of an approved attempt."""
    stage = opened(bench, hash_of(bench))
    for call in CELLS:
        call(stage)
    return {check.id: check for check in stage.finish().checks}


def replicas(bench: Bench) -> str:
    return bench.kubectl("get", "deployment", SERVERS3, "-o", "jsonpath={.spec.replicas}")


def test_three_replicas_serve_more_and_are_back_afterwards(bench: Bench) -> None:
    """The whole notebook, as the operator runs it who has approved its plan."""
    words = ("--stages", "06", "--approve", f"06={hash_of(bench)}", "--json", "--output", bench.output)
    done = bench.sandbox.start("llmd-runbook", "run", bench.file, *words)
    record = Path(json.loads(done.stdout.splitlines()[-1])["record"])
    (attempt,) = Run.model_validate_json((record / "run.json").read_text()).stage(STAGE).attempts
    result = attempt.result
    assert attempt.status is Status.FINISHED, done.stderr
    assert result is not None
    assert [approval.by for approval in result.approvals] == ["hash"]
    found = {check.id: check for check in result.checks}
    assert {found[name].verdict for name in ("scaling.served", "scaling.restored")} == {Verdict.PASS}, found
    assert found["scaling.gain"].verdict is not Verdict.FAIL, found  # a busy machine may leave it undecided
    changed = [step.name for step in result.steps if step.status is StepStatus.CHANGED]
    on = ["run Pattern 3 on 2 replicas", "run Pattern 3 on 1 replica"]
    up = ["run Pattern 3 on 2 replicas", "run Pattern 3 on 3 replicas"]
    assert changed == [*on, *up, *on, "put the number of replicas back"]
    (table,) = [item for item in result.tables if item.title == "The same load on 1 to N replicas"]
    assert [row[:5] for row in table.rows] == [[size, 3, 18, 270, 0] for size in (1, 2, 3)]
    assert replicas(bench) == "3"


def test_the_release_can_be_changed_afterwards(bench: Bench) -> None:
    """Replicas that somebody else owns are a conflict for helm 4, which applies on the server's side."""
    chart, values = PROJECT_ROOT / "lib/llmd_sandbox/charts/modelservice", PARAMETERS / "helm/ms-pattern3.yaml"
    for more in (["--set", "decode.replicas=2"], []):
        done = bench.sandbox.start("helm", "upgrade", "ms-pattern3", chart, "--namespace", "llm-d", "-f", values, *more)
        assert done.returncode == 0, done.stderr
        bench.settled(SERVERS3)
        assert replicas(bench) == ("2" if more else "3")
    bench.answers(bench.profile.pattern3.model)


def test_what_a_killed_attempt_left_is_put_back_by_the_next(bench: Bench, tmp_path: Path) -> None:
    asking = variant(bench, tmp_path, TWO_SIZES)
    approve = hash_of(asking)
    killed = bench.sandbox.start(sys.executable, "-c", KILLED.format(str(asking.file), approve, str(asking.output)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert replicas(bench) == "1"
    refused = opened(asking)
    replica_scaling.plan(refused)
    with pytest.raises(ApprovalNeeded, match="runs on 1 replicas, and its release says 3") as said:
        replica_scaling.restore(refused)
    refused.abandon("ApprovalNeeded", "as a cell that raises does")
    assert replicas(bench) == "1"
    again = opened(asking, approve)  # the intent is the same, and so is its hash
    replica_scaling.plan(again)
    replica_scaling.restore(again)
    again.finish()
    assert replicas(bench) == "3"
    bench.scaled(SERVERS3, 1)
    command = str(said.value.remedy).partition("by hand: ")[2]
    subprocess.run(["bash", "-c", command], env=bench.sandbox.environment, check=True, capture_output=True)
    assert replicas(bench) == "3"
    bench.settled(SERVERS3)
    bench.answers(bench.profile.pattern3.model)


@contextmanager
def canary(bench: Bench) -> Iterator[None]:
    """The route sends one request in ten to a Service that does not exist."""
    plain = traffic.manifest(bench.profile, bench.profile.pattern3)
    route = copy.deepcopy(plain)
    (pool,) = route["spec"]["rules"][0]["backendRefs"]
    gone = {"kind": "Service", "name": "canary", "port": 8000, "weight": 1}
    route["spec"]["rules"][0]["backendRefs"] = [pool | {"weight": 9}, gone]
    bench.kube.apply(HTTP_ROUTES, route, "llm-d")
    try:
        bench.refuses(bench.profile.pattern3.model)
        yield
    finally:
        bench.kube.apply(HTTP_ROUTES, plain, "llm-d")
        bench.answers(bench.profile.pattern3.model)


@fails("scaling.served")
def test_a_route_that_still_sends_a_part_to_a_backend_that_is_gone(bench: Bench, tmp_path: Path) -> None:
    """What is left of a canary, whatever the number of replicas."""
    with canary(bench):
        found = scaled(variant(bench, tmp_path, TWO_SIZES))
    assert "http_500" in broken(found, "scaling.served", "scaling.gain").observed
    assert found["scaling.gain"].verdict is Verdict.INCONCLUSIVE
    assert "not comparable: failed requests" in found["scaling.gain"].observed


@fails("scaling.gain")
def test_replicas_for_fewer_requests_than_one_of_them_would_batch(bench: Bench, tmp_path: Path) -> None:
    """Six requests in flight, nearly without a prompt: each replica answers its part no faster than one answers all."""
    found = scaled(variant(bench, tmp_path, FEW_IN_FLIGHT))
    assert "of the gain that would be linear" in broken(found, "scaling.gain").observed


@fails("scaling.restored")
def test_a_node_that_is_cordoned_while_fewer_replicas_run(bench: Bench, tmp_path: Path) -> None:
    """The replica on it goes first, and none of the sizes measured needs its node; the release's number does."""
    pod = bench.kubectl("get", "pods", "-l", QWEN, "-o", "jsonpath={.items[0].metadata.name}")
    node = bench.kubectl("get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
    bench.kubectl("annotate", "pod", pod, "controller.kubernetes.io/pod-deletion-cost=-100")
    bench.kubectl("cordon", node)
    try:
        found = scaled(variant(bench, tmp_path, TWO_SIZES | SOON_WITHOUT_A_NODE))
    finally:
        bench.kubectl("uncordon", node)
        bench.settled(SERVERS3)
    check = broken(found, "scaling.restored", "scaling.gain")
    assert found["scaling.gain"].verdict is not Verdict.FAIL, found  # a busy machine may leave it undecided
    assert check.observed.startswith("3 asked for, ")
    assert "in its phase capacity; 15 s are allowed" in check.observed
