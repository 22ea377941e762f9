from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest

from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER, Rules
from llmd_runbook.analysis.traces import PromptRequest, prompt_requests
from llmd_runbook.analysis.what_if import Outcome, Scenario, scenarios, simulate, weights_text
from llmd_runbook.load.prompts import shared_prefix, unique

GUIDE = {PREFIX_SCORER: 3.0, KV_SCORER: 2.0, QUEUE_SCORER: 2.0}
BLIND = {KV_SCORER: 2.0, QUEUE_SCORER: 2.0}
Make = Callable[[Mapping[str, float]], Rules]


def requests(texts: list[str], gap_s: float = 100.0, output_tokens: int = 10) -> list[PromptRequest]:
    times = [index * gap_s for index in range(len(texts))]
    return prompt_requests("m", texts, output_tokens=output_tokens, arrivals_s=times)


def shared(rate_per_s: float = 2.0, output_tokens: int = 10) -> list[PromptRequest]:
    prompts = shared_prefix(20, 10, prefix_tokens=256, tokens=300, seed=1)
    return requests([prompt.text for prompt in prompts], 1 / rate_per_s, output_tokens)


def test_three_prompts_on_two_replicas_by_hand() -> None:
    """Alone in time: a is cold, b is cold, a again is found where it went first; 128 of 132 bytes are two blocks."""
    a, b = "a" * 132, "b" * 132
    found = simulate(requests([a, b, a]), Scenario(Rules.v0_4({PREFIX_SCORER: 1}), 2, 100))
    assert found.requests == 3
    assert found.hit_rate == 32 / 99  # 33 tokens a prompt
    assert found.believed_hit_rate == 2 / 6  # two 64-byte blocks a prompt
    assert (found.repeats, found.moves) == (1, 0)
    assert sorted(found.served) in ([0, 3], [1, 2])
    assert found.imbalance == max(found.served) / 1.5
    assert (found.queue_mean, found.queue_p95, found.latency_p95_s) == (0, 0, None)


def test_a_router_that_does_not_look_moves_prefixes_and_finds_them_only_at_home() -> None:
    """No scorer at all: the pick is random, so hits and moves follow from the picks of its seed."""
    texts = ["a" * 132] * 9
    found = simulate(requests(texts), Scenario(Rules.v0_4({}), 2, 100), seed=3)
    rng = random.Random(3)
    picks = [rng.choice([0, 1]) for _ in texts]
    assert found.served == (picks.count(0), picks.count(1))
    moves = sum(one != other for one, other in pairwise(picks))
    assert (found.moves, found.repeats) == (moves, 8)
    assert found.moves > 0
    assert found.hit_rate == pytest.approx((9 - len(set(picks))) * 32 / (9 * 33))


def test_the_pickers_belief_outlives_what_the_replicas_keep() -> None:
    """Four prompts of 4 blocks in turn through a cache of 8: nothing is kept, while the index believes more.

    v0.10 counts blocks of 64 tokens against a capacity in blocks of 16, so its index holds 8 of its own.
    """
    texts = [letter * 256 for letter in "abcd"] * 3
    found = simulate(requests(texts), Scenario(Rules.v0_10({PREFIX_SCORER: 1}), 1, 8))
    assert found.hit_rate == 0
    assert found.believed_hit_rate == 8 / 12


def test_one_replica_is_even_and_nothing_moves() -> None:
    found = simulate(shared(), Scenario(Rules.v0_4(GUIDE), 1))
    assert (found.imbalance, found.variation, found.moves) == (1, 0, 0)
    assert found.repeats == 180  # all but the first of each of 20 groups
    assert found.served == (200,)


@pytest.mark.parametrize("make", [Rules.v0_4, Rules.v0_10])
def test_without_the_prefix_scorer_less_is_found_and_more_moves(make: Make) -> None:
    outcomes = [simulate(shared(), Scenario(make(weights), 4)) for weights in (GUIDE, BLIND)]
    zero = simulate(shared(), Scenario(make({**GUIDE, PREFIX_SCORER: 0}), 4))
    aware, blind = outcomes
    assert aware.hit_rate > blind.hit_rate + 0.1
    assert (aware.moves, aware.repeats) == (0, blind.repeats)
    assert blind.moves > 50
    assert (zero.hit_rate, zero.moves) == (blind.hit_rate, blind.moves)


def test_prompts_that_share_nothing_are_never_found_and_never_move() -> None:
    texts = [prompt.text for prompt in unique(80, 100, seed=1)]
    found = simulate(requests(texts, 0.1), Scenario(Rules.v0_4(GUIDE), 3))
    assert (found.hit_rate, found.believed_hit_rate, found.repeats, found.moves) == (0, 0, 0, 0)
    assert min(found.served) > 0


