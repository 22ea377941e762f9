"""The record tells the truth however a run ends: each ending is brought about for real."""

from __future__ import annotations

import json
import signal
from typing import Any

import nbformat
import pytest
import scrapbook
from nbformat import v4

from llmd_runbook.manifest import Run, Status
from llmd_runbook.records.runner import Event, Runner
from llmd_runbook.records.signals import Interruption
from llmd_runbook.verdicts import StageResult, Verdict

FINISH = "stage.check(judge(True))\nresult = stage.finish()"
CANARY = "hf_CanaryCanaryCanary"


def run_here(bench: Any, *stages: str, timeout_s: float = 60, listen: Any = lambda event: None) -> Run:
    notebooks = [bench.notebooks / f"{stage}.ipynb" for stage in stages]
    runner = Runner(
        bench.profile,
        bench.cluster,
        notebooks,
        root=bench.output,
        stage_timeout_s=timeout_s,
        listen=listen,
        interruption=Interruption(),
    )
    return runner.run().read()


def statuses(notebook: Any) -> list[str]:
    return [cell.metadata.papermill["status"] for cell in notebook.cells if cell.cell_type == "code"]


def test_a_good_run_by_command(bench: Any) -> None:
    bench.notebook(
        "01_first",
        "with stage.step('look') as step:\n"
        "    for done in range(100):\n"
        "        step.progress('far', done, 100)\n"
        "    step.changed('all of it')",
        f"stage.data['seen_tokens'] = 7\nstage.note('said', '{CANARY}')\nprint('{CANARY}')",
        FINISH,
    )
    bench.notebook(
        "02_second",
        "assert stage.earlier('01_first').data['seen_tokens'] == 7\nassert stage.earlier('03_none') is None",
        "stage.check(judge(None))\nstage.finish()",
    )
    process = bench.start("run", str(bench.profile_file), "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == [
        "run_started",
        "stage_started",
        "stage_ended",
        "stage_started",
        "stage_ended",
        "run_ended",
        "summary",
    ]
    told = [line["data"] for line in lines if line["event"] == "progress"]
    assert told[-1]["status"] == "changed"
    assert told[-1]["detail"] == "all of it"
    assert lines[-1]["verdict"] == "inconclusive"
    assert lines[-1]["stages"][1]["not_passed"][0]["remedy"] == "mend it"
    assert "inconclusive" in err
    assert "TCP without encryption" not in err

    run = bench.run()
    assert (run.status, run.verdict, run.exit_code) == (Status.FINISHED, Verdict.INCONCLUSIVE, 3)
    folder = bench.store().folder
    book = scrapbook.read_notebooks(str(folder))
    assert list(book) == ["01_first", "02_second"]
    glued = StageResult.model_validate(book["01_first"].scraps["result"].data)
    assert glued == run.stage("01_first").attempts[0].result
    assert glued.steps[0].detail == "all of it"
    first = bench.record("01_first.ipynb")
    assert set(statuses(first)) == {"completed"}
    assert first.metadata.papermill.parameters["run"] == run.id
    step_cell = next(cell for cell in first.cells if "stage.step" in cell.source)
    assert len(step_cell.outputs) == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        ".run.lock",
        "01_first.ipynb",
        "02_second.ipynb",
        "run.json",
    ]
    assert all(CANARY[3:] not in path.read_text() for path in folder.iterdir() if path.suffix == ".json")
    source = next(cell for cell in first.cells if "print" in cell.source)
    assert CANARY not in source.outputs[0].text
    assert CANARY not in out + err


def test_a_failed_check_ends_the_run(bench: Any) -> None:
    bench.notebook("01_first", "stage.check(judge(False))\nstage.finish()")
    bench.notebook("02_second", FINISH)
    run = run_here(bench, "01_first", "02_second")
    assert (run.status, run.verdict, run.exit_code) == (Status.FAILED, Verdict.FAIL, 1)
    assert run.stage("01_first").status is Status.FINISHED
    assert run.stage("02_second").status is Status.NOT_RUN
    assert run.stage("02_second").not_run == "a check of 01_first failed"
    assert not (bench.store().folder / "02_second.ipynb").exists()


