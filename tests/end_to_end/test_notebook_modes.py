"""The notebooks without our runner: by plain papermill, and by nbval against their stored outputs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from llmd_runbook.manifest import How, Run, Status
from llmd_runbook.run.notebooks import FOLDER, stage_names
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The notebooks beside an empty pytest configuration, so that nbval is judged by its own rules alone."""
    shutil.copytree(FOLDER, tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def nbval(sandbox: Sandbox, copies: Path, *stages: str) -> subprocess.CompletedProcess[str]:
    files = [copies / "notebooks" / f"{stage}.ipynb" for stage in stages]
    options = ("--nbval", "--nbval-current-env", "--nbval-cell-timeout", "300", "-p", "no:cacheprovider", "-v")
    return sandbox.start(
        "pytest", "-c", copies / "pytest.ini", *options, *files, LLMD_RUNBOOK_OUTPUT=str(copies / "runs")
    )


def test_plain_papermill_leaves_the_record(sandbox: Sandbox, tmp_path: Path) -> None:
    source, out = FOLDER / "01_review_state.ipynb", tmp_path / "out.ipynb"
    done = sandbox.start(
        "papermill", source, out, "-p", "profile", "sandbox", LLMD_RUNBOOK_OUTPUT=str(tmp_path / "runs")
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs" / "sandbox").iterdir()
    run = Run.model_validate_json((folder / "run.json").read_text())
    (attempt,) = run.stage("01_review_state").attempts
    assert (run.how, attempt.status, attempt.verdict) == (How.PAPERMILL, Status.FINISHED, Verdict.PASS)
    record = nbformat.read(folder / attempt.notebook, 4)
    assert record.cells[-1].outputs[0].data["text/plain"].startswith("01_review_state: pass")
    assert out.is_file()


def test_an_altered_verdict_turns_nbval_red(sandbox: Sandbox, copies: Path) -> None:
    file = copies / "notebooks" / "01_review_state.ipynb"
    notebook = nbformat.read(file, 4)
    told = notebook.cells[-1].outputs[0].data
    assert "gateway.programmed: pass" in told["text/plain"]
    told["text/plain"] = told["text/plain"].replace("gateway.programmed: pass", "gateway.programmed: fail")
    nbformat.write(notebook, file)
    done = nbval(sandbox, copies, "01_review_state")
    assert done.returncode == 1, done.stdout
    assert "1 failed" in done.stdout


def test_nbval_finds_what_is_stored(sandbox: Sandbox, copies: Path) -> None:
    done = nbval(sandbox, copies, *stage_names())
    assert done.returncode == 0, done.stdout[-4000:]
    cells = sum(cell.cell_type == "code" for stage in stage_names() for cell in stored(stage).cells)
    assert f"{cells} passed" in done.stdout


def test_what_is_stored_was_executed_and_is_compared() -> None:
    assert stage_names()
    for stage in stage_names():
        code = [cell for cell in stored(stage).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), stage
        compared = [cell for cell in code if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
        assert any(cell.outputs and ": pass" in cell.outputs[0].data["text/plain"] for cell in compared if cell.outputs)


def stored(stage: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{stage}.ipynb", 4)
