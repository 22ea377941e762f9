"""Result files of load generators: others' read as loads that can be compared, our own written for others to read.

Formats, as each tool's own version wrote them: `vllm bench serve` 0.32.0 (`--save-result`; with `--save-detailed` there
are samples), guidellm 0.8.1 (its JSON report), inference-perf 0.7.0 (`stage_N_lifecycle_metrics.json`), aiperf 0.13.0
(`profile_export_aiperf.json`). What a file does not say stays unknown: of prompts, caches and the client's error none
of them says anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, pstdev
from typing import Any

from llmd_runbook.analysis import littles_law
from llmd_runbook.analysis.comparison import PERCENTILES, THROUGHPUT, Conditions, Load
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, closed_loop_throughput, percentile

OURS = "llmd_runbook"
"""Where our own export has what a comparison needs, in a file that is otherwise one of `vllm bench serve`."""
_MS = 1000
_TOTALS = Refusal("the file states totals without samples")


class FormatError(ValueError):
    """This is no result that we know, or one with a part missing."""


@dataclass(frozen=True)
class Result:
    """A load and which tool measured it."""

    tool: str
    load: Load


@dataclass(frozen=True)
class _Stated:
    """What a file states of one load; times in seconds."""

    rate_per_s: float
    duration_s: float
    completed: int
    failed: int
    latency_mean_s: float | None
    latency_max_s: float | None
    conditions: Conditions
    figures: Mapping[str, float]
    sent_s: Sequence[float] = ()
    latencies_s: Sequence[float] = ()
    ttfts_s: Sequence[float] = ()
    output_tokens: Sequence[int] = ()


def export(load: Load, *, label: str, date: str, rate_per_s: float | None = None) -> dict[str, Any]:
    """A load in the field names of `vllm bench serve` 0.32.0, with our own figures beside them for `read`.

    Counts, duration and rates are those of the steady window; latencies of all measured requests, in seconds and, as
    that tool has them, in ms. A percentile that the samples cannot bear is left out, and so are gaps between tokens.

    Args:
        rate_per_s: of an open loop.

    Raises:
        ValueError: the load has no throughput.
    """
    run, conditions = load.throughput, load.conditions
    if isinstance(run, Refusal):
        raise ValueError(run.reason)
    latencies, ttfts = load.samples["latency"], load.samples["ttft"]
    found: dict[str, Any] = {
        "date": date,
        "endpoint_type": "openai",
        "backend": "openai",
        "label": label,
        "model_id": conditions.model,
        "num_prompts": conditions.requests,
        "request_rate": "inf" if rate_per_s is None else rate_per_s,
        "burstiness": 1.0,
        "max_concurrency": conditions.in_flight,
        "duration": run.window_s,
        "completed": run.completed,
        "failed": load.failed,
        "total_input_tokens": None
        if conditions.prompt_tokens is None
        else round(conditions.prompt_tokens * run.completed),
        "total_output_tokens": round(run.output_tokens_per_s * run.window_s),
        "request_throughput": run.requests_per_s,
        "output_throughput": run.output_tokens_per_s,
        "ttfts": list(ttfts),
        "latencies": list(latencies),
    }
    tokens = conditions.output_tokens
    samples = {"ttft": ttfts, "e2el": latencies}
    if tokens is not None and tokens > 1 and len(ttfts) == len(latencies):
        samples["tpot"] = [(total - first) / (tokens - 1) for total, first in zip(latencies, ttfts, strict=True)]
    for name, values in samples.items():
        found |= _spread(name, values)
    return found | {OURS: {"conditions": asdict(conditions), "throughput": asdict(run)}}


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    found = {f"mean_{name}_ms": _MS * fmean(values), f"std_{name}_ms": _MS * pstdev(values)}
    for key, p in (("median", 0.5), ("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        value = percentile(values, p)
        if isinstance(value, Estimate):
            found[f"{key}_{name}_ms"] = _MS * value.value
    return found


def read(content: Any) -> Result:
    """What a parsed JSON file says.

    Raises:
        FormatError: it is of none of the formats, or something in it is missing or of another kind.
    """
    if isinstance(content, dict) and OURS in content:
        return _guarded("llmd-runbook", content, _ours)
    for name, (recognises, reads) in _FORMATS.items():
        if isinstance(content, dict) and recognises(content):
            return _guarded(name, content, reads)
    raise FormatError(f"no result of {', '.join(_FORMATS)}")


def _guarded(name: str, content: Mapping[str, Any], reads: Callable[[Mapping[str, Any]], _Stated | Load]) -> Result:
    try:
        found = reads(content)
        return Result(name, found if isinstance(found, Load) else _load(found))
    except FormatError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"looks like a result of {name}, but {type(error).__name__}: {error}") from None


def _ours(content: Mapping[str, Any]) -> Load:
    own = content[OURS]
    return Load(
        Conditions(**own["conditions"]),
        int(content["failed"]),
        Throughput(**{**own["throughput"], "done_s": tuple(own["throughput"]["done_s"])}),
        {"latency": content["latencies"], "ttft": content["ttfts"]},
    )


def _load(found: _Stated) -> Load:
    """With samples the figures are worked out anew, else taken as stated; Little's law is held against both."""
    conditions, in_flight = found.conditions, found.conditions.in_flight
    samples: dict[str, Sequence[float]] = {}
    throughput: Throughput | Refusal = _TOTALS
    if found.latencies_s:
        samples = {"latency": found.latencies_s, **({"ttft": found.ttfts_s} if found.ttfts_s else {})}
        done_s = [sent + latency for sent, latency in zip(found.sent_s, found.latencies_s, strict=True)]
        if in_flight:
            throughput = closed_loop_throughput(found.sent_s, done_s, found.output_tokens, warmup=in_flight)
    if conditions.client is None and in_flight:
        conditions = replace(conditions, client=_client(found, in_flight))
    return Load(conditions, found.failed, throughput, samples, {THROUGHPUT: found.rate_per_s, **found.figures})


