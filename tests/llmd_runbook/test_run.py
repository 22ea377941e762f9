"""Runs without a kernel: folders, joining, steps; the notebooks' side is in test_run_kernel.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.errors import RunbookError, UsageError
from llmd_runbook.manifest import Attempt, How, Process, Status
from llmd_runbook.run import StageRun, begin, verdicts
from llmd_runbook.run.context import alive, code, parent_process, this_process
from llmd_runbook.run.files import write_atomically
from llmd_runbook.run.joining import join
from llmd_runbook.run.notebooks import choose
from llmd_runbook.run.store import RunStore, all_runs, create, find, output_root
from llmd_runbook.verdicts import CheckSpec, StepStatus, Table, Verdict
from tests.llmd_runbook.conftest import SETUP

SPEC = CheckSpec("tiny.check", "that it is so", "mend it")
CANARY = "hf_CanaryCanaryCanary"


def open_stage(bench: Any, stage: str = "01_first", run: str = "", **options: Any) -> StageRun:
    return begin(
        stage,
        str(bench.profile_file),
        run,
        identify=options.pop("identify", lambda _: bench.cluster),
        output=bench.output,
        notebooks=bench.notebooks,
    )


def joined(bench: Any, how: How, reference: str = "", **options: Any) -> RunStore:
    given: dict[str, Any] = {
        "stage": "01_first",
        "how": how,
        "process": this_process(),
        "session": None,
        "cluster": bench.cluster,
        **options,
    }
    return join(bench.output, bench.profile, reference=reference, **given)


def test_importing_the_run_is_light() -> None:
    code = "import sys, llmd_runbook.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"pandas", "scipy", "google.cloud", "kubernetes", "papermill", "matplotlib", "nbformat"}
    assert not heavy & set(done.stdout.split())


def test_a_stage_by_plain_python(bench: Any) -> None:
    stage = open_stage(bench)
    assert stage.simulated
    assert stage.profile.name == "tiny"
    with stage.step("look") as step:
        step.progress("half", 1, 2)
    with stage.step("change") as step:
        step.changed(f"with {CANARY}")
        step.remark(f"without an answer, {CANARY}")
    with pytest.raises(ValueError, match="no"), stage.step("break"):
        raise ValueError("no")
    during = bench.run().stage("01_first").attempts[0]
    assert (during.status, [step.status for step in during.result.steps]) == (
        Status.RUNNING,
        [StepStatus.OK, StepStatus.CHANGED, StepStatus.FAILED],
    )
    assert during.result.steps[1].detail == "with [redacted]; without an answer, [redacted]"
    assert during.result.steps[2].detail == "ValueError: no"
    stage.check(SPEC.judge(True, expected="so", observed="so"))
    stage.note("a", f"b {CANARY}")
    shown = stage.table(Table(title="T", columns=["name", "n"], rows=[["x", None], [CANARY, 2]]))
    assert repr(shown) == "T\nname        n\nx\n[redacted]  2"
    stage.data["deep"] = {"list": [CANARY, 1]}
    result = stage.finish()
    attempt = bench.run().stage("01_first").attempts[0]
    assert (attempt.status, attempt.verdict, attempt.result) == (Status.FINISHED, Verdict.PASS, result)
    assert result.data == {"deep": {"list": ["[redacted]", 1]}}
    assert repr(verdicts(result)) == "01_first: pass\n  tiny.check: pass"
    assert CANARY not in (stage.folder / "run.json").read_text()
    assert stage.earlier("01_first") == result


def test_a_result_counts_only_when_its_latest_attempt_finished(bench: Any) -> None:
    open_stage(bench).finish()
    second = open_stage(bench)
    assert second.earlier("01_first") is None
    record = bench.run().stage("01_first")
    assert [attempt.notebook for attempt in record.attempts] == ["01_first.ipynb", "01_first.2.ipynb"]
    assert [attempt.status for attempt in record.attempts] == [Status.FINISHED, Status.RUNNING]


def test_beginning_again_ends_the_attempt_before(bench: Any) -> None:
    open_stage(bench)
    open_stage(bench)
    first = bench.run().stage("01_first").attempts[0]
    assert (first.status, first.error.kind) == (Status.INTERRUPTED, "BegunAgain")


@pytest.mark.parametrize(("last", "said"), [("stage.finish()", 0), ("", 1)])
def test_a_process_that_ends_after_its_record_is_gone_says_so_without_a_traceback(
    bench: Any, last: str, said: int
) -> None:
    """A finished attempt has nothing to add to its record, and says nothing."""
    code = f"""{SETUP}