def test_a_cell_raises(bench: Any) -> None:
    bench.notebook(
        "01_first",
        f"with stage.step('look'):\n    raise ValueError('no {CANARY}')",
        "print('never')",
    )
    run = run_here(bench, "01_first")
    attempt = run.stage("01_first").attempts[0]
    assert (run.status, run.exit_code, attempt.status, attempt.verdict) == ("failed", 1, "failed", None)
    assert attempt.error is not None
    assert attempt.error.kind == "ValueError"
    assert attempt.error.message == "no [redacted]"
    assert attempt.error.cell == "with stage.step('look'):"
    assert attempt.result is not None
    assert attempt.result.steps[0].status == "failed"
    record = bench.record("01_first.ipynb")
    assert statuses(record)[-2:] == ["failed", "pending"]
    assert record.metadata.papermill.exception is True
    assert CANARY not in nbformat.writes(record)


def test_the_time_runs_out(bench: Any) -> None:
    code = ["import time\nprint('before', flush=True)\ntime.sleep(600)", "print('never')"]
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in code])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, bench.notebooks / "01_first.ipynb")
    run = run_here(bench, "01_first", timeout_s=3)
    attempt = run.stage("01_first").attempts[0]
    assert (run.status, run.exit_code, attempt.status) == ("failed", 1, "failed")
    assert attempt.error is not None
    assert attempt.error.kind == "TimedOut"
    assert "3 s" in attempt.error.message
    record = bench.record("01_first.ipynb")
    assert statuses(record)[-2:] == ["failed", "pending"]
    assert record.metadata.llmd_runbook.ended_by.kind == "TimedOut"
    assert [output.get("ename", output.get("text")) for output in record.cells[-2].outputs] == [
        "before\n",
        "KeyboardInterrupt",
    ]


def test_the_kernel_dies(bench: Any) -> None:
    bench.notebook("01_first", "import os\nos.kill(os.getpid(), 9)", "print('never')")
    run = run_here(bench, "01_first")
    attempt = run.stage("01_first").attempts[0]
    assert (run.status, run.exit_code, attempt.status) == ("failed", 1, "failed")
    assert attempt.error is not None
    assert attempt.error.kind == "KernelDied"
    assert "SIGKILL" in attempt.error.message
    record = bench.record("01_first.ipynb")
    assert statuses(record)[-2:] == ["failed", "pending"]
    assert record.metadata.papermill.exception is True


def test_a_notebook_without_finish(bench: Any) -> None:
    bench.notebook("01_first", "pass")
    run = run_here(bench, "01_first")
    error = run.stage("01_first").attempts[0].error
    assert error is not None
    assert (run.status, run.exit_code, error.kind) == ("failed", 1, "Unfinished")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_somebody_ends_it(bench: Any, number: signal.Signals) -> None:
    bench.notebook(
        "01_first",
        "import time\nprint('before', flush=True)\nwith stage.step('wait'):\n    time.sleep(600)",
        "print('never')",
    )
    bench.notebook("02_second", FINISH)
    process = bench.start("run", str(bench.profile_file), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert json.loads(out.splitlines()[-1])["status"] == "interrupted"
    run = bench.run()
    attempt = run.stage("01_first").attempts[0]
    assert (run.status, run.exit_code, attempt.status) == ("interrupted", 130, "interrupted")
    assert attempt.error is not None
    assert attempt.error.message == f"the run was ended by {number.name}"
    assert run.stage("02_second").status is Status.NOT_RUN
    record = bench.record("01_first.ipynb")
    assert statuses(record)[-2:] == ["failed", "pending"]
    assert any(output.get("text") == "before\n" for output in record.cells[-2].outputs)


def test_events_are_heard_while_it_runs(bench: Any) -> None:
    heard: list[Event] = []
    bench.notebook("01_first", "raise SystemExit(0)")
    run = run_here(bench, "01_first", listen=heard.append)
    assert [event.event for event in heard] == ["run_started", "stage_started", "stage_ended", "run_ended"]
    assert (run.status, run.exit_code) == ("failed", 1)
