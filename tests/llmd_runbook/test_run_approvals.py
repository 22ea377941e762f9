"""Approval of a plan: as given on the command line, as judged by a stage, as kept in the record."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_runbook.errors import ProfileError, UsageError
from llmd_runbook.manifest import Status
from llmd_runbook.plans import Change, Intent, Plan
from llmd_runbook.profile import load
from llmd_runbook.run import StageRun, begin, verdicts
from llmd_runbook.run.approvals import given
from llmd_runbook.run.notebooks import FOLDER, stage_names, takes_approval
from llmd_runbook.verdicts import CheckSpec, StepStatus, Verdict

SPEC = CheckSpec("tiny.check", "that it is so", "mend it")
WANTED = Intent("01_first", "uid", {"nodes": 3})
WRONG = "0" * 64
PLAN = Plan([Change("nodes", "1", "3")], ["it costs"], WANTED)
PLANNING = """
from llmd_runbook.plans import Change, Intent, Plan
plan = Plan([Change("nodes", "1", "3")], [], Intent("01_first", "uid", {"nodes": 3}))
stage.plan(plan)
"""
DOING = """
with stage.step("change") as step:
    step.changed("it") if stage.approved(plan) else step.skipped("not approved")
"""
FINISH = "stage.check(judge(True))\nresult = stage.finish()"


def opened(bench: Any, approve: str = "") -> StageRun:
    return begin(
        "01_first",
        str(bench.profile_file),
        "",
        approve,
        identify=lambda _: bench.cluster,
        output=bench.output,
        notebooks=bench.notebooks,
    )


def approving_itself(bench: Any) -> None:
    bench.profile_file.write_text("approval: self" + bench.profile_file.read_text())


@pytest.mark.parametrize("approve", ["", WRONG])
def test_what_nobody_approved_is_never_a_pass(bench: Any, approve: str) -> None:
    stage = opened(bench, approve)
    assert stage.approved(PLAN) is False
    stage.check(SPEC.judge(True, expected="so", observed="so"))
    result = stage.finish()
    assert (result.verdict, [check.verdict for check in result.checks]) == (Verdict.INCONCLUSIVE, [Verdict.PASS])
    assert [(item.hash, item.by, item.given) for item in result.unapproved] == [(WANTED.hash, None, approve)]
    assert f"needs approval: what its plan asks for was not done (hash {WANTED.hash})" in repr(verdicts(result))
    kept = json.loads((stage.folder / "run.json").read_text())["stages"][0]["attempts"][0]
    assert kept["verdict"] == "inconclusive"
    assert json.loads(kept["result"]["approvals"][0]["intent"])["target"] == {"nodes": 3}


def test_a_failed_check_stays_a_failure_where_approval_is_needed_too(bench: Any) -> None:
    stage = opened(bench)
    stage.approved(PLAN)
    stage.check(SPEC.judge(False, expected="so", observed="not so"))
    assert stage.finish().verdict is Verdict.FAIL


def test_the_very_hash_approves(bench: Any) -> None:
    stage = opened(bench, f" {WANTED.hash} ")
    assert stage.approved(PLAN) is True
    stage.check(SPEC.judge(True, expected="so", observed="so"))
    result = stage.finish()
    assert ([item.by for item in result.approvals], result.unapproved, result.verdict) == (["hash"], [], Verdict.PASS)


def test_a_profile_that_approves_itself_still_refuses_another_hash(bench: Any) -> None:
    approving_itself(bench)
    assert opened(bench).approved(PLAN) is True
    assert opened(bench, WRONG).approved(PLAN) is False


def test_a_real_clusters_profile_cannot_approve_itself(bench: Any) -> None:
    approving_itself(bench)
    load(str(bench.profile_file))
    text = bench.profile_file.read_text().replace("simulated: true", "simulated: false")
    bench.profile_file.write_text(text)
    with pytest.raises(ProfileError) as refused:
        load(str(bench.profile_file))
    assert "approval self is for a simulated cluster" in str(refused.value)
    bench.profile_file.write_text(text.replace("approval: self", "approval: hash"))
    assert load(str(bench.profile_file)).approval == "hash"
    assert "approval" not in yaml.safe_load(text.replace("approval: self", ""))
    bench.profile_file.write_text(text.replace("approval: self", ""))
    assert load(str(bench.profile_file)).approval == "hash"


def test_a_plan_without_an_intent_has_nothing_to_approve(bench: Any) -> None:
    with pytest.raises(ValueError, match="without an intent"):
        opened(bench).approved(Plan([Change("nodes", "1", "3")], []))


def test_a_parameter_that_is_no_hash_starts_nothing(bench: Any) -> None:
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        opened(bench, "yes")
    assert not bench.output.exists()


def test_an_approval_that_nothing_asked_for_is_said(bench: Any) -> None:
    assert [note.title for note in opened(bench, WRONG).finish().notes] == ["An approval that was not needed"]


def test_a_plan_shows_its_hash(bench: Any) -> None:
    assert f"hash of what is approved: {WANTED.hash}" in repr(opened(bench).plan(PLAN))
    assert "hash" not in repr(opened(bench).plan(Plan([Change("nodes", "1", "3")], [])))


def test_what_is_to_be_put_back_is_put_back_however_it_ends(bench: Any) -> None:
    done: list[str] = []
    stage = opened(bench)
    stage.undo_at_end("by hand 1", lambda: done.append("first"))
    stage.undo_at_end("by hand 2", lambda: done.append("second"))
    stage.finish()
    assert done == ["second", "first"]
    broken = opened(bench)
    broken.undo_at_end("by hand", lambda: done.append("third"))
    opened(bench)  # which abandons the one before
    assert done == ["second", "first", "third"]


def test_what_cannot_be_put_back_is_said_with_the_command(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise OSError("no route to the cluster")

    done: list[str] = []
    stage = opened(bench)
    stage.undo_at_end("kubectl one", lambda: done.append("one"))
    stage.undo_at_end("kubectl two", refuse)
    result = stage.finish()
    said = "could not put back: no route to the cluster\nput it back by hand: kubectl two"
    assert capsys.readouterr().err.strip() == said
    assert done == ["one"]
    assert [(step.status, step.detail) for step in result.steps] == [(StepStatus.FAILED, said)]
    assert [note.text for note in result.notes] == [said]


def run(bench: Any, *words: str) -> tuple[int, str, Any]:
    process = bench.start("run", str(bench.profile_file), *words)
    out, _ = process.communicate(timeout=120)
    return process.returncode, out, bench.run()


def test_a_run_ends_with_4_and_what_to_set_and_goes_on_with_the_hash(bench: Any) -> None:
    bench.notebook("01_first", PLANNING, DOING, FINISH, approves=True)
    bench.notebook("02_second", FINISH)
    code, out, record = run(bench)
    assert (code, record.exit_code, record.status, record.verdict) == (4, 4, "needs approval", "inconclusive")
    assert f"llmd-runbook run {bench.profile_file} --stages 01 --approve 01={WANTED.hash}" in out
    assert f'approve = "{WANTED.hash}"' in out
    assert "01_first: needs approval" in out
    assert "! needs approval" in out
    assert record.stage("02_second").status is Status.NOT_RUN
    assert record.stage("02_second").not_run == "01_first needs approval"
    assert record.stage("01_first").attempts[0].result.steps[0].status is StepStatus.SKIPPED

    code, _, record = run(bench, "--approve", f"01={WANTED.hash}")
    assert (code, record.status, record.verdict) == (0, "finished", "pass")
    assert record.stage("01_first").attempts[0].result.steps[0].status is StepStatus.CHANGED
    kept = bench.record("01_first.ipynb")
    assert kept.metadata.papermill.parameters["approve"] == WANTED.hash

    code, out, record = run(bench, "--approve", f"01_first={WRONG}")
    assert (code, record.stage("01_first").attempts[0].result.steps[0].status) == (4, StepStatus.SKIPPED)
    assert f"The hash that was given, {WRONG}, is another plan's." in out


def test_a_cell_that_raises_puts_back_first(bench: Any) -> None:
    mark = bench.folder / "put-back"
    bench.notebook(
        "01_first", f"stage.undo_at_end('by hand', Path({str(mark)!r}).touch)", "raise ValueError('no')", FINISH
    )
    code, _, record = run(bench)
    assert (code, record.stage("01_first").attempts[0].error.kind, mark.exists()) == (1, "ValueError", True)


def test_who_ends_it_waits_for_what_is_put_back(bench: Any) -> None:
    mark = bench.folder / "put-back"
    undo = f"stage.undo_at_end('by hand', Path({str(mark)!r}).touch)"
    bench.notebook("01_first", undo, "import time\nwith stage.step('wait'):\n    time.sleep(600)", FINISH)
    process = bench.start("run", str(bench.profile_file), "--json")
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "progress":
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, mark.exists()) == (130, True), err


def test_plain_papermill_takes_the_hash(bench: Any) -> None:
    notebook = bench.notebook("01_first", PLANNING, DOING, FINISH, approves=True)
    process = bench.papermill(notebook, "-p", "approve", WANTED.hash)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (attempt,) = bench.run().stage("01_first").attempts
    assert ([item.by for item in attempt.result.approvals], attempt.verdict) == (["hash"], Verdict.PASS)
    assert bench.record("01_first.ipynb").metadata.papermill.parameters["approve"] == WANTED.hash


@pytest.fixture
def folder(bench: Any) -> Path:
    bench.notebook("01_first")
    bench.notebook("02_second", approves=True)
    bench.notebook("03_third", approves=True)
    notebooks: Path = bench.notebooks
    return notebooks


def test_one_hash_a_stage_by_number_or_name(folder: Path) -> None:
    known = ["01_first", "02_second", "03_third"]
    assert given([], known, known, folder) == {}
    words = [f"02={WRONG}", f"03_third={WANTED.hash}"]
    assert given(words, known, known, folder) == {"02_second": WRONG, "03_third": WANTED.hash}


@pytest.mark.parametrize(
    ("words", "what", "more"),
    [
        (["02"], "an approval has the form STAGE=HASH", "--approve 02"),
        (["02="], "an approval has the form STAGE=HASH", "--approve 02="),
        ([WRONG], "an approval has the form STAGE=HASH", WRONG),
        (["02=yes"], "64 hexadecimal digits", "'yes' is none"),
        ([f"09={WRONG}"], "unknown stage '09'", "01_first, 02_second, 03_third"),
        ([f"={WRONG}"], "unknown stage ''", "02_second"),
        ([f"01={WRONG}"], "stage 01_first has nothing to approve", "02_second, 03_third"),
        ([f"03={WRONG}"], "stage 03_third does not run", "--stages"),
        ([f"02={WRONG}", f"02_second={WRONG}"], "stage 02_second is approved twice", "one hash"),
    ],
)
def test_an_approval_that_cannot_be_meant(folder: Path, words: list[str], what: str, more: str) -> None:
    with pytest.raises(UsageError, match=what) as refused:
        given(words, ["01_first", "02_second"], ["01_first", "02_second", "03_third"], folder)
    assert more in str(refused.value)
    assert refused.value.exit_code == 2


KNOWN = ["01_first", "02_second", "03_third"]


@pytest.mark.parametrize(
    "text",
    [
        f"# the change of Tuesday\n\n02={WRONG}\n 03_third = {WANTED.hash} \n",
        f"02: {WRONG}\n03_third: '{WANTED.hash}'\n",
    ],
    ids=["lines", "YAML"],
)
def test_a_file_of_approvals(folder: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "approvals"
    file.write_text(text)
    assert given([f"@{file}"], KNOWN, KNOWN, folder) == {"02_second": WRONG, "03_third": WANTED.hash}
    assert given([f"@{file}"], ["03_third"], KNOWN, folder) == {"03_third": WANTED.hash}


@pytest.mark.parametrize(
    ("text", "what", "more"),
    [
        (None, "cannot read the file of approvals", "No such file"),
        ("", "cannot be understood", "STAGE=HASH"),
        ("just words", "cannot be understood", "YAML mapping"),
        ("[1, 2]", "cannot be understood", "YAML mapping"),
        ("02: {a: b}", "cannot be understood", "YAML mapping"),
        ("02: [", "cannot be understood", "YAML mapping"),
        ("03: yes", "64 hexadecimal digits", "approvals: 03"),
        (f"# one\n03={WRONG}\n04=x", "64 hexadecimal digits", "approvals:3"),
        (f"09={WRONG}", "unknown stage '09'", "approvals:1"),
        (f"01={WRONG}", "stage 01_first has nothing to approve", "approvals:1"),
        (f"02={WRONG}\n02_second={WRONG}", "stage 02_second is approved twice", "approvals:2"),
        ("02=", "the form STAGE=HASH", "approvals:1"),
    ],
)
def test_a_file_that_approves_nothing_for_certain(
    folder: Path, tmp_path: Path, text: str | None, what: str, more: str
) -> None:
    file = tmp_path / "approvals"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=what) as refused:
        given([f"@{file}"], KNOWN, KNOWN, folder)
    assert more in str(refused.value)


def test_a_word_and_a_file_do_not_approve_one_stage_both(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "approvals"
    file.write_text(f"02={WRONG}")
    with pytest.raises(UsageError, match="approved twice"):
        given([f"@{file}", f"02={WANTED.hash}"], KNOWN, KNOWN, folder)


def test_the_stages_that_change_something_take_approval() -> None:
    able = [stage for stage in stage_names() if takes_approval(FOLDER / f"{stage}.ipynb")]
    assert able == ["02_scale_pool", "03_swap_patterns", "05_routing_affinity", "06_throughput_and_cost", "07_cleanup"]


PLANNED = """
from llmd_runbook.plans import Change, Plan
from llmd_runbook.stages.planning import gate
def propose(now):
    gate.propose(stage, lambda: Plan([Change("nodes", now, "3")], []), lambda: {"nodes": 3}, {})
