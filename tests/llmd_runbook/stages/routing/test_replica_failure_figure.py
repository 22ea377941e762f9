from __future__ import annotations

import pytest

from llmd_runbook.analysis.replica_loss import Request
from llmd_runbook.stages.routing.replica_failure_figure import requests_over_time

REQUESTS = [
    Request("g0", -1.0, -0.5, "pod-a", None),
    Request("g1", -0.1, 0.4, None, "disconnected"),
    Request("g0", 0.5, 1.0, "pod-b", None),
    Request("g1", 0.7, 1.2, None, None),
]


@pytest.mark.parametrize(("stamp", "end"), [("simulated engine", " prefix [simulated engine]"), ("", " prefix")])
def test_the_picture_says_what_made_its_numbers(stamp: str, end: str) -> None:
    made = requests_over_time(REQUESTS, "pod-a", {"killed": 0.0}, stamp=stamp)
    assert made.data.startswith(b"\x89PNG\r\n\x1a\n")
    assert repr(made).endswith(end)
