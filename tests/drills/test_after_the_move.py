"""What the random machine breaks once the route has moved makes the gates fail that it is meant for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmd_runbook.verdicts import Verdict
from tests.drills.random_machine import SCALE, SWAP, Breaks, RandomMachine


@pytest.fixture
def machine() -> Iterator[RandomMachine]:
    machine = RandomMachine()
    yield machine
    machine.teardown()


@pytest.mark.parametrize("strategy", ["recreate", "surge"])
@pytest.mark.parametrize(
    ("what", "gates"),
    [
        (Breaks.REPLICA, {"gate.readiness"}),
        (Breaks.REPLICAS, {"gate.readiness", "gate.errors"}),
        (Breaks.GATEWAY_LONG, {"gate.errors"}),
    ],
)
def test_a_gate_fails_and_pattern_1_serves_again(
    machine: RandomMachine, strategy: str, what: Breaks, gates: set[str]
) -> None:
    machine.begin(strategy=strategy, rollback="auto", lag_s=0.0, done=(SCALE,))
    machine.something_breaks_once_the_route_moves(stage=SWAP, after_s=10.0, what=what)
    assert failed(machine) == ("RolledBack", gates)
    assert machine.world.serves() == ["old-model"]


def test_a_replica_of_pattern_1_that_crashes_while_it_drains_is_no_reason_to_go_back(machine: RandomMachine) -> None:
    machine.begin(strategy="surge", rollback="auto", lag_s=0.0, done=(SCALE,))
    machine.something_breaks_meanwhile(stage=SWAP, at=116, what=Breaks.REPLICA, app="ms-pattern1")
    assert machine.disturbed
    assert failed(machine) == ("finished", set())
    assert machine.world.serves() == ["new-model"]


def failed(machine: RandomMachine) -> tuple[str, set[str]]:
    """How the last attempt ended, and the gates that failed in it."""
    assert machine.last is not None
    record = machine.last.record
    assert record is not None
    assert record.result is not None
    checks = record.result.checks
    gates = {item.id for item in checks if item.id.startswith("gate.") and item.verdict is Verdict.FAIL}
    return machine.last.ended, gates
