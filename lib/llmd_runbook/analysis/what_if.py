"""What would another configuration do with these requests: the reference picker before modelled replicas.

A trace is replayed for each scenario (the picker's rules, replicas, cache size): the picker decides by what it
believes and by metrics as old as its last scrape, the replicas of `replica_model` serve, and their caches say
what was really found. Results are predictions of a model, no measurements: beside what `replica_model` leaves
out, the picker learns at once (the real one a moment later, which scatters a cold burst), and nothing fails. No
jitter breaks up requests that end together: what is sent between two scrapes goes where the last one said, as with
the real picker, but all at once. One seed gives one result; several show how much is chance.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmd_runbook.analysis.latency import Throughput, closed_loop_throughput, least_samples
from llmd_runbook.analysis.replica_model import T4_CACHE_BLOCKS, Engine, Job, Replica
from llmd_runbook.analysis.scorers import (
    KV_SCORER,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Endpoint,
    Picker,
    Rules,
)
from llmd_runbook.analysis.traces import CACHE_BLOCK_TOKENS, TraceRequest

SCRAPE_S = 0.05
"""Every so often the picker reads each replica's metrics."""
_REPLICA, _ARRIVAL = 0, 1


@dataclass(frozen=True)
class Scenario:
    """One configuration: the picker's rules, how many replicas, and how many cache blocks each has."""

    rules: Rules
    replicas: int
    cache_blocks: int = T4_CACHE_BLOCKS
    engine: Engine = field(default_factory=Engine)


@dataclass(frozen=True)
class Outcome:
    """What the model predicts for a scenario.

    Attributes:
        requests: served ones; the figures below are of these.
        refused: requests whose prompt and answer exceed a replica's whole cache.
        hit_rate: prompt tokens found in the caches, of all prompt tokens.
        believed_hit_rate: blocks that the picker believed cached at the replica it chose, of those it hashed.
        served: requests by replica.
        moves: requests whose longest prefix seen before was served elsewhere the last time.
        repeats: requests with such a prefix at all.
        queue_mean, queue_p95: waiting requests that a request found before it at its replica.
        latency_p95_s: from arrival to the end of the answer; None below 59 requests. In a closed loop without the
            first requests in flight, as in a measurement.
        requests_per_s: served requests over the time from the first arrival to the last answer; in a closed loop
            that of its steady window, where there is one.
    """

    scenario: Scenario
    requests: int
    refused: int
    hit_rate: float
    believed_hit_rate: float
    served: tuple[int, ...]
    moves: int
    repeats: int
    queue_mean: float
    queue_p95: float
    latency_p95_s: float | None
    requests_per_s: float

    @property
    def imbalance(self) -> float:
        """The busiest replica's requests over a fair share: 1 is even, the number of replicas is the worst."""
        return max(self.served) * len(self.served) / self.requests if self.requests else 1.0

    @property
    def variation(self) -> float:
        """Coefficient of variation of the replicas' requests: standard deviation over mean."""
        return float(np.std(self.served) / np.mean(self.served)) if self.requests else 0.0


def scenarios(
    rules: Iterable[Rules], replicas: Iterable[int], cache_blocks: Iterable[int] = (T4_CACHE_BLOCKS,)
) -> list[Scenario]:
    """Every combination, replicas changing fastest."""
    sizes, counts = list(cache_blocks), list(replicas)
    return [Scenario(rule, count, size) for rule in rules for size in sizes for count in counts]


def simulate(
    requests: Sequence[TraceRequest], scenario: Scenario, *, in_flight: int | None = None, seed: int = 0
) -> Outcome:
    """Replay requests at their own times, or, with `in_flight`, so that always so many are on their way.

    Raises:
        ValueError: no requests, no replicas, or a cache without a block.
    """
    if not requests:
        raise ValueError("no requests to replay")
    if scenario.replicas < 1 or scenario.cache_blocks < 1:
        raise ValueError("a scenario needs a replica and a cache block at least")
    return _Simulation(scenario, seed).run(requests, in_flight)


