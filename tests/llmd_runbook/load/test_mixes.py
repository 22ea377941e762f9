"""Mixed prompts: their parts, what they share, and that a digest tells loads apart."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.load.mixes import SERVICE, Part, digest, mixed, repeated_share
from llmd_runbook.load.prompts import unique


def test_parts_have_their_weights_and_lengths() -> None:
    prompts = mixed(100, SERVICE, seed=1)
    kinds = Counter(prompt.group.split()[0] for prompt in prompts)
    assert kinds == {"chat": 50, "rag": 30, "unique": 20}
    for prompt in prompts:
        kind, own = prompt.group.split()[0], len(prompt.text.split())
        part = next(part for part in SERVICE if part.kind == kind)
        assert len(prompt.system.split()) == (part.shared_tokens if kind == "chat" else 0)
        least, most = part.own_tokens
        before = part.shared_tokens if kind == "rag" else 0
        assert before + least <= own <= before + most


def test_a_group_shares_its_beginning_and_groups_differ() -> None:
    prompts = mixed(100, SERVICE, seed=1)
    begins: dict[str, set[str]] = {}
    for prompt in prompts:
        begin = prompt.system if prompt.system else " ".join(prompt.text.split()[:768])
        if not prompt.group.startswith("unique"):
            begins.setdefault(prompt.group, set()).add(begin)
    assert {len(found) for found in begins.values()} == {1}
    assert len(set.union(*begins.values())) == len(begins) > 10


def test_the_digest_is_of_every_word_and_of_the_order() -> None:
    first = mixed(20, SERVICE, seed=1)
    assert digest(first) == digest(mixed(20, SERVICE, seed=1))
    others = [
        mixed(20, SERVICE, seed=2),
        first[::-1],
        first[1:],
        [*first[:-1], first[-1].model_copy(update={"system": "x"})],
    ]
    assert len({digest(first), *map(digest, others)}) == 5


@given(st.integers(1, 300), st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_the_numbers_add_up_and_none_is_off_by_a_whole_request(requests: int, weights: list[float]) -> None:
    parts = [Part("chat", weight, 1, 4 + index, (1, 1)) for index, weight in enumerate(weights)]
    prompts = mixed(requests, parts, seed=0)
    assert len(prompts) == requests
    sizes = Counter(len(prompt.system.split()) for prompt in prompts)
    for part in parts:
        assert abs(sizes[part.shared_tokens] - requests * part.weight / sum(weights)) < 1


GOOD: dict[str, Any] = {"kind": "chat", "weight": 1, "shared": 1, "shared_tokens": 8, "own_tokens": (1, 2)}


@pytest.mark.parametrize(
    "wrong", [{"weight": 0}, {"shared": 0}, {"shared_tokens": 0}, {"kind": "unique"}, {"own_tokens": (3, 2)}]
)
def test_an_impossible_part_is_refused(wrong: dict[str, Any]) -> None:
    Part(**GOOD)
    with pytest.raises(ValueError, match=r"weight|share|range"):
        Part(**GOOD | wrong)


def test_what_an_empty_cache_can_know_is_the_repeated_beginnings() -> None:
    part = Part("rag", weight=1, shared=1, shared_tokens=90, own_tokens=(10, 10))
    assert repeated_share(mixed(10, [part], seed=1), [part]) == pytest.approx(9 * 90 / (10 * 100))
    assert repeated_share(unique(10, 70, seed=1), SERVICE) == 0
    assert 0.5 < repeated_share(mixed(200, SERVICE, seed=1), SERVICE) < 0.9
