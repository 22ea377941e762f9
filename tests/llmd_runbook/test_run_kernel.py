"""Notebooks that no runner owns: the kernel keeps the same record."""

from __future__ import annotations

import base64
import os
import signal
import time
from typing import Any

import nbformat
import pytest
import scrapbook
from nbclient import NotebookClient
from nbformat import v4

from llmd_runbook.manifest import How, Status
from llmd_runbook.run import context
from llmd_runbook.run.context import alive
from llmd_runbook.verdicts import StageResult

CANARY = "hf_CanaryCanaryCanary"
PICTURE = """class Picture:
    def _repr_png_(self):
        return b"picture"
Picture()"""


def cell_with(record: Any, text: str) -> Any:
    return next(cell for cell in record.cells if text in cell.source)


def test_plain_papermill_leaves_the_same_record(bench: Any) -> None:
    notebook = bench.notebook(
        "01_first",
        "print('one')\nwith stage.step('look') as step:\n    step.changed('it')\nprint('two')",
        f"print('{CANARY}')\n40 + 2",
        PICTURE,
        "stage.check(judge(True))\nresult = stage.finish()",
        "verdicts(result)",
    )
    first = bench.papermill(notebook)
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    run = bench.run()
    attempt = run.stage("01_first").attempts[0]
    assert (run.how, run.status, attempt.status) == (How.PAPERMILL, Status.OPEN, Status.FINISHED)
    record = bench.record("01_first.ipynb")
    assert [cell.cell_type for cell in record.cells][:3] == ["markdown", "code", "code"]
    assert "injected-parameters" in record.cells[2].metadata.tags
    code = [cell for cell in record.cells if cell.cell_type == "code"]
    assert [cell.metadata.papermill["status"] for cell in code[:-1]] == ["completed"] * (len(code) - 1)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert cell_with(record, "stage = begin").outputs[0].data["text/plain"].startswith("01_first")
    told = cell_with(record, "look").outputs
    assert [output.output_type for output in told] == ["stream", "display_data", "stream"]
    assert "look: changed (it)" in told[1].data["text/plain"]
    assert CANARY not in (bench.store().folder / "01_first.ipynb").read_text().replace(f"print('{CANARY}')", "")
    assert cell_with(record, "40 + 2").outputs[-1].data["text/plain"] == "42"
    assert base64.b64decode(cell_with(record, "Picture").outputs[-1].data["image/png"]) == b"picture"
    assert code[-1].outputs[0].data["text/plain"] == "01_first: pass\n  tiny.check: pass"
    assert record.metadata.papermill.parameters == {"profile": str(bench.profile_file), "run": ""}
    glued = scrapbook.read_notebooks(str(bench.store().folder))["01_first"].scraps["result"].data
    assert StageResult.model_validate(glued) == attempt.result

    before = (bench.store().folder / "01_first.ipynb").read_bytes()
    again = bench.papermill(notebook)
    again.communicate(timeout=120)
    assert bench.run().id == run.id
    assert [attempt.notebook for attempt in bench.run().stage("01_first").attempts] == [
        "01_first.ipynb",
        "01_first.2.ipynb",
    ]
    assert (bench.store().folder / "01_first.ipynb").read_bytes() == before


def test_plain_papermill_and_a_cell_that_raises(bench: Any) -> None:
    notebook = bench.notebook("01_first", f"print('said')\nraise ValueError('no {CANARY}')", "print('never')")
    process = bench.papermill(notebook)
    process.communicate(timeout=120)
    assert process.returncode == 1
    attempt = bench.run().stage("01_first").attempts[0]
    assert (attempt.status, attempt.error.kind) == (Status.FAILED, "ValueError")
    assert (attempt.error.message, attempt.error.cell) == ("no [redacted]", "print('said')")
    record = bench.record("01_first.ipynb")
    raising = cell_with(record, "raise ValueError")
    assert [output.output_type for output in raising.outputs] == ["stream", "error"]
    assert raising.metadata.papermill["status"] == "failed"
    assert cell_with(record, "never").metadata.papermill["status"] == "pending"
    assert record.metadata.papermill.exception is True
    assert CANARY not in (bench.store().folder / "01_first.ipynb").read_text()


