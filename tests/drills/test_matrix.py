"""The matrix has every fault in each of the changing stages that it can concern."""

from __future__ import annotations

import pytest

from tests.drills.matrix import GROUPS, SCALING

BY_STAGE = {
    "02": SCALING,
    "03": [drill for group in GROUPS.values() for drill in group.swap],
    "07": [drill for group in GROUPS.values() for drill in group.cleanup],
}
EVERYWHERE = ["API 409", "API 429", "API 500", "answer lost", "time-out", "full disk under outputs/"]


@pytest.mark.parametrize("stage", BY_STAGE)
@pytest.mark.parametrize("fault", EVERYWHERE)
def test_each_stage_meets_what_can_happen_to_all(stage: str, fault: str) -> None:
    assert any(drill.fault == fault and drill.step.startswith(stage) for drill in BY_STAGE[stage])


@pytest.mark.parametrize(
    ("stage", "faults"),
    [
        ("02", ["GKE stock-out", "GKE quota", "GKE operation of somebody else", "node disappears"]),
        ("03", ["hanging helm", "pod never Ready", "OOM on start", "replica crashes after the route moved"]),
        ("03", ["spot reclaim", "gateway down for 5 s", "node disappears"]),
        ("07", ["hanging helm", "pod never Ready", "gateway down for 5 s", "GKE operation of somebody else"]),
    ],
)
def test_each_stage_meets_what_can_happen_to_it(stage: str, faults: list[str]) -> None:
    assert set(faults) <= {drill.fault for drill in BY_STAGE[stage]}


def test_no_two_rows_are_the_same() -> None:
    for group in GROUPS.values():
        rows = [(drill.fault, drill.step) for drill in [*group.swap, *group.cleanup]]
        assert len(rows) == len(set(rows))
