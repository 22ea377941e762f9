"""The rules a picker routes by: its generation, its scorers' weights, and the sizes of its prefix index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

QUEUE_SCORER = "queue-scorer"
KV_SCORER = "kv-cache-utilization-scorer"
PREFIX_SCORER = "prefix-cache-scorer"
NO_HIT_SCORER = "no-hit-lru-scorer"
MODELLED_SCORERS = frozenset({QUEUE_SCORER, KV_SCORER, PREFIX_SCORER, NO_HIT_SCORER})

BYTES_PER_TOKEN = 4
MIN_BLOCK_TOKENS = 64
"""v0.10 raises smaller blocks to this (llm-d-router issue 1158)."""
MATCH_LENGTH_TOKENS = 8192
"""v0.10: a match of this many tokens counts as long."""


class Generation(StrEnum):
    """Which picker: llm-d v0.4 (block hashes over bytes) or v0.10 (over estimated tokens)."""

    V0_4 = "v0.4"
    V0_10 = "v0.10"


class Ties(StrEnum):
    """How equal totals are broken: at random (up to v0.10.0) or in turn (after it)."""

    RANDOM = "random"
    ROTATE = "rotate"


@dataclass(frozen=True)
class Rules:
    """What a decision depends on besides the request and the endpoints.

    `block_size` is in bytes for v0.4 and in tokens for v0.10; it counts where endpoints report none or
    `auto_tune` is off.
    `max_blocks` and `max_tokens` bound what of a prompt is hashed (0: no bound; tokens go first).
    """

    generation: Generation
    weights: Mapping[str, float] = field(default_factory=dict)
    auto_tune: bool = True
    block_size: int = 64
    max_blocks: int = 256
    max_tokens: int = 0
    lru_capacity: int = 31_250
    cold_capacity: int = 1024
    match_length_weight: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - MODELLED_SCORERS)
        if unknown:
            raise ValueError(f"the reference model has no scorer {', '.join(unknown)}")

    @staticmethod
    def v0_4(weights: Mapping[str, float]) -> Rules:
        """llm-d v0.4's defaults."""
        return Rules(Generation.V0_4, weights)

    @staticmethod
    def v0_10(weights: Mapping[str, float]) -> Rules:
        """llm-d-router v0.10's defaults."""
        return Rules(Generation.V0_10, weights, block_size=16, max_blocks=2048, max_tokens=131_072)

    def block_bytes(self, reported_block_tokens: int) -> int:
        """Bytes of prompt in a block, given the first candidate's block size in tokens (0: none reported)."""
        tuned = reported_block_tokens if self.auto_tune else 0
        if self.generation is Generation.V0_4:
            return BYTES_PER_TOKEN * tuned or self.block_size
        return BYTES_PER_TOKEN * max(MIN_BLOCK_TOKENS, tuned or self.block_size)

    def block_limit(self, block_bytes: int) -> int:
        """Blocks that are hashed at most; 0 for no bound."""
        if self.max_tokens:
            return max(1, self.max_tokens * BYTES_PER_TOKEN // block_bytes)
        return self.max_blocks
