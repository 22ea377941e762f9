"""On the model: a swap's own changes without an answer, and a helm that waits in vain, end no swap that took effect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmd_runbook.verdicts import StepStatus
from tests.drills.model.calls import Trouble
from tests.drills.random_machine import SCALE, SWAP, RandomMachine

CHANGES = [
    ("recreate", "route"),
    ("surge", "route"),
    ("surge", "route-to-gaie-pattern3"),
]
"""By strategy the routes that a swap writes; the last one it also removes."""


@pytest.fixture
def machine() -> Iterator[RandomMachine]:
    machine = RandomMachine()
    yield machine
    machine.teardown()


def began(machine: RandomMachine, strategy: str) -> RandomMachine:
    machine.begin(strategy=strategy, rollback="auto", lag_s=0.0, done=(SCALE,))
    return machine


def remarks(machine: RandomMachine) -> list[str]:
    """What the steps of the last attempt say of what was looked up."""
    assert machine.last is not None
    record = machine.last.record
    assert record is not None
    assert record.result is not None
    return [step.detail for step in record.result.steps if "looked up, and " in step.detail]


@pytest.mark.parametrize(("strategy", "route"), CHANGES)
def test_a_change_of_a_route_whose_answer_is_lost_is_made_once(
    machine: RandomMachine, strategy: str, route: str
) -> None:
    ours = numbers(strategy, f"/httproutes/{route}")
    assert ours
    began(machine, strategy).world.calls.plan |= dict.fromkeys(ours, Trouble.LOST)
    outcome = machine._attempt(SWAP)
    assert outcome.ended == "finished", outcome.error
    assert len(remarks(machine)) == len(ours)
    assert [call.target.endswith(f"/httproutes/{route}") for call in outcome.made].count(True) == len(ours)
    assert machine.world.serves() == ["new-model"]


def numbers(strategy: str, target: str) -> list[int]:
    """Which of the changing calls of a swap, in which nothing goes wrong, are for that object."""
    machine = RandomMachine()
    found: list[int] = []
    try:
        calls = began(machine, strategy).world.calls
        calls.watchers.append(lambda call: found.append(calls.count) if call.target.endswith(target) else None)
        machine._attempt(SWAP)
        return list(found)
    finally:
        machine.teardown()


@pytest.mark.parametrize("strategy", ["recreate", "surge"])
def test_a_helm_that_waits_in_vain_ends_no_swap(machine: RandomMachine, strategy: str) -> None:
    began(machine, strategy).a_helm_that_hangs(SWAP, waits=True)
    assert machine.last is not None
    assert machine.last.ended == "finished", machine.last.error
    (said,) = remarks(machine)
    assert "which is no verdict" in said
    assert {item.status for item in machine.world.helm.stored.values()} == {"deployed"}


def test_a_helm_that_hangs_before_its_objects_are_there_does(machine: RandomMachine) -> None:
    began(machine, "surge").a_helm_that_hangs(SWAP, waits=False)
    assert machine.last is not None
    assert machine.last.ended == "RolledBack"
    assert "is absent" in str(machine.last.error)
    record = machine.last.record
    assert record is not None
    assert record.result is not None
    assert any(step.status is StepStatus.FAILED for step in record.result.steps)
    assert machine.world.serves() == ["old-model"]
