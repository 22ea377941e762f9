"""Plans of the stages that change something: shown, approved by hash, and nothing without it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from llmd_runbook.errors import Conflict
from llmd_runbook.manifest import How, Run, Status
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT
from llmd_runbook.run import begin
from llmd_runbook.run.notebooks import FOLDER
from llmd_runbook.stages import cleanup, cleanup_plan
from llmd_runbook.verdicts import Step, StepStatus, Verdict
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(600)

WRONG = "0" * 64
CHANGES = {
    "approval: self": "approval: hash",
    "../lib/": f"{PROJECT_ROOT}/lib/",
    "[helm/": f"[{PARAMETERS}/helm/",
}
KINDS = "deployments,services,configmaps,serviceaccounts,roles,rolebindings,secrets,inferencepools,httproutes,gateways"
KILLED = """
import os, pathlib, signal
from llmd_runbook.run import begin
from llmd_runbook.stages.swap import patterns, plan
stage = begin("03_swap_patterns", {!r}, "new", {!r}, output=pathlib.Path({!r}))
plan.plan(stage)
with stage.changing():
    patterns.remove(stage, stage.profile.pattern1)
    os.kill(os.getpid(), signal.SIGKILL)
"""

LAB = """
import os, sys
import nbformat
from nbclient import NotebookClient
source, profile, out = sys.argv[1:]
book = nbformat.read(source, 4)
(cell,) = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
cell.source = cell.source.replace('"sandbox"', repr(profile))
NotebookClient(book, timeout=300, kernel_name="python3").execute(env={**os.environ, "JPY_SESSION_NAME": "a.ipynb"})
nbformat.write(book, out)
"""


class Bench:
    """A sandbox on Pattern 1, a profile whose plans are approved by hash, and what the tests keep for one another."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.output = sandbox, folder / "runs"
        text = (PARAMETERS / "sandbox.yaml").read_text()
        for old, new in CHANGES.items():
            assert old in text, f"{old!r} is not in the profile any more"
            text = text.replace(old, new)
        self.profile = folder / "by-hash.yaml"
        self.profile.write_text(text)
        self.approvals = folder / "approvals"

    def run(self, *words: str | Path) -> tuple[subprocess.CompletedProcess[str], Run]:
        """`llmd-runbook run`, and its record."""
        done = self.sandbox.start("llmd-runbook", "run", self.profile, "--json", "--output", self.output, *words)
        summary = json.loads(done.stdout.splitlines()[-1])
        return done, Run.model_validate_json((Path(summary["record"]) / "run.json").read_text())

    def versions(self) -> dict[str, str]:
        """resourceVersion of every object that a change of the stages would touch."""
        listed = json.loads(self.sandbox.kubectl("get", KINDS, "-o", "json"))["items"]
        nodes = json.loads(self.sandbox.kubectl("get", "nodes", "-o", "json"))["items"]
        found = {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in listed}
        return found | {f"Node/{item['metadata']['name']}": item["metadata"]["uid"] for item in nodes}


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("given", [False, True], ids=["no hash", "another hash"])
@pytest.mark.parametrize("stage", ["02_scale_pool", "03_swap_patterns"])
def test_without_its_hash_a_stage_changes_nothing(bench: Bench, stage: str, given: bool) -> None:
    before = bench.versions()
    done, run = bench.run("--stages", stage, *(["--approve", f"{stage}={WRONG}"] if given else []))
    assert bench.versions() == before
    assert (done.returncode, run.exit_code, run.status) == (4, 4, Status.NEEDS_APPROVAL), done.stderr
    (attempt,) = run.stage(stage).attempts
    assert attempt.result is not None
    (approval,) = attempt.result.unapproved
    assert (approval.given, attempt.verdict) == (WRONG if given else "", Verdict.INCONCLUSIVE)
    assert f"--approve {stage[:2]}={approval.hash}" in done.stderr
    assert attempt.result.steps[-1].status is StepStatus.SKIPPED


