"""One load in parts, for several machines, and the parts' samples as one again: never averages of percentiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmd_runbook.load.plan import Closed, Plan, Timed
from llmd_runbook.load.samples import Client, LoadResult
from llmd_runbook.load.schedule import schedule


def split(plan: Plan, parts: int) -> list[Plan]:
    """The plan in `parts`: part k takes prompts k, k + parts, ... at the very times that the whole has for them.

    Raises:
        ValueError: fewer requests, or fewer in flight, than parts.
    """
    if len(plan.prompts) < parts:
        raise ValueError(f"{len(plan.prompts)} requests cannot be split into {parts} parts")
    if isinstance(plan.arrival, Closed):
        if plan.arrival.concurrency < parts:
            raise ValueError(f"{plan.arrival.concurrency} in flight cannot be split into {parts} parts")
        each, more = divmod(plan.arrival.concurrency, parts)
        arrivals: list[Closed | Timed] = [Closed(concurrency=each + (part < more)) for part in range(parts)]
    else:
        due_s = schedule(plan.arrival, len(plan.prompts)).due_s
        arrivals = [Timed(due_s=list(due_s[part::parts])) for part in range(parts)]
    return [
        plan.model_copy(update={"prompts": plan.prompts[part::parts], "arrival": arrival})
        for part, arrival in enumerate(arrivals)
    ]


def merge(results: Mapping[int, LoadResult], parts: int, *, start_s: float, ahead_s: Sequence[float]) -> LoadResult:
    """The samples of all parts on one clock, whose zero is the common start.

    Args:
        results: by part; one that was lost is missing, and its samples are.
        parts: how many there were.
        start_s: when all were to start, on the clock of whoever merges (seconds since the epoch).
        ahead_s: by part, how much that machine's clock is ahead of it.
    """
    samples, duration_s = [], 0.0
    for part, result in results.items():
        shift_s = result.started_s - ahead_s[part] - start_s
        duration_s = max(duration_s, result.duration_s + shift_s)
        for sample in result.samples:
            times = {name: getattr(sample, name) for name in ("due_s", "sent_s", "first_token_s", "done_s")}
            moved = {name: None if at is None else at + shift_s for name, at in times.items()}
            samples.append(sample.model_copy(update={**moved, "index": sample.index * parts + part}))
    clients = [result.client for result in results.values()]
    return LoadResult(
        started_s=start_s,
        duration_s=duration_s,
        client=Client(
            lag_p99_s=max(client.lag_p99_s for client in clients),
            lag_max_s=max(client.lag_max_s for client in clients),
            late_p99_s=max(client.late_p99_s for client in clients),
            cpu_share=max(client.cpu_share for client in clients),
        ),
        samples=sorted(samples, key=lambda sample: sample.index),
    )
