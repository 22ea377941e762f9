"""What both generations of the real picker log of their file, against the file that they were started with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_runbook.analysis.picker_config import parse
from llmd_runbook.analysis.picker_loaded import differences, loaded

DATA = Path(__file__).parents[2] / "data"
GENERATIONS = ["v0.4", "v0.10"]


def file(generation: str) -> str:
    return (DATA / f"picker-{generation}-start.yaml").read_text(encoding="utf-8")


def lines(generation: str) -> list[str]:
    return (DATA / f"picker-{generation}-start.log").read_text(encoding="utf-8").splitlines()


def of_text(config: str) -> str:
    """A line of v0.4 as `--zap-encoder json` has it."""
    return json.dumps({"level": "info", "msg": "Loaded configuration", "config": config})


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_log_of_a_start_shows_the_file(generation: str) -> None:
    found = loaded(lines(generation))
    assert found is not None
    assert differences(found, parse(file(generation))) == []


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("lruCapacityPerServer: 4", "lruCapacityPerServer: 5", '"lruCapacityPerServer": 4} in the log, '),
        (
            "- type: queue-scorer\n",
            "- type: queue-scorer\n- type: lora-affinity-scorer\n",
            "absent in the log, lora-aff",
        ),
        ("  - pluginRef: queue-scorer", "  - pluginRef: queue-scorer\n    weight: 9\n#", "weight of queue-scorer: "),
        ("name: default", "name: other", "profile: default ("),
        ("  - pluginRef: max-score-picker\n", "", "profile: default ("),
        ("- type: queue-scorer", "- {type: queue-scorer, parameters: {}}", ""),
    ],
)
def test_a_file_that_was_changed_since_differs(generation: str, old: str, new: str, said: str) -> None:
    text = file(generation)
    assert old in text
    if "weight: 9" in new:
        text = text.replace("  - pluginRef: queue-scorer\n    weight: 2\n", "  - pluginRef: queue-scorer\n")
    found = loaded(lines(generation))
    assert found is not None
    shown = differences(found, parse(text.replace(old, new, 1)))
    assert bool(shown) == bool(said)
    assert said in "; ".join(shown)


def test_what_the_file_leaves_out_is_filled_in_on_both_sides() -> None:
    """As GIE v1.2.0 logs a file of one plugin."""
    text = "{Plugins: [{/prefix-cache-scorer}], SchedulingProfiles: [], FeatureGates: {}, SaturationDetector: {}}"
    found = loaded([of_text(text)])
    bare = "kind: EndpointPickerConfig\nplugins: [{type: prefix-cache-scorer}]\n"
    assert found is not None
    assert differences(found, parse(f"apiVersion: inference.networking.x-k8s.io/v1alpha1\n{bare}")) == []


def test_a_parameter_may_hold_what_ends_a_list() -> None:
    text = '{Plugins: [{a/load-aware-scorer, Parameters: {"x":"]} {b"}} {/queue-scorer}], SchedulingProfiles: []}'
    found = loaded([of_text(text)])
    assert found is not None
    assert [(plugin.name, dict(plugin.parameters)) for plugin in found.plugins[:2]] == [
        ("a", {"x": "]} {b"}),
        ("queue-scorer", {}),
    ]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_log_that_begins_later_tells_nothing(generation: str) -> None:
    assert loaded(lines(generation)[:-1]) is None
    assert loaded([]) is None


@pytest.mark.parametrize(
    "config",
    [
        "[queue-scorer]",
        "{Plugins: [queue-scorer], SchedulingProfiles: []}",
        "{Plugins: [{/queue-scorerr}], SchedulingProfiles: []}",
        "{Plugins: [{/random-picker, Parameters: {]",
        "{Plugins: [{/queue-scorer}",
    ],
)
def test_another_form_is_not_guessed_at(config: str) -> None:
    with pytest.raises((ValueError, LookupError)):
        loaded([of_text(config)])
