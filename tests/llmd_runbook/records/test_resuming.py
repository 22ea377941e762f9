"""A run is taken up again: for real after SIGKILL, and refused where it must be."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from llmd_runbook import cli
from llmd_runbook.errors import EXIT_LOCKED, NotFound, UsageError
from llmd_runbook.manifest import ErrorRecord, How, Process, Run, Status
from llmd_runbook.records import resuming
from llmd_runbook.records.resuming import keeps, named, reopen
from llmd_runbook.records.runner import Event, Runner
from llmd_runbook.records.signals import Interruption
from llmd_runbook.run.context import this_process
from llmd_runbook.run.store import RunStore, create
from llmd_runbook.verdicts import Approval, CheckSpec, StageResult, Step, StepStatus, Verdict
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.records.test_runner import run_here

SPEC = CheckSpec("tiny.left", "that it is there", "mend it")
FINISH = "stage.check(judge(True))\nstage.finish()"
GONE = Process(pid=2**22 + 1, host=this_process().host, started_s=1.0)


def result(stage: str, verdict: bool | None = True, approvals: list[Approval] | None = None) -> StageResult:
    return StageResult(
        stage=stage,
        simulated=True,
        checks=[SPEC.judge(verdict, expected="there", observed="?")],
        steps=[Step(name="look", status=StepStatus.OK), Step(name="change", status=StepStatus.CHANGED)],
        data={"seen": 7},
        approvals=approvals or [],
    )


def left(bench: Bench, *done: StageResult, under_way: str = "") -> RunStore:
    """A run of the command whose process is gone, after these stages and during another."""
    stages = [item.stage for item in done] + ([under_way] if under_way else [])
    store = create(bench.output, bench.profile, bench.cluster, How.CLI, requested=stages, process=GONE)
    for item in done:
        store.add_attempt(item.stage, GONE, Status.RUNNING)
        with store.change() as run:
            attempt = run.stage(item.stage).attempts[0]
            attempt.status, attempt.result, attempt.verdict = Status.FINISHED, item, item.verdict
    if under_way:
        store.add_attempt(under_way, GONE, Status.RUNNING)
    return store


def reopened(bench: Bench, store: RunStore, **approvals: str) -> Run:
    return reopen(store, bench.profile, bench.cluster, this_process(), approvals)


def refusal(bench: Bench, store: RunStore) -> str:
    before = store.read()
    with pytest.raises(UsageError) as refused:
        reopened(bench, store)
    assert store.read() == before
    return str(refused.value)


# Whether it may be taken up


def test_it_gets_a_new_owner_and_the_attempt_under_way_is_lost(bench: Bench) -> None:
    store = left(bench, result("01_first"), under_way="02_second")
    run = reopened(bench, store)
    assert run == store.read()
    assert (run.status, run.process, run.exit_code) == (Status.RUNNING, this_process(), None)
    lost = run.stage("02_second").attempts[0]
    assert (lost.status, lost.error and lost.error.kind) == (Status.LOST, "Lost")
    assert run.stage("01_first").status is Status.FINISHED
    assert [found.process for found in run.resumed] == [this_process()]


@pytest.mark.parametrize("ended", [Status.FAILED, Status.INTERRUPTED, Status.NEEDS_APPROVAL])
def test_one_that_ended_early_may_go_on(bench: Bench, ended: Status) -> None:
    store = left(bench, result("01_first"))
    with store.change() as run:
        run.status, run.exit_code, run.verdict = ended, 1, Verdict.FAIL
        run.error = ErrorRecord(kind="Interrupted", message="by somebody")
        run.stage("02_second").not_run = "01_first failed"
    again = reopened(bench, store)
    assert (again.status, again.verdict, again.error) == (Status.RUNNING, None, None)
    assert again.stage("02_second").not_run is None


def test_a_finished_one_is_refused(bench: Bench) -> None:
    store = left(bench, result("01_first"))
    with store.change() as run:
        run.status, run.verdict = Status.FINISHED, Verdict.PASS
    assert "it has finished (verdict pass)" in refusal(bench, store)


def test_one_by_hand_is_refused(bench: Bench) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    assert "a run by hand (lab)" in refusal(bench, store)


def test_a_changed_profile_is_refused_with_what_to_do(bench: Bench) -> None:
    store = left(bench, under_way="01_first")
    bench.profile_file.write_text(bench.profile_file.read_text().replace("nodes: 3", "nodes: 4"))
    said = refusal(bench, store)
    assert "the profile has changed since it began" in said
    assert f"profile.content in {store.folder}/run.json" in said


def test_another_cluster_is_refused(bench: Bench) -> None:
    store = left(bench, under_way="01_first")
    with store.change() as run:
        run.cluster.kube_system_uid = "another"
    assert "a run on another cluster" in refusal(bench, store)


def test_a_living_owner_is_named(bench: Bench) -> None:
    store = left(bench, under_way="01_first")
    with store.change() as run:
        run.process = this_process()
    said = refusal(bench, store)
    assert f"process {os.getpid()} on {this_process().host} works on it" in said


def test_a_kernel_that_outlived_its_runner_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "_KERNEL_ENDS_S", 0.01)
    store = left(bench, under_way="01_first")
    with store.change() as run:
        run.stage("01_first").attempts[0].process = this_process()
    assert f"kill {os.getpid()}" in refusal(bench, store)


def test_of_a_process_on_another_host_nothing_is_known(bench: Bench) -> None:
    store = left(bench, under_way="01_first")
    with store.change() as run:
        run.process = Process(pid=7, host="far", started_s=1.0)
    said = refusal(bench, store)
    assert "process 7 on far may still work on it" in said
    assert "start a new run" in said


def test_the_record_of_a_lost_run_says_how_to_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = left(bench, under_way="01_first")
    monkeypatch.setattr(sys, "argv", ["llmd-runbook", "records", "show", "latest", "--output", str(bench.output)])
    with pytest.raises(SystemExit):
        cli.main()
    assert f"to go on: llmd-runbook run {bench.profile_file} --resume {store.run_id}" in capsys.readouterr().out


def test_of_two_that_take_it_up_one_is_refused(bench: Bench) -> None:
    store = left(bench, under_way="01_first")
    reopened(bench, store)
    assert "works on it" in refusal(bench, store)


def test_the_latest_is_the_newest_of_the_command(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        named(bench.output, bench.profile, "latest", "all")
    store = left(bench)
    create(bench.output, bench.profile, bench.cluster, How.LAB)
    assert named(bench.output, bench.profile, "latest", "all") == store
    assert named(bench.output, bench.profile, store.run_id, "all") == store
    with pytest.raises(UsageError, match="do not go together"):
        named(bench.output, bench.profile, "latest", "01")


def test_approvals_given_before_stay_valid(bench: Bench) -> None:
    store = create(bench.output, bench.profile, bench.cluster, How.CLI, process=GONE, approvals={"03": "a", "05": "b"})
    assert reopened(bench, store, **{"05": "c"}).approvals == {"03": "a", "05": "c"}


# Which stages are kept


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], object]], None]:
    """Lets stages 02 and 03 be looked at again by a function of the test."""

    def by(look: Callable[[Any], object]) -> None:
        module = ModuleType("left")
        vars(module)["verify"] = look
        for name in ("pool.scale", "swap.patterns"):
            monkeypatch.setitem(sys.modules, f"llmd_runbook.stages.{name}", module)

    return by


def kept(bench: Bench, store: RunStore, stage: str) -> tuple[str | None, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    reopened(bench, store)
    return keeps(store, stage, bench.profile, bench.cluster, told.append), told


def test_a_stage_that_only_reads_is_kept(bench: Bench) -> None:
    store = left(bench, result("01_first", None))
    assert kept(bench, store, "01_first")[0] == "it changes nothing"
    assert store.read().resumed[0].kept == {"01_first": "it changes nothing"}


@pytest.mark.parametrize(
    "ended",
    [result("01_first", False), result("01_first", approvals=[Approval(hash="h", intent="{}", by=None)])],
    ids=["a failed check", "a plan that waits for approval"],
)
def test_what_ended_the_run_runs_again(bench: Bench, ended: StageResult) -> None:
    assert kept(bench, left(bench, ended), "01_first")[0] is None


def test_what_holds_is_kept_and_what_was_seen_is_in_the_record(bench: Bench, verify: Any) -> None:
    def look(stage: Any) -> None:
        assert stage.data == {"seen": 7}  # what the attempt found is at hand
        with stage.step("look") as step:
            step.progress("far")
        stage.check(SPEC.judge(True, expected="there", observed="there"))

    verify(look)
    store = left(bench, result("02_scale_pool"))
    before = store.read().stage("02_scale_pool")
    reason, told = kept(bench, store, "02_scale_pool")
    assert reason == "its postconditions hold"
    assert [(message["step"], message["status"]) for message in told][-1] == ("look", "ok")
    run = store.read()
    assert run.stage("02_scale_pool") == before
    assert [check.observed for check in run.resumed[0].rechecked[0].checks] == ["there"]


@pytest.mark.parametrize(
    ("was", "found", "again"),
    [(True, False, True), (True, None, True), (None, None, False), (None, True, False), (None, False, True)],
)
def test_what_is_worse_than_it_was_runs_again(
    bench: Bench, verify: Any, was: bool | None, found: bool | None, again: bool
) -> None:
    verify(lambda stage: stage.check(SPEC.judge(found, expected="there", observed="gone")))
    store = left(bench, result("03_swap_patterns", was))
    reason, told = kept(bench, store, "03_swap_patterns")
    assert (reason is None) is again
    if again:
        assert "runs again: tiny.left" in told[-1]["detail"]
    assert len(store.read().resumed[0].rechecked) == 1


def test_what_cannot_be_seen_runs_again(bench: Bench, verify: Any) -> None:
    def broken(_: Any) -> None:
        raise NotFound("not found")

    verify(broken)
    reason, told = kept(bench, left(bench, result("02_scale_pool")), "02_scale_pool")
    assert reason is None
    assert "cannot be seen, so it runs again: not found" in told[-1]["detail"]


def test_what_cleanup_undoes_is_not_missed_once_it_has_begun(bench: Bench, verify: Any) -> None:
    verify(lambda stage: stage.check(SPEC.judge(False, expected="there", observed="gone")))
    store = left(bench, result("02_scale_pool"), under_way="07_cleanup")
    assert kept(bench, store, "02_scale_pool")[0] == "07_cleanup, which undoes it, has begun"


def test_every_changing_stage_can_be_looked_at_again() -> None:
    """Those that hold the lock for what they leave behind; 05 puts back what it changes."""
    from importlib import import_module

    for module in resuming.CHANGING.values():
        assert callable(import_module(f"llmd_runbook.stages.{module}").verify)


# The runner


def test_killed_and_taken_up_by_command(bench: Bench) -> None:
    marker = bench.folder / "again"
    bench.notebook("01_first", FINISH)
    wait = f"if not Path({str(marker)!r}).exists():\n    with stage.step('wait'):\n        import time; time.sleep(600)"
    bench.notebook("02_second", f"from pathlib import Path\n{wait}\nwith stage.step('go on'):\n    pass", FINISH)
    bench.notebook("03_third", FINISH)
    process = bench.start("run", str(bench.profile_file), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress" and event["data"]["step"] == "wait":
            break
    for child in [*psutil.Process(process.pid).children(), psutil.Process(process.pid)]:
        child.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    marker.touch()
    again = bench.start("run", str(bench.profile_file), "--resume", "latest", "--json")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    run = bench.run()
    assert [len(record.attempts) for record in run.stages] == [1, 2, 1]
    assert [attempt.status for attempt in run.stage("02_second").attempts] == [Status.LOST, Status.FINISHED]
    assert (run.status, run.verdict, run.exit_code) == (Status.FINISHED, Verdict.PASS, 0)
    assert [store_folder.name for store_folder in (bench.output / "tiny").iterdir()] == [run.id]
    summary = json.loads(out.splitlines()[-1])
    assert summary["kept"] == {"01_first": "it changes nothing"}
    assert [stage["attempts"] for stage in summary["stages"]] == [1, 2, 1]
    assert summary["stages"][1]["steps"] == {"ok": 1, "changed": 0, "skipped": 0, "failed": 0}
    assert "kept: it changes nothing" in err
    assert "recap, resumed" in err
    assert bench.record("02_second.2.ipynb").metadata.papermill.parameters["run"] == run.id


def test_what_comes_after_a_stage_that_ran_again_runs_again(bench: Bench, verify: Any) -> None:
    """Its result was about something that is not there any more."""
    verify(lambda stage: stage.check(SPEC.judge(False, expected="there", observed="gone")))
    for stage in ("02_scale_pool", "04_verify"):
        bench.notebook(stage, FINISH)
    store = left(bench, result("02_scale_pool"), result("04_verify"))
    heard: list[Event] = []
    notebooks = [bench.notebooks / f"{stage}.ipynb" for stage in ("02_scale_pool", "04_verify")]
    runner = Runner(
        bench.profile,
        bench.cluster,
        notebooks,
        root=bench.output,
        stage_timeout_s=60,
        listen=heard.append,
        interruption=Interruption(),
        resume=store,
    )
    run = runner.run().read()
    assert [len(record.attempts) for record in run.stages] == [2, 2]
    assert run.exit_code == 0


@pytest.mark.parametrize("kind", ["Locked", "LockLost"])
def test_a_stage_that_the_lock_ended_ends_the_run_with_5(bench: Bench, kind: str) -> None:
    bench.notebook("01_first", f"from llmd_runbook.errors import {kind}\nraise {kind}('somebody holds it')")
    bench.notebook("02_second", FINISH)
    run = run_here(bench, "01_first", "02_second")
    assert (run.status, run.exit_code) == (Status.FAILED, EXIT_LOCKED)
    assert run.stage("02_second").status is Status.NOT_RUN


def test_the_command_refuses_with_2_and_starts_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = left(bench, under_way="01_first")
    with store.change() as run:
        run.process = this_process()
    monkeypatch.setenv("LLMD_RUNBOOK_OUTPUT", str(bench.output))
    monkeypatch.setattr(cli, "stage_names", lambda: ["01_first"])
    monkeypatch.setattr(cli, "identify_cluster", lambda _: bench.cluster)
    (bench.notebooks / "01_first.ipynb").touch()
    monkeypatch.setattr(sys, "argv", ["llmd-runbook", "run", str(bench.profile_file), "--resume", "latest"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert f"run {store.run_id} cannot be resumed" in capsys.readouterr().err
    assert [folder.name for folder in Path(bench.output / "tiny").iterdir()] == [store.run_id]


def test_a_signal_ends_a_look_at_once(bench: Bench) -> None:
    interruption = Interruption()
    with interruption.listening(), interruption.deferred():
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), interruption.at_once():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), interruption.at_once():
            raise AssertionError("never")
