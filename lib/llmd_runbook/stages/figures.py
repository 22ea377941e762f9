"""Figures as PNG, drawn without a display or global state; what no GPU made says so inside the picture."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from llmd_runbook.analysis.cost import NodeOption, OptionCost
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, sustained_rate
from llmd_runbook.analysis.what_if import Outcome, weights_text
from llmd_runbook.stages.load.measurement import Measured

_COLOURS = ("#6b7280", "#2563eb", "#0d9488")
CURVES = ("#2563eb", "#c2410c", "#0d9488", "#7c3aed", "#ca8a04", "#be185d")
_LINEAR_QUEUE = 50
"""A longer queue hides the short ones on a linear scale."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


class Png:
    """A picture that a notebook shows."""

    def __init__(self, data: bytes, text: str) -> None:
        self.data, self._text = data, text

    def _repr_png_(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return self._text


def latency_and_throughput(loads: dict[str, Measured], *, stamp: str) -> Png:
    """Left: the distribution of latency. Right: requests and output tokens a second."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = list(loads)
    for name, colour in zip(names, _COLOURS, strict=False):
        bound = loads[name].conditions.client
        ordered = [] if bound else sorted(loads[name].latencies_s)
        shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
        label = f"{name} (not shown: client-bound)" if bound else f"{name} (n={len(ordered)})"
        left.step(ordered, shares, where="post", color=colour, label=label, linewidth=1.8)
    left.set(xlabel="latency of a request (s)", ylabel="share of requests", ylim=(0, 1.02), xlim=(0, None))
    left.grid(alpha=0.25)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    runs = [load.throughput for load in loads.values()]
    rates = [run.requests_per_s if isinstance(run, Throughput) else 0 for run in runs]
    reach = _reach(runs)
    bars = right.barh(range(len(names)), rates, xerr=reach, color=_COLOURS[: len(names)], height=0.6, capsize=4)
    said = [f"{run.requests_per_s:.1f}" if isinstance(run, Throughput) else "none" for run in runs]
    right.bar_label(bars, said, padding=6, fontsize=9)
    right.set_yticks(
        range(len(names)), [f"{n.replace(', ', chr(10))}\n{loads[n].concurrency} in flight" for n in names]
    )
    right.tick_params(axis="y", labelsize=8)
    right.invert_yaxis()
    right.set(
        xlabel="requests per second, 95 % interval",
        xlim=(0, max([*map(sum, zip(rates, reach[1], strict=True)), 1e-9]) * 1.18),
    )
    right.spines[["top", "right"]].set_visible(False)
    left.spines[["top", "right"]].set_visible(False)
    return png(figure, "Latency and throughput before and after", stamp=stamp)


def _reach(runs: Sequence[Throughput | Refusal]) -> tuple[list[float], list[float]]:
    """Below and above each rate, the ends of its interval; nothing where it has none."""
    below, above = [], []
    for run in runs:
        found = sustained_rate(run, seed=0) if isinstance(run, Throughput) else run
        low, high = (found.low, found.high) if isinstance(found, Estimate) else (None, None)
        value = found.value if isinstance(found, Estimate) else 0.0
        below.append(0.0 if low is None else value - low)
        above.append(0.0 if high is None else high - value)
    return below, above


def what_if(outcomes: Sequence[Outcome]) -> Png:
    """Predicted hit rate, imbalance, moves and queue over the number of replicas, a line a configuration."""
    curves: dict[str, list[Outcome]] = {}
    sizes = {outcome.scenario.cache_blocks for outcome in outcomes}
    for outcome in outcomes:
        blocks = f"; {outcome.scenario.cache_blocks:,} blocks" if len(sizes) > 1 else ""
        curves.setdefault(weights_text(outcome.scenario.rules) + blocks, []).append(outcome)
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    panels = figure.subplots(2, 2)
    parts: list[tuple[str, Callable[[Outcome], float]]] = [
        (
            "prompt tokens found in the caches (%); dotted: believed by the picker",
            lambda outcome: 100 * outcome.hit_rate,
        ),
        ("busiest replica / fair share", lambda outcome: outcome.imbalance),
        ("repeated prefixes that moved (%)", lambda outcome: 100 * outcome.moves / max(1, outcome.repeats)),
        ("requests waiting at the chosen replica, p95", lambda outcome: outcome.queue_p95),
    ]
    for axes, (label, value) in zip(panels.flat, parts, strict=True):
        for (name, found), colour, marker in zip(curves.items(), cycle(CURVES), cycle(_MARKERS)):
            _curve(axes, [(o.scenario.replicas, value(o)) for o in found], colour, marker, name)
        _frame(axes, label, sorted({outcome.scenario.replicas for outcome in outcomes}))
    hits, shares, _, queues = panels.flat
    for found, colour in zip(curves.values(), cycle(CURVES)):
        believed = [100 * outcome.believed_hit_rate for outcome in found]
        hits.plot([o.scenario.replicas for o in found], believed, ":", color=colour, linewidth=1.2)
    hits.set_ylim(0, 104)
    shares.axhline(1, color=_COLOURS[0], linewidth=0.8, linestyle="--")
    shares.set_ylim(0.9, max(1.5, shares.get_ylim()[1]))
    if max(outcome.queue_p95 for outcome in outcomes) > _LINEAR_QUEUE:
        queues.set_yscale("symlog", linthresh=1)
    figure.legend(*hits.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return png(figure, "Predictions of the reference model, not measurements", stamp="")


@dataclass(frozen=True)
class Scale:
    """One panel of `scaling`: predictions over replicas, what was measured, and where the guide scales.

    `predicted` is least, median and most of several seeds, by replicas.
    """

    label: str
    predicted: Mapping[int, tuple[float, float, float]]
    measured: tuple[int, float] | None
    guide: float
    guide_label: str


def scaling(scales: Sequence[Scale], *, stamp: str) -> Png:
    """What more replicas would do by the model, beside what was measured and the guide's thresholds."""
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    for axes, scale in zip(figure.subplots(1, len(scales)), scales, strict=True):
        counts = list(scale.predicted)
        low, middle, high = zip(*scale.predicted.values(), strict=True)
        axes.fill_between(
            counts, low, high, color=_COLOURS[1], alpha=0.18, linewidth=0, label="least to most of its seeds"
        )
        _curve(axes, list(zip(counts, middle, strict=True)), _COLOURS[1], "o", "predicted by the model")
        if scale.measured is not None:
            axes.plot(*scale.measured, "D", color="#c2410c", markersize=9, label="measured in this run", zorder=3)
        _frame(axes, scale.label, counts)
        axes.axhline(scale.guide, color=_COLOURS[0], linewidth=1, linestyle="--", label="the guide scales beyond this")
        place = {"xy": (1, scale.guide), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axes.annotate(
            scale.guide_label, fontsize=8, color=_COLOURS[0], xytext=(0, 2), textcoords="offset points", **place
        )
        axes.set_ylim(0, 1.12 * max(axes.get_ylim()[1] / 1.05, scale.guide))
        if axes.get_subplotspec().is_first_col():
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
            )
    return png(figure, "Beyond three replicas: predictions of a model", stamp=stamp)


def node_options(options: Sequence[tuple[NodeOption, OptionCost]], *, demand_per_min: float | None, stamp: str) -> Png:
    """Left: dollars a month. Right: a million requests at capacity, with its interval, and at the demand."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(options))
    months = [0 if isinstance(cost.usd_per_month, Refusal) else cost.usd_per_month for _, cost in options]
    labels = [f"{month:,.0f}" if month else "no price" for month in months]
    left.bar_label(left.barh(rows, months, color=_COLOURS[1], height=0.55), labels, padding=3, fontsize=8.5)
    left.set_yticks(rows, [f"{option.name}\n{option.nodes} node{'s' * (option.nodes > 1)}" for option, _ in options])
    left.tick_params(axis="y", labelsize=8.5)
    left.invert_yaxis()
    left.set(xlabel="USD/month", xlim=(0, 1.2 * max([*months, 1.0])))
    for row, (_, cost) in enumerate(options):
        _dot(right, row - 0.12, cost.usd_per_1m_requests, _COLOURS[2], "s", "at the measured capacity")
        if demand_per_min is not None and cost.at_demand != cost.usd_per_1m_requests:
            _dot(right, row + 0.12, cost.at_demand, CURVES[1], "D", f"at {demand_per_min:g} requests/min")
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda usd, _: f"{usd:g}"))
    right.xaxis.set_minor_formatter(NullFormatter())
    right.margins(x=0.2)
    right.set(xlabel="USD per 1M requests (logarithmic)")
    right.grid(axis="x", alpha=0.25, which="both")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    entries = dict(zip(*reversed(right.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower right", ncols=2, frameon=False, fontsize=8.5)
    return png(figure, "Ways to run it: nodes only, at the profile's prices", stamp=stamp)


def _dot(axes: Axes, row: float, found: Estimate | Refusal, colour: str, marker: str, label: str) -> None:
    """A value with its interval; an end that is open is not drawn, and where there is no value it says why."""
    if isinstance(found, Refusal):
        place = ("axes fraction", "data")
        axes.annotate(found.reason, (0.02, row), xycoords=place, va="center", fontsize=7.5, color=_COLOURS[0])
        return
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    reach = [[found.value - low], [high - found.value]]
    axes.errorbar([found.value], [row], xerr=reach, fmt=marker, color=colour, markersize=6, capsize=3, label=label)
    axes.annotate(f"{found.value:.2f}", (high, row), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8)


def _curve(axes: Axes, points: Sequence[tuple[int, float]], colour: str, marker: str, label: str) -> None:
    axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, linewidth=1.8, label=label)


def _frame(axes: Axes, label: str, counts: Sequence[int]) -> None:
    axes.set(xlabel="replicas", xticks=counts)
    axes.set_title(label, loc="left", fontsize=9.5)
    axes.set_ylim(0, max(1.08 * axes.get_ylim()[1], 1))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def png(figure: Figure, title: str, *, stamp: str) -> Png:
    """The figure under its title; `stamp` says in the picture and beside it what made its numbers, if not a GPU."""
    title += f" [{stamp}]" if stamp else ""
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return Png(buffer.getvalue(), title)
