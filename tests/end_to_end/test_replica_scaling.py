"""Pattern 3 on 1 to 3 replicas of a sandbox: measured and put back, after a kill too; and clusters that fail it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_runbook.clients.kubernetes import HTTP_ROUTES
from llmd_runbook.errors import ApprovalNeeded
from llmd_runbook.manifest import Run, Status
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT, load
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages.load import replica_scaling, traffic
from llmd_runbook.verdicts import Check, StepStatus, Verdict
from tests.end_to_end.bench import SERVERS3, Bench, Call, broken
from tests.end_to_end.callers import called_by, printed_roles
from tests.end_to_end.cases import fails
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(600)

STAGE = "06_throughput_and_cost"
QWEN = "llm-d.ai/model=Qwen2.5-3B-Instruct"
CELLS = (replica_scaling.restore, replica_scaling.measure, replica_scaling.judge)
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
        text = made.file.read_text().replace("approval: self", "approval: hash")
        made.file.write_text(text.replace("  concurrency: 6", "  concurrency: 6\n  scale_up_to: 3"))
        made.profile = load(str(made.file))
        yield called_by(made, tmp_path_factory.mktemp("operator"), printed_roles(sandbox, "operator"))


def opened(bench: Bench, ready_timeout_s: float = 90, approve: str = "") -> StageRun:
    stage = begin(STAGE, str(bench.file), "new", approve, output=bench.output)
    pattern3 = stage.profile.pattern3.model_copy(update={"ready_timeout_s": ready_timeout_s})
    stage.profile = stage.profile.model_copy(update={"pattern3": pattern3})
    return stage


def hash_of(bench: Bench) -> str:
    stage = opened(bench)
    replica_scaling.plan(stage)
    (waiting,) = stage.finish().unapproved
    return waiting.hash


def scaled(bench: Bench, *then: Call, ready_timeout_s: float = 90) -> dict[str, Check]:
    """The verdicts of an approved attempt; `then` comes after its plan."""
    stage = opened(bench, ready_timeout_s, hash_of(bench))
    replica_scaling.plan(stage)
    for call in (*then, *CELLS):
        call(stage)
    return {check.id: check for check in stage.finish().checks}


def longer_answers(stage: StageRun) -> None:
    """So that the engine's time, which is always the same, outweighs what a busy machine adds to it."""
    longer = stage.profile.load.model_copy(update={"output_tokens": 24})
    stage.profile = stage.profile.model_copy(update={"load": longer})


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
    assert [row[:5] for row in table.rows] == [[size, 3, 18, 324, 0] for size in (1, 2, 3)]
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


def test_what_a_killed_attempt_left_is_put_back_by_the_next(bench: Bench) -> None:
    approve = hash_of(bench)
    killed = bench.sandbox.start(sys.executable, "-c", KILLED.format(str(bench.file), approve, str(bench.output)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert replicas(bench) == "1"
    refused = opened(bench)
    replica_scaling.plan(refused)
    with pytest.raises(ApprovalNeeded, match="runs on 1 replicas, and its release says 3") as said:
        replica_scaling.restore(refused)
    refused.abandon("ApprovalNeeded", "as a cell that raises does")
    assert replicas(bench) == "1"
    again = opened(bench, approve=approve)  # the intent is the same, and so is its hash
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


@fails("scaling.gain", "scaling.served")
def test_more_replicas_behind_a_route_to_one_of_them(bench: Bench, tmp_path: Path) -> None:
    """A Service in the pool's place leads to one pod, which goes last when the Deployment shrinks."""
    pod = bench.kubectl("get", "pods", "-l", QWEN, "-o", "jsonpath={.items[0].metadata.name}")
    bench.kubectl("label", "pod", pod, "only=this")
    bench.kubectl("annotate", "pod", pod, "controller.kubernetes.io/pod-deletion-cost=100")
    spec = {"selector": {"only": "this"}, "ports": [{"port": 8000}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "one", "namespace": "llm-d"}, "spec": spec}
    bench.create(json.dumps(service), tmp_path)
    route = traffic.manifest(bench.profile, bench.profile.pattern3)
    route["spec"]["rules"][0]["backendRefs"] = [{"kind": "Service", "name": "one", "port": 8000}]
    bench.kube.apply(HTTP_ROUTES, route, "llm-d")
    bench.answers(bench.profile.pattern3.model)
    found = scaled(bench, longer_answers)
    bench.kube.apply(HTTP_ROUTES, traffic.manifest(bench.profile, bench.profile.pattern3), "llm-d")
    bench.kubectl("delete", "service", "one")
    bench.answers(bench.profile.pattern3.model)
    assert "of the gain that would be linear" in broken(found, "scaling.gain", "scaling.served").observed
    assert found["scaling.served"].verdict is Verdict.FAIL
    assert "had no request" in found["scaling.served"].observed


@fails("scaling.restored")
def test_replicas_that_find_no_node_to_come_back_to(bench: Bench) -> None:
    label = "cloud.google.com/gke-nodepool=nvidia-t4-pool"

    def cordon(_: StageRun) -> None:
        bench.kubectl("cordon", "-l", label)

    found = scaled(bench, cordon, ready_timeout_s=20)
    bench.kubectl("uncordon", "-l", label)
    bench.settled(SERVERS3)
    check = broken(found, "scaling.restored", "scaling.served", "scaling.gain")
    assert "3 asked for, 1 Ready; waited 20 s for 3 Ready replicas" in check.observed
    assert "waited 20 s for 2 Ready replicas" in found["scaling.served"].observed
