"""Changes of stage 05 that must be approved: nothing without the hash, all of it with it, and the way back."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_runbook.errors import Conflict
from llmd_runbook.manifest import Run, Status
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT
from llmd_runbook.run import StageRun, begin
from llmd_runbook.run.notebooks import FOLDER
from llmd_runbook.stages.routing import changes, picker_log_level, replica_failure
from llmd_runbook.verdicts import StepStatus, Verdict
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(600)

PICKER = "gaie-pattern3-epp"
STAGE = "05_routing_affinity"
ARGS = "jsonpath={.spec.template.spec.containers[0].args}"
NOTE = r"jsonpath={.metadata.annotations.llmd-runbook/verbosity-before}"
CHANGES = {
    "approval: self": "approval: hash",
    "ready_timeout_s: 120": "ready_timeout_s: 90",
    "groups: 10": "groups: 10\n  raise_log_level: true\n  kill_replica: true",
    "independent: 30": "independent: 18",
    "prefix_tokens: 256": "prefix_tokens: 128",
    "../lib/": f"{PROJECT_ROOT}/lib/",
    "[helm/": f"[{PARAMETERS}/helm/",
}
WRONG = "0" * 64
KILLED = """
import os, pathlib, signal
from llmd_runbook.run import begin
from llmd_runbook.stages.routing import changes, picker_log_level
stage = begin("05_routing_affinity", {!r}, "new", {!r}, output=pathlib.Path({!r}))
changes.plan(stage)
picker_log_level.raise_level(stage)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Bench:
    """A sandbox on Pattern 3 whose picker logs nothing, and profiles that ask for changes."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder, self.output = sandbox, folder, folder / "runs"
        text = (PARAMETERS / "sandbox.yaml").read_text()
        for old, new in CHANGES.items():
            assert old in text, f"{old!r} is not in the profile any more"
            text = text.replace(old, new)
        self.both = folder / "both.yaml"
        self.both.write_text(text)
        self.level_alone = folder / "level.yaml"
        self.level_alone.write_text(text.replace("kill_replica: true", "kill_replica: false"))

    def run(self, *words: str) -> tuple[subprocess.CompletedProcess[str], Run]:
        """`llmd-runbook run` of stage 05, and its record."""
        done = self.sandbox.start(
            "llmd-runbook", "run", self.both, "--stages", "05", "--json", "--output", self.output, *words
        )
        summary = json.loads(done.stdout.splitlines()[-1])
        return done, Run.model_validate_json((Path(summary["record"]) / "run.json").read_text())

    def open(self, profile: Path, approve: str = "") -> StageRun:
        return begin(STAGE, str(profile), "new", approve, output=self.output)

    def hash_of(self, profile: Path) -> str:
        """The hash that the stage shows."""
        stage = self.open(profile)
        changes.plan(stage)
        (waiting,) = stage.finish().unapproved
        return waiting.hash

    def arguments(self) -> list[str]:
        words: list[str] = json.loads(self.sandbox.kubectl("get", "deployment", PICKER, "-o", ARGS))
        return words

    def level(self) -> str:
        words = self.arguments()
        return words[words.index("--v") + 1]

    def note(self) -> str:
        return self.sandbox.kubectl("get", "deployment", PICKER, "-o", NOTE)

    def state(self) -> tuple[str, str]:
        """What a change would change: the picker's generation, and which pods there are."""
        generation = self.sandbox.kubectl("get", "deployment", PICKER, "-o", "jsonpath={.metadata.generation}")
        pods = self.sandbox.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")
        return generation, pods

    def install(self, level: int) -> None:
        """The picker's release as an operator changes it."""
        chart, values = PROJECT_ROOT / "lib/llmd_sandbox/charts/inferencepool", PARAMETERS / "helm/gaie-pattern3.yaml"
        words = ("--namespace", "llm-d", "-f", values, "--set", f"inferenceExtension.flags.v={level}")
        done = self.sandbox.start("helm", "upgrade", "gaie-pattern3", chart, *words)
        assert done.returncode == 0, done.stderr
        self.rolled_out()

    def rolled_out(self) -> None:
        self.sandbox.kubectl("rollout", "status", f"deployment/{PICKER}", "--timeout=60s")

    def patch(self, args: list[str]) -> None:
        operation = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": args}]
        self.sandbox.kubectl("patch", "deployment", PICKER, "--type=json", "-p", json.dumps(operation))
        self.rolled_out()


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    output = tmp_path_factory.mktemp("swap")
    done = sandbox.start("llmd-runbook", "run", "sandbox", "--stages", "02,03", "--output", output)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        made = Bench(sandbox, tmp_path_factory.mktemp("bench"))
        made.install(level=1)
        yield made


