"""The picture of a swap: the probe's requests over time, by name and outcome, with the moments of the swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llmd_runbook.analysis.cutover import NEW, OLD, Announced, Asked, Outcome, outcome
from llmd_runbook.stages.figures import Png, png

_COLOURS = {
    Outcome.ANSWERED: "#2563eb",
    Outcome.REFUSED: "#d1d5db",
    Outcome.OUTAGE: "#d97706",
    Outcome.LOST: "#cf222e",
}
_MOMENTS = {
    "removed": "Pattern 1 removed",
    "moved": "route moved",
    "serving": "Pattern 3 answers",
    "drained": "Pattern 1 idle",
    "rolling back": "going back",
    "restored": "Pattern 1 answers again",
}
_BINS, _LEAST_BIN_S = 80, 0.5


def requests_over_time(
    requests: Sequence[Asked],
    announced: Sequence[Announced],
    marks: Mapping[str, float],
    *,
    title: str,
    names: Mapping[str, str],
    stamp: str,
) -> Png:
    """A panel a name, a bar a span of time, coloured by what became of the requests sent in it.

    Args:
        names: what the requests of `OLD` and `NEW` ask for.
    """
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.2, 4, 4))
    end_s = max([one.sent_s for one in requests] + [*marks.values(), 1.0])
    width_s = max(_LEAST_BIN_S, end_s / _BINS)
    edges = np.arange(0.0, end_s + width_s, width_s)
    for axes, name in zip(panels[1:], (OLD, NEW), strict=True):
        own = [one for one in requests if one.model == name]
        found = {one.request_id: outcome(one, announced) for one in own}
        kinds = [kind for kind in Outcome if kind in found.values()]
        sent = [[one.sent_s for one in own if found[one.request_id] is kind] for kind in kinds]
        if kinds:
            axes.hist(
                sent,
                bins=list(edges),
                weights=[[1 / width_s] * len(times) for times in sent],
                stacked=True,
                color=[_COLOURS[kind] for kind in kinds],
                label=[f"{kind.value}: {len(times):,}" for kind, times in zip(kinds, sent, strict=True)],
            )
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.97), ncols=len(kinds), frameon=False, fontsize=8)
        axes.set_title(names[name], loc="left", fontsize=9.5)
        axes.set_ylabel("requests/s sent")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    panels[2].set(xlabel="seconds since the probe began", xlim=(0, end_s))
    _mark(panels, marks, end_s)
    return png(figure, title, stamp=stamp)


def _mark(panels: Sequence[Axes], marks: Mapping[str, float], end_s: float) -> None:
    """Lines through all panels, their names in rows of the uppermost, so that close ones can be told apart."""
    panels[0].set_axis_off()
    panels[0].set_ylim(0, 3)
    for number, (name, at_s) in enumerate(sorted(marks.items(), key=lambda item: item[1])):
        for axes in panels:
            axes.axvline(at_s, color="#374151", linewidth=1, linestyle="--", zorder=3)
        side = -1 if at_s > 0.85 * end_s else 1
        panels[0].annotate(
            f"{_MOMENTS.get(name, name)} {at_s:.1f} s",
            (at_s, 2.4 - number % 3),
            xytext=(3 * side, 0),
            textcoords="offset points",
            horizontalalignment="right" if side < 0 else "left",
            fontsize=8,
            color="#374151",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            zorder=4,
        )
