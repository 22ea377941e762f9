"""The configuration that an endpoint picker has loaded, as its own log shows it, beside what its file holds now.

Both generations log it once, when they start, at level 0 and so at every verbosity. v0.4 writes it as text
(`Loaded configuration`; the String methods in apix/config/v1alpha1 of GIE v1.2.0), v0.10 as JSON (`Raw config after
phase one`; cmd/epp/runner/runner.go of llm-d-router v0.10.0). Plugins and scheduling profiles are read, not the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from llmd_runbook.analysis.picker_config import GENERATIONS, PickerConfig, parse
from llmd_runbook.analysis.picker_log_lines import split
from llmd_runbook.analysis.scorers import Generation

AS_TEXT, AS_JSON = "Loaded configuration", "Raw config after phase one"

_V0_4 = next(version for version, generation in GENERATIONS.items() if generation is Generation.V0_4)
_PLUGINS, _PROFILES = "{Plugins: [", "SchedulingProfiles: ["
_PARAMETERS = ", Parameters: "
_PLUGIN = re.compile(rf"\{{([^{{}}]*)/([^/,{{}}]+)({_PARAMETERS})?")
_PROFILE = re.compile(r"\{Name: ([^,{}]*), Plugins: \[([^\]]*)\]\}")
_REFERENCE = re.compile(r"\{PluginRef: ([^,{}]+)(?:, Weight: (-?\d+))?\}")


def loaded(lines: Iterable[str]) -> PickerConfig | None:
    """What the start of a picker's log says it loaded; None where no line tells.

    Raises:
        ValueError: a line of that kind in another form, or with plugins that are not known.
    """
    for line in lines:
        if AS_TEXT not in line and AS_JSON not in line:
            continue
        message, fields = split(line)
        if message == AS_TEXT:
            return _read(_V0_4, *_of_text(str(fields["config"])))
        if message == AS_JSON:
            raw = fields["config"]
            return _read(raw["apiVersion"], raw["plugins"], raw.get("schedulingProfiles"))
    return None


def differences(ran: PickerConfig, file: PickerConfig) -> list[str]:
    """In what the loaded configuration is another than the file's, both with their defaults; empty where in nothing."""
    one, other = _flat(ran), _flat(file)
    return [
        f"{name}: {one.get(name, 'absent')} in the log, {other.get(name, 'absent')} in the file"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    ]


def _flat(config: PickerConfig) -> dict[str, str]:
    plugins = {
        f"plugin {plugin.name}": " ".join([plugin.type, *([_json(plugin.parameters)] if plugin.parameters else [])])
        for plugin in config.plugins
    }
    weights = {f"weight of {scorer}": f"{weight:g}" for scorer, weight in config.weights.items()}
    profile = {"profile": f"{config.profile} ({', '.join(sorted(config.profile_plugins))})"}
    return {**plugins, **weights, **profile, "picks by": config.picker.name}


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _read(version: str, plugins: list[Any], profiles: list[Any] | None) -> PickerConfig:
    """By the rules of the file, so that what either leaves out is filled in alike."""
    given = [
        {
            "name": profile["name"],
            "plugins": [
                {key: value for key, value in item.items() if value is not None} for item in profile["plugins"]
            ],
        }
        for profile in profiles or []
    ]
    file = {
        "apiVersion": version,
        "kind": "EndpointPickerConfig",
        "plugins": plugins,
        "schedulingProfiles": given,
    }
    return parse(_json(file))


def _of_text(text: str) -> tuple[list[Any], list[Any]]:
    """Plugins and profiles of `{Plugins: [{NAME/TYPE, Parameters: JSON} ...], SchedulingProfiles: [...], ...}`."""
    if not text.startswith(_PLUGINS):
        raise ValueError(f"no list of plugins: {text[:60]}")
    plugins, at = [], len(_PLUGINS)
    while text[at] != "]":
        found = _PLUGIN.match(text, at)
        if found is None:
            raise ValueError(f"no plugin: {text[at : at + 60]}")
        plugin: dict[str, Any] = {"type": found[2], **({"name": found[1]} if found[1] else {})}
        at = found.end()
        if found[3]:
            plugin["parameters"], at = json.JSONDecoder().raw_decode(text, at)
        plugins.append(plugin)
        at += len("}")
        at += text[at] == " "
    rest = text[at:].partition(_PROFILES)[2]
    return plugins, [
        {"name": name, "plugins": [_reference(*item) for item in _REFERENCE.findall(references)]}
        for name, references in _PROFILE.findall(rest)
    ]


def _reference(plugin: str, weight: str) -> dict[str, Any]:
    return {"pluginRef": plugin, **({"weight": int(weight)} if weight else {})}
