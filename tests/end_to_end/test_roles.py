"""Runs of `llmd-runbook` with exactly the roles that it prints: the operator changes, the observer only looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmd_runbook.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, Forbidden
from llmd_runbook.manifest import Run, Status
from llmd_runbook.run.notebooks import stage_names
from llmd_runbook.run.store import all_runs
from llmd_runbook.stages.routing import changes, replica_failure
from llmd_runbook.verdicts import Check, Verdict
from tests.end_to_end.bench import Bench
from tests.end_to_end.callers import called_by, printed_roles, variant
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(600)

HIDDEN = {"pattern1.releases", "token.secret", "permissions.change"}
"""What an observer cannot prove: helm's record lies in Secrets, as the token does."""
REVIEWED = {"requests: 36": "requests: 60"}
"""As many answers as stage 01 asks of a baseline."""
WHOLE = {
    "requests: 36": "requests: 96",
    "concurrency: 6": "concurrency: 12",
    "output_tokens: 8": "output_tokens: 32",
    "  groups: 8": "  groups: 10\n  kill_replica: true",
}
"""The load with which three replicas gain, and a replica killed in stage 05."""


@pytest.fixture(scope="module")
def observer(bench: Bench, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    caller = called_by(bench, tmp_path_factory.mktemp("observer"), printed_roles(sandbox, "observer"))
    return variant(caller, tmp_path_factory.mktemp("observers"), REVIEWED)


@pytest.fixture(scope="module")
def operator(bench: Bench, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    caller = called_by(bench, tmp_path_factory.mktemp("operator"), printed_roles(sandbox, "operator"))
    return variant(caller, tmp_path_factory.mktemp("operators"), WHOLE)


def ran(bench: Bench, stages: str, output: Path) -> tuple[int, Run, str]:
    """Exit status, record and standard error of `llmd-runbook run`."""
    done = bench.sandbox.start("llmd-runbook", "run", bench.file, "--stages", stages, "--output", output)
    assert "Traceback" not in done.stdout + done.stderr
    (store,) = all_runs(output)
    return done.returncode, store.read(), done.stdout + done.stderr


def judged(run: Run, stage: str) -> dict[str, Check]:
    """The checks of a stage that came to its end."""
    (attempt,) = run.stage(stage).attempts
    assert attempt.status is Status.FINISHED, attempt.error
    assert attempt.result is not None
    return {check.id: check for check in attempt.result.checks}


def nothing_refused(run: Run, *stages: str) -> None:
    """Every stage passes, but that a load on a busy machine may prove nothing: no permission is missing then."""
    for stage in stages:
        left = [check for check in judged(run, stage).values() if check.verdict is not Verdict.PASS]
        measured = stage == "06_throughput_and_cost"
        assert [check for check in left if check.verdict is Verdict.FAIL or not measured] == [], stage
    assert "forbidden" not in run.model_dump_json().lower()


def test_an_observer_reviews_and_says_what_it_cannot_see(observer: Bench, tmp_path: Path) -> None:
    code, run, _ = ran(observer, "01", tmp_path)
    found = judged(run, "01_review_state")
    assert code == EXIT_INCONCLUSIVE
    assert {name for name, check in found.items() if check.verdict is Verdict.INCONCLUSIVE} == HIDDEN
    assert {check.verdict for name, check in found.items() if name not in HIDDEN} == {Verdict.PASS}
    assert 'cannot get resource "secrets"' in found["token.secret"].observed
    assert "only observes" in found["permissions.change"].observed
    assert "run as an operator" in str(found["pattern1.releases"].remedy)


def test_an_observer_changes_nothing_and_one_message_says_why(observer: Bench, tmp_path: Path) -> None:
    code, run, said = ran(observer, "02", tmp_path)
    (attempt,) = run.stage("02_scale_pool").attempts
    assert (code, attempt.status, attempt.verdict) == (EXIT_FAIL, Status.FAILED, None)
    assert attempt.error is not None
    assert attempt.error.kind == "Forbidden"
    for words in ("llmd-runbook-observer", "is forbidden", "to do:"):
        assert words in attempt.error.message
        assert words in said


def test_an_operator_runs_stages_01_to_06_and_kills_a_replica(operator: Bench, tmp_path: Path) -> None:
    code, run, said = ran(operator, "01,02,03,04,05,06", tmp_path)
    assert code in (EXIT_PASS, EXIT_INCONCLUSIVE), said
    nothing_refused(run, *stage_names()[:6])
    assert "failure.recovers" in judged(run, "05_routing_affinity")


def test_an_observer_verifies_looks_at_the_routing_and_measures(observer: Bench, tmp_path: Path) -> None:
    code, run, said = ran(observer, "04,05,06", tmp_path)
    assert code in (EXIT_PASS, EXIT_INCONCLUSIVE), said
    nothing_refused(run, *stage_names()[3:6])


def test_an_observer_kills_no_replica(observer: Bench, tmp_path: Path) -> None:
    killing = variant(observer, tmp_path, {"  groups: 8": "  groups: 8\n  kill_replica: true"})
    with pytest.raises(Forbidden, match="llmd-runbook-observer"):
        killing.judge("05_routing_affinity", changes.plan, replica_failure.measure)


def test_an_operator_goes_back(operator: Bench, tmp_path: Path) -> None:
    code, run, said = ran(operator, "07", tmp_path)
    assert code == EXIT_PASS, said
    nothing_refused(run, "07_cleanup")
