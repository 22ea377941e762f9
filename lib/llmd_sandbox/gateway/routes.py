"""HTTPRoute rules as Envoy routes: matches, their precedence, filters, timeouts. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llmd_sandbox.gateway import envoy_config
from llmd_sandbox.gateway.backends import NO_BACKEND, Backend
from llmd_sandbox.gateway.envoy_config import Config
from llmd_sandbox.kube import Object

_EVERYTHING: Object = {"path": {"type": "PathPrefix", "value": "/"}}
_PATH_RANK = {"Exact": 2, "RegularExpression": 1, "PathPrefix": 0}
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_SUPPORTED_FILTERS = {"RequestHeaderModifier"}

Precedence = tuple[int, int, bool, int, int]
"""Larger goes first: kind of path, its length, has a method, number of headers, of query parameters."""


@dataclass(frozen=True)
class Match:
    """One match of one rule, ready for a virtual host; its place among others follows from `precedence`."""

    precedence: Precedence
    route: Config


def unsupported(route: Object) -> str | None:
    """What of the route this gateway cannot do; None when it can do all."""
    for rule in route["spec"].get("rules", []):
        if rule.get("sessionPersistence") or rule.get("retry"):
            return "sessionPersistence and retry of a rule are not supported"
        if bad := _bad_pattern(rule):
            return bad
        if any(ref.get("filters") for ref in rule.get("backendRefs", [])):
            return "filters of a backendRef are not supported"
        for item in rule.get("filters", []):
            if item["type"] not in _SUPPORTED_FILTERS:
                return f"filter {item['type']} is not supported"
    return None


def _bad_pattern(rule: Object) -> str | None:
    for match in rule.get("matches", []):
        path = [match["path"]] if "path" in match else []
        for item in (*path, *match.get("headers", []), *match.get("queryParams", [])):
            if item.get("type") == "RegularExpression":
                try:
                    re.compile(item["value"])
                except re.error as error:
                    return f"RegularExpression {item['value']!r} is invalid: {error}"
    return None


def matches(rule: Object, backends: list[Backend]) -> list[Match]:
    """Each match of a rule with what is to be done; a rule without matches takes everything."""
    action = {**_action(rule, backends), **_header_changes(rule)}
    found = []
    for match in rule.get("matches") or [_EVERYTHING]:
        found.append(Match(_precedence(match), {"match": _match(match), **action}))
    return found


def not_found() -> Config:
    """The last route of every virtual host: 404, as a GKE gateway answers what no rule takes."""
    return {"match": {"prefix": "/"}, "route": {"cluster": NO_BACKEND}} | _filters(envoy_config.abort(404))


def duration_s(text: str) -> float:
    """A Gateway API duration in seconds.

    >>> duration_s("1m30s"), duration_s("250ms")
    (90.0, 0.25)
    """
    return sum(float(number) * _UNIT_S[unit] for number, unit in re.findall(r"(\d+)(ms|h|m|s)", text))


def _precedence(match: Object) -> Precedence:
    path = match.get("path") or _EVERYTHING["path"]
    return (
        _PATH_RANK[path.get("type", "PathPrefix")],
        len(path.get("value", "/")),
        "method" in match,
        len(match.get("headers", [])),
        len(match.get("queryParams", [])),
    )


def _match(match: Object) -> Config:
    headers = [{"name": header["name"], **_string("string_match", header)} for header in match.get("headers", [])]
    if "method" in match:
        headers.append({"name": ":method", "string_match": {"exact": match["method"]}})
    query = [{"name": item["name"], **_string("string_match", item)} for item in match.get("queryParams", [])]
    config = _path(match.get("path") or _EVERYTHING["path"])
    config |= {"headers": headers} if headers else {}
    return config | ({"query_parameters": query} if query else {})


def _path(path: Object) -> Config:
    value = path.get("value", "/")
    match path.get("type", "PathPrefix"):
        case "Exact":
            return {"path": value}
        case "RegularExpression":
            return {"safe_regex": {"regex": value}}
        case _:
            prefix = value.rstrip("/")
            return {"path_separated_prefix": prefix} if prefix else {"prefix": "/"}


def _string(field: str, item: Object) -> Config:
    if item.get("type") == "RegularExpression":
        return {field: {"safe_regex": {"regex": item["value"]}}}
    return {field: {"exact": item["value"]}}


def _action(rule: Object, backends: list[Backend]) -> Config:
    weighted = [backend for backend in backends if backend.weight > 0]
    if not weighted:
        return {"route": {"cluster": NO_BACKEND}, **_filters(envoy_config.abort(500))}
    timeout = {"timeout": f"{_timeout_s(rule, weighted):g}s"}
    if len(weighted) == 1:
        return {"route": {"cluster": weighted[0].cluster, **timeout}, **_filters(weighted[0].filters)}
    clusters = [
        {"name": backend.cluster, "weight": backend.weight, **_filters(backend.filters)} for backend in weighted
    ]
    return {"route": {"weighted_clusters": {"clusters": clusters}, **timeout}}


def _timeout_s(rule: Object, backends: list[Backend]) -> float:
    """0 is no limit: an answer may stream for minutes; Envoy's idle time-out still holds."""
    asked = rule.get("timeouts", {}).get("request")
    if asked:
        return duration_s(asked)
    return 0.0 if any(backend.pool for backend in backends) else float(envoy_config.SERVICE_TIMEOUT_S)


def _filters(filters: Config) -> dict[str, Any]:
    """Per-route filter configuration; that a filter has one switches it on for the route."""
    return {"typed_per_filter_config": filters} if filters else {}


def _header_changes(rule: Object) -> Config:
    added, removed = [], []
    for item in rule.get("filters", []):
        change = item.get("requestHeaderModifier", {})
        for verb, action in (("set", "OVERWRITE_IF_EXISTS_OR_ADD"), ("add", "APPEND_IF_EXISTS_OR_ADD")):
            for header in change.get(verb, []):
                entry = {"key": header["name"], "value": header["value"]}
                added.append({"header": entry, "append_action": action})
        removed += change.get("remove", [])
    config: Config = {"request_headers_to_add": added} if added else {}
    return config | ({"request_headers_to_remove": removed} if removed else {})
