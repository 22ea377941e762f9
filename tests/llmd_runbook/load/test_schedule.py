"""Due times."""

from __future__ import annotations

from itertools import pairwise

import pytest
from pydantic import ValidationError

from llmd_runbook.load.plan import Burst, Closed, Open, Plan, Timed
from llmd_runbook.load.schedule import schedule


def test_a_closed_loop_is_held_back_by_its_concurrency_alone() -> None:
    times = schedule(Closed(concurrency=4), 10)
    assert (times.due_s, times.concurrency) == ((0.0,) * 10, 4)
    assert schedule(Closed(concurrency=4), 2).concurrency == 2


def test_a_burst_is_all_at_once() -> None:
    times = schedule(Burst(), 50)
    assert (set(times.due_s), times.concurrency) == ({0.0}, 50)


def test_a_trace_keeps_its_times() -> None:
    times = schedule(Timed(due_s=[0.0, 0.3, 0.3]), 3)
    assert (times.due_s, times.concurrency) == ((0.0, 0.3, 0.3), 3)


def test_constant_gaps() -> None:
    times = schedule(Open(rate_per_s=4, gaps="constant"), 5)
    assert (times.due_s, times.concurrency) == ((0, 0.25, 0.5, 0.75, 1), 5)


def test_poisson_gaps_are_seeded_and_have_the_rate() -> None:
    times = schedule(Open(rate_per_s=10, seed=1), 4001)
    assert times == schedule(Open(rate_per_s=10, seed=1), 4001)
    assert times != schedule(Open(rate_per_s=10, seed=2), 4001)
    assert times.due_s[-1] == pytest.approx(400, rel=0.05)
    gaps = [b - a for a, b in pairwise(times.due_s)]
    assert min(gaps) > 0
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)


@pytest.mark.parametrize(
    "arrival",
    [
        {"kind": "closed", "concurrency": 0},
        {"kind": "open", "rate_per_s": 0},
        {"kind": "timed", "due_s": [0.2, 0.1]},
        {"kind": "timed", "due_s": [0.1, 0.2]},
        {"kind": "waves"},
    ],
)
def test_impossible_arrivals_are_refused(arrival: dict[str, object]) -> None:
    plan = {"url": "http://x", "model": "m", "output_tokens": 1, "prompts": [{"group": "g", "text": "t"}]}
    with pytest.raises(ValidationError):
        Plan.model_validate({**plan, "arrival": arrival})