def test_plain_papermill_and_a_kernel_that_is_killed_or_interrupted(bench: Any) -> None:
    waits = "import time\nwith stage.step('wait'):\n    stage.check(judge(True))\n    time.sleep(600)"
    process = bench.papermill(bench.notebook("01_first", waits))
    os.kill(kernel_of(bench, process).pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert bench.run().stage("01_first").status is Status.RUNNING
    assert bench.run().observed(alive).stage("01_first").status is Status.LOST

    process = bench.papermill(bench.notebook("02_second", waits))
    os.kill(kernel_of(bench, process, "02_second").pid, signal.SIGINT)
    process.communicate(timeout=60)
    attempt = bench.run().stage("02_second").attempts[0]
    assert (attempt.status, attempt.error.kind) == (Status.INTERRUPTED, "KeyboardInterrupt")
    assert attempt.result.steps[0].status == "failed"


def test_in_jupyterlab_people_go_back_and_try_things(bench: Any) -> None:
    bench.notebook("01_first", "1 / 0", "result = stage.finish()", "scratch = nothing")
    content = nbformat.read(bench.notebooks / "01_first.ipynb", as_version=4)
    opening, failing, finish, scratch = content.cells[3:]
    parameters = v4.new_code_cell(f"profile = {str(bench.profile_file)!r}\nrun = ''")
    again = [v4.new_code_cell(cell.source) for cell in (opening, finish)]
    content.cells = [parameters, content.cells[2], opening, failing, *again, scratch]
    environment = {
        **os.environ,
        "JPY_SESSION_NAME": "01_first.ipynb",
        "LLMD_RUNBOOK_OUTPUT": str(bench.output),
    }
    for name in ("LLMD_RUNBOOK_RECORDER", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    NotebookClient(content, allow_errors=True, kernel_name="python3").execute(env=environment)
    run = bench.run()
    first, second = run.stage("01_first").attempts
    assert run.how is How.LAB
    assert (first.status, first.error.kind) == (Status.FAILED, "ZeroDivisionError")
    assert (second.status, second.error) == (Status.FINISHED, None)
    told = cell_with(bench.record("01_first.ipynb"), "1 / 0")
    assert told.outputs[0].ename == "ZeroDivisionError"
    untold = cell_with(bench.record("01_first.2.ipynb"), "1 / 0")
    assert (untold.execution_count, untold.metadata.papermill["status"]) == (None, "pending")
    assert cell_with(bench.record("01_first.2.ipynb"), "scratch").outputs[0].ename == "NameError"


@pytest.mark.parametrize(
    ("variables", "kernel", "parent", "expected"),
    [
        ({"LLMD_RUNBOOK_RECORDER": "runner"}, True, "pytest", How.CLI),
        ({}, False, "pytest", How.PYTHON),
        ({"JPY_SESSION_NAME": "x.ipynb"}, True, "jupyter-lab", How.LAB),
        ({}, True, "pytest", How.NBVAL),
        ({}, True, "papermill", How.PAPERMILL),
    ],
)
def test_who_executes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], kernel: bool, parent: str, expected: How
) -> None:
    for name in ("LLMD_RUNBOOK_RECORDER", "JPY_SESSION_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(context, "in_kernel", lambda: kernel)
    monkeypatch.setattr(context, "parent_runs", lambda word: word == parent)
    assert context.how() is expected


def kernel_of(bench: Any, process: Any, stage: str = "01_first") -> Any:
    """The kernel's process, once its stage has begun to wait."""
    while process.poll() is None:
        found = list(bench.output.glob("tiny/*/run.json"))
        attempts = bench.run().stage(stage).attempts if found else []
        if attempts and attempts[0].result and attempts[0].result.checks:
            return attempts[0].process
        time.sleep(0.05)
    raise AssertionError(process.communicate())
