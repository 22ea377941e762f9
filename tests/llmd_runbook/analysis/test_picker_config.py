from __future__ import annotations

import pytest

from llmd_runbook.analysis.picker_config import ConfigError, parse
from llmd_runbook.analysis.scorers import Generation

V0_4 = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
  - pluginRef: kv-cache-utilization-scorer
    weight: 2
  - pluginRef: prefix-cache-scorer
    weight: 3
"""
V0_10 = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer, name: queue}
- type: prefix-cache-scorer
- {type: no-hit-lru-scorer, parameters: {lruSize: 9}}
- type: approx-prefix-cache-producer
  parameters: {blockSizeTokens: 128, autoTune: no, lruCapacityPerServer: 7}
- {type: utilization-detector, parameters: {queueDepthThreshold: 9, metricsStalenessThreshold: 1m30s}}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue, weight: 0.5}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: no-hit-lru-scorer}
"""


def test_the_charts_default_of_v0_4() -> None:
    config = parse(V0_4)
    assert config.generation is Generation.V0_4
    assert config.weights == {
        "queue-scorer": 2.0,
        "kv-cache-utilization-scorer": 2.0,
        "prefix-cache-scorer": 3.0,
    }
    assert next(iter(config.weights)) == "queue-scorer"
    assert config.picker.type == "max-score-picker"
    assert config.picker.line == 0
    assert {plugin.type for plugin in config.plugins} >= {"single-profile-handler", "max-score-picker"}
    rules = config.rules()
    assert (rules.block_size, rules.max_blocks, rules.lru_capacity, rules.auto_tune) == (
        64,
        256,
        31_250,
        True,
    )
    assert (config.saturation.queue_depth, config.saturation.kv_usage, config.saturation.staleness_s) == (
        5,
        0.8,
        0.2,
    )


def test_v0_10_with_float_weights_names_and_parameters() -> None:
    config = parse(V0_10)
    assert config.generation is Generation.V0_10
    assert config.weights == {"queue-scorer": 0.5, "prefix-cache-scorer": 3.0, "no-hit-lru-scorer": 1.0}
    rules = config.rules()
    assert (rules.block_size, rules.auto_tune, rules.lru_capacity, rules.cold_capacity) == (128, False, 7, 9)
    assert (rules.max_blocks, rules.max_tokens) == (2048, 131_072)
    assert (config.saturation.queue_depth, config.saturation.staleness_s) == (9, 90.0)


def test_without_profiles_every_scorer_counts_once() -> None:
    config = parse(V0_4.split("schedulingProfiles")[0])
    assert config.weights == {
        "queue-scorer": 1.0,
        "kv-cache-utilization-scorer": 1.0,
        "prefix-cache-scorer": 1.0,
    }
    assert config.profile == "default"


def test_prefix_parameters_of_v0_4() -> None:
    text = V0_4.replace(
        "- type: prefix-cache-scorer\n",
        "- type: prefix-cache-scorer\n  parameters: {blockSize: 32, maxPrefixBlocksToMatch: 10, autoTune: no}\n",
    )
    rules = parse(text).rules()
    assert (rules.block_size, rules.max_blocks, rules.auto_tune) == (32, 10, False)


def test_saturation_of_v0_4() -> None:
    text = V0_4 + "saturationDetector: {queueDepthThreshold: 7, kvCacheUtilThreshold: 0.5}\n"
    assert parse(text).saturation.queue_depth == 7
    assert parse(text).saturation.kv_usage == 0.5


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "value"),
    [
        ("weight: 3", "weight: 3.5", 15, "weight", 3.5),
        ("weight: 3", "weight: true", 15, "weight", True),
        ("weight: 3", 'weight: "3"', 15, "weight", "3"),
        ("weight: 3", "wieght: 3", 15, "wieght", 3),
        ("- type: prefix-cache-scorer", "- type: prefix-scorer", 6, "type", "prefix-scorer"),
        ("- type: queue-scorer", "- type: queue-scorer\n  parameters: {depth: 3}", 5, "depth", 3),
        (
            "- type: prefix-cache-scorer",
            "- type: prefix-cache-scorer\n  parameters: {blockSize: x}",
            7,
            "blockSize",
            "x",
        ),
        ("pluginRef: prefix-cache-scorer", "pluginRef: prefix", 14, "pluginRef", "prefix"),
        ("pluginRef: prefix-cache-scorer", "pluginRef: queue-scorer", 14, "pluginRef", "queue-scorer"),
        ("x-k8s.io/v1alpha1", "x-k8s.io/v1", 1, "apiVersion", "inference.networking.x-k8s.io/v1"),
        ("kind: EndpointPickerConfig", "kind: Other", 2, "kind", "Other"),
        ("kind: EndpointPickerConfig", "featureGates: []", 1, "kind", None),
        ("plugins:\n- type", "flowControl: {}\nplugins:\n- type", 3, "flowControl", {}),
        ("plugins:\n- type: queue-scorer\n", "plugins:\n- name: queue-scorer\n", 4, "type", None),
        ("- type: kv-cache-utilization-scorer", "- type: queue-scorer", 5, "name", "queue-scorer"),
        ("kind: EndpointPickerConfig", "kind: EndpointPickerConfig\nkind: X", 3, "kind", "X"),
        ("- type: queue-scorer", "- {type: queue-scorer", 5, "file", ""),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(old: str, new: str, line: int, key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(V0_4.replace(old, new, 1))
    error = caught.value
    assert (error.line, error.key, error.value) == (line, key, value)
    assert f"line {line}" in str(error)
    assert error.reason in str(error)


@pytest.mark.parametrize("text", ["", "- a", "text", "plugins: {"])
def test_files_that_are_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        parse(text)


def test_two_profiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="only one profile"):
        parse(V0_4 + "- name: other\n  plugins: []\n")


def test_a_bad_duration_is_refused() -> None:
    with pytest.raises(ConfigError, match="duration"):
        parse(V0_4 + "saturationDetector: {metricsStalenessThreshold: 2 seconds}\n")


@pytest.mark.parametrize("plugin", ["load-aware-scorer", "no-hit-lru-scorer", "random-picker", "decode-filter"])
def test_what_the_reference_model_lacks_can_be_read_but_not_replayed(plugin: str) -> None:
    text = V0_4.replace("- type: queue-scorer", f"- type: {plugin}\n- type: queue-scorer", 1)
    config = parse(text + f"  - pluginRef: {plugin}\n")
    with pytest.raises(ConfigError, match="reference model") as caught:
        config.rules()
    assert caught.value.line == 4


def test_an_integral_float_is_an_integer_as_in_json() -> None:
    assert parse(V0_4.replace("weight: 3", "weight: 3.0")).weights["prefix-cache-scorer"] == 3.0


def test_a_plugin_that_no_profile_names_does_not_matter() -> None:
    parse(V0_4.replace("- type: queue-scorer", "- type: decode-filter\n- type: queue-scorer", 1)).rules()


def test_another_profile_handler_cannot_be_replayed() -> None:
    text = V0_4.replace("- type: queue-scorer", "- type: pd-profile-handler\n- type: queue-scorer", 1)
    with pytest.raises(ConfigError, match="pd-profile-handler"):
        parse(text).rules()
