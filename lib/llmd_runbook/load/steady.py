"""Requests at equal gaps until somebody says stop: what a stream in a thread and a probe's process both run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from llmd_runbook.load.client import Sender, open_session, parse
from llmd_runbook.load.plan import Open, Plan
from llmd_runbook.load.samples import Sample


def rate_per_s(plan: Plan) -> float:
    """How often a plan sends.

    Raises:
        ValueError: its arrival is no open loop at equal gaps.
    """
    if not isinstance(plan.arrival, Open) or plan.arrival.gaps != "constant":
        raise ValueError("a stream needs an open loop at equal gaps")
    return plan.arrival.rate_per_s


async def send(
    plan: Plan, origin: float, stopped: Callable[[], bool], tell: Callable[[Sample], None], begin_s: float = 0.0
) -> None:
    """Send the plan's prompts over and over; an open loop: what is slow or lost holds nothing back.

    Args:
        origin: `time.perf_counter` of the samples' zero; that clock is one for all processes of a machine.
        stopped: asked before each request; when it says so, what is in flight is awaited.
        tell: gets each sample as its request ends.
        begin_s: when the first request is due, seconds after `origin`.
    """
    rate, number = rate_per_s(plan), 0
    async with open_session(plan) as session, asyncio.TaskGroup() as group:
        sender = Sender(plan, session, origin)
        while not stopped():
            due_s = begin_s + number / rate
            await asyncio.sleep(max(0.0, due_s - (time.perf_counter() - origin)))
            group.create_task(_one(plan, sender, number % len(plan.prompts), due_s, tell))
            number += 1


async def _one(plan: Plan, sender: Sender, index: int, due_s: float, tell: Callable[[Sample], None]) -> None:
    tell(parse(await sender.send(index, due_s), plan.prompts[index].group))
