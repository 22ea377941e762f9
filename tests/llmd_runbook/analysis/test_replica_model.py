from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.analysis.replica_model import BlockCache, Engine, Job, Replica
from llmd_runbook.analysis.traces import BlocksRequest, PromptRequest, Segment, prompt_requests

PLAIN = Engine(max_num_seqs=2, max_batched_tokens=100, prefill_s_per_token=0.01, step_s=1.0, step_s_per_sequence=0.0)


def request(text: str, output_tokens: int = 10) -> PromptRequest:
    return prompt_requests("m", [text], output_tokens=output_tokens, arrivals_s=[0.0])[0]


def ended(replica: Replica) -> list[Job]:
    """Everything that ends from here on, in order."""
    done = []
    while (following_s := replica.next_s()) is not None:
        done += replica.turn(following_s)
    return done


def test_one_request_takes_its_prefill_and_its_steps() -> None:
    replica = Replica(PLAIN, 100)
    replica.waiting.append(Job(request("x" * 80), 0.0))  # 20 tokens
    replica.turn(0.0)
    assert [job.done_s for job in ended(replica)] == [pytest.approx(0.2 + 10)]


def test_a_prompt_pauses_decoding_and_more_sequences_slow_it() -> None:
    slow = Engine(max_batched_tokens=100, prefill_s_per_token=0.01, step_s=1.0, step_s_per_sequence=0.5)
    replica = Replica(slow, 100)
    replica.waiting.append(Job(request("x" * 80), 0.0))
    replica.turn(0.0)
    replica.turn(0.2)
    replica.waiting.append(Job(request("y" * 400, 4), 3.2))  # after two steps of 1.5 s; 1 s of prefill
    replica.turn(3.2)
    done = ended(replica)
    # The second: 4 steps of 2 s after 4.2. The first has 4 steps left then, of 1.5 s.
    assert [job.done_s for job in done] == [pytest.approx(4.2 + 8), pytest.approx(12.2 + 6)]


def test_sequences_token_budget_and_cache_hold_requests_back() -> None:
    replica = Replica(PLAIN, 100)
    jobs = [Job(request(letter * 240), 0.0) for letter in "abc"]  # 60 tokens each: two exceed the budget of 100
    replica.waiting.extend(jobs)
    replica.turn(0.0)
    assert len(replica.waiting) == 2
    replica.turn(0.6)
    assert len(replica.waiting) == 1
    ended(replica)
    assert jobs[2].done_s > jobs[0].done_s  # two sequences at most
    small = Replica(PLAIN, 8)
    small.waiting.extend([Job(request("a" * 240), 0.0), Job(request("b" * 40), 0.0)])  # 5 blocks, and 2
    small.turn(0.0)
    assert small.cache.usage == 7 / 8
    tight = Replica(PLAIN, 6)
    tight.waiting.extend([Job(request("a" * 240), 0.0), Job(request("b" * 40), 0.0)])
    tight.turn(0.0)
    assert len(tight.waiting) == 1


def test_a_repeated_prompt_is_found_except_for_its_last_token() -> None:
    replica = Replica(PLAIN, 100)
    jobs = [Job(request("x" * 128, 1), 0.0), Job(request("x" * 128, 1), 0.0), Job(request("x" * 130, 1), 0.0)]
    for job in jobs:
        replica.waiting.append(job)
        replica.turn(0.0 if job is jobs[0] else max(done.done_s for done in jobs))
        ended(replica)
    assert [job.cached_tokens for job in jobs] == [0, 16, 32]  # 32 tokens are two blocks; the last token is computed


def test_the_least_recent_goes_first_and_an_end_before_its_beginning() -> None:
    a, b, c = ([Segment(10 * number + part, 1) for part in range(3)] for number in range(3))
    cache = BlockCache(7)
    for segments in (a, b):
        assert cache.take(segments, 3)
        cache.give_back(segments, 3)
    assert (cache.found(a), cache.found(b), cache.used) == (3, 3, 0)
    assert cache.take(c, 3)
    assert (cache.found(a), cache.found(b)) == (1, 3)  # the two last blocks of a made room


def test_what_is_in_use_is_never_evicted_and_is_counted_once() -> None:
    shared, other = [Segment(1, 2), Segment(2, 2)], [Segment(3, 3)]
    cache = BlockCache(7)
    assert cache.take(shared, 5)
    assert cache.take(shared, 5)  # one block of its own for the answer
    assert cache.used == 6
    assert not cache.take(other, 3)
    assert cache.used == 6
    cache.give_back(shared, 5)
    assert cache.used == 5
    cache.give_back(shared, 5)
    assert (cache.used, cache.found(shared)) == (0, 4)
    assert cache.take(other, 4)
    assert cache.found(shared) == 2


@given(
    order=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 3)), max_size=60),
    small=st.integers(100, 200),
    more=st.integers(0, 300),
)
def test_a_larger_cache_never_finds_less_on_the_same_requests(
    order: list[tuple[int, int, int]], small: int, more: int
) -> None:
    requests = [
        BlocksRequest(0.0, 1, 512 * depth, (first, 10 * first + second, 100 * first + 10 * second)[:depth], 0)
        for first, second, depth in order
    ]
    caches = BlockCache(small), BlockCache(small + more)
    for number, item in enumerate(requests):
        found = []
        for cache in caches:
            found.append(cache.found(item.segments))
            blocks = Job(item, 0.0).blocks
            assert cache.take(item.segments, blocks)
            cache.give_back(item.segments, blocks)
            assert cache.used == 0
        assert found[0] <= found[1], number
