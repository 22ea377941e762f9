from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmd_runbook.stages.routing import figures as routing_figures

REPLICAS = ["decode-abcde", "decode-fghij"]
GROUPS = {"g1": [0, 3], "g0": [3, 0], "g2": [2, 1]}
CONTROL = {"label 0": [1, 1]}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    original = Figure.savefig

    def savefig(self: Figure, *args: Any, **options: Any) -> None:
        figures.append(self)
        original(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def words(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def test_groups_of_one_home_stand_together_and_every_count_is_written(drawn: list[Figure]) -> None:
    routing_figures.affinity(GROUPS, CONTROL, {"g0": [0.2, 0.05, 0.06], "g1": [0.3]}, REPLICAS, stamp="")
    left, middle, right = drawn[0].axes
    assert words(left) == ["g0", "g2", "g1"]
    assert [text.get_text() for text in left.texts] == ["3", "2", "1", "3"]
    assert words(middle) == ["label 0"]
    assert words(right) == ["g0"], "a prefix that was asked once has no later request"


def test_without_times_it_says_that_nothing_was_measured(drawn: list[Figure]) -> None:
    routing_figures.affinity(GROUPS, CONTROL, {}, REPLICAS, stamp="")
    assert [text.get_text() for text in drawn[0].axes[2].texts] == ["not measured"]


@pytest.mark.parametrize(("stamp", "end"), [("simulated engine", " saves [simulated engine]"), ("", " saves")])
def test_the_figure_says_what_made_its_numbers(drawn: list[Figure], stamp: str, end: str) -> None:
    made = routing_figures.affinity(GROUPS, CONTROL, {}, REPLICAS, stamp=stamp)
    assert repr(made).endswith(end)
    assert drawn[0].get_suptitle().endswith(end)