class _Simulation:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario = scenario
        count, blocks = scenario.replicas, scenario.cache_blocks
        self._picker = Picker(scenario.rules, rng=random.Random(seed))
        self._replicas = [Replica(scenario.engine, blocks) for _ in range(count)]
        self._endpoints = [
            Endpoint(str(index), block_size=CACHE_BLOCK_TOKENS, num_blocks=blocks) for index in range(count)
        ]
        self._events: list[tuple[float, int, int, int]] = []
        self._scrapes = 0
        self._homes: dict[int, int] = {}
        self._moves = self._repeats = self._believed = self._hashed = 0
        self._queues: list[int] = []

    def run(self, requests: Sequence[TraceRequest], in_flight: int | None) -> Outcome:
        room = self._scenario.cache_blocks
        jobs = [Job(request, request.arrival_s - requests[0].arrival_s) for request in requests]
        fitting = [job for job in jobs if job.blocks <= room]
        first = len(fitting) if in_flight is None else min(in_flight, len(fitting))
        for number, job in enumerate(fitting[:first]):
            if in_flight is not None:
                job.sent_s = 0.0
            heapq.heappush(self._events, (job.sent_s, _ARRIVAL, number, 0))
        following = first
        while self._events:
            now_s, kind, number, version = heapq.heappop(self._events)
            self._scrape(now_s)
            if kind == _ARRIVAL:
                self._route(fitting[number])
                continue
            if self._replicas[number].version != version:
                continue
            for _ in self._turn(number, now_s):
                if following < len(fitting):
                    fitting[following].sent_s = now_s
                    heapq.heappush(self._events, (now_s, _ARRIVAL, following, 0))
                    following += 1
        return self._outcome(fitting, refused=len(jobs) - len(fitting), warmup=in_flight or 0)

    def _scrape(self, now_s: float) -> None:
        """Nothing changed since the last event, so the present state is the one at the last scrape."""
        if int(now_s / SCRAPE_S) <= self._scrapes:
            return
        self._scrapes = int(now_s / SCRAPE_S)
        for endpoint, replica in zip(self._endpoints, self._replicas, strict=True):
            endpoint.waiting, endpoint.kv_usage = len(replica.waiting), replica.cache.usage

    def _route(self, job: Job) -> None:
        decision = self._picker.choose(job.request.parsed(self._scenario.rules.generation), self._endpoints)
        self._picker.learn(decision)
        name = decision.picked.name
        self._hashed += len(decision.hashes)
        self._believed += decision.matched_blocks.get(name, 0)
        job.replica = int(name)
        self._move(job)
        replica = self._replicas[job.replica]
        self._queues.append(len(replica.waiting))
        replica.waiting.append(job)
        self._turn(job.replica, job.sent_s)

    def _move(self, job: Job) -> None:
        home = None
        for segment in job.request.segments:
            home = self._homes.get(segment.key, home)
            self._homes[segment.key] = job.replica
        self._repeats += home is not None
        self._moves += home is not None and home != job.replica

    def _turn(self, number: int, now_s: float) -> list[Job]:
        replica = self._replicas[number]
        ended = replica.turn(now_s)
        following_s = replica.next_s()
        if following_s is not None:
            heapq.heappush(self._events, (following_s, _REPLICA, number, replica.version))
        return ended

    def _outcome(self, done: Sequence[Job], *, refused: int, warmup: int) -> Outcome:
        counts = Counter(job.replica for job in done)
        tokens = sum(job.request.prompt_tokens for job in done)
        latencies = [job.done_s - job.sent_s for job in done[warmup:]]
        enough = len(latencies) >= least_samples(0.95)
        return Outcome(
            scenario=self._scenario,
            requests=len(done),
            refused=refused,
            hit_rate=_share(sum(job.cached_tokens for job in done), tokens),
            believed_hit_rate=_share(self._believed, self._hashed),
            served=tuple(counts[index] for index in range(self._scenario.replicas)),
            moves=self._moves,
            repeats=self._repeats,
            queue_mean=float(np.mean(self._queues)) if self._queues else 0.0,
            queue_p95=float(np.quantile(self._queues, 0.95)) if self._queues else 0.0,
            latency_p95_s=float(np.quantile(latencies, 0.95)) if enough else None,
            requests_per_s=_rate(done, warmup),
        )


def _rate(done: Sequence[Job], warmup: int) -> float:
    sent_s, done_s = [job.sent_s for job in done], [job.done_s for job in done]
    if warmup:
        found = closed_loop_throughput(sent_s, done_s, [job.request.output_tokens for job in done], warmup=warmup)
        if isinstance(found, Throughput):
            return found.requests_per_s
    return _share(len(done), max(done_s, default=0.0) - min(sent_s, default=0.0))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def weights_text(rules: Rules) -> str:
    """The weights as a person writes them: `prefix 3, kv 2, queue 2`."""
    short = {PREFIX_SCORER: "prefix", KV_SCORER: "kv", QUEUE_SCORER: "queue", NO_HIT_SCORER: "no-hit"}
    weights = rules.weights
    return ", ".join(f"{name} {weights[scorer]:g}" for scorer, name in short.items() if scorer in weights)
