from __future__ import annotations

import pytest

from llmd_runbook.analysis.guide import GUIDE_WEIGHTS, weighed_as_the_guide_says


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({}, True),
        ({"no-hit-lru-scorer": 2}, True),  # the newest layout's, for requests that no replica has cached
        ({"session-affinity-scorer": 1}, False),
        ({"prefix-cache-scorer": 1}, False),
        ({"prefix-cache-scorer": 1, "no-hit-lru-scorer": 2}, False),
    ],
)
def test_only_the_scorer_of_cold_requests_may_stand_beside_the_guides(weights: dict[str, float], says: bool) -> None:
    assert weighed_as_the_guide_says(GUIDE_WEIGHTS | weights) is says


def test_a_scorer_that_is_missing() -> None:
    assert not weighed_as_the_guide_says({"prefix-cache-scorer": 3, "queue-scorer": 2})
