"""The decision: scores of every endpoint, their weighted sum, and one of the best."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmd_runbook.analysis.scorers.prefix_index import ColdOrder, PrefixIndex
from llmd_runbook.analysis.scorers.request import InferenceRequest, block_hashes, parse_request
from llmd_runbook.analysis.scorers.rules import (
    BYTES_PER_TOKEN,
    KV_SCORER,
    MATCH_LENGTH_TOKENS,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Rules,
    Ties,
)


@dataclass(slots=True)
class Endpoint:
    """A replica as last scraped; 0 for `block_size` (tokens) or `num_blocks` means not reported."""

    name: str
    waiting: int = 0
    kv_usage: float = 0.0
    block_size: int = 0
    num_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice and everything it rests on; scores are within [0, 1], totals are weighted sums."""

    picked: Endpoint
    ties: list[str]
    totals: dict[str, float]
    scores: dict[str, dict[str, float]]
    hashes: list[int]
    matched_blocks: dict[str, int]
    block_bytes: int


class Picker:
    """A picker's rules and its memory. `decide` never changes the memory, `learn` does."""

    def __init__(self, rules: Rules, *, ties: Ties = Ties.RANDOM, rng: random.Random | None = None) -> None:
        self.rules = rules
        self.index = PrefixIndex(rules.lru_capacity)
        self.cold_order = ColdOrder(rules.cold_capacity)
        self._ties = ties
        self._turn = 0
        self._rng = rng or random.Random()

    def decide(self, body: bytes | Mapping[str, Any], endpoints: Sequence[Endpoint]) -> Decision:
        """Choose for a request body.

        Raises:
            BadRequest: the picker would refuse the body.
            ValueError: no endpoints.
        """
        return self.choose(parse_request(self.rules.generation, body), endpoints)

    def choose(self, request: InferenceRequest, endpoints: Sequence[Endpoint]) -> Decision:
        """Choose for a request that is parsed already.

        Raises:
            ValueError: no endpoints.
        """
        if not endpoints:
            raise ValueError("no endpoints to choose from")
        rules = self.rules
        block_bytes = rules.block_bytes(endpoints[0].block_size)
        hashes = block_hashes(rules.generation, request, block_bytes, rules.block_limit(block_bytes))
        matched = self.index.matches(hashes)
        names = [endpoint.name for endpoint in endpoints]
        totals = [0.0] * len(endpoints)
        scores: dict[str, dict[str, float]] = {}
        for scorer, weight in rules.weights.items():
            values = self._score(scorer, endpoints, hashes, matched, block_bytes)
            scores[scorer] = dict(zip(names, values, strict=True))
            for index, value in enumerate(values):
                totals[index] += weight * (value if 0.0 <= value <= 1.0 else float(value > 1.0))
        best = max(totals)
        winners = [endpoint for endpoint, total in zip(endpoints, totals, strict=True) if total == best]
        return Decision(
            picked=self._break_tie(winners),
            ties=[endpoint.name for endpoint in winners],
            totals=dict(zip(names, totals, strict=True)),
            scores=scores,
            hashes=hashes,
            matched_blocks=matched,
            block_bytes=block_bytes,
        )

    def learn(self, decision: Decision) -> None:
        """Remember a decision, as the real picker does shortly after it answered."""
        picked = decision.picked
        if NO_HIT_SCORER in self.rules.weights and not _warm(decision.matched_blocks, decision.totals):
            self.cold_order.take(picked.name)
        self.index.add(picked.name, decision.hashes, picked.num_blocks if self.rules.auto_tune else 0)

    def forget_all_but(self, present: Collection[str]) -> list[str]:
        """Forget endpoints that are gone; their names. The real picker does so every two minutes."""
        gone = [name for name in self.index.endpoints if name not in present]
        for name in gone:
            self.index.remove(name)
        return gone

    def _break_tie(self, winners: list[Endpoint]) -> Endpoint:
        if len(winners) == 1:
            return winners[0]
        if self._ties is Ties.RANDOM:
            return self._rng.choice(winners)
        self._turn += 1
        return winners[(self._turn - 1) % len(winners)]

    def _score(
        self,
        scorer: str,
        endpoints: Sequence[Endpoint],
        hashes: Sequence[int],
        matched: Mapping[str, int],
        block_bytes: int,
    ) -> list[float]:
        if scorer == QUEUE_SCORER:
            return queue_scores([endpoint.waiting for endpoint in endpoints])
        if scorer == KV_SCORER:
            return [1.0 - endpoint.kv_usage for endpoint in endpoints]
        if scorer == PREFIX_SCORER:
            return [self._prefix_score(matched.get(e.name, 0), len(hashes), block_bytes) for e in endpoints]
        names = [endpoint.name for endpoint in endpoints]
        return [0.5] * len(names) if _warm(matched, names) else self.cold_order.scores(names)

    def _prefix_score(self, matched: int, total: int, block_bytes: int) -> float:
        if total == 0:
            return 0.0
        share, weight = matched / total, self.rules.match_length_weight
        if weight == 0.0:
            return share
        length = min(1.0, matched * block_bytes / BYTES_PER_TOKEN / MATCH_LENGTH_TOKENS)
        return weight * length * length + (1.0 - weight) * share


def queue_scores(waiting: Sequence[int]) -> list[float]:
    """1 for the shortest queue, 0 for the longest, in between by distance; 1 for all when they are equal."""
    low, high = min(waiting), max(waiting)
    if low == high:
        return [1.0] * len(waiting)
    return [(high - queue) / (high - low) for queue in waiting]


def _warm(matched: Mapping[str, int], candidates: Collection[str]) -> bool:
    return any(matched.get(name) for name in candidates)
