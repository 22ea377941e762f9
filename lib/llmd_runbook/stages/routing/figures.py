"""Stage 05's figure: who served which prefix, and what a cached prefix saves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmd_runbook.stages.figures import Png, png

Counts = Mapping[str, Sequence[int]]
"""Requests by group; one number a replica."""

_FIRST, _LATER, _INK = "#9ca3af", "#2563eb", "#1f2937"


def affinity(
    groups: Counts, control: Counts, ttfts_s: Mapping[str, Sequence[float]], replicas: Sequence[str], *, stamp: str
) -> Png:
    """Who served which prefix beside the control arm, and the first request of a prefix against its later ones.

    Args:
        groups: requests by prefix and replica.
        control: the same of prompts that share nothing, under labels that mean nothing.
        ttfts_s: for each prefix the times to first token (s) in the order of sending; may lack some or all.
        replicas: names of the columns.
        stamp: what made the numbers, if not a GPU; said inside the picture.
    """
    figure = Figure(figsize=(11, 0.28 * max(len(groups), len(control)) + 2.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 2, 3))
    largest = max([1, *(count for counts in (groups, control) for row in counts.values() for count in row)])
    _heat_map(left, groups, replicas, largest, "shared prefixes")
    _heat_map(middle, control, replicas, largest, "control: nothing is shared")
    repeated = {name: ttfts_s[name] for name in _by_home(groups) if len(ttfts_s.get(name, ())) > 1}
    _first_and_later(right, repeated)
    return png(figure, "Where requests went, and what a cached prefix saves", stamp=stamp)


def _heat_map(axes: Axes, counts: Counts, replicas: Sequence[str], largest: int, title: str) -> None:
    names = _by_home(counts)
    cells = [list(counts[name]) for name in names]
    axes.pcolormesh(cells, cmap="Blues", vmin=0, vmax=largest, edgecolors="white", linewidth=2)
    axes.invert_yaxis()
    for row, name in enumerate(names):
        for column, count in enumerate(counts[name]):
            if count:
                ink = "white" if count > 0.6 * largest else _INK
                axes.text(column + 0.5, row + 0.5, str(count), ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks([x + 0.5 for x in range(len(replicas))], [f"…{name[-5:]}" for name in replicas], fontsize=8)
    axes.set_yticks([y + 0.5 for y in range(len(names))], names, fontsize=8)
    axes.set_xlabel("replica", fontsize=8)
    axes.set_title(f"{title} (requests)", fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _first_and_later(axes: Axes, ttfts_s: Mapping[str, Sequence[float]]) -> None:
    """A row a prefix: its first request as a grey dot, the median of its later ones in colour, each of them faint."""
    axes.set_title("time to first token (ms)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not ttfts_s:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", color=_FIRST, transform=axes.transAxes)
        axes.set_axis_off()
        return
    for row, times_s in enumerate(ttfts_s.values()):
        first_ms, *later_ms = (1000 * time_s for time_s in times_s)
        median_ms = statistics.median(later_ms)
        axes.plot([first_ms, median_ms], [row, row], color="#d1d5db", linewidth=1.5, zorder=1)
        axes.scatter(later_ms, [row] * len(later_ms), s=10, color=_LATER, alpha=0.3, zorder=2, linewidths=0)
        axes.scatter(first_ms, row, s=36, color=_FIRST, zorder=3, label="" if row else "first request of a prefix")
        axes.scatter(median_ms, row, s=36, color=_LATER, zorder=3, label="" if row else "median of its later ones")
    axes.set_yticks(range(len(ttfts_s)), list(ttfts_s), fontsize=8)
    axes.set_ylim(len(ttfts_s) - 0.5, -0.5)
    axes.set_xlim(0, None)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, frameon=False, fontsize=8)


def _by_home(counts: Counts) -> list[str]:
    """The groups, those of one home together."""
    return sorted(counts, key=lambda name: (max(range(len(counts[name])), key=lambda i: counts[name][i]), name))
