"""A load in parts is the same load: the same prompts, due times and requests in flight; and its samples come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.load.plan import Arrival, Burst, Closed, Open, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import Client, LoadResult, Sample
from llmd_runbook.load.schedule import schedule
from llmd_runbook.load.split import merge, split

ARRIVALS: list[Arrival] = [
    Closed(concurrency=9),
    Open(rate_per_s=5, seed=3),
    Open(rate_per_s=5, gaps="constant"),
    Burst(),
]


def plan(requests: int, arrival: Arrival) -> Plan:
    return Plan(url="http://x", model="m", prompts=unique(requests, 5, seed=1), output_tokens=1, arrival=arrival)


@given(st.sampled_from(ARRIVALS), st.integers(1, 9), st.integers(9, 40))
def test_parts_are_the_whole(arrival: Arrival, parts: int, requests: int) -> None:
    whole = plan(requests, arrival)
    found = split(whole, parts)
    due = schedule(arrival, requests).due_s
    for part, one in enumerate(found):
        assert one.prompts == whole.prompts[part::parts]
        assert schedule(one.arrival, len(one.prompts)).due_s == due[part::parts]
    if isinstance(arrival, Closed):
        shares = [one.arrival.concurrency for one in found if isinstance(one.arrival, Closed)]
        assert sum(shares) == arrival.concurrency
        assert max(shares) - min(shares) <= 1


def test_a_load_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="2 in flight cannot"):
        split(plan(10, Closed(concurrency=2)), 3)
    with pytest.raises(ValueError, match="2 requests cannot"):
        split(plan(2, Burst()), 3)


def result(started_s: float, indices: int, lag_s: float) -> LoadResult:
    samples = [
        Sample(
            index=index,
            group="g",
            due_s=float(index),
            sent_s=index + 0.1,
            first_token_s=None if index == 0 else index + 0.2,
            gaps_s=(0.01,),
            done_s=index + 0.3,
            status=200,
            error=None,
            detail="",
            prompt_tokens=1,
            output_tokens=2,
            cached_tokens=None,
            events=2,
            request_id="r",
            headers={},
        )
        for index in range(indices)
    ]
    client = Client(lag_p99_s=lag_s, lag_max_s=lag_s, late_p99_s=0, cpu_share=0.1)
    return LoadResult(started_s=started_s, duration_s=5, client=client, samples=samples)


def test_samples_come_back_on_one_clock_and_under_their_own_numbers() -> None:
    """The second machine's clock is 100 s ahead and it started half a second late; the third was lost."""
    merged = merge({0: result(1000.0, 2, 0.001), 1: result(1100.5, 2, 0.002)}, 3, start_s=1000.0, ahead_s=[0, 100, 0])
    assert [sample.index for sample in merged.samples] == [0, 1, 3, 4]
    assert [sample.sent_s for sample in merged.samples] == pytest.approx([0.1, 0.6, 1.1, 1.6])
    assert [sample.first_token_s for sample in merged.samples][2:] == pytest.approx([1.2, 1.7])
    assert merged.samples[0].first_token_s is None
    assert merged.samples[1].latency_s == pytest.approx(0.2)
    assert merged.samples[1].gaps_s == (0.01,)
    assert (merged.started_s, merged.duration_s, merged.client.lag_p99_s) == (1000.0, 5.5, 0.002)
