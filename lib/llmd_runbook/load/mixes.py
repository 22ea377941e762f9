"""Prompts as services have them: chats under shared system prompts, questions about shared documents, unique ones."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llmd_runbook.load.plan import Prompt
from llmd_runbook.load.prompts import text


@dataclass(frozen=True)
class Part:
    """One kind of request in a mix.

    Attributes:
        kind: `chat`: the shared tokens are a system prompt; `rag`: a document before the question; `unique`: none.
        weight: its part of the requests, against the other parts' weights.
        shared: how many different system prompts or documents there are.
        shared_tokens: tokens of each.
        own_tokens: least and most tokens that a request has of its own.
    """

    kind: Literal["chat", "rag", "unique"]
    weight: float
    shared: int
    shared_tokens: int
    own_tokens: tuple[int, int]

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(f"a weight of {self.weight} is none")
        if not 1 <= self.own_tokens[0] <= self.own_tokens[1]:
            raise ValueError(f"{self.own_tokens} is no range of tokens from 1")
        if (self.kind == "unique") != (self.shared == 0) or (self.shared == 0) != (self.shared_tokens == 0):
            raise ValueError("unique requests share nothing, chats and questions do")


SERVICE = (
    Part("chat", weight=5, shared=4, shared_tokens=256, own_tokens=(16, 128)),
    Part("rag", weight=3, shared=8, shared_tokens=768, own_tokens=(16, 48)),
    Part("unique", weight=2, shared=0, shared_tokens=0, own_tokens=(32, 384)),
)
"""A service of all three; Zipf's law is left out, every shared text is as likely as the others."""


def mixed(requests: int, parts: Sequence[Part], *, seed: int) -> list[Prompt]:
    """So many prompts in random order; the parts' numbers are as their weights have it, to less than one request."""
    rng = random.Random(seed)
    shared = {part: [text(rng, part.shared_tokens) for _ in range(part.shared)] for part in parts}
    prompts = []
    for part, count in zip(parts, _counts(requests, parts), strict=True):
        for index in range(count):
            own = text(rng, rng.randint(*part.own_tokens))
            if part.kind == "unique":
                prompts.append(Prompt(group=f"unique {index}", text=own))
                continue
            which = rng.randrange(part.shared)
            group, begin = f"{part.kind} {which}", shared[part][which]
            if part.kind == "chat":
                prompts.append(Prompt(group=group, system=begin, text=own))
            else:
                prompts.append(Prompt(group=group, text=f"{begin} {own}"))
    rng.shuffle(prompts)
    return prompts


def digest(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order, hexadecimal: equal only for the same load, word for word."""
    found = hashlib.sha256()
    for prompt in prompts:
        found.update(json.dumps([prompt.system, prompt.text]).encode() + b"\n")
    return found.hexdigest()


def repeated_share(prompts: Sequence[Prompt], parts: Sequence[Part]) -> float:
    """The part of all words that a cache which was empty before can know: shared texts, from their second use on."""
    tokens: dict[str, int] = {part.kind: part.shared_tokens for part in parts}
    seen: set[str] = set()
    total = repeated = 0
    for prompt in prompts:
        total += len(prompt.system.split()) + len(prompt.text.split())
        if prompt.group in seen:
            repeated += tokens.get(prompt.group.split()[0], 0)
        seen.add(prompt.group)
    return repeated / total


def _counts(requests: int, parts: Sequence[Part]) -> list[int]:
    """Largest remainders (Hamilton's method), so that they add up."""
    total = sum(part.weight for part in parts)
    exact = [requests * part.weight / total for part in parts]
    counts = [int(value) for value in exact]
    order = sorted(range(len(parts)), key=lambda index: counts[index] - exact[index])
    for index in order[: requests - sum(counts)]:
        counts[index] += 1
    return counts
