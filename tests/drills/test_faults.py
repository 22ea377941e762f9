"""Every fault during every changing step: the service answers at the end, the record is true, nothing is orphaned."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from llmd_runbook.manifest import Attempt, Status
from llmd_runbook.verdicts import Verdict
from tests.drills import table
from tests.drills.faults import Drill
from tests.drills.ground import CLEANUP, ENDS_WITH, PATTERN1, RECREATE, SCALE, STAGES, SURGE, SWAP, Ground, true_record
from tests.drills.lives import FINISHED, Ended
from tests.drills.matrix import GROUPS, SCALING
from tests.drills.table import Row

pytestmark = [pytest.mark.drills, pytest.mark.timeout(1800)]
_SHORT = re.compile(r"projects/\S+/")
_LONGEST = 240
_TRIES = 2
"""Attempts without a fault in which a stage must be finished."""
_NOTICED = 10
"""Ticks without an answer from which on the stage's own probe, which is denser, cannot have missed it: a second."""


Numbered = deque[tuple[int, Drill]]
"""Drills that are still to be, with their numbers."""


@pytest.mark.parametrize("drill", SCALING, ids=lambda drill: f"{drill.fault}, {drill.step}")
def test_stage_02_with_a_fault(ground: Ground, tmp_path: Path, drill: Drill) -> None:
    ground.strategy = RECREATE
    ground.as_before_02()
    run_through(ground, SCALE, deque([(SCALING.index(drill), drill)]), tmp_path, (1, 0))


@pytest.mark.parametrize("name", GROUPS)
def test_stages_03_and_07_with_faults(ground: Ground, tmp_path: Path, name: str) -> None:
    group = GROUPS[name]
    ground.strategy = group.strategy
    place = (2, list(GROUPS).index(name))
    drills: dict[str, Numbered] = {
        SCALE: deque(),
        SWAP: deque(enumerate(group.swap)),
        CLEANUP: deque(enumerate(group.cleanup)),
    }
    cycle = 0
    while any(drills.values()):
        cycle += 1
        for stage in STAGES:
            run_through(ground, stage, drills[stage], tmp_path / f"{cycle}", (*place, STAGES.index(stage)))


@dataclass
class Drilled:
    """An attempt with a fault, and how many ticks of the probe found no answer until the next fault."""

    number: int
    drill: Drill
    attempt: Attempt
    lost: int = 0
    sent: int = 0


def run_through(ground: Ground, stage: str, drills: Numbered, folder: Path, place: tuple[int, ...]) -> None:
    """A stage to a verdict that is a pass: each attempt with its next fault while there are any, then without.

    Args:
        place: of the rows in the table, before the drills' numbers.
    """
    done: list[Drilled] = []
    run, plain, announced, finished = "new", 0, False, False
    for number in count(1):
        row, drill = drills.popleft() if drills and not finished else (0, None)
        since_s = time.monotonic()
        ended = attempted(ground, stage, run, drill, folder / stage / str(number))
        attempt, run = ended.attempts[stage], ended.run
        announced = (announced or announces(attempt)) and not (stage == SWAP and ground.strategy == SURGE)
        lost, sent = ground.probe.lost(since_s), ground.probe.count(since_s)
        harmful = drill is not None and drill.harmful
        assert not lost or announced or harmful, f"{stage}, {drill}: {lost} of {sent} lost, and no outage was announced"
        assert lost < _NOTICED or announced or not says_nothing_was_lost(attempt), f"{lost} of {sent} lost: {attempt}"
        if drill:
            done.append(Drilled(row, drill, attempt))
        if done:
            done[-1].lost += lost
            done[-1].sent += sent
        finished = attempt.status is Status.FINISHED
        if finished and attempt.verdict is Verdict.PASS:
            break
        if finished:
            run = "new"  # it has its verdict, and nothing more is done in it
        plain += drill is None
        assert plain < _TRIES, f"{stage} after {plain} attempts without a fault: {attempt.error or attempt.result}"
    assert ground.serves() == ENDS_WITH[stage]
    if stage != SCALE:
        assert ground.orphans(ENDS_WITH[stage]) == []
    for place_in_run, one in enumerate(done, 1):
        fate = "finished" if place_in_run == number else f"finished in attempt {number} of the run, nothing orphaned"
        step = one.drill.step + (", surge" if ground.strategy == SURGE and stage == SWAP else "")
        order = (*place, one.number)
        table.add(Row(order, one.drill.fault, step, happened(one.attempt), one.lost, one.sent, fate))


def attempted(ground: Ground, stage: str, run: str, drill: Drill | None, folder: Path) -> Ended:
    """One attempt, with that fault; its record must be true of what is there then."""
    if drill is None:
        ended = ground.live([stage], run)
        true_record(ended, stage)
        return ended
    with drill.on(ground, folder) as (door, environment):
        ended = ground.begin([stage], run, door, **environment).wait()
        attempt = ended.attempts[stage]
        if drill.silences:
            assert ended.status != FINISHED
            assert attempt.status is Status.RUNNING
        else:
            true_record(ended, stage)
        assert drill.shown(attempt), f"{drill}: not in the record: {attempt.model_dump_json(indent=1)}"
        assert ground.left_running() == []
        if attempt.error and attempt.error.kind == "RolledBack":
            assert ground.serves() == PATTERN1
    return ended


def announces(attempt: Attempt) -> bool:
    """Whether the plan of the attempt says that there will be an outage."""
    return attempt.result is not None and any(note.text.startswith("Outage:") for note in attempt.result.notes)


def says_nothing_was_lost(attempt: Attempt) -> bool:
    """Whether the stage's own probe claims so."""
    checks = attempt.result.checks if attempt.result else []
    return any(check.id == "swap.losses" and check.verdict is Verdict.PASS for check in checks)


def happened(attempt: Attempt) -> str:
    """What became of the attempt, in the record's own words."""
    if attempt.error:
        what, *more = [line.strip() for line in attempt.error.message.splitlines()]
        reason = next((line.removeprefix("reason: ") for line in more if line.startswith("reason: ")), "")
        said = f"{attempt.error.kind}: {_SHORT.sub('', what)}" + (f": {_SHORT.sub('', reason)}" if reason else "")
        return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3].rstrip()}..."
    if attempt.status is Status.RUNNING:
        return "the record could not be written any more; the stage ended"
    if attempt.verdict is Verdict.PASS:
        return "the stage went on and finished"
    checks = attempt.result.checks if attempt.result else []
    failed = [f"{check.id} {check.verdict}" for check in checks if check.verdict is not Verdict.PASS]
    return f"the stage finished; {', '.join(failed)}"