def test_a_smaller_cache_finds_less_and_a_request_beyond_it_is_refused() -> None:
    sizes = [30, 120, 600, 7600]
    found = [simulate(shared(0.2), Scenario(Rules.v0_4({PREFIX_SCORER: 1}), 1, size)).hit_rate for size in sizes]
    assert found == sorted(found)
    assert found[0] < found[-1]
    refusing = simulate(shared(), Scenario(Rules.v0_4(GUIDE), 2, 19))  # 300 tokens and 10 need 20 blocks
    assert (refusing.requests, refusing.refused, refusing.imbalance, refusing.hit_rate) == (0, 200, 1, 0)


def test_more_replicas_shorten_an_overloaded_queue() -> None:
    load = shared(30, 98)
    found = [simulate(load, Scenario(Rules.v0_4(GUIDE), count, 300)) for count in (1, 2, 4)]
    assert found[0].queue_p95 > found[1].queue_p95 > found[2].queue_p95
    latencies = [outcome.latency_p95_s for outcome in found]
    assert None not in latencies
    assert latencies == sorted(latencies, key=lambda value: -(value or 0))


def test_a_closed_loop_keeps_so_many_requests_on_their_way() -> None:
    """One at a time on one replica: a request takes 17 tokens of prompt at 0.28 ms and 50 steps of 32.52 ms."""
    texts = [prompt.text for prompt in unique(70, 17, seed=1)]  # 67 bytes: 17 tokens
    alone = simulate(requests(texts, 0.0, 50), Scenario(Rules.v0_4(GUIDE), 1), in_flight=1)
    expected_s = 17 * 0.00028 + 50 * 0.03252
    assert alone.latency_p95_s == pytest.approx(expected_s)
    assert alone.requests_per_s == pytest.approx(1 / expected_s, rel=0.03)
    more = simulate(requests(texts, 0.0, 50), Scenario(Rules.v0_4(GUIDE), 1), in_flight=10)
    assert alone.requests_per_s * 5 < more.requests_per_s < alone.requests_per_s * 10


def test_the_engine_has_the_two_measured_rates_of_a_t4() -> None:
    """Facts: 0.619 requests/s alone with 50 tokens out; 5.54 on three replicas, 20 in flight, 70 in and 98 out."""
    one = requests([prompt.text for prompt in unique(60, 12, seed=1)], 0.0, 50)
    three = requests([prompt.text for prompt in unique(420, 70, seed=1)], 0.0, 98)
    alone = simulate(one, Scenario(Rules.v0_4(GUIDE), 1), in_flight=1)
    loaded = simulate(three, Scenario(Rules.v0_4(GUIDE), 3), in_flight=20)
    assert alone.requests_per_s == pytest.approx(0.619, rel=0.05)
    assert loaded.requests_per_s == pytest.approx(5.54, rel=0.15)


def test_one_seed_gives_one_result() -> None:
    scenario = Scenario(Rules.v0_4(BLIND), 3)
    first, again = (simulate(shared(), scenario, seed=1) for _ in range(2))
    assert first == again
    assert any(simulate(shared(), scenario, seed=seed).served != first.served for seed in (2, 3, 4))


def test_scenarios_are_every_combination_by_replicas() -> None:
    rules = [Rules.v0_4(GUIDE), Rules.v0_4(BLIND)]
    found = scenarios(rules, iter([1, 2]), iter([10, 20]))
    assert [(s.rules is rules[0], s.cache_blocks, s.replicas) for s in found[:5]] == [
        (True, 10, 1),
        (True, 10, 2),
        (True, 20, 1),
        (True, 20, 2),
        (False, 10, 1),
    ]
    assert len(found) == 8
    assert weights_text(found[0].rules) == "prefix 3, kv 2, queue 2"


def test_nonsense_is_refused() -> None:
    scenario = Scenario(Rules.v0_4(GUIDE), 2)
    with pytest.raises(ValueError, match="no requests"):
        simulate([], scenario)
    for bad in (dataclasses.replace(scenario, replicas=0), dataclasses.replace(scenario, cache_blocks=0)):
        with pytest.raises(ValueError, match="a replica and a cache block"):
            simulate(shared(), bad)


def test_an_uneven_outcome_says_so() -> None:
    even = simulate(shared(), Scenario(Rules.v0_4(GUIDE), 2))
    uneven: Outcome = dataclasses.replace(even, served=(150, 50), requests=200)
    assert uneven.imbalance == 1.5
    assert uneven.variation == 0.5