@pytest.mark.parametrize("given", [[], ["--approve", f"05={WRONG}"]], ids=["no hash", "another hash"])
def test_without_its_hash_nothing_is_changed_and_the_rest_is_judged(bench: Bench, given: list[str]) -> None:
    before = bench.state()
    done, run = bench.run(*given)
    assert bench.state() == before
    assert (done.returncode, run.exit_code, run.status) == (4, 4, Status.NEEDS_APPROVAL), done.stderr
    (attempt,) = run.stage(STAGE).attempts
    assert attempt.result is not None
    (approval,) = attempt.result.unapproved
    assert approval.given == (WRONG if given else "")
    assert f"--approve 05={approval.hash}" in done.stderr
    assert (attempt.status, attempt.verdict) == (Status.FINISHED, Verdict.INCONCLUSIVE)
    titles = {table.title.split(" (")[0] for table in attempt.result.tables}
    assert {"Plan", "Dollars per hour", "How long"} <= titles
    notebook = (bench.output / "sandbox" / run.id / f"{STAGE}.ipynb").read_text()
    assert "Objects before and after (1)" in notebook  # the picker's Deployment
    verdicts = {check.id: check.verdict for check in attempt.result.checks}
    assert "affinity.prefix" in verdicts
    assert {verdict for name, verdict in verdicts.items() if name.startswith("failure.")} == {Verdict.INCONCLUSIVE}
    skipped = [step.name for step in attempt.result.steps if step.status is StepStatus.SKIPPED]
    assert skipped == [
        "raise the picker's log level",
        "kill one replica during traffic",
        "put the picker's log level back",
    ]


def test_with_its_hash_everything_is_done_and_the_level_is_put_back(bench: Bench) -> None:
    arguments, (_, pods) = bench.arguments(), bench.state()
    done, run = bench.run("--approve", f"05={bench.hash_of(bench.both)}")
    assert (done.returncode, run.status) == (run.exit_code, Status.FINISHED), done.stderr
    (attempt,) = run.stage(STAGE).attempts
    assert attempt.result is not None
    assert [approval.by for approval in attempt.result.approvals] == ["hash"]
    changed = [step.name for step in attempt.result.steps if step.status is StepStatus.CHANGED]
    assert changed == [
        "raise the picker's log level",
        "kill the home of most prefixes",
        "put the picker's log level back",
    ]
    failure = {check.id: check.verdict for check in attempt.result.checks if check.id.startswith("failure.")}
    assert failure == dict.fromkeys((spec.id for spec in replica_failure.CHECKS), Verdict.PASS)
    assert attempt.result.data["failure"]["attributed_by"] == "picker's log"
    assert bench.arguments() == arguments
    assert bench.note() == ""
    gone = set(pods.split()) - set(bench.state()[1].split())
    assert len(gone) == 2  # the picker, restarted, and one replica


def test_the_release_can_be_changed_afterwards(bench: Bench) -> None:
    """Fields that somebody else owns are a conflict for helm 4, which applies on the server's side."""
    bench.install(level=2)
    assert bench.level() == "2"
    bench.install(level=1)