import shutil
stage = begin("01_first", {str(bench.profile_file)!r}, identify=identify, output=Path({str(bench.output)!r}),
              notebooks=Path({str(bench.notebooks)!r}))
{last}
shutil.rmtree(stage.folder)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert done.stderr.count("cannot read the record of a run") == said


def test_the_last_stage_ends_a_run_by_hand(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmd_runbook.run.stage.stage_names", lambda: ["01_first", "02_last"])
    open_stage(bench).finish()
    assert bench.run().status is Status.OPEN
    last = open_stage(bench, "02_last")
    last.finish()
    assert (bench.run().status, bench.run().id) == (Status.FINISHED, last.run_id)
    assert open_stage(bench).run_id != last.run_id


def test_another_cluster_or_no_cluster_starts_nothing(bench: Any) -> None:
    def refuse(_: object) -> Any:
        raise UsageError("another cluster")

    with pytest.raises(UsageError, match="another"):
        open_stage(bench, identify=refuse)
    assert all_runs(bench.output) == []


@pytest.mark.parametrize("stage", ["", "1_x", "01", "01_Review", "../01_x"])
def test_names_that_are_no_stage(bench: Any, stage: str) -> None:
    with pytest.raises(UsageError, match="is no stage"):
        open_stage(bench, stage)


@pytest.mark.parametrize("run_id", ["x", "../../etc", "20260101T000000Z-abcdef", "latest", "*"])
def test_bad_run_ids(bench: Any, run_id: str) -> None:
    known = create(bench.output, bench.profile, bench.cluster, How.LAB).run_id
    with pytest.raises(UsageError, match="no run") as caught:
        open_stage(bench, run=run_id)
    assert caught.value.exit_code == 2
    assert known in str(caught.value)


def test_joining_by_hand(bench: Any) -> None:
    first = joined(bench, How.LAB)
    assert joined(bench, How.PAPERMILL) == first
    assert joined(bench, How.LAB, first.run_id) == first
    new = joined(bench, How.LAB, "new")
    assert new != first
    assert find(bench.output, "tiny", new.run_id) == new


def test_a_run_of_the_command_is_its_own(bench: Any) -> None:
    owned = create(bench.output, bench.profile, bench.cluster, How.CLI, process=this_process())
    assert joined(bench, How.LAB) != owned
    with pytest.raises(UsageError, match="cannot be joined"):
        joined(bench, How.LAB, owned.run_id)
    assert joined(bench, How.CLI, owned.run_id) == owned


def test_a_run_of_another_profile_or_cluster_is_not_joined(bench: Any) -> None:
    first = joined(bench, How.LAB)
    elsewhere = bench.cluster.model_copy(update={"kube_system_uid": "other"})
    assert joined(bench, How.LAB, cluster=elsewhere) != first
    with pytest.raises(UsageError, match="another cluster"):
        joined(bench, How.LAB, first.run_id, cluster=elsewhere)
    bench.profile_file.write_text(bench.profile_file.read_text().replace("nodes: 3", "nodes: 4"))
    with pytest.raises(UsageError, match="the profile has changed"):
        joined(bench, How.LAB, first.run_id)


def test_an_nbval_session_keeps_to_itself(bench: Any) -> None:
    by_hand = joined(bench, How.LAB)
    session = parent_process()
    tested = joined(bench, How.NBVAL, session=session)
    assert tested != by_hand
    assert joined(bench, How.NBVAL, session=session) == tested
    assert joined(bench, How.NBVAL, session=this_process()) != tested
    assert joined(bench, How.LAB) == by_hand


def test_a_stage_that_runs_elsewhere_is_left_alone(bench: Any) -> None:
    store = joined(bench, How.LAB)
    store.add_attempt("01_first", parent_process(), Status.RUNNING)
    assert joined(bench, How.LAB) != store
    gone = Process(pid=2**22 + 1, host=this_process().host, started_s=1.0)
    with store.change() as run:
        run.stage("01_first").attempts[0].process = gone
    assert joined(bench, How.LAB, store.run_id) == store


def test_writers_take_turns(bench: Any) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)

    def write(stage: str) -> None:
        for _ in range(5):
            store.add_attempt(stage, None, Status.PLANNED)

    threads = [threading.Thread(target=write, args=(f"0{n}_x",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(record.attempts) for record in store.read().stages] == [5, 5, 5, 5]


def test_an_exception_while_changing_writes_nothing(bench: Any) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    before = (store.folder / "run.json").read_bytes()

    def change_half() -> None:
        with store.change() as run:
            run.stage("01_x")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        change_half()
    assert (store.folder / "run.json").read_bytes() == before


def test_a_notebook_name_that_is_taken_is_left_alone(bench: Any) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    (store.folder / "01_x.ipynb").write_text("somebody's")
    attempt: Attempt = store.add_attempt("01_x", None, Status.PLANNED)
    assert attempt.notebook == "01_x.2.ipynb"


def test_a_broken_record_is_one_message(bench: Any) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    (store.folder / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(UsageError, match="cannot read the record"):
        store.read()
    assert joined(bench, How.LAB) != store


def test_a_folder_that_cannot_be_made_is_one_message(bench: Any) -> None:
    (bench.folder / "file").touch()
    with pytest.raises(UsageError, match="cannot make the folder"):
        create(bench.folder / "file", bench.profile, bench.cluster, How.LAB)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "f"
    write_atomically(target, "old")

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupt_while_a_file_gets_its_name_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(old: str, new: Path) -> None:
        replace(old, new)
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "f", "whole")
    assert (tmp_path / "f").read_text() == "whole"
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_a_full_disk_is_one_message(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("llmd_runbook.run.store.write_atomically", full)
    with pytest.raises(RunbookError, match="cannot write the record"), store.change():
        pass


def test_what_a_new_run_says_of_itself(bench: Any) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    said = json.loads((store.folder / "run.json").read_text())
    assert said["profile"]["digest"] == bench.profile.digest
    assert said["profile"]["content"]["pool"]["nodes"] == 3
    assert {"python", "llmd-runbook", "papermill", "kubernetes"} <= set(said["tools"])
    assert said["who"]["user"]
    assert store.folder.parent == bench.output / "tiny"


def test_commit_and_changes(tmp_path: Path) -> None:
    assert code(tmp_path).commit is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.com"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = code(tmp_path)
    assert clean.commit
    assert clean.dirty is False
    (tmp_path / "new").touch()
    assert code(tmp_path).dirty is True


def test_a_later_process_with_the_same_id_is_another(bench: Any) -> None:
    own = this_process()
    assert alive(own)
    assert not alive(own.model_copy(update={"started_s": own.started_s - 100}))
    assert alive(own.model_copy(update={"host": "elsewhere", "pid": 2**22 + 1}))


def test_where_runs_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMD_RUNBOOK_OUTPUT", raising=False)
    assert output_root().name == "outputs"
    monkeypatch.setenv("LLMD_RUNBOOK_OUTPUT", str(tmp_path / "env"))
    assert output_root() == tmp_path / "env"
    assert output_root(tmp_path / "option") == tmp_path / "option"


def test_choosing_stages() -> None:
    known = ["01_a", "02_b", "03_c"]
    assert choose("all", known) == known
    assert choose("03, 01_a,01", known) == ["01_a", "03_c"]
    for words in ("04", "01,nope", "", ","):
        with pytest.raises(UsageError, match="stage"):
            choose(words, known)
