"""The picker's configuration file as upstream's logs it when it has read it, before anything is filled in."""

from __future__ import annotations

import json
from typing import Any

import yaml

from llmd_runbook.analysis.picker_loaded import AS_JSON, AS_TEXT
from llmd_runbook.analysis.scorers import Generation


def as_logged(text: str, generation: Generation) -> tuple[str, object]:
    """The message and its field `config`: text in v0.4, JSON in v0.10, which names plugins that have no name."""
    file: dict[str, Any] = yaml.safe_load(text)
    plugins, profiles = file.get("plugins") or [], file.get("schedulingProfiles") or []
    if generation is Generation.V0_4:
        rest = f"FeatureGates: {_gates(file)}, SaturationDetector: {_saturation(file)}"
        return AS_TEXT, (
            f"{{Plugins: [{' '.join(map(_plugin, plugins))}], "
            f"SchedulingProfiles: [{' '.join(map(_profile, profiles))}], {rest}}}"
        )
    named = [
        {"name": item.get("name") or item["type"], **_with(item, "parameters"), "type": item["type"]}
        for item in plugins
    ]
    filled = [
        {
            "name": item["name"],
            "plugins": [{"pluginRef": ref["pluginRef"], **_with(ref, "weight")} for ref in item["plugins"]],
        }
        for item in profiles
    ]
    return AS_JSON, {"dataLayer": None, **file, "plugins": named, "schedulingProfiles": filled or None}


def _with(item: dict[str, Any], key: str) -> dict[str, Any]:
    return {key: item.get(key)}


def _plugin(item: dict[str, Any]) -> str:
    parameters = json.dumps(item.get("parameters"), sort_keys=True, separators=(",", ":"))
    given = f", Parameters: {parameters}" if "parameters" in item else ""
    return f"{{{item.get('name', '')}/{item['type']}{given}}}"


def _profile(item: dict[str, Any]) -> str:
    return f"{{Name: {item['name']}, Plugins: [{' '.join(map(_reference, item['plugins']))}]}}"


def _reference(item: dict[str, Any]) -> str:
    weight = f", Weight: {item['weight']}" if "weight" in item else ""
    return f"{{PluginRef: {item['pluginRef']}{weight}}}"


def _gates(file: dict[str, Any]) -> str:
    return f"{{{','.join(file.get('featureGates') or [])}}}"


def _saturation(file: dict[str, Any]) -> str:
    given = file.get("saturationDetector") or {}
    names = {"queueDepthThreshold": "QueueDepthThreshold: {}", "kvCacheUtilThreshold": "KVCacheUtilThreshold: {:g}"}
    names["metricsStalenessThreshold"] = "MetricsStalenessThreshold: {{{}}}"
    return f"{{{', '.join(form.format(given[key]) for key, form in names.items() if given.get(key))}}}"