def test_plain_papermill_takes_the_hash_too(bench: Bench, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    given = ("-p", "profile", bench.level_alone, "-p", "approve", bench.hash_of(bench.level_alone))
    done = bench.sandbox.start(
        "papermill", FOLDER / f"{STAGE}.ipynb", out, *given, LLMD_RUNBOOK_OUTPUT=str(tmp_path / "runs")
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "runs").glob("*/*/run.json")
    (attempt,) = Run.model_validate_json(manifest.read_text()).stage(STAGE).attempts
    assert attempt.result is not None
    assert [approval.by for approval in attempt.result.approvals] == ["hash"]
    assert bench.level() == "1"


def test_a_picker_in_a_gitops_tools_care_is_not_restarted(bench: Bench) -> None:
    mark, stage = "argocd.argoproj.io/tracking-id", bench.open(bench.level_alone)
    bench.sandbox.kubectl("annotate", "deployment", PICKER, f"{mark}=models:apps/Deployment:llm-d/{PICKER}")
    before = bench.state()
    with pytest.raises(Conflict, match="in somebody else's care; nothing was changed") as refused:
        changes.plan(stage)
    stage.abandon("Refused", "as a cell that raises does")
    assert bench.state() == before
    bench.sandbox.kubectl("annotate", "deployment", PICKER, f"{mark}-")
    assert f"Deployment llm-d/{PICKER}: Argo CD application models" in str(refused.value.reason)


def test_what_moved_since_the_plan_is_named_and_nothing_is_done(bench: Bench) -> None:
    stage = bench.open(bench.level_alone, bench.hash_of(bench.level_alone))
    changes.plan(stage)
    arguments = bench.arguments()
    bench.patch([*arguments, "--metrics-endpoint-auth=false"])
    with pytest.raises(Conflict) as refused:
        picker_log_level.raise_level(stage)
    stage.finish()
    assert re.search(r"generation: \d+ became \d+", str(refused.value))
    assert "arguments: " in str(refused.value)
    assert (bench.level(), bench.note()) == ("1", "")
    bench.patch(arguments)


def test_an_attempt_that_breaks_puts_the_level_back(bench: Bench) -> None:
    stage = bench.open(bench.level_alone, bench.hash_of(bench.level_alone))
    changes.plan(stage)
    picker_log_level.raise_level(stage)
    assert (bench.level(), bench.note()) == ("4", "1")
    stage.abandon("Broken", "as a cell that raises does")
    assert (bench.level(), bench.note()) == ("1", "")


def test_a_later_attempt_finds_what_an_earlier_one_left(bench: Bench) -> None:
    wanted = bench.hash_of(bench.level_alone)
    killed = bench.sandbox.start(sys.executable, "-c", KILLED.format(str(bench.level_alone), wanted, str(bench.output)))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (bench.level(), bench.note()) == ("4", "1")
    again = bench.open(bench.level_alone, wanted)  # the intent is the same, and so is its hash
    changes.plan(again)
    picker_log_level.raise_level(again)
    picker_log_level.restore(again)
    result = again.finish()
    steps = [step for step in result.steps if step.name != "take the lock"]
    assert [step.status for step in steps] == [StepStatus.OK, StepStatus.OK, StepStatus.CHANGED]
    assert (bench.level(), bench.note()) == ("1", "")


def test_the_command_that_is_shown_puts_it_back_by_hand(
    bench: Bench, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = bench.open(bench.level_alone, bench.hash_of(bench.level_alone))
    changes.plan(stage)
    before = bench.arguments()
    picker_log_level.raise_level(stage)
    with monkeypatch.context() as broken:
        broken.setattr("llmd_runbook.clients.kubernetes.Kubernetes.patch", _refuse)
        result = stage.finish()
    assert bench.level() == "4"
    command = capfd.readouterr().err.partition("put it back by hand: ")[2].strip()
    assert [note.title for note in result.notes if command in note.text] == ["Put this back by hand"]
    subprocess.run(["bash", "-c", command], env=bench.sandbox.environment, check=True, capture_output=True)
    assert (bench.arguments(), bench.note()) == (before, "")


def test_a_replica_is_not_killed_when_nobody_can_say_who_answered(bench: Bench) -> None:
    profile = bench.folder / "kill.yaml"
    profile.write_text(bench.both.read_text().replace("raise_log_level: true", "raise_log_level: false"))
    stage = bench.open(profile, bench.hash_of(profile))
    changes.plan(stage)
    before = bench.state()
    replica_failure.measure(stage)
    replica_failure.judge(stage)
    result = stage.finish()
    assert bench.state() == before
    assert {check.verdict for check in result.checks} == {Verdict.INCONCLUSIVE}
    assert "nothing was killed" in result.checks[0].observed


def _refuse(*_: object) -> None:
    raise Conflict("refused")
