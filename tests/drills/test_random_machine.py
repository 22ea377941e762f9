"""At least 500 seeded runs of the random machine over the real stages: the first hundred with all other tests."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.drills.random_machine import machine

SHARDS, RUNS, STEPS = 5, 100, 3
"""Each shard is a test with a seed of its own, so that they may run side by side: 500 runs in all."""
SEEDED = settings(
    max_examples=RUNS,
    stateful_step_count=STEPS,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shard", [0, *(pytest.param(n, marks=pytest.mark.drills) for n in range(1, SHARDS))])
def test_steps_and_faults_in_any_order(shard: int) -> None:
    run_state_machine_as_test(seed(shard)(machine()), settings=SEEDED)