def _client(found: _Stated, in_flight: int) -> str | None:
    """Why the client did not do what was asked of it, by the file's own figures; None where they do not say."""
    if found.latency_mean_s is None or found.latency_max_s is None or found.duration_s <= 0:
        return None
    stated = Throughput(
        found.rate_per_s,
        0.0,
        found.duration_s,
        found.completed,
        in_flight,
        (),
        0.0,
        found.latency_mean_s,
        found.latency_max_s,
    )
    judged = littles_law.judge(littles_law.law(stated, in_flight, ()))
    return f"by Little's law INVALID: {judged.reason}" if judged.ok is False else None


def _vllm(content: Mapping[str, Any]) -> _Stated:
    completed = int(content["completed"])
    in_flight, rate = content.get("max_concurrency"), content["request_rate"]
    arrival = "closed loop" if in_flight else "burst"
    if rate != "inf":
        arrival = f"open loop, {float(rate):g}/s, burstiness {float(content.get('burstiness', 1)):g}"
    figures = {}
    for of, ours in (("e2el", "latency"), ("ttft", "TTFT")):
        for p, key in ((50, f"median_{of}_ms"), (50, f"p50_{of}_ms"), (95, f"p95_{of}_ms"), (99, f"p99_{of}_ms")):
            if f"{ours} p{p}" in PERCENTILES and content.get(key) is not None:
                figures[f"{ours} p{p}"] = float(content[key]) / 1000
    good = [index for index, error in enumerate(content.get("errors", ())) if not error]
    detailed = {
        name: [content[key][index] for index in good]
        for name, key in (("sent_s", "start_times"), ("latencies_s", "latencies"), ("ttfts_s", "ttfts"))
        if key in content and "errors" in content
    }
    if len(detailed) == 3:
        detailed["output_tokens"] = [content["output_lens"][index] for index in good]
    else:
        detailed = {}
    mean = content.get("mean_e2el_ms")
    return _Stated(
        rate_per_s=float(content["request_throughput"]),
        duration_s=float(content["duration"]),
        completed=completed,
        failed=int(content.get("failed", 0)),
        latency_mean_s=None if mean is None else float(mean) / 1000,
        latency_max_s=max(detailed["latencies_s"], default=None) if detailed else None,
        conditions=Conditions(
            requests=completed,
            prompt_tokens=_each(content["total_input_tokens"], completed),
            output_tokens=_each(content["total_output_tokens"], completed),
            arrival=arrival,
            in_flight=in_flight,
            model=content.get("model_id"),
        ),
        figures=figures,
        **detailed,
    )


