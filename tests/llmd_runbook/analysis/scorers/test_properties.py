"""What holds for any picker: properties of scores, decisions, memory and hashes."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmd_runbook.analysis.scorers import (
    KV_SCORER,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Endpoint,
    Generation,
    InferenceRequest,
    Picker,
    PrefixIndex,
    Rules,
    Ties,
    block_hashes,
)
from llmd_runbook.analysis.scorers.picker import queue_scores

WEIGHTS = {QUEUE_SCORER: 2.0, KV_SCORER: 2.0, PREFIX_SCORER: 3.0}
RULES = [Rules.v0_4(WEIGHTS), Rules.v0_10({**WEIGHTS, NO_HIT_SCORER: 2.0})]

rules = st.sampled_from(RULES)
replicas = st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1), st.integers(0, 12)), min_size=1, max_size=5)
prompts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12)


def endpoints(pods: list[tuple[int, float, int]]) -> list[Endpoint]:
    return [Endpoint(f"p{index}", waiting, kv, 16, blocks) for index, (waiting, kv, blocks) in enumerate(pods)]


def body(prompt: tuple[int, int]) -> dict[str, Any]:
    """Prompts that share nothing, some blocks, or all."""
    return {"model": "m", "prompt": f"{prompt[0]}" * 600 + f"{prompt[1]}" * 600}


def trained(picked: Rules, pods: list[tuple[int, float, int]], seen: list[tuple[int, int]], seed: int = 1) -> Picker:
    picker = Picker(picked, rng=random.Random(seed))
    for prompt in seen:
        picker.learn(picker.decide(body(prompt), endpoints(pods)))
    return picker


def memory(picker: Picker) -> dict[str, Any]:
    return copy.deepcopy({"index": vars(picker.index), "cold": vars(picker.cold_order)})


@given(rules, replicas, prompts)
def test_scores_lie_in_0_to_1_and_totals_are_their_weighted_sum(
    picked: Rules, pods: list[tuple[int, float, int]], seen: list[tuple[int, int]]
) -> None:
    decision = trained(picked, pods, seen).decide(body((0, 1)), endpoints(pods))
    for name, total in decision.totals.items():
        scores = {scorer: of_replica[name] for scorer, of_replica in decision.scores.items()}
        assert all(0 <= score <= 1 for score in scores.values())
        assert total == pytest.approx(sum(picked.weights[scorer] * score for scorer, score in scores.items()))


@given(replicas, prompts, st.randoms(use_true_random=False))
def test_the_order_of_replicas_does_not_change_totals(
    pods: list[tuple[int, float, int]], seen: list[tuple[int, int]], rng: random.Random
) -> None:
    picker = trained(RULES[0], pods, seen)
    shuffled = endpoints(pods)
    rng.shuffle(shuffled)
    one, other = picker.decide(body((0, 1)), endpoints(pods)), picker.decide(body((0, 1)), shuffled)
    assert one.totals == other.totals
    assert set(one.ties) == set(other.ties)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.integers(1, 50), st.integers(0, 1000))
def test_the_queue_score_knows_neither_scale_nor_offset(waiting: list[int], scale: int, offset: int) -> None:
    scores = queue_scores(waiting)
    assert queue_scores([scale * queue + offset for queue in waiting]) == pytest.approx(scores)
    assert max(scores) == 1
    assert min(scores) == (0 if len(set(waiting)) > 1 else 1)


@given(rules, replicas, prompts, st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_deciding_never_changes_the_memory(
    picked: Rules, pods: list[tuple[int, float, int]], seen: list[tuple[int, int]], prompt: tuple[int, int]
) -> None:
    picker = trained(picked, pods, seen)
    before = memory(picker)
    first = picker.decide(body(prompt), endpoints(pods))
    assert memory(picker) == before
    assert picker.decide(body(prompt), endpoints(pods)).totals == first.totals


@given(rules, replicas, prompts)
def test_learning_raises_no_score_but_the_picked_ones(
    picked: Rules, pods: list[tuple[int, float, int]], seen: list[tuple[int, int]]
) -> None:
    picker = trained(picked, [(waiting, kv, 0) for waiting, kv, _ in pods], seen)
    decision = picker.decide(body((0, 1)), endpoints(pods))
    picker.learn(decision)
    after = picker.decide(body((0, 1)), endpoints(pods))
    name = decision.picked.name
    assert after.scores[PREFIX_SCORER].pop(name) == 1
    before = {other: score for other, score in decision.scores[PREFIX_SCORER].items() if other != name}
    if decision.matched_blocks:  # else others collect what only the picked one knows now: nothing
        assert all(after.scores[PREFIX_SCORER][other] >= score for other, score in before.items())
    else:
        assert after.scores[PREFIX_SCORER] == before


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 30), unique=True, max_size=12)),
        max_size=20,
    ),
    st.integers(1, 8),
)
def test_the_index_never_exceeds_its_capacity_and_matches_a_plain_model(
    calls: list[tuple[str, list[int]]], capacity: int
) -> None:
    index = PrefixIndex(capacity)
    recent: dict[str, list[int]] = {}
    held: dict[int, set[str]] = {}
    for endpoint, hashes in calls:
        index.add(endpoint, hashes, 0)
        mine = recent.setdefault(endpoint, [])
        for block in hashes:
            if block in mine:
                mine.remove(block)
            mine.append(block)
            if len(mine) > capacity:
                held.get(mine.pop(0), set()).discard(endpoint)
        for block in hashes:
            held.setdefault(block, set()).add(endpoint)
        assert len(index) == sum(map(len, recent.values()))
        assert all(len(blocks) <= capacity for blocks in recent.values())
    for block in range(31):
        assert set(index.matches([block])) == held.get(block, set())


@given(
    st.sampled_from(list(Generation)),
    st.binary(min_size=64, max_size=1600),
    st.binary(max_size=600),
    st.sampled_from([64, 128, 256]),
)
def test_a_longer_prompt_keeps_the_hashes_of_the_whole_blocks_it_begins_with(
    generation: Generation, text: bytes, more: bytes, block_bytes: int
) -> None:
    short = block_hashes(generation, InferenceRequest("m", text), block_bytes, 0)
    long = block_hashes(generation, InferenceRequest("m", text + more), block_bytes, 0)
    whole = len(text) // block_bytes
    assert long[:whole] == short[:whole]
    assert len(set(long)) == len(long)
    changed = block_hashes(generation, InferenceRequest("m", bytes([text[0] ^ 1]) + text[1:]), block_bytes, 0)
    assert not set(changed) & set(short)


@given(replicas, st.sampled_from(list(Ties)))
@settings(max_examples=30)
def test_either_way_to_break_ties_picks_a_best_one_and_rotation_reaches_all(
    pods: list[tuple[int, float, int]], ties: Ties
) -> None:
    picker = Picker(RULES[0], ties=ties, rng=random.Random(1))
    decisions = [picker.decide({"model": "m", "prompt": ""} | body((0, 0)), endpoints(pods)) for _ in range(len(pods))]
    assert all(decision.picked.name in decision.ties for decision in decisions)
    if ties is Ties.ROTATE and len(decisions[0].ties) == len(pods):
        assert len({decision.picked.name for decision in decisions}) == len(pods)


@given(st.integers(0, 20), st.integers(0, 20))
def test_a_decision_rests_on_the_metrics_as_scraped_and_no_others(seen: int, now: int) -> None:
    """Staleness is the caller's: what it last scraped is what counts, however long ago."""
    picker = Picker(RULES[0])
    stale = [Endpoint("a", waiting=seen), Endpoint("b", waiting=10)]
    decision = picker.decide(body((0, 0)), stale)
    stale[0].waiting = now
    expected = ["a", "b"] if seen == 10 else ["a"] if seen < 10 else ["b"]
    assert decision.ties == expected
