"""06: more and more requests in flight on Pattern 3: where that stops paying, and what is served within objectives."""

from __future__ import annotations

import math
from dataclasses import replace

from llmd_runbook.analysis.goodput import Objectives, goodput, knee
from llmd_runbook.analysis.latency import Refusal
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import figures, site, throughput_and_cost
from llmd_runbook.stages.load import figures as load_figures
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.throughput_and_cost import SAME_LOAD, SAME_PER_REPLICA
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Table

KEY = "sweep"
_BLOCKS = 6
"""A throughput's interval needs blocks of as many answers as are in flight."""


def sweep(stage: StageRun) -> Shown:
    """Measure the levels of `load.sweep`; with those already measured, throughput, tails and goodput of each."""
    profile, pattern = stage.profile, stage.profile.pattern3
    target = endpoint(site.kubernetes(profile), profile, pattern.gateway)
    kept = stage.data.setdefault(KEY, {})
    for in_flight in profile.load.sweep:
        scale = max(1, math.ceil(_BLOCKS * in_flight / profile.load.requests))
        with stage.step(f"measure Pattern 3 with {in_flight} requests in flight") as step:
            seed = measurement.fresh_seed()
            found = measurement.measure(profile, target, pattern, in_flight, step, seed=seed, scale=scale)
            client = measurement.client_condition(profile, found, measurement.client_error(profile, found, step))
            step.ok(f"{found}; {client}" if client else str(found))
        kept[str(in_flight)] = replace(found, conditions=replace(found.conditions, client=client)).data()
    loads, wanted = levels(stage), objectives(stage)
    if not profile.load.sweep:
        stage.note("No sweep", "The profile names no levels (`load.sweep`): only what was measured above is shown.")
    turn = knee({count: load.throughput for count, load in loads.items()})
    stage.data["knee"] = None if isinstance(turn, Refusal) else turn
    said = f"None: {turn.reason}." if isinstance(turn, Refusal) else f"{turn} requests in flight."
    stage.note("Knee, the most throughput for its latency", said)
    rows: list[list[str | int | float | None]] = []
    for count, load in loads.items():
        rate = load.throughput
        per_s = rate.reason if isinstance(rate, Refusal) else round(rate.requests_per_s, 2)
        tails = [measurement.shown(load.quantile("latency", 0.95)), measurement.shown(load.quantile("ttft", 0.95))]
        good = goodput(rate, load.latencies_s, load.ttfts_s, wanted)
        rows.append([count, load.succeeded, load.failed, per_s, *tails, measurement.shown(good, 2)])
    columns = ["in flight", "answers", "failures", "requests/s", "p95 latency (s)", "p95 TTFT (s)"]
    columns.append(f"requests/s with {wanted}" if wanted.stated else "requests/s within objectives")
    return stage.table(Table(title="Throughput and goodput over requests in flight", columns=columns, rows=rows))


def plot(stage: StageRun) -> figures.Png:
    """Throughput, goodput and p95 latency over requests in flight."""
    return load_figures.sweep(levels(stage), objectives(stage), knee=stage.data["knee"], stamp=stage.cluster.stamp)


def levels(stage: StageRun) -> dict[int, Measured]:
    """Everything measured on Pattern 3 in this stage, by requests in flight; each was calibrated at its own number."""
    loads = [throughput_and_cost.load(stage, name) for name in (SAME_LOAD, SAME_PER_REPLICA)]
    swept = [measurement.restored(data) for data in stage.data.get(KEY, {}).values()]
    loads += [load.judged(load.conditions.client) for load in swept]
    return {load.concurrency: load for load in sorted(loads, key=lambda load: load.concurrency)}


def objectives(stage: StageRun) -> Objectives:
    """What the profile wants of a request."""
    return Objectives(stage.profile.load.slo_ttft_s, stage.profile.load.slo_latency_s)
