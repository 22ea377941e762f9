"""Routers that are blind to prefixes, and the right one, sending what stage 05 sends: for tests and benchmarks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from llmd_runbook.analysis.affinity import judge
from llmd_runbook.analysis.scorers import (
    KV_SCORER,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Decision,
    Endpoint,
    Generation,
    InferenceRequest,
    Picker,
    Rules,
    parse_request,
)
from llmd_runbook.analysis.scorers.picker import queue_scores
from llmd_runbook.load.prompts import shared_prefix, unique

REPLICAS = 3
GROUPS, PER_GROUP, INDEPENDENT, LABELS = 10, 5, 30, 6
PREFIX_TOKENS, PROMPT_TOKENS = 256, 272
MOST_BLIND_PASSES, LEAST_RIGHT_PASSES, RUNS = 20, 990, 1000
_SEED = 1  # of the permutations: one for all runs, for the null of the same totals is then made once

WEIGHTS = {QUEUE_SCORER: 2.0, KV_SCORER: 2.0, PREFIX_SCORER: 3.0}
RULES = {
    Generation.V0_4: Rules.v0_4(WEIGHTS),
    Generation.V0_10: Rules.v0_10({**WEIGHTS, NO_HIT_SCORER: 2.0}),
}

Router = Callable[[InferenceRequest, Sequence[Endpoint]], int]


class Replicas:
    """Three replicas, idle or under other traffic, which shares nothing and goes by queue and KV use as scraped.

    That traffic evens out what it sees, as a picker's does: a replica with the least KV use does not stay so.
    """

    def __init__(self, rng: random.Random, *, busy: bool) -> None:
        self._rng, self._busy = rng, busy
        self._endpoints = [Endpoint(name, block_size=16, num_blocks=4000) for name in "abc"]
        self._waiting = [0] * REPLICAS
        self._running: list[list[float]] = [[] for _ in range(REPLICAS)]
        for _ in range(40 if busy else 0):  # until as many requests end as come
            self.step()

    def step(self) -> list[Endpoint]:
        """What the picker sees before the next request: up to a few steps old."""
        if not self._busy:
            return self._endpoints
        rng = self._rng
        if rng.random() < 0.5:
            for endpoint, waiting, running in zip(self._endpoints, self._waiting, self._running, strict=True):
                endpoint.waiting, endpoint.kv_usage = waiting, min(1.0, sum(running))
        for index, running in enumerate(self._running):
            self._running[index] = [kv for kv in running if rng.random() > 0.1]
            self._waiting[index] = 0
        queues = queue_scores([endpoint.waiting for endpoint in self._endpoints])
        scores = [2 * queue - 2 * e.kv_usage for queue, e in zip(queues, self._endpoints, strict=True)]
        for _ in range(rng.randint(0, 4)):
            index = max(range(REPLICAS), key=lambda i: (scores[i], rng.random()))
            self._waiting[index] += rng.random() < 0.3  # not prefilled yet when the metrics are taken
            self._running[index].append(rng.uniform(0.005, 0.025))  # 300 to 1,600 of 64,000 tokens
        return self._endpoints


def first_idle(_: random.Random) -> Router:
    """The first replica with an empty queue: on an idle pattern always the same."""
    return lambda request, endpoints: next((i for i, e in enumerate(endpoints) if e.waiting == 0), 0)


def skewed(rng: random.Random) -> Router:
    return lambda request, endpoints: rng.choices(range(REPLICAS), (60, 25, 15))[0]


def uniform(rng: random.Random) -> Router:
    return lambda request, endpoints: rng.randrange(REPLICAS)


def round_robin(_: random.Random) -> Router:
    turns = iter(range(GROUPS * PER_GROUP + INDEPENDENT))
    return lambda request, endpoints: next(turns) % REPLICAS


def right(generation: Generation) -> Callable[[random.Random], Router]:
    """The reference model, which learns a decision only after the next one."""

    def make(rng: random.Random) -> Router:
        picker = Picker(RULES[generation], rng=rng)
        late: list[Decision] = []

        def route(request: InferenceRequest, endpoints: Sequence[Endpoint]) -> int:
            decision = picker.choose(request, endpoints)
            if late:
                picker.learn(late.pop())
            late.append(decision)
            return [endpoint.name for endpoint in endpoints].index(decision.picked.name)

        return route

    return make


@dataclass(frozen=True)
class Case:
    """A router and the pattern it runs on."""

    name: str
    make: Callable[[random.Random], Router]
    busy: bool
    aware: bool = False

    def meets_target(self, passes: int, runs: int) -> bool:
        """Whether so many passes are what the method promises."""
        if self.aware:
            return passes * RUNS >= LEAST_RIGHT_PASSES * runs
        return passes * RUNS <= MOST_BLIND_PASSES * runs


CASES = [
    Case("sticky: first idle replica, idle pattern", first_idle, busy=False),
    Case("sticky: first idle replica, other traffic", first_idle, busy=True),
    Case("random, skewed 60/25/15", skewed, busy=False),
    Case("random, uniform", uniform, busy=False),
    Case("round-robin", round_robin, busy=False),
    *(
        Case(f"right, {generation}, {'other traffic' if busy else 'idle pattern'}", right(generation), busy, aware=True)
        for generation in Generation
        for busy in (False, True)
    ),
]


def verdicts(case: Case, runs: int) -> Mapping[bool | None, int]:
    """How many seeded runs of the whole test passed, failed, proved nothing."""
    return Counter(judge(*arms(case, seed), seed=_SEED).ok for seed in range(runs))


def arms(case: Case, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """The groups' table and the control arm's, each in random order."""
    rng = random.Random(seed)
    replicas, route = Replicas(rng, busy=case.busy), case.make(rng)
    tables = []
    for requests, labels in zip(_requests(), (GROUPS, LABELS), strict=True):
        order = [(request, index % labels) for index, request in enumerate(requests)]
        rng.shuffle(order)
        table = [[0] * REPLICAS for _ in range(labels)]
        for request, label in order:
            table[label][route(request, replicas.step())] += 1
        tables.append(table)
    return tables[0], tables[1]


@cache
def _requests() -> tuple[list[InferenceRequest], list[InferenceRequest]]:
    """The same prompts in each run, whose picker starts empty: groups in turn, and unique ones."""
    groups = shared_prefix(GROUPS, PER_GROUP, prefix_tokens=PREFIX_TOKENS, tokens=PROMPT_TOKENS, seed=1)
    groups.sort(key=lambda prompt: prompt.group)
    in_turn = [groups[group * PER_GROUP + turn] for turn in range(PER_GROUP) for group in range(GROUPS)]
    alone = unique(INDEPENDENT, PROMPT_TOKENS, seed=2)
    return _parsed([prompt.text for prompt in in_turn]), _parsed([prompt.text for prompt in alone])


def _parsed(texts: Sequence[str]) -> list[InferenceRequest]:
    return [parse_request(Generation.V0_4, {"model": "m", "prompt": text}) for text in texts]
