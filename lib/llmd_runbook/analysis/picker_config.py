"""An endpoint picker's configuration file, read strictly: what is unknown is refused with its line.

Both API versions of `EndpointPickerConfig` are read; it says which generation of the picker is meant.
What the file leaves out is filled in as the pickers do: a scorer's weight is 1, one profile needs no handler,
a profile without a picker gets `max-score-picker`, a file without profiles gets one of all its plugins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from llmd_runbook.analysis.picker_plugins import (
    APPROX_PREFIX_PRODUCER,
    MAX_SCORE_PICKER,
    PICKERS,
    PLUGIN_TYPES,
    SATURATION,
    SINGLE_PROFILE_HANDLER,
    UTILIZATION_DETECTOR,
    Schema,
    is_filter,
    is_scorer,
)
from llmd_runbook.analysis.scorers import MODELLED_SCORERS, NO_HIT_SCORER, PREFIX_SCORER, Generation, Rules

GENERATIONS = {
    "inference.networking.x-k8s.io/v1alpha1": Generation.V0_4,
    "llm-d.ai/v1alpha1": Generation.V0_10,
}

_TOP = {
    Generation.V0_4: {"plugins", "schedulingProfiles", "featureGates", "saturationDetector"},
    Generation.V0_10: {
        "plugins",
        "schedulingProfiles",
        "featureGates",
        "saturationDetector",
        "dataLayer",
        "flowControl",
        "requestHandler",
        "parser",
    },
}


class ConfigError(ValueError):
    """A configuration that the picker would refuse, or that means something else than its author thinks."""

    def __init__(self, line: int, key: str, value: object, reason: str) -> None:
        self.line, self.key, self.value, self.reason = line, key, value, reason
        super().__init__(f"line {line}: {key}: {value!r}: {reason}")


@dataclass(frozen=True)
class Plugin:
    """One plugin; `line` is where it stands, 0 for one that the picker adds by itself."""

    name: str
    type: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    line: int = 0


@dataclass(frozen=True)
class Saturation:
    """From when on requests that may be shed are refused."""

    queue_depth: int = 5
    kv_usage: float = 0.8
    staleness_s: float = 0.2


@dataclass(frozen=True)
class PickerConfig:
    """A configuration with its defaults filled in; `weights` by scorer type, in the profile's order."""

    generation: Generation
    plugins: tuple[Plugin, ...]
    profile: str
    profile_plugins: tuple[str, ...]
    weights: dict[str, float]
    picker: Plugin
    saturation: Saturation

    def rules(self) -> Rules:
        """What the reference model routes by.

        Raises:
            ConfigError: something that takes part in routing is not in the model.
        """
        for plugin in self.plugins:
            if self._routes(plugin) and not self._modelled(plugin):
                raise ConfigError(plugin.line, "type", plugin.type, "the reference model does not have it")
        if self.picker.type != MAX_SCORE_PICKER or self.picker.parameters.get("maxNumOfEndpoints", 1) > 1:
            raise ConfigError(self.picker.line, "type", self.picker.type, "the reference model picks one maximum")
        cache, cold, prefix = (self._parameters(t) for t in (self._cache_plugin, NO_HIT_SCORER, PREFIX_SCORER))
        base = Rules.v0_4 if self.generation is Generation.V0_4 else Rules.v0_10
        defaults = base(self.weights)
        size_key = "blockSize" if self.generation is Generation.V0_4 else "blockSizeTokens"
        blocks = cache.get("maxPrefixBlocksToMatch", defaults.max_blocks)
        if self.generation is Generation.V0_4 and blocks <= 0:
            blocks = defaults.max_blocks
        return Rules(
            self.generation,
            self.weights,
            auto_tune=cache.get("autoTune", True),
            block_size=_positive(cache.get(size_key), defaults.block_size),
            max_blocks=blocks,
            max_tokens=cache.get("maxPrefixTokensToMatch", defaults.max_tokens),
            lru_capacity=_positive(cache.get("lruCapacityPerServer"), defaults.lru_capacity),
            cold_capacity=_positive(cold.get("lruSize"), defaults.cold_capacity),
            match_length_weight=prefix.get("matchLengthWeight", 0.0),
        )

    def _routes(self, plugin: Plugin) -> bool:
        return plugin.name in self.profile_plugins or plugin.type.endswith("-profile-handler")

    def _modelled(self, plugin: Plugin) -> bool:
        if plugin.type in MODELLED_SCORERS:
            return PLUGIN_TYPES[self.generation][plugin.type] is not None
        return plugin.type == SINGLE_PROFILE_HANDLER or plugin.type in PICKERS

    @property
    def _cache_plugin(self) -> str:
        return PREFIX_SCORER if self.generation is Generation.V0_4 else APPROX_PREFIX_PRODUCER

    def _parameters(self, type_: str) -> Mapping[str, Any]:
        return next((plugin.parameters for plugin in self.plugins if plugin.type == type_), {})