@pytest.mark.parametrize("stage", ["02_scale_pool", "03_swap_patterns"])
def test_jupyterlab_shows_plan_and_hash_and_what_to_set_and_no_traceback(
    bench: Bench, tmp_path: Path, stage: str
) -> None:
    """Every cell run one after the other, as an operator does who has not approved anything yet."""
    before, out = bench.versions(), tmp_path / "out.ipynb"
    words = (FOLDER / f"{stage}.ipynb", bench.profile, out)
    done = bench.sandbox.start(sys.executable, "-c", LAB, *words, LLMD_RUNBOOK_OUTPUT=str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert bench.versions() == before
    (manifest,) = (tmp_path / "runs").glob("*/*/run.json")
    run = Run.model_validate_json(manifest.read_text())
    (attempt,) = run.stage(stage).attempts
    assert attempt.result is not None
    assert (run.how, attempt.status, attempt.verdict) == (How.LAB, Status.FINISHED, Verdict.INCONCLUSIVE)
    code = [cell for cell in nbformat.read(out, 4).cells if cell.cell_type == "code"]
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    (planned,) = [cell for cell in code if "plan" in cell.metadata.get("tags", [])]
    shown = "\n".join(output.data["text/plain"] for output in planned.outputs if "data" in output)
    (approval,) = attempt.result.unapproved
    assert "NOT APPROVED, nothing of this plan is done." in shown
    assert f'set approve = "{approval.hash}" in the parameter cell and run the notebook again' in shown
    assert "Dollars per hour" in shown
    after = code[code.index(planned) + 1 :]
    texts = [output.data.get("text/plain", "") for cell in after for output in cell.outputs if "data" in output]
    assert any("the plan is not approved" in text for text in texts)
    assert any("Not done, so not verified" in text for text in texts)


def test_plan_only_shows_every_plan_and_changes_nothing(bench: Bench) -> None:
    before = bench.versions()
    done, run = bench.run("--plan-only")
    assert bench.versions() == before
    assert (done.returncode, run.exit_code, run.status, run.verdict) == (4, 4, Status.FINISHED, None), done.stderr
    numbers = ("02", "03", "05", "06", "07")
    assert tuple(record.stage[:2] for record in run.stages) == numbers
    assert [record.would_change for record in run.stages] == [True, True, False, False, False]
    hashes = {}
    for stage in ("02_scale_pool", "03_swap_patterns", "07_cleanup"):
        (attempt,) = run.stage(stage).attempts
        assert attempt.result is not None
        assert (attempt.result.plan_only, attempt.result.checks) == (True, [])
        hashes[stage] = attempt.result.data["plan"]["hash"]
    bench.approvals.write_text("".join(f"{stage}={text}\n" for stage, text in hashes.items()))
    notebook = (bench.output / "sandbox" / run.id / "03_swap_patterns.ipynb").read_text()
    assert "Objects before and after (23)" in notebook


def test_a_stage_that_was_killed_goes_on_with_the_same_hash(bench: Bench) -> None:
    """And all of them were approved before the first of them ran: no hash depends on an earlier stage's result."""
    approve = ("--approve", f"@{bench.approvals}")
    done, run = bench.run("--stages", "02", *approve)
    assert (done.returncode, run.verdict) == (0, Verdict.PASS), done.stderr
    lines = dict(line.split("=") for line in bench.approvals.read_text().split())
    words = (str(bench.profile), lines["03_swap_patterns"], str(bench.output))
    killed = bench.sandbox.start(sys.executable, "-c", KILLED.format(*words))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert bench.sandbox.kubectl("get", "inferencepools", "-o", "name") == ""
    done, run = bench.run("--stages", "03", *approve)
    assert (done.returncode, run.verdict) == (0, Verdict.PASS), done.stderr
    (attempt,) = run.stage("03_swap_patterns").attempts
    assert attempt.result is not None
    assert [approval.by for approval in attempt.result.approvals] == ["hash"]
    assert "absent already" in [step.detail for step in attempt.result.steps]


def test_where_nothing_would_change_nothing_needs_approval(bench: Bench) -> None:
    done, run = bench.run("--stages", "02,03", "--plan-only")
    assert (done.returncode, run.exit_code) == (0, 0), done.stderr
    before = bench.versions()
    done, run = bench.run("--stages", "02,03")
    assert bench.versions() == before
    assert (done.returncode, run.verdict) == (0, Verdict.PASS), done.stderr
    assert not any(step.status is StepStatus.CHANGED for step in _steps(run))


def test_what_moved_since_the_plan_is_named_and_not_touched(bench: Bench) -> None:
    lines = dict(line.split("=") for line in bench.approvals.read_text().split())
    stage = begin("07_cleanup", str(bench.profile), "new", lines["07_cleanup"], output=bench.output)
    cleanup_plan.plan(stage)
    servers = "deployment/ms-pattern3-llm-d-modelservice-decode"
    bench.sandbox.kubectl("scale", servers, "--replicas=2")
    before = {name: version for name, version in bench.versions().items() if "ms-pattern3" not in name}
    with pytest.raises(Conflict) as refused:
        cleanup.apply(stage)
    stage.finish()
    stage.abandon("Done", "it was meant to fail")
    assert re.search(r"Deployment ms-pattern3\S+: generation: \d+ became \d+", str(refused.value))
    assert {name: version for name, version in bench.versions().items() if "ms-pattern3" not in name} == before
    bench.sandbox.kubectl("scale", servers, "--replicas=3")
    bench.sandbox.kubectl("rollout", "status", servers, "--timeout=90s")


def test_the_way_back_was_approved_in_advance(bench: Bench) -> None:
    done, run = bench.run("--stages", "07", "--approve", f"@{bench.approvals}")
    assert (done.returncode, run.verdict) == (0, Verdict.PASS), done.stderr
    done, run = bench.run("--stages", "07", "--plan-only")
    assert (done.returncode, run.exit_code) == (0, 0), done.stderr


def _steps(run: Run) -> list[Step]:
    return [
        step for record in run.stages for attempt in record.attempts if attempt.result for step in attempt.result.steps
    ]
