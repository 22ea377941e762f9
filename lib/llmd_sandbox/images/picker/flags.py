"""The picker's command line, read as Go's `flag` package reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

BODY = re.compile(r"--?([^-=].*?)(?:=(.*))?", re.DOTALL)
_TRUE, _FALSE = {"1", "t", "T", "TRUE", "true", "True"}, {"0", "f", "F", "FALSE", "false", "False"}


class FlagError(ValueError):
    """Words the picker does not understand; the text is what it prints."""


@dataclass(frozen=True)
class Flags:
    """Every flag of upstream's pickers; durations in seconds. Those below the gap change nothing here."""

    pool_name: str = ""
    pool_namespace: str = ""
    pool_group: str = "inference.networking.k8s.io"
    config_file: str = ""
    config_text: str = ""
    grpc_port: int = 9002
    grpc_health_port: int = 9003
    metrics_port: int = 9090
    metrics_endpoint_auth: bool = True
    secure_serving: bool = True
    cert_path: str = ""
    total_queued_requests_metric: str = "vllm:num_requests_waiting"
    kv_cache_usage_percentage_metric: str = ""
    cache_info_metric: str = "vllm:cache_config_info"
    refresh_metrics_interval: float = 0.05
    model_server_metrics_port: int = 0
    model_server_metrics_path: str = "/metrics"
    kubeconfig: str = ""
    v: int = 2
    zap_encoder: str = ""

    emit_endpoint_scores: bool = False
    enable_pprof: bool = True
    endpoint_selector: str = ""
    endpoint_target_ports: str = ""
    ha_enable_leader_election: bool = False
    health_checking: bool = False
    lora_info_metric: str = "vllm:lora_requests_info"
    metrics_staleness_threshold: float = 2.0
    model_server_metrics_https_insecure_skip_verify: bool = True
    model_server_metrics_scheme: str = "http"
    refresh_prometheus_metrics_interval: float = 5.0
    tracing: bool = True
    zap_devel: bool = True
    zap_log_level: str = ""
    zap_stacktrace_level: str = ""
    zap_time_encoding: str = ""


_KINDS = {field.name.replace("_", "-"): field.type for field in fields(Flags)}


def parse(words: Sequence[str]) -> Flags:
    """Read the command line.

    As in Go, a boolean takes its value only after `=`, and the first word that is no flag ends the flags:
    what follows `--tracing false` is not read.

    Raises:
        FlagError: a flag that does not exist, or a value of the wrong type.
    """
    values: dict[str, Any] = {}
    rest = list(words)
    while rest and rest[0] != "--" and (found := BODY.fullmatch(rest[0])):
        name, text = found[1], found[2]
        del rest[0]
        if name not in _KINDS:
            raise FlagError(f"flag provided but not defined: -{name}")
        if text is None and _KINDS[name] == "bool":
            text = "true"
        elif text is None:
            if not rest:
                raise FlagError(f"flag needs an argument: -{name}")
            text = rest.pop(0)
        values[name.replace("-", "_")] = _value(name, text)
    return Flags(**values)


def _value(name: str, text: str) -> str | int | float | bool:
    kind = _KINDS[name]
    if kind == "str":
        return text
    if kind == "bool" and text in _TRUE | _FALSE:
        return text in _TRUE
    if kind == "int" and re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if kind == "float" and (seconds := _duration_s(text)) is not None:
        return seconds
    raise FlagError(f'invalid value "{text}" for flag -{name}: parse error')


def _duration_s(text: str) -> float | None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|us|ns|h|m|s)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * units[unit] for number, unit in parts)
