from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from llmd_runbook.manifest import (
    Attempt,
    ClusterIdentity,
    Code,
    How,
    Process,
    ProfileRecord,
    Run,
    Status,
    Who,
)
from llmd_runbook.verdicts import Verdict

HERE = Process(pid=1, host="h", started_s=1.0)


def a_run(status: Status = Status.RUNNING) -> Run:
    return Run(
        id="r",
        profile=ProfileRecord(name="p", path="p.yaml", digest="d", content={}),
        simulated=True,
        cluster=ClusterIdentity(context="c", server="s", kube_system_uid="u", kubernetes_version="v", simulated=True),
        how=How.CLI,
        who=Who(user="u", host="h"),
        code=Code(commit=None, dirty=None),
        tools={},
        process=HERE,
        status=status,
        started=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    ("simulated", "real", "stamp"),
    [
        (False, {}, ""),
        (True, {}, "simulated engine"),
        (True, {"engine": "simulated, vLLM timed as on a T4"}, "simulated engine"),
        (True, {"engine": "real vLLM 1.2 on CPU, a tiny model"}, "sandbox: real vLLM 1.2 on CPU"),
    ],
)
def test_a_cluster_says_what_made_its_numbers(simulated: bool, real: dict[str, str], stamp: str) -> None:
    assert a_run().cluster.model_copy(update={"simulated": simulated, "real": real}).stamp == stamp


def test_stages_stay_in_order_and_are_entered_once() -> None:
    run = a_run()
    run.stage("02_b")
    assert run.stage("01_a") is run.stage("01_a")
    assert [record.stage for record in run.stages] == ["01_a", "02_b"]


def test_what_ran_in_a_dead_process_is_lost_and_the_record_is_left_alone() -> None:
    run = a_run()
    attempts = run.stage("01_a").attempts
    attempts.append(Attempt(number=1, notebook="n", status=Status.RUNNING, process=HERE))
    run.stage("02_b")
    seen = run.observed(lambda process: False)
    assert (seen.status, seen.stage("01_a").status) == (Status.LOST, Status.LOST)
    assert seen.stage("02_b").status is Status.NOT_RUN
    assert (run.status, run.stage("01_a").status) == (Status.RUNNING, Status.RUNNING)
    assert run.observed(lambda process: True) == run


@pytest.mark.parametrize("status", [Status.FINISHED, Status.FAILED, Status.INTERRUPTED])
def test_what_ended_is_never_lost(status: Status) -> None:
    run = a_run(status)
    run.stage("01_a").attempts.append(Attempt(number=1, notebook="n", status=status, process=HERE))
    assert run.observed(lambda process: False).stage("01_a").status is status


def test_a_planned_attempt_is_lost_with_its_run() -> None:
    run = a_run()
    run.stage("01_a").attempts.append(Attempt(number=1, notebook="n"))
    assert run.observed(lambda process: True).stage("01_a").status is Status.PLANNED
    assert run.observed(lambda process: False).stage("01_a").status is Status.LOST


def test_a_stage_without_a_verdict_proves_nothing() -> None:
    run = a_run()
    run.stage("01_a").attempts.append(Attempt(number=1, notebook="n", verdict=Verdict.PASS))
    assert run.judge() is Verdict.PASS
    run.stage("02_b")
    assert run.judge() is Verdict.INCONCLUSIVE
    run.stage("02_b").attempts.append(Attempt(number=1, notebook="n", verdict=Verdict.FAIL))
    assert run.judge() is Verdict.FAIL


def test_the_latest_attempt_counts() -> None:
    record = a_run().stage("01_a")
    record.attempts += [
        Attempt(number=1, notebook="n", status=Status.FINISHED, verdict=Verdict.FAIL),
        Attempt(number=2, notebook="m", status=Status.FINISHED, verdict=Verdict.PASS),
    ]
    assert record.verdict is Verdict.PASS


def test_a_record_survives_writing_and_refuses_unknown_fields() -> None:
    run = a_run()
    assert Run.model_validate_json(run.model_dump_json()) == run
    with pytest.raises(ValidationError):
        Run.model_validate({**run.model_dump(), "surprise": 1})
