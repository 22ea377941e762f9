"""Figures of loads: what the replicas said of themselves beside one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmd_runbook.analysis.goodput import Objectives, goodput
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, sustained_rate
from llmd_runbook.analysis.scale_out import efficiency, rate
from llmd_runbook.stages.figures import CURVES, Png, png
from llmd_runbook.stages.load.measurement import Measured


def queue_and_cache(loads: dict[str, Measured], *, stamp: str) -> Png:
    """A row a load. Left: running and waiting requests of each replica over time; right: the used part of its KV cache.

    The measured window is shaded; what comes before it is warm-up, what comes after it drains.
    """
    figure = Figure(figsize=(10, 2.9 * len(loads) + 0.5), layout="constrained")
    panels = figure.subplots(len(loads), 2, squeeze=False)
    for (left, right), (name, load) in zip(panels, loads.items(), strict=True):
        readings = load.readings
        for replica, colour in zip(readings.running, cycle(CURVES)):
            left.plot(readings.at_s, readings.running[replica], color=colour, linewidth=1.6, label=_short(replica))
            left.plot(readings.at_s, readings.waiting[replica], color=colour, linewidth=1.4, linestyle=":")
            used = [100 * value for value in readings.kv_usage[replica]]
            right.plot(readings.at_s, used, color=colour, linewidth=1.6)
        left.set_title(f"{name}: requests running, dotted: waiting", loc="left", fontsize=9.5)
        right.set_title(f"KV cache used (%), {load.concurrency} in flight", loc="left", fontsize=9.5)
        for axes in (left, right):
            _frame(axes, load)
        if not readings.at_s:
            left.annotate(readings.trouble or "not read", (0.02, 0.5), xycoords="axes fraction", fontsize=8.5)
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return png(figure, "Queues and KV caches of the replicas during the loads", stamp=stamp)


def sweep(loads: Mapping[int, Measured], wanted: Objectives, *, knee: int | None, stamp: str) -> Png:
    """Left: requests a second, all and within the objectives; right: latency p50 and p95 with their intervals."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates: dict[int, Estimate | Refusal] = {}
    for count, load in loads.items():
        run = load.throughput
        rates[count] = run if isinstance(run, Refusal) else sustained_rate(run, seed=0)
    _curve(left, rates, CURVES[0], "o", "all")
    if wanted.stated:
        good = {n: goodput(load.throughput, load.latencies_s, load.ttfts_s, wanted) for n, load in loads.items()}
        _curve(left, good, CURVES[1], "s", f"with {wanted}")
    for p, colour, marker in ((0.5, CURVES[2], "o"), (0.95, CURVES[3], "s")):
        found = {count: load.quantile("latency", p) for count, load in loads.items()}
        _curve(right, found, colour, marker, f"p{100 * p:g}")
    for axes, label in ((left, "requests a second"), (right, "latency of a request (s)")):
        if knee is not None:
            axes.axvline(knee, color="#6b7280", linewidth=1, linestyle="--", label=f"knee: {knee} in flight")
        axes.set(xlabel="requests in flight", xticks=list(loads), ylim=(0, None))
        axes.set_title(label, loc="left", fontsize=9.5)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return png(figure, "Pattern 3 with more and more requests in flight", stamp=stamp)


def sizes(
    runs: Mapping[int, Mapping[int, Measured]],
    gains: Mapping[int, Estimate | Refusal],
    usd_per_1m_tokens: Mapping[int, Estimate | Refusal],
    *,
    stamp: str,
) -> Png:
    """Over replicas: requests a second beside linear, each run as a dash; efficiency; USD a million output tokens."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    rates = {size: rate([load.throughput for load in found.values()]) for size, found in runs.items()}
    _curve(panels[0], rates, CURVES[0], "o", "mean of the runs, 95 %")
    for size, found in runs.items():
        dashes = [load.throughput.requests_per_s for load in found.values() if isinstance(load.throughput, Throughput)]
        panels[0].plot(
            [size] * len(dashes), dashes, color=CURVES[0], marker="_", markersize=12, linestyle="", alpha=0.7
        )
    one = rates.get(1)
    if isinstance(one, Estimate):
        linear = [size * one.value for size in runs]
        panels[0].plot(
            list(runs), linear, color="#6b7280", linewidth=1, linestyle="--", label="linear, from one replica"
        )
    shares = {size: efficiency(gain, size) for size, gain in gains.items()}
    _curve(panels[1], shares, CURVES[1], "s", "throughput / (replicas x that of one), 95 %")
    panels[1].axhline(1, color="#6b7280", linewidth=1, linestyle="--", label="linear")
    _curve(panels[2], usd_per_1m_tokens, CURVES[2], "o", "nodes of the replicas alone, 95 %")
    in_flight = next(load.concurrency for found in runs.values() for load in found.values())
    labels = (f"requests a second, {in_flight} in flight", "efficiency", "USD per 1M output tokens")
    for axes, label in zip(panels, labels, strict=True):
        axes.set(xlabel="replicas", xticks=list(runs), xlim=(min(runs) - 0.4, max(runs) + 0.4), ylim=(0, None))
        axes.set_title(label, loc="left", fontsize=9.5)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return png(figure, "Pattern 3 on 1 to N replicas under the same load", stamp=stamp)


def _curve(axes: Axes, found: Mapping[int, Estimate | Refusal], colour: str, marker: str, label: str) -> None:
    """Values with their intervals; an open end is not drawn, and what was refused is left out."""
    known = {count: value for count, value in found.items() if isinstance(value, Estimate)}
    values = [value.value for value in known.values()]
    reach = [
        [value.value - (value.value if value.low is None else value.low) for value in known.values()],
        [(value.value if value.high is None else value.high) - value.value for value in known.values()],
    ]
    axes.errorbar(list(known), values, yerr=reach, color=colour, marker=marker, markersize=5, capsize=3, label=label)


def _frame(axes: Axes, load: Measured) -> None:
    if isinstance(load.throughput, Throughput):
        start_s = load.throughput.start_s
        axes.axvspan(start_s, start_s + load.throughput.window_s, color="#6b7280", alpha=0.1, linewidth=0)
    axes.set(xlabel="seconds from the start of the load")
    axes.set_ylim(0, max(1.0, 1.05 * axes.get_ylim()[1]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _short(replica: str) -> str:
    """A pod's own ending, which tells it from its siblings."""
    return f"replica {replica.rsplit('-', 1)[-1]}"
