"""The plugins that an endpoint picker's configuration may name, for each generation, with their parameters."""

from __future__ import annotations

from collections.abc import Mapping

from llmd_runbook.analysis.scorers import NO_HIT_SCORER, PREFIX_SCORER, Generation

MAX_SCORE_PICKER = "max-score-picker"
SINGLE_PROFILE_HANDLER = "single-profile-handler"
APPROX_PREFIX_PRODUCER = "approx-prefix-cache-producer"
UTILIZATION_DETECTOR = "utilization-detector"
PICKERS = frozenset({MAX_SCORE_PICKER, "random-picker", "weighted-random-picker"})

Schema = Mapping[str, type]
SATURATION: Schema = {
    "queueDepthThreshold": int,
    "kvCacheUtilThreshold": float,
    "metricsStalenessThreshold": str,
}

_CACHE = {"autoTune": bool, "blockSize": int, "maxPrefixBlocksToMatch": int, "lruCapacityPerServer": int}
_COMMON: dict[str, Schema | None] = {
    "queue-scorer": {},
    "kv-cache-utilization-scorer": {},
    "lora-affinity-scorer": {},
    SINGLE_PROFILE_HANDLER: {},
    **{picker: {"maxNumOfEndpoints": int} for picker in PICKERS},
    "active-request-scorer": None,
    "by-label": None,
    "by-label-selector": None,
    "data-parallel-profile-handler": None,
    "decode-filter": None,
    "encode-filter": None,
    "load-aware-scorer": None,
    "pd-profile-handler": None,
    "precise-prefix-cache-scorer": None,
    "prefill-filter": None,
    "prefill-header-handler": None,
    "running-requests-size-scorer": None,
    "session-affinity-scorer": None,
}
PLUGIN_TYPES: dict[Generation, dict[str, Schema | None]] = {
    Generation.V0_4: {**_COMMON, PREFIX_SCORER: _CACHE, NO_HIT_SCORER: None},
    Generation.V0_10: {
        **_COMMON,
        PREFIX_SCORER: {"prefixMatchInfoProducerName": str, "matchLengthWeight": float},
        APPROX_PREFIX_PRODUCER: {**_CACHE, "blockSizeTokens": int, "maxPrefixTokensToMatch": int},
        NO_HIT_SCORER: {
            "lruSize": int,
            "prefixPluginType": str,
            "prefixPluginName": str,
            "prefixMatchInfoProducerName": str,
        },
        UTILIZATION_DETECTOR: {**SATURATION, "headroom": float},
        "burst-prefix-cache-producer": None,
        "context-length-aware": None,
        "core-metrics-extractor": None,
        "disagg-headers-handler": None,
        "disagg-profile-handler": None,
        "endpoint-notification-source": None,
        "fcfs-ordering-policy": None,
        "global-strict-fairness-policy": None,
        "inflight-load-producer": None,
        "latency-scorer": None,
        "metrics-data-source": None,
        "openai-parser": None,
        "precise-prefix-cache-producer": None,
        "prefix-based-pd-decider": None,
        "prefix-cache-affinity-filter": None,
        "static-usage-limit-policy": None,
        "token-load-scorer": None,
        "token-producer": None,
        "vllmhttp-parser": None,
    },
}
"""For each generation its plugin types with their parameters; None: known by name, parameters not checked."""


def is_scorer(type_: str) -> bool:
    """Whether plugins of this type give scores."""
    return type_.endswith("-scorer") or type_ == "context-length-aware"


def is_filter(type_: str) -> bool:
    """Whether plugins of this type take candidates away."""
    return type_.endswith("-filter") or type_.startswith("by-label")
