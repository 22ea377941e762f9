"""The whole migration by one command, the record that it leaves, and the same command again."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import scrapbook

from llmd_runbook.manifest import How, Run, Status
from llmd_runbook.profile import load
from llmd_runbook.run.notebooks import stage_names
from llmd_runbook.verdicts import StageResult, Verdict
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(900)

PATTERN1_PODS = ("get", "pods", "-l", "llm-d.ai/model=gemma-2b-it", "-o", "jsonpath={.items[*].metadata.uid}")


@dataclass(frozen=True)
class Migration:
    """One run of all seven stages, with the secrets that it met on its way."""

    done: subprocess.CompletedProcess[str]
    output: Path
    canaries: list[str]

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.done.stdout.splitlines()]

    @property
    def folder(self) -> Path:
        return Path(self.events[-1]["record"])

    @property
    def run(self) -> Run:
        return Run.model_validate_json((self.folder / "run.json").read_text())


@pytest.fixture(scope="module")
def migration(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Migration:
    output = tmp_path_factory.mktemp("runs")
    in_cluster, in_shell = f"hf_{secrets.token_hex(17)}", secrets.token_hex(20)
    secret = json.dumps({"stringData": {"HF_TOKEN": in_cluster}})
    sandbox.kubectl("patch", "secret", "huggingface-token", "--type=merge", "-p", secret)
    words = ("llmd-runbook", "run", "sandbox", "--json", "--output", output)
    done = sandbox.start(*words, HF_TOKEN=in_cluster, SOME_API_KEY=in_shell)
    return Migration(done, output, [in_cluster, in_shell])


def test_it_ends_well(migration: Migration) -> None:
    assert migration.done.returncode == 0, migration.done.stderr
    summary = migration.events[-1]
    assert (summary["event"], summary["verdict"], summary["exit_code"]) == ("summary", "pass", 0)
    assert summary["simulated"] is True


def test_the_record_says_what_was_run_where(migration: Migration, sandbox: Sandbox) -> None:
    run, profile = migration.run, load("sandbox")
    assert (run.status, run.verdict, run.exit_code, run.how) == (Status.FINISHED, Verdict.PASS, 0, How.CLI)
    assert run.simulated
    assert run.cluster.simulated
    assert {"control-plane", "gateway", "gke", "engine", "picker"} <= run.cluster.real.keys()
    assert run.cluster.real["control-plane"].startswith("real")
    assert run.cluster.real["engine"].startswith("simulated")
    uid = sandbox.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
    assert run.cluster.kube_system_uid == uid
    assert (run.profile.name, run.profile.digest) == (profile.name, profile.digest)
    assert re.fullmatch(r"[0-9a-f]{40}", run.code.commit or "")
    assert run.code.dirty is not None
    assert {"python", "helm", "kubectl", "llmd-runbook"} <= run.tools.keys()


def test_every_stage_finished_and_every_check_has_its_grounds(migration: Migration) -> None:
    run = migration.run
    assert [record.stage for record in run.stages] == stage_names()
    found: list[str] = []
    for record in run.stages:
        assert (record.status, record.verdict) == (Status.FINISHED, Verdict.PASS), record.stage
        (attempt,) = record.attempts
        assert attempt.result is not None
        assert attempt.result.checks
        assert all(check.expected and check.observed and check.proves for check in attempt.result.checks)
        assert all(step.status != "failed" for step in attempt.result.steps)
        assert (migration.folder / attempt.notebook).is_file()
        found += [check.id for check in attempt.result.checks]
    assert len(found) == len(set(found))


def test_scrapbook_reads_the_same_results(migration: Migration) -> None:
    notebooks = scrapbook.read_notebooks(str(migration.folder))
    assert sorted(notebooks.keys()) == stage_names()
    for record in migration.run.stages:
        scrap = notebooks[record.stage].scraps["result"]
        assert StageResult.model_validate(scrap.data) == record.attempts[-1].result


def test_no_secret_is_kept_or_shown(migration: Migration) -> None:
    kept = [file for file in migration.output.rglob("*") if file.is_file()]
    assert len(kept) > len(stage_names())
    shown = {"stdout": migration.done.stdout.encode(), "stderr": migration.done.stderr.encode()}
    for name, content in {**shown, **{str(file): file.read_bytes() for file in kept}}.items():
        for canary in migration.canaries:
            assert canary.encode() not in content, name


def test_the_end_state_is_pattern_1_and_running_again_changes_nothing(migration: Migration, sandbox: Sandbox) -> None:
    before = sandbox.kubectl(*PATTERN1_PODS)
    assert len(before.split()) == 1
    words = ("llmd-runbook", "run", "sandbox", "--stages", "01,07", "--output", migration.output)
    again = sandbox.start(*words)
    assert again.returncode == 0, again.stderr + again.stdout
    assert sandbox.kubectl(*PATTERN1_PODS) == before


def test_records_are_found_again(migration: Migration, sandbox: Sandbox) -> None:
    listed = sandbox.start("llmd-runbook", "records", "list", "--json", "--output", migration.output)
    runs = [json.loads(line) for line in listed.stdout.splitlines()]
    assert [run["run"] for run in runs][-1] == migration.run.id
    assert [run["verdict"] for run in runs] == ["pass"] * len(runs)
    shown = sandbox.start("llmd-runbook", "records", "show", migration.run.id, "--output", migration.output)
    assert shown.returncode == 0
    assert all(stage in shown.stdout for stage in stage_names())
    assert "simulated" in shown.stdout
