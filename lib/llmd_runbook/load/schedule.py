"""When each request is due, in seconds from the start, and how many may be in flight."""

from __future__ import annotations

import random
from dataclasses import dataclass

from llmd_runbook.load.plan import Arrival, Closed, Open, Timed


@dataclass(frozen=True)
class Schedule:
    """`due_s` ascends; in a closed loop everything is due at once and `concurrency` holds it back."""

    due_s: tuple[float, ...]
    concurrency: int


def schedule(arrival: Arrival, requests: int) -> Schedule:
    """The schedule of so many requests; due times are absolute, so that lateness never adds up."""
    if isinstance(arrival, Closed):
        return Schedule((0.0,) * requests, min(arrival.concurrency, requests))
    if isinstance(arrival, Open):
        return Schedule(_due(arrival, requests), requests)
    if isinstance(arrival, Timed):
        return Schedule(tuple(arrival.due_s), requests)
    return Schedule((0.0,) * requests, requests)


def _due(arrival: Open, requests: int) -> tuple[float, ...]:
    if arrival.gaps == "constant":
        return tuple(index / arrival.rate_per_s for index in range(requests))
    rng, due_s, now_s = random.Random(arrival.seed), [], 0.0
    for _ in range(requests):
        due_s.append(now_s)
        now_s += rng.expovariate(arrival.rate_per_s)
    return tuple(due_s)
