"""One kill and one fault of the drills, with all other tests: that the lane's means work at all."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from llmd_sandbox.faults.declared import Kind
from tests.drills.faults import api
from tests.drills.ground import RECREATE, SCALE, SWAP, Ground
from tests.drills.matrix import ROUTE, SIZE
from tests.drills.test_faults import run_through
from tests.drills.test_kills import Call, drill

pytestmark = pytest.mark.timeout(300)


def test_a_run_that_is_killed_while_the_pool_grows_goes_on(ground: Ground) -> None:
    ground.strategy = RECREATE
    pool = ground.profile.pool
    path = f"/v1/projects/{pool.project}/locations/{pool.location}/clusters/{pool.cluster}/nodePools/{pool.name}{SIZE}"
    resize = Call(SCALE, "POST", path, 0)
    assert drill(ground, SCALE, [resize], Kind.KILL_AFTER, {resize: 0}) == [resize]


def test_a_swap_whose_route_somebody_else_changes_ends_and_goes_on(ground: Ground, tmp_path: Path) -> None:
    """From the pool that the test before has made."""
    run_through(ground, SWAP, deque(enumerate(api("03 route", ROUTE, "API 409", method="PATCH"))), tmp_path, (0,))
