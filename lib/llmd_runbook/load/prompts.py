"""Seeded prompts of about so many tokens, each unique or in groups that share a prefix.

Words are common ones of three letters: with the space before it, each is one token to usual tokenizers and
four bytes to everybody, so that tokens and hash blocks can both be counted on. Take another seed for another
run, or its prompts are in the caches already.
"""

from __future__ import annotations

import random

from llmd_runbook.load.plan import Prompt

LEAST_PREFIX_TOKENS = 64
"""256 bytes: the largest block in which a picker of either generation hashes prefixes."""

SUFFIX_TOKENS = 16
"""What a prompt of the affinity test has of its own after its prefix."""

_THREE_LETTERS = """
the and for are but not you all any can had her was one our out day get has him his how man new now old see
two way who boy did its let put say she too use big end few got own run set top try yes act add age ago air
arm art ask bad bag bed bit box bus buy car cat cut dog eat eye far fly fun gas god hit hot ice job key kid
law lay led leg lie lot low map may men mix net oil pay per red rid sea sit six sky son sun tax tea ten tie
"""
_WORDS = _THREE_LETTERS.split()


def unique(requests: int, tokens: int, *, seed: int) -> list[Prompt]:
    """Prompts that share nothing, each a group of its own."""
    rng = random.Random(seed)
    return [Prompt(group=f"u{index}", text=text(rng, tokens)) for index in range(requests)]


def shared_prefix(groups: int, per_group: int, *, prefix_tokens: int, tokens: int, seed: int) -> list[Prompt]:
    """`groups` x `per_group` prompts of `tokens` in random order; a group shares its first `prefix_tokens`.

    Raises:
        ValueError: a prefix below one hash block, or one that leaves nothing of its own to a prompt.
    """
    if prefix_tokens < LEAST_PREFIX_TOKENS:
        least = LEAST_PREFIX_TOKENS
        raise ValueError(f"a prefix of {prefix_tokens} tokens is below one hash block: {least} at least")
    if tokens <= prefix_tokens:
        raise ValueError(f"prompts of {tokens} tokens cannot go beyond a prefix of {prefix_tokens}")
    rng = random.Random(seed)
    prompts = []
    for group in range(groups):
        prefix = text(rng, prefix_tokens)
        prompts += [
            Prompt(group=f"g{group}", text=f"{prefix} {text(rng, tokens - prefix_tokens)}") for _ in range(per_group)
        ]
    rng.shuffle(prompts)
    return prompts


def text(rng: random.Random, tokens: int) -> str:
    """So many words, each one token."""
    return " ".join(rng.choices(_WORDS, k=tokens))
