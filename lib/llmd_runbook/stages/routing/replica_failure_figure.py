"""The picture of a replica's loss: every request by its prefix and its time, coloured by who answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.figure import Figure

from llmd_runbook.analysis.replica_loss import Request
from llmd_runbook.stages.figures import Png, png

_COLOURS = ("#2563eb", "#0d9488", "#d97706", "#7c3aed", "#65a30d", "#db2777")
_LOST = "#cf222e"


def requests_over_time(requests: Sequence[Request], killed: str, marks: Mapping[str, float], *, stamp: str) -> Png:
    """A row a prefix, a dot a request; `marks` are moments, seconds after the kill, drawn as lines."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots()
    groups = sorted({request.group for request in requests}, key=lambda name: (len(name), name))
    place = {group: index for index, group in enumerate(groups)}
    names = sorted({request.replica for request in requests if request.replica is not None}, key=lambda n: n != killed)
    for name, colour in zip(names, cycle(_COLOURS), strict=False):
        own = [request for request in requests if request.ok and request.replica == name]
        label = f"{name.rpartition('-')[2]}{' (killed)' if name == killed else ''}: {len(own)}"
        axes.scatter([r.sent_s for r in own], [place[r.group] for r in own], s=22, color=colour, label=label)
    unknown = [request for request in requests if request.ok and request.replica is None]
    if unknown:
        axes.scatter(
            [r.sent_s for r in unknown],
            [place[r.group] for r in unknown],
            s=22,
            facecolors="none",
            edgecolors="#6b7280",
            label=f"answered, by whom is not known: {len(unknown)}",
        )
    lost = [request for request in requests if not request.ok]
    axes.scatter(
        [r.sent_s for r in lost],
        [place[r.group] for r in lost],
        s=70,
        marker="x",
        linewidths=2.2,
        color=_LOST,
        label=f"lost: {len(lost)}",
    )
    for number, (name, at_s) in enumerate(marks.items()):
        axes.axvline(at_s, color="#374151", linewidth=1, linestyle="--", zorder=0)
        height = len(groups) - 0.3 + 0.75 * (number % 3)
        axes.annotate(name, (at_s, height), xytext=(3, 0), textcoords="offset points", fontsize=8, color="#374151")
    axes.set_yticks(range(len(groups)), groups, fontsize=8)
    axes.set(ylim=(-0.7, len(groups) + 1.9), xlabel="sent, seconds after the kill", ylabel="prefix")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, fontsize=8)
    return png(figure, "One replica killed during traffic: who answered which prefix", stamp=stamp)
