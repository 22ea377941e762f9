"""Prompts: lengths, shared and unshared prefixes, seeds."""

from __future__ import annotations

from itertools import pairwise, takewhile

import pytest

from llmd_runbook.load.prompts import LEAST_PREFIX_TOKENS, shared_prefix, unique


def test_unique_prompts_differ_in_their_first_block() -> None:
    prompts = unique(200, 70, seed=1)
    assert len({prompt.text[:64] for prompt in prompts}) == 200
    assert len({prompt.group for prompt in prompts}) == 200
    assert {len(prompt.text.split()) for prompt in prompts} == {70}
    assert {len(prompt.text) for prompt in prompts} == {70 * 4 - 1}


def test_a_group_shares_its_prefix_and_nothing_more() -> None:
    prompts = shared_prefix(10, 5, prefix_tokens=128, tokens=160, seed=1)
    assert len(prompts) == 50
    firsts = set()
    for group in {prompt.group for prompt in prompts}:
        texts = [prompt.text for prompt in prompts if prompt.group == group]
        assert len(texts) == len(set(texts)) == 5
        words = zip(*(text.split() for text in texts), strict=True)
        assert 128 <= sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, words)) < 132
        firsts.add(texts[0][:256])
    assert len(firsts) == 10


def test_groups_are_interleaved() -> None:
    groups = [prompt.group for prompt in shared_prefix(10, 5, prefix_tokens=64, tokens=80, seed=1)]
    assert sum(a == b for a, b in pairwise(groups)) < 15


def test_seeds_decide() -> None:
    assert unique(3, 20, seed=1) == unique(3, 20, seed=1)
    assert not {p.text for p in unique(50, 20, seed=1)} & {p.text for p in unique(50, 20, seed=2)}
    again = shared_prefix(2, 2, prefix_tokens=64, tokens=70, seed=5)
    assert again == shared_prefix(2, 2, prefix_tokens=64, tokens=70, seed=5)


@pytest.mark.parametrize(("prefix", "tokens"), [(LEAST_PREFIX_TOKENS - 1, 200), (64, 64)])
def test_prefixes_that_cannot_be_seen_are_refused(prefix: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="prefix"):
        shared_prefix(2, 2, prefix_tokens=prefix, tokens=tokens, seed=1)
