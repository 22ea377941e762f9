"""Power and false passes: the designs of facts in the literature of this test, and the guide's rule beside them."""

from __future__ import annotations

import numpy as np
import pytest

from llmd_runbook.analysis.affinity import judge
from llmd_runbook.analysis.affinity_design import all_on_one, design, guide_rule, power
from llmd_runbook.analysis.permutation import following

DEFAULT = [[5, 0, 0], [0, 5, 0], [0, 0, 5]] * 3 + [[2, 2, 1]]


@pytest.mark.parametrize(
    ("groups", "replicas", "follow", "expected"),
    [
        ([5], [2, 2, 1], 1.0, 0.0),  # one prefix can never reject
        ([5] * 4, [7, 7, 6], 0.8, 0.78),
        ([5] * 10, [17, 17, 16], 0.5, 0.62),
        ([5] * 10, [17, 17, 16], 0.8, 1.0),
        ([5] * 10, [30, 12, 8], 1.0, 1.0),
        ([5] * 10, [50, 0, 0], 1.0, 0.0),
    ],
)
def test_power(groups: list[int], replicas: list[int], follow: float, expected: float) -> None:
    found = power(groups, replicas, follow, seed=1)
    assert found.low is not None
    assert found.high is not None
    assert found.low - 0.03 <= expected <= found.high + 0.03


def test_power_is_how_often_the_judge_passes() -> None:
    shares, rng = np.array([0.5, 0.3, 0.2]), np.random.default_rng(3)
    tables = following([5] * 6, shares, 0.6, 300, rng).tolist()
    passed = sum(judge(table, None, seed=1).ok is True for table in tables) / 300
    assert power([5] * 6, [15, 9, 6], 0.6, seed=1).value == pytest.approx(passed, abs=0.12)


def test_a_blind_router_has_the_false_pass_probability_as_its_power() -> None:
    found = design(DEFAULT, seed=1)
    assert found.false_pass.high is not None
    assert found.false_pass.high < 0.01
    blind = power(found.groups, found.replicas, 0.0, seed=1)
    assert blind.low is not None
    assert blind.low <= found.false_pass.value


def test_the_design_of_the_default_test() -> None:
    found = design(DEFAULT, seed=1)
    assert (found.groups, found.replicas) == ((5,) * 10, (17, 17, 16))
    assert found.critical is not None
    assert 30 < found.critical < 40
    assert [found.power[follow].value > least for follow, least in ((0.5, 0.5), (0.8, 0.95), (1.0, 0.99))] == [True] * 3


def test_a_design_that_cannot_pass() -> None:
    found = design([[5, 0, 0]], seed=1)
    assert found.critical is None
    assert found.false_pass.value == 0
    assert found.power[1.0].value == 0


def test_the_guides_rule_is_passed_by_blind_routers() -> None:
    assert all_on_one([1, 1, 1], 5) == pytest.approx(3**-4)
    assert all_on_one([60, 25, 15], 5) == pytest.approx(0.0788, abs=1e-4)
    assert list(guide_rule([60, 25, 15], 5).values()) == pytest.approx([3**-4, 0.0788, 1.0], abs=1e-4)
