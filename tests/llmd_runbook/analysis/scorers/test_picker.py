from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.analysis.scorers import (
    KV_SCORER,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    ColdOrder,
    Endpoint,
    Picker,
    PrefixIndex,
    Rules,
    Ties,
)

WEIGHTS = {QUEUE_SCORER: 2.0, KV_SCORER: 2.0, PREFIX_SCORER: 3.0}
LONG = {"model": "m", "prompt": "prefix " * 40}


def three() -> list[Endpoint]:
    return [Endpoint(name, block_size=16, num_blocks=100) for name in "abc"]


def test_affinity_comes_with_learning_only() -> None:
    picker = Picker(Rules.v0_4(WEIGHTS), rng=random.Random(1))
    first = picker.decide(LONG, three())
    assert set(picker.decide(LONG, three()).ties) == {"a", "b", "c"}
    picker.learn(first)
    again = picker.decide(LONG, three())
    assert again.ties == [first.picked.name]
    assert again.scores[PREFIX_SCORER][first.picked.name] == 1.0


def test_a_full_match_beats_any_queue_but_not_half_of_the_cache() -> None:
    picker = Picker(Rules.v0_4(WEIGHTS))
    endpoints = three()
    picker.learn(picker.decide(LONG, endpoints[:1]))
    endpoints[0].waiting = 1000
    endpoints[0].kv_usage = 0.49
    assert picker.decide(LONG, endpoints).picked.name == "a"
    endpoints[0].kv_usage = 0.51
    assert picker.decide(LONG, endpoints).ties == ["b", "c"]


def test_random_ties_are_even_and_rotation_takes_turns() -> None:
    short = {"model": "m", "prompt": "x"}
    picker = Picker(Rules.v0_4(WEIGHTS), rng=random.Random(7))
    counts = dict.fromkeys("abc", 0)
    for _ in range(3000):
        counts[picker.decide(short, three()).picked.name] += 1
    assert all(900 < count < 1100 for count in counts.values())
    rotating = Picker(Rules.v0_4(WEIGHTS), ties=Ties.ROTATE)
    assert [rotating.decide(short, three()).picked.name for _ in range(4)] == ["a", "b", "c", "a"]


def test_cold_requests_go_round_on_v0_10() -> None:
    picker = Picker(Rules.v0_10({**WEIGHTS, NO_HIT_SCORER: 2.0}))
    picked = []
    for number in range(6):
        decision = picker.decide({"model": "m", "prompt": f"{number} " * 200}, three())
        picker.learn(decision)
        picked.append(decision.picked.name)
    assert picked == ["a", "b", "c", "a", "b", "c"]
    warm = picker.decide({"model": "m", "prompt": "0 " * 200}, three())
    assert set(warm.scores[NO_HIT_SCORER].values()) == {0.5}


def test_the_capacity_is_fixed_at_the_first_insertion() -> None:
    index = PrefixIndex(10)
    index.add("a", [1, 2], capacity=2)
    index.add("a", [3], capacity=50)
    assert index.matches([1]) == {}
    assert index.matches([2, 3]) == {"a": 2}
    index.add("b", list(range(10, 22)), capacity=0)
    assert len(index) == 2 + 10


def test_a_block_beyond_a_gap_still_counts() -> None:
    index = PrefixIndex(10)
    index.add("a", [1, 2], 0)
    index.add("b", [2], 0)
    assert index.matches([1, 2, 3, 2]) == {"a": 2, "b": 1}


def test_endpoints_that_are_gone_are_forgotten() -> None:
    picker = Picker(Rules.v0_4(WEIGHTS))
    picker.learn(picker.decide(LONG, three()[:1]))
    assert picker.forget_all_but({"b"}) == ["a"]
    assert len(picker.index) == 0
    assert picker.decide(LONG, three()).scores[PREFIX_SCORER]["a"] == 0


def test_cold_order_ranks_fresh_endpoints_first_and_the_last_used_last() -> None:
    order = ColdOrder(10)
    order.take("b")
    order.take("a")
    assert order.scores(["a", "b", "c"]) == [0.0, 0.5, 1.0]
    assert order.scores(["a"]) == [1.0]


def test_no_endpoints() -> None:
    with pytest.raises(ValueError, match="no endpoints"):
        Picker(Rules.v0_4(WEIGHTS)).decide(LONG, [])


def test_a_weight_on_match_length_mixes_the_two() -> None:
    rules = Rules.v0_10({PREFIX_SCORER: 1.0})
    mixed = Rules(rules.generation, rules.weights, block_size=16, max_tokens=131_072, match_length_weight=0.5)
    picker = Picker(mixed)
    picker.learn(picker.decide(LONG, three()[:1]))
    matched_tokens = 2 * 64
    expected = 0.5 * (matched_tokens / 8192) ** 2 + 0.5
    assert picker.decide(LONG, three()).scores[PREFIX_SCORER]["a"] == pytest.approx(expected)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.floats(0, 1.5), st.integers(0, 3)),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.integers(0, 5), max_size=15),
)
def test_invariants_of_any_decision(pods: list[tuple[int, float, int]], prompts: list[int]) -> None:
    endpoints = [Endpoint(f"p{i}", waiting, kv, 16, blocks) for i, (waiting, kv, blocks) in enumerate(pods)]
    picker = Picker(Rules.v0_10({**WEIGHTS, NO_HIT_SCORER: 2.0}))
    for prompt in [*prompts, 0]:
        decision = picker.decide({"model": "m", "prompt": f"{prompt}" * 700}, endpoints)
        assert decision.picked.name in decision.ties
        assert all(decision.totals[name] == max(decision.totals.values()) for name in decision.ties)
        assert 0 <= max(decision.totals.values()) <= 9
        assert all(0 <= score <= 1 for score in decision.scores[PREFIX_SCORER].values())
        picker.learn(decision)
        assert picker.decide({"model": "m", "prompt": f"{prompt}" * 700}, endpoints).matched_blocks