"""
CHANGES = "with stage.step('change') as step:\n    step.changed('it')"


def planning(bench: Any, stage: str, now: str) -> None:
    bench.notebook(stage, PLANNED, f"propose({now!r})", CHANGES, FINISH, approves=True, plan_cell=3)


def test_plan_only_stops_after_the_plans(bench: Any) -> None:
    planning(bench, "01_first", "1")
    bench.notebook("02_second", "raise ValueError('it has no plan, so it does not run')")
    planning(bench, "03_third", "3")
    code, out, record = run(bench, "--plan-only")
    assert (code, record.exit_code, record.status, record.verdict) == (4, 4, "finished", None)
    assert [item.stage for item in record.stages] == ["01_first", "03_third"]
    first, third = (item.attempts[0].result for item in record.stages)
    assert (first.steps, first.checks, third.steps, third.checks) == ([], [], [], [])
    assert (first.would_change, third.would_change) == (True, False)
    assert f"--approve 01={WANTED.hash}" in out
    assert f"hash: {third.data['plan']['hash']}" in out
    assert "01_first would change it first. The hash holds all the same." in out
    executed = bench.record("01_first.ipynb").cells
    assert [cell.execution_count is not None for cell in executed if cell.cell_type == "code"][-2:] == [False, False]


def test_plan_only_where_nothing_would_change(bench: Any) -> None:
    planning(bench, "01_first", "3")
    code, out, record = run(bench, "--plan-only")
    assert (code, record.exit_code, record.status, record.verdict) == (0, 0, "finished", None)
    assert "nothing to change" in out


def test_plan_only_of_an_approved_plan_changes_nothing_all_the_same(bench: Any) -> None:
    approving_itself(bench)
    planning(bench, "01_first", "1")
    code, _, record = run(bench, "--plan-only")
    (attempt,) = record.stage("01_first").attempts
    assert (code, attempt.verdict, attempt.result.steps) == (4, None, [])
    assert [approval.by for approval in attempt.result.approvals] == ["self"]


def test_plan_only_of_a_stage_without_a_plan_is_refused(bench: Any) -> None:
    bench.notebook("01_first", FINISH)
    process = bench.start("run", str(bench.profile_file), "--plan-only")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "none of these stages has a plan" in err


def test_a_plan_that_cannot_be_made_is_a_failure(bench: Any) -> None:
    bench.notebook("01_first", "raise ValueError('no')", approves=True, plan_cell=2)
    code, _, record = run(bench, "--plan-only")
    assert (code, record.status) == (1, "failed")
