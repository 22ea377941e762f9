"""The run is killed around every single changing call of stages 02, 03 and 07, and taken up again.

First a run without faults says which calls there are. They fall into groups, one a tool's command: in each cycle one
call of every group kills the run, so that a few cycles have killed it at each. A surge makes the same calls in another
order: it is killed once in each of its steps, and loses no request.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from llmd_runbook.manifest import Status
from llmd_runbook.run.store import RunStore
from llmd_sandbox.faults.declared import Fault, Kind, changes
from tests.drills import table
from tests.drills.ground import CLEANUP, ENDS_WITH, RECREATE, SCALE, STAGES, SURGE, SWAP, Ground, lost_record
from tests.drills.table import Row

pytestmark = [pytest.mark.drills, pytest.mark.timeout(2400)]


@dataclass(frozen=True)
class Call:
    """A changing call: of which stage, method and path without query, and which of its kind in that stage."""

    stage: str
    method: str
    path: str
    number: int

    @property
    def group(self) -> tuple[str, str]:
        """Calls of one command: those for one release, or about one other object, that make or that remove."""
        release = re.search(r"(?<!-to-)(gaie|ms)-pattern[13]", self.path)
        way = "remove" if self.method == "DELETE" or self.path.endswith(".v1.v1") else "make"
        return self.stage, f"{way} {release[0] if release else self.path}"

    def fault(self, kind: Kind) -> Fault:
        """Kill whoever makes this call."""
        return Fault(kind, self.method, re.escape(self.path) + r"($|\?)", changes=True, skip=self.number)


def calls_of(ground: Ground, stage: str) -> list[Call]:
    """The changing calls of a stage, in their order, by a run that nothing happens to."""
    with ground.door() as door:
        ended = ground.live([stage], door=door)
        assert ended.status == 0, ended.attempts[stage].error
        made = [(seen.method, seen.path.split("?")[0]) for seen in door.seen if changes(seen.method, seen.path)]
    met: Counter[tuple[str, str]] = Counter()
    calls = []
    for method, path in made:
        calls.append(Call(stage, method, path, met[(method, path)]))
        met[(method, path)] += 1
    return calls


def cycles(calls: list[Call]) -> list[list[Call]]:
    """Each call once; no two of one group, and none that only its number tells apart beside others of its stage."""
    plan: list[list[Call]] = []
    for call in calls:
        place = next((cycle for cycle in plan if not any(_meet(call, other) for other in cycle)), None)
        if place is None:
            plan.append([call])
        else:
            place.append(call)
    return plan


def _meet(one: Call, other: Call) -> bool:
    """Whether a kill at one of them changes how often the other's kind is seen before it."""
    counted = one.stage == other.stage and (one.number or other.number)
    return one.group == other.group or bool(counted) or (one.method, one.path) == (other.method, other.path)


def test_killed_around_every_single_changing_call(ground: Ground) -> None:
    ground.strategy = RECREATE
    by_stage = {stage: calls_of(ground, stage) for stage in STAGES}
    everything = [call for stage in STAGES for call in by_stage[stage]]
    assert len(everything) >= 40, everything
    plans = {stage: cycles(by_stage[stage]) for stage in STAGES}
    order = {call: number for number, call in enumerate(everything)}
    hit: list[Call] = []
    for number in range(max(map(len, plans.values()))):
        for stage in STAGES:
            victims = plans[stage][number] if number < len(plans[stage]) else []
            if stage == SCALE:
                ground.as_before_02()
            hit += drill(ground, stage, victims, Kind.KILL_AFTER if number % 2 else Kind.KILL_BEFORE, order)
    assert Counter(hit) == Counter(everything)


def test_a_surge_that_is_killed_in_each_of_its_steps_loses_nothing(ground: Ground) -> None:
    ground.strategy = SURGE
    assert ground.live([SCALE]).status == 0
    groups: dict[tuple[str, str], list[Call]] = {}
    for call in calls_of(ground, SWAP):
        groups.setdefault(call.group, []).append(call)
    assert len(groups) >= 8, groups
    assert ground.live([CLEANUP]).status == 0
    assert ground.live([SCALE]).status == 0
    victims = [calls[len(calls) // 2] for calls in groups.values()]
    order = {call: number for number, call in enumerate(victims)}
    assert Counter(drill(ground, SWAP, victims, Kind.KILL_AFTER, order)) == Counter(victims)
    assert ground.live([CLEANUP]).status == 0


def drill(ground: Ground, stage: str, victims: list[Call], kind: Kind, order: dict[Call, int]) -> list[Call]:
    """Run a stage, taken up again after each kill, until it is finished; the calls at which it was killed."""
    hit: list[Call] = []
    run, lossless = "new", stage == SCALE or (stage == SWAP and ground.strategy == SURGE)
    with ground.door(*(victim.fault(kind) for victim in victims)) as door:
        while True:
            since_s, before = time.monotonic(), len(door.seen)
            ended = ground.live([stage], run, door)
            run = ended.run or run
            attempt = ended.attempts.get(stage)
            lost = ground.probe.lost(since_s)
            assert not (lossless and lost), f"{lost} lost in {stage} after {hit}"
            if ended.status == 0:
                assert attempt is not None
                assert attempt.status is Status.FINISHED
                assert attempt.verdict == "pass", attempt
                break
            assert ended.status == -9, f"{stage} after {hit}: {attempt.error if attempt else ended}"
            assert attempt is not None
            assert lost_record(attempt), attempt
            seen = next(seen for seen in door.seen[before:] if seen.fault is kind)
            call = next(each for each in victims if each.fault(kind).hits(seen.method, seen.path) and each not in hit)
            hit.append(call)
            _note(ground, call, kind, since_s, order[call])
            assert len(hit) <= len(victims)
    pattern = ground.serves()
    assert pattern == ENDS_WITH[stage]
    assert ground.orphans(pattern) == []
    attempts = RunStore(next(ground.output.glob(f"*/{run}"))).read().stage(stage).attempts
    assert [each.status for each in attempts] == [Status.RUNNING] * len(hit) + [Status.FINISHED]
    return hit


def _note(ground: Ground, call: Call, kind: Kind, since_s: float, order: int) -> None:
    during = f"{call.stage[:2]} {call.method} {'/'.join(call.path.split('/')[-2:])}"
    if ground.strategy == SURGE:
        during += ", surge"
    made = "before it was made" if kind is Kind.KILL_BEFORE else "after it was made"
    lost, sent = ground.probe.lost(since_s), ground.probe.count(since_s)
    place = (0, int(ground.strategy == SURGE), order)
    ended = "resumed to its end, nothing orphaned"
    table.add(Row(place, "death of the whole run", during, f"SIGKILL {made}", lost, sent, ended))
