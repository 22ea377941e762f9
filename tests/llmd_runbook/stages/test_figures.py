from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from llmd_runbook.analysis.scorers import Rules
from llmd_runbook.analysis.traces import prompt_requests
from llmd_runbook.analysis.what_if import scenarios, simulate
from llmd_runbook.stages.figures import Scale, latency_and_throughput, scaling, what_if
from tests.llmd_runbook.stages.loads import load

PNG = b"\x89PNG\r\n\x1a\n"
LOADS = {"Pattern 1, baseline": load(10), "Pattern 3, same load": load(12), "Pattern 3, a replica": load(25, 60)}


@pytest.mark.parametrize(("stamp", "end"), [("simulated engine", " after [simulated engine]"), ("", " after")])
def test_a_figure_says_inside_the_picture_and_beside_it_what_made_its_numbers(
    monkeypatch: pytest.MonkeyPatch, stamp: str, end: str
) -> None:
    titles: list[str] = []
    original = Figure.suptitle

    def suptitle(self: Figure, text: str, **options: Any) -> Any:
        titles.append(text)
        return original(self, text, **options)

    monkeypatch.setattr(Figure, "suptitle", suptitle)
    made = latency_and_throughput(LOADS, stamp=stamp)
    assert made._repr_png_() == made.data
    assert made.data.startswith(PNG)
    assert [text.endswith(end) for text in (*titles, repr(made))] == [True, True]


def test_a_load_without_answers_or_throughput_is_drawn_all_the_same() -> None:
    empty = replace(load(10, refused="too short"), latencies_s=[], ttfts_s=[])
    assert latency_and_throughput({"Pattern 1, baseline": empty}, stamp="").data.startswith(PNG)


def test_a_rate_has_its_interval_and_one_that_was_refused_is_not_drawn_as_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: dict[str, Any] = {}
    barh, bar_label, step = Axes.barh, Axes.bar_label, Axes.step

    def bars(self: Axes, *values: Any, **options: Any) -> Any:
        said["reach"] = options["xerr"]
        return barh(self, *values, **options)

    def labels(self: Axes, container: Any, texts: list[str], **options: Any) -> Any:
        said["texts"] = texts
        return bar_label(self, container, texts, **options)

    def curve(self: Axes, values: list[float], *more: Any, **options: Any) -> Any:
        said[options["label"]] = len(values)
        return step(self, values, *more, **options)

    monkeypatch.setattr(Axes, "barh", bars)
    monkeypatch.setattr(Axes, "bar_label", labels)
    monkeypatch.setattr(Axes, "step", curve)
    latency_and_throughput({"one": load(10), "two": load(25, 60).judged("INVALID (client-bound)")}, stamp="")
    assert said["texts"] == ["10.0", "none"]
    (low, nothing), (high, none) = said["reach"]
    assert (low > 0, high > 0, nothing, none) == (True, True, 0, 0)
    assert (said["one (n=200)"], said["two (not shown: client-bound)"]) == (200, 0)


def test_predictions_have_a_line_a_configuration_and_say_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    original = Axes.plot

    def plot(self: Axes, *values: Any, **options: Any) -> Any:
        drawn.append(options.get("label", "dotted"))
        return original(self, *values, **options)

    monkeypatch.setattr(Axes, "plot", plot)
    load = prompt_requests("m", ["a" * 200] * 3 + ["b" * 200] * 3, output_tokens=3, arrivals_s=[0, 1, 2, 3, 4, 5])
    rules = [Rules.v0_4({"prefix-cache-scorer": 3}), Rules.v0_4({"queue-scorer": 1})]
    made = what_if([simulate(load, scenario) for scenario in scenarios(rules, [1, 2], [50, 100])])
    assert "not measurements" in repr(made)
    names = {f"{name}; {blocks} blocks" for name in ("prefix 3", "queue 1") for blocks in (50, 100)}
    assert {name: drawn.count(name) for name in names} == dict.fromkeys(names, 4)
    assert drawn.count("dotted") == 4
    assert what_if([simulate(load, scenarios(rules, [3])[0])]).data.startswith(PNG)


@pytest.mark.parametrize(("stamp", "end"), [("simulated engine", " model [simulated engine]"), ("", " model")])
def test_scaling_shows_the_measured_point_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, stamp: str, end: str
) -> None:
    points: list[tuple[Any, ...]] = []
    original = Axes.plot

    def plot(self: Axes, *values: Any, **options: Any) -> Any:
        if options.get("label") == "measured in this run":
            points.append(values[:2])
        return original(self, *values, **options)

    monkeypatch.setattr(Axes, "plot", plot)
    predicted = {1: (1.0, 2.0, 3.0), 2: (2.0, 3.0, 4.0)}
    made = scaling(
        [Scale("one", predicted, (2, 2.5), 9, "guide: 9"), Scale("two", predicted, None, 9, "guide: 9")],
        stamp=stamp,
    )
    assert points == [(2, 2.5)]
    assert repr(made).endswith(end)
    assert made.data.startswith(PNG)