def _guidellm(content: Mapping[str, Any]) -> _Stated:
    if len(content["benchmarks"]) != 1:
        raise FormatError(f"a guidellm report of {len(content['benchmarks'])} benchmarks: give one with a single one")
    [found] = content["benchmarks"]
    metrics, good = found["metrics"], found["requests"]["successful"]
    strategy = found["config"]["strategy"]
    kind = strategy["type_"]
    in_flight = {"concurrent": strategy.get("streams"), "synchronous": 1}.get(kind)
    totals = metrics["request_totals"]
    latency = metrics["request_latency"]["successful"]
    whole = found["config"]["sample_size"] is None  # else it kept some of its samples only
    return _Stated(
        rate_per_s=float(metrics["requests_per_second"]["successful"]["mean"]),
        duration_s=float(found["duration"]),
        completed=int(totals["successful"]),
        failed=int(totals["errored"]),
        latency_mean_s=float(latency["mean"]),
        latency_max_s=float(latency["max"]),
        conditions=Conditions(
            requests=int(totals["successful"]),
            prompt_tokens=metrics["prompt_token_count"]["successful"]["mean"],
            output_tokens=metrics["output_token_count"]["successful"]["mean"],
            arrival="closed loop" if in_flight else f"{kind} {strategy.get('rate', '')}".strip(),
            in_flight=in_flight,
            model=content["config"]["spec"]["backend"].get("model"),
        ),
        figures=_figures(latency["percentiles"], metrics["time_to_first_token_ms"]["successful"]["percentiles"], 1e-3),
        sent_s=[item["request_start_time"] for item in good] if whole else (),
        latencies_s=[item["request_latency"] for item in good] if whole else (),
        ttfts_s=[item["time_to_first_token_ms"] / 1000 for item in good if item["time_to_first_token_ms"] is not None]
        if whole
        else (),
        output_tokens=[item["output_tokens"] for item in good] if whole else (),
    )


def _inference_perf(content: Mapping[str, Any]) -> _Stated:
    load, good = content["load_summary"], content["successes"]
    latency, first = good["latency"]["request_latency"], good["latency"].get("time_to_first_token")
    in_flight = load.get("concurrency")
    return _Stated(
        rate_per_s=float(good["throughput"]["requests_per_sec"]),
        duration_s=float(content["benchmark_time_seconds"]),
        completed=int(good["count"]),
        failed=int(content["failures"]["count"]),
        latency_mean_s=float(latency["mean"]),
        latency_max_s=float(latency["max"]),
        conditions=Conditions(
            requests=int(good["count"]),
            prompt_tokens=good["prompt_tokens"]["mean"],
            output_tokens=good["output_tokens"]["mean"],
            arrival="closed loop" if in_flight else f"open loop, {load['requested_rate']:g}/s",
            in_flight=in_flight,
        ),
        figures=_figures({**latency, "p50": latency["median"]}, first and {**first, "p50": first["median"]}, 1.0),
    )


def _aiperf(content: Mapping[str, Any]) -> _Stated:
    phases = [phase for phase in content["input_config"]["phases"] if phase["kind"] == "profiling"]
    if len(phases) != 1:
        raise FormatError(f"an aiperf export of {len(phases)} profiling phases: give one with a single one")
    [phase] = phases
    latency, first = content["request_latency"], content.get("time_to_first_token")
    in_flight = phase.get("concurrency") if phase["type"] == "concurrency" else None
    models = content["input_config"]["models"]["items"]
    return _Stated(
        rate_per_s=float(content["request_throughput"]["avg"]),
        duration_s=float(content["benchmark_duration"]["avg"]),
        completed=int(content["request_count"]["avg"]),
        failed=int((content.get("error_request_count") or {"avg": 0})["avg"]),
        latency_mean_s=float(latency["avg"]) / 1000,
        latency_max_s=float(latency["max"]) / 1000,
        conditions=Conditions(
            requests=int(content["request_count"]["avg"]),
            prompt_tokens=(content.get("usage_prompt_tokens") or content["input_sequence_length"])["avg"],
            output_tokens=content["output_sequence_length"]["avg"],
            arrival="closed loop" if in_flight else f"{phase['type']} {phase.get('rate', '')}".strip(),
            in_flight=in_flight,
            model=models[0]["name"] if len(models) == 1 else None,
        ),
        figures=_figures({key: _ms(latency, key) for key in latency}, first, 1e-3),
    )


_FORMATS: Mapping[str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], _Stated]]] = {
    "vllm bench serve": (lambda content: "endpoint_type" in content and "request_throughput" in content, _vllm),
    "guidellm": (lambda content: isinstance(content.get("benchmarks"), list), _guidellm),
    "inference-perf": (lambda content: "load_summary" in content and "successes" in content, _inference_perf),
    "aiperf": (lambda content: "aiperf_version" in content, _aiperf),
}


def _figures(latency_s: Mapping[str, float], ttft: Mapping[str, float] | None, ttft_unit_s: float) -> dict[str, float]:
    """Stated percentiles by our names."""
    found = {}
    for name, (of, p) in PERCENTILES.items():
        said, unit_s = (latency_s, 1.0) if of == "latency" else (ttft or {}, ttft_unit_s)
        if said.get(f"p{100 * p:g}") is not None:
            found[name] = float(said[f"p{100 * p:g}"]) * unit_s
    return found


def _ms(found: Mapping[str, Any], key: str) -> Any:
    return found[key] / 1000 if isinstance(found[key], float | int) else found[key]


def _each(total: float, count: int) -> float | None:
    return total / count if count else None
