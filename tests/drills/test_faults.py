"""Every fault during every changing step: the service answers at the end, the record is true, nothing is orphaned.

Cycles of 02, 03 and 07, each stage with its next fault: a stage that did not finish is run again, in the same run and
without the fault, until it does, which must be soon.
"""

from __future__ import annotations

import time
from itertools import zip_longest
from pathlib import Path

import pytest

from llmd_runbook.manifest import Attempt, Status
from llmd_runbook.verdicts import Verdict
from tests.drills import table
from tests.drills.faults import CLEANUP, DRILLS, SCALE, SWAP, Drill
from tests.drills.ground import Ground, true_record
from tests.drills.lives import FINISHED
from tests.drills.table import Row

pytestmark = pytest.mark.timeout(600)
CYCLES = list(zip_longest(DRILLS[SCALE], DRILLS[SWAP], DRILLS[CLEANUP]))
ENDS_WITH = {SCALE: "pattern1", SWAP: "pattern3", CLEANUP: "pattern1"}
_TRIES = 3


def _name(cycle: tuple[Drill | None, ...]) -> str:
    return "+".join(drill.name for drill in cycle if drill)


@pytest.mark.drills
@pytest.mark.parametrize("number", range(len(CYCLES)), ids=[_name(cycle) for cycle in CYCLES])
def test_a_cycle_with_faults(ground: Ground, tmp_path: Path, number: int) -> None:
    for stage, drill in zip((SCALE, SWAP, CLEANUP), CYCLES[number], strict=True):
        folder = tmp_path / stage
        folder.mkdir()
        if drill:
            drilled(ground, stage, drill, folder)
        else:
            finished(ground, stage, "new")


def drilled(ground: Ground, stage: str, drill: Drill, folder: Path) -> None:
    """The stage with the fault, then without it, to its end."""
    since_s = time.monotonic()
    with drill.on(ground, folder) as (door, environment):
        ended = ground.begin([stage], "new", door, file_limit=drill.file_limit, **environment).wait()
    attempt = ended.attempts[stage]
    if not drill.file_limit:
        true_record(ended, stage)
    else:  # what cannot be written any more stays as it was: true until then
        assert ended.status != FINISHED
        assert attempt.status is Status.RUNNING
    tries = 0
    if attempt.status is not Status.FINISHED or attempt.verdict is not Verdict.PASS:
        tries = finished(ground, stage, ended.run)
    assert ground.serves() == ENDS_WITH[stage]
    if stage != SCALE:
        assert ground.orphans(ENDS_WITH[stage]) == []
    lost, sent = ground.probe.lost(since_s), ground.probe.count(since_s)
    order = (1, list(DRILLS).index(stage), DRILLS[stage].index(drill))
    table.add(Row(order, drill.fault, drill.step, _happened(attempt), lost, sent, _ended(tries)))


def finished(ground: Ground, stage: str, run: str) -> int:
    """Run a stage until it is finished and every check passes; how often that took."""
    for tries in range(1, _TRIES + 1):
        ended = ground.live([stage], run)
        attempt = true_record(ended, stage)
        if attempt.status is Status.FINISHED and attempt.verdict is Verdict.PASS:
            return tries
        run = ended.run
    raise AssertionError(f"{stage} after {_TRIES} tries without a fault: {attempt.error or attempt.result}")


def _happened(attempt: Attempt) -> str:
    if attempt.error:
        return f"{attempt.error.kind}: {attempt.error.message.splitlines()[0]}"
    if attempt.status is Status.RUNNING:
        return "the record could not be written any more; the stage ended"
    if attempt.verdict is Verdict.PASS:
        return "the stage went on and finished"
    failed = [check.id for check in attempt.result.checks if check.verdict is Verdict.FAIL] if attempt.result else []
    return f"the stage finished; failed: {', '.join(failed)}"


def _ended(tries: int) -> str:
    return "finished" if not tries else f"run again ({tries}x): finished, nothing orphaned"