def parse(text: str) -> PickerConfig:
    """Read an EndpointPickerConfig.

    Raises:
        ConfigError: with line, key, value and reason.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or "no YAML"
        raise ConfigError(mark.line + 1 if mark else 1, "file", "", f"not valid YAML: {reason}") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(1, "file", text[:40], "must be a mapping")
    top = _fields(root, "file")
    version = _scalar(top, "apiVersion", str, root)
    if version not in GENERATIONS:
        raise ConfigError(_line(top["apiVersion"]), "apiVersion", version, f"known are {', '.join(GENERATIONS)}")
    generation = GENERATIONS[version]
    kind = _scalar(top, "kind", str, root)
    if kind != "EndpointPickerConfig":
        raise ConfigError(_line(top["kind"]), "kind", kind, "must be EndpointPickerConfig")
    _refuse_unknown(top, {"apiVersion", "kind", *_TOP[generation]})
    plugins = [_plugin(node, generation) for node in _items(top, "plugins")]
    by_name = {plugin.name: plugin for plugin in plugins}
    for plugin in plugins:
        if by_name[plugin.name] is not plugin:
            raise ConfigError(by_name[plugin.name].line, "name", plugin.name, "is used by two plugins")
    profile = _profile(top, generation, by_name)
    picker = profile.picker
    if picker is None:
        picker = next((p for p in plugins if p.type in PICKERS), None)
    if picker is None:
        picker = Plugin(MAX_SCORE_PICKER, MAX_SCORE_PICKER)
        plugins.append(picker)
    if not any(plugin.type.endswith("-profile-handler") for plugin in plugins):
        plugins.append(Plugin(SINGLE_PROFILE_HANDLER, SINGLE_PROFILE_HANDLER))
    return PickerConfig(
        generation,
        tuple(plugins),
        profile.name,
        tuple(profile.plugins),
        profile.weights,
        picker,
        _saturation(top, generation, plugins),
    )


def _plugin(node: yaml.Node, generation: Generation) -> Plugin:
    fields = _fields(node, "plugins")
    _refuse_unknown(fields, {"name", "type", "parameters"})
    type_ = _scalar(fields, "type", str, node)
    known = PLUGIN_TYPES[generation]
    if type_ not in known:
        raise ConfigError(_line(fields["type"]), "type", type_, f"no plugin of {generation} has this type")
    name = _scalar(fields, "name", str, node) if "name" in fields else type_
    schema, parameters = known[type_], fields.get("parameters")
    if parameters is None or _plain(parameters) is None:
        return Plugin(name, type_, {}, _line(node))
    given = _fields(parameters, "parameters")
    if schema is None:
        return Plugin(name, type_, {key: _plain(value) for key, value in given.items()}, _line(node))
    _refuse_unknown(given, set(schema))
    values = {key: _scalar(given, key, schema[key], parameters) for key in given}
    return Plugin(name, type_, values, _line(node))


@dataclass
class _Profile:
    name: str
    plugins: list[str]
    weights: dict[str, float]
    picker: Plugin | None = None


def _profile(top: Mapping[str, yaml.Node], generation: Generation, plugins: Mapping[str, Plugin]) -> _Profile:
    nodes = list(_items(top, "schedulingProfiles"))
    if not nodes:
        weights = {plugin.type: 1.0 for plugin in plugins.values() if is_scorer(plugin.type)}
        return _Profile("default", [name for name, p in plugins.items() if _belongs(p)], weights)
    if len(nodes) > 1:
        raise ConfigError(_line(nodes[1]), "schedulingProfiles", len(nodes), "only one profile is understood")
    fields = _fields(nodes[0], "schedulingProfiles")
    _refuse_unknown(fields, {"name", "plugins"})
    profile = _Profile(_scalar(fields, "name", str, nodes[0]), [], {})
    for node in _items(fields, "plugins"):
        entry = _fields(node, "plugins")
        _refuse_unknown(entry, {"pluginRef", "weight"})
        ref = _scalar(entry, "pluginRef", str, node)
        if ref not in plugins:
            raise ConfigError(_line(entry["pluginRef"]), "pluginRef", ref, "no plugin has this name")
        weight = 1.0
        if "weight" in entry:
            weight = float(_scalar(entry, "weight", int if generation is Generation.V0_4 else float, node))
        plugin = plugins[ref]
        profile.plugins.append(ref)
        if plugin.type in PICKERS:
            profile.picker = plugin
        elif is_scorer(plugin.type):
            if plugin.type in profile.weights:
                raise ConfigError(_line(node), "pluginRef", ref, f"a second {plugin.type} is not understood")
            profile.weights[plugin.type] = weight
    return profile


def _belongs(plugin: Plugin) -> bool:
    """Whether a profile that the picker makes itself has this plugin."""
    return is_scorer(plugin.type) or is_filter(plugin.type) or plugin.type in PICKERS


def _saturation(top: Mapping[str, yaml.Node], generation: Generation, plugins: list[Plugin]) -> Saturation:
    detector = next((plugin for plugin in plugins if plugin.type == UTILIZATION_DETECTOR), None)
    given, line = (detector.parameters, detector.line) if detector else ({}, 0)
    node = top.get("saturationDetector")
    if node is not None and _plain(node) is not None:
        schema: Schema = SATURATION if generation is Generation.V0_4 else {"pluginRef": str}
        fields = _fields(node, "saturationDetector")
        _refuse_unknown(fields, set(schema))
        values = {key: _scalar(fields, key, schema[key], node) for key in fields}
        if generation is Generation.V0_4:
            given, line = values, _line(node)
    default = Saturation()
    kv_usage = given.get("kvCacheUtilThreshold", 0.0)
    return Saturation(
        queue_depth=_positive(given.get("queueDepthThreshold"), default.queue_depth),
        kv_usage=kv_usage if 0 < kv_usage < 1 else default.kv_usage,
        staleness_s=_duration_s(given.get("metricsStalenessThreshold", "0s"), line) or default.staleness_s,
    )


def _duration_s(text: str, line: int) -> float:
    """Seconds of a Go duration such as `200ms` or `1m30s`."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(line, "metricsStalenessThreshold", text, "must be a duration such as 200ms")
    return sum(float(number) * units[unit] for number, unit in parts)


