"""A picker with one scorer changed is told from the model by its recorded decisions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from llmd_runbook.analysis.replay import HASHES, PICK, replay
from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER, Endpoint, Generation, Picker
from llmd_runbook.analysis.scorers import picker as picker_module
from llmd_runbook.load.prompts import shared_prefix
from tests.llmd_runbook.analysis.routers import RULES

DECISIONS = 200
NAMES = {Generation.V0_4: "gateway-api-inference-extension", Generation.V0_10: "llm-d-router"}


def recorded(picker: Picker, *, scores: bool = True) -> list[str]:
    """A seeded recording of 200 decisions under uneven load; without scores it holds what a default log shows."""
    rng = random.Random(5)
    weights = ", ".join(f"{scorer} {weight:g}" for scorer, weight in RULES[picker.rules.generation].weights.items())
    lines = []
    for prompt in shared_prefix(20, DECISIONS // 20, prefix_tokens=272, tokens=320, seed=5):
        body = {"model": "m", "prompt": prompt.text}
        endpoints = [Endpoint(name, rng.choice((0, 0, 1, 3, 9)), rng.uniform(0, 0.8), 16, 4000) for name in "abc"]
        decision = picker.decide(body, endpoints)
        picker.learn(decision)
        hashes = {"hashes": [f"{block:016x}" for block in decision.hashes]} if scores else {}
        lines.append(
            {
                "body": body,
                "pods": {e.name: {"waiting": e.waiting, "kv": e.kv_usage} for e in endpoints},
                "picked": decision.picked.name,
                "scores": decision.scores if scores else {},
                **hashes,
            }
        )
    pods = {name: {"block_size": 16, "num_gpu_blocks": 4000} for name in "abc"}
    header = {"picker": NAMES[picker.rules.generation], "config": weights, "pods": pods}
    return [json.dumps(line) for line in (header, *lines)]


def disagreeing(lines: list[str]) -> set[str]:
    found = replay(lines)
    assert found.decisions == DECISIONS
    return {item.part for item in found.disagreements}


def unchanged(generation: Generation, _: pytest.MonkeyPatch) -> Picker:
    return Picker(RULES[generation], rng=random.Random(1))


def inverted_queue(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> Picker:
    right = picker_module.queue_scores
    monkeypatch.setattr(picker_module, "queue_scores", lambda waiting: [1 - score for score in right(waiting)])
    return unchanged(generation, monkeypatch)


def no_min_max(generation: Generation, monkeypatch: pytest.MonkeyPatch) -> Picker:
    def absolute(waiting: Sequence[int]) -> list[float]:
        return [1 / (1 + queue) for queue in waiting]

    monkeypatch.setattr(picker_module, "queue_scores", absolute)
    return unchanged(generation, monkeypatch)


class ConstantKv(Picker):
    """Scores KV use 1.0 always: what is left of the scorer when it reads a metric that vLLM removed."""

    def _score(
        self, scorer: str, endpoints: Sequence[Endpoint], hashes: Sequence[int], matched: Mapping[str, int], size: int
    ) -> list[float]:
        return (
            [1.0] * len(endpoints) if scorer == KV_SCORER else super()._score(scorer, endpoints, hashes, matched, size)
        )


def constant_kv(generation: Generation, _: pytest.MonkeyPatch) -> Picker:
    return ConstantKv(RULES[generation], rng=random.Random(1))


def no_prefix_weight(generation: Generation, _: pytest.MonkeyPatch) -> Picker:
    rules = RULES[generation]
    return Picker(replace(rules, weights={**rules.weights, PREFIX_SCORER: 0.0}), rng=random.Random(1))


def wrong_block_size(generation: Generation, _: pytest.MonkeyPatch) -> Picker:
    return Picker(replace(RULES[generation], auto_tune=False, block_size=128), rng=random.Random(1))


Mutation = Callable[[Generation, pytest.MonkeyPatch], Picker]


@pytest.mark.parametrize("generation", list(Generation))
@pytest.mark.parametrize(
    ("mutation", "parts"),
    [
        (unchanged, set()),
        (inverted_queue, {QUEUE_SCORER, PICK}),
        (no_min_max, {QUEUE_SCORER, PICK}),
        (constant_kv, {KV_SCORER, PICK}),
        (no_prefix_weight, {PICK}),
        (wrong_block_size, {HASHES, PREFIX_SCORER}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_change_in_one_scorer_shows_in_its_scores(
    generation: Generation, mutation: Mutation, parts: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as mutated:
        lines = recorded(mutation(generation, mutated))
    found = disagreeing(lines)
    assert parts <= found
    assert found <= parts | {PICK}


@pytest.mark.parametrize("generation", list(Generation))
@pytest.mark.parametrize(
    ("mutation", "told"),
    [(unchanged, False), (inverted_queue, True), (no_min_max, True), (constant_kv, True), (no_prefix_weight, True)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_picks_alone_tell_it_too(
    generation: Generation, mutation: Mutation, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as mutated:
        lines = recorded(mutation(generation, mutated), scores=False)
    assert (disagreeing(lines) == {PICK}) is told