def _positive(value: int | None, default: int) -> int:
    return value if value is not None and value > 0 else default


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _fields(node: yaml.Node, what: str) -> dict[str, yaml.Node]:
    """The keys of a mapping; a key that stands twice is refused."""
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(_line(node), what, _plain(node), "must be a mapping")
    fields: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.value in fields:
            raise ConfigError(_line(key), key.value, _plain(value), "stands here twice")
        fields[key.value] = value
    return fields


def _items(fields: Mapping[str, yaml.Node], key: str) -> Iterator[yaml.Node]:
    node = fields.get(key)
    if node is None or _plain(node) is None:
        return
    if not isinstance(node, yaml.SequenceNode):
        raise ConfigError(_line(node), key, _plain(node), "must be a list")
    yield from node.value


def _refuse_unknown(fields: Mapping[str, yaml.Node], known: set[str]) -> None:
    for key, node in fields.items():
        if key not in known:
            raise ConfigError(_line(node), key, _plain(node), f"unknown key; known are {', '.join(sorted(known))}")


_IS: dict[type, tuple[str, Callable[[object], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
}


def _scalar(fields: Mapping[str, yaml.Node], key: str, kind: type, parent: yaml.Node) -> Any:
    if key not in fields:
        raise ConfigError(_line(parent), key, None, "is missing")
    value = _plain(fields[key])
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # upstream goes through JSON, where 2.0 is 2
    wanted, holds = _IS[kind]
    if not holds(value):
        raise ConfigError(_line(fields[key]), key, value, f"must be {wanted}")
    return value


def _plain(node: yaml.Node) -> Any:
    return _Constructor().construct_object(node, deep=True)


class _Constructor(yaml.constructor.SafeConstructor):
    """Values of nodes that were composed already."""
