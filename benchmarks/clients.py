"""Our load generator and its peers behind one call: run a scenario, and say what was measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.environments import NotCompared, Package
from llmd_runbook.load.measure import measure
from llmd_runbook.load.plan import Closed, Plan, Prompt

_RUN_S = 600.0
PROMPT_WORDS = ("the", "and", "for", "are", "but", "not", "you", "all")


@dataclass(frozen=True)
class Scenario:
    """A closed loop against a server that sends the first of `tokens` after `first_s`, the others `gap_s` apart.

    `requests` are those that count, for every client after two waves that do not: the first opens the connections, and
    the second still comes in step with that.
    """

    in_flight: int
    requests: int
    tokens: int
    first_s: float
    gap_s: float

    @property
    def warmup(self) -> int:
        """Requests before those that count."""
        return 2 * self.in_flight


@dataclass(frozen=True)
class Quantiles:
    """In milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values_s: list[float]) -> Quantiles:
        """Of values in seconds."""
        return cls(*(float(value) * 1e3 for value in np.quantile(values_s, (0.5, 0.95, 0.99))))


@dataclass(frozen=True)
class Report:
    """What a client said; `cpu_us` is its processor time a request, None where it is not known."""

    latency: Quantiles
    ttft: Quantiles | None
    itl: Quantiles | None
    cpu_us: float | None = None


def _report(latency: Quantiles | None, ttft: Quantiles | None, itl: Quantiles | None) -> Report:
    if latency is None:
        raise NotCompared("it reports no latencies")
    return Report(latency, ttft, itl)


class Client(ABC):
    """A load generator."""

    name: str

    @abstractmethod
    def run(self, scenario: Scenario, url: str, folder: Path) -> Report:
        """Run it, in an empty folder.

        Raises:
            NotCompared: it broke, or requests of it failed.
        """


class Ours(Client):
    """The engine that the notebooks measure with."""

    name = "llmd-runbook"

    def run(self, scenario: Scenario, url: str, folder: Path) -> Report:
        """Measure in a process of its own, as the notebooks do."""
        total = scenario.warmup + scenario.requests
        result = measure(
            Plan(
                url=url,
                model="null",
                prompts=[Prompt(group="", text=text) for text in _texts(total)],
                output_tokens=scenario.tokens,
                arrival=Closed(concurrency=scenario.in_flight),
            )
        )
        if failures := result.failures():
            raise NotCompared(f"requests failed: {failures}")
        kept = result.samples[scenario.warmup :]
        gaps_s = [gap for sample in kept for gap in sample.gaps_s]
        return Report(
            latency=Quantiles.of([sample.latency_s for sample in kept]),
            ttft=Quantiles.of([sample.ttft_s for sample in kept if sample.ttft_s is not None]),
            itl=Quantiles.of(gaps_s) if gaps_s else None,
            cpu_us=result.client.cpu_share * result.duration_s / total * 1e6,
        )


class Peer(Client):
    """A load generator of others, from its own environment, with its own figures as it reports them."""

    package: Package

    def __init__(self, programs: Path, tokenizer: Path) -> None:
        self._program, self._tokenizer = programs / self.package.name, tokenizer
        self.name = f"{self.package.name} {self.package.version}"

    def _start(self, folder: Path, *words: str, **environment: str) -> None:
        variables = {**os.environ, **environment}
        with (folder / "output").open("w+") as output:
            process = subprocess.Popen(
                [self._program, *words],
                cwd=folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(_RUN_S)
            except subprocess.TimeoutExpired:
                raise NotCompared(f"it did not end within {_RUN_S:.0f} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):  # its workers too, should they be left
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            if status != 0:
                raise NotCompared(f"exit status {status}: {_last_error(output.read())}")


class InferencePerf(Peer):
    """kubernetes-sigs/inference-perf, which takes a file; its first stage is the warm-up."""

    package = Package("inference-perf", "0.7.0", "about 0.3 GB")

    def run(self, scenario: Scenario, url: str, folder: Path) -> Report:
        """Two stages, of which the second counts."""
        total = scenario.warmup + scenario.requests
        waves = [{"num_requests": n, "concurrency_level": scenario.in_flight} for n in _phases(scenario)]
        config = {
            "api": {"type": "completion", "streaming": True},
            "data": {
                "type": "random",
                "input_distribution": _always(len(PROMPT_WORDS), total),
                "output_distribution": _always(scenario.tokens, total),
            },
            "load": {"type": "concurrent", "interval": 0, "stages": waves},
            "server": {"type": "vllm", "model_name": "null", "base_url": url, "ignore_eos": True},
            "tokenizer": {"pretrained_model_name_or_path": str(self._tokenizer)},
            "storage": {"local_storage": {"path": str(folder / "reports")}},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self._start(folder, "--config_file", "config.yaml")
        good = _read(folder / "reports/stage_1_lifecycle_metrics.json")["successes"]
        _all_good(good["count"], scenario)
        times = good["latency"]
        return _report(*(_quantiles(times[name], 1e3) for name in _INFERENCE_PERF))


_INFERENCE_PERF = ("request_latency", "time_to_first_token", "inter_token_latency")


class GuideLlm(Peer):
    """vllm-project/guidellm, with as many workers as the machine has cores, for its default of ten would hurt it."""

    package = Package("guidellm", "0.8.1", "about 5.6 GB, for it needs torch")

    def run(self, scenario: Scenario, url: str, folder: Path) -> Report:
        """One run with a warm-up."""
        total = scenario.warmup + scenario.requests
        rows = [json.dumps({"prompt": text, "output_tokens_count": scenario.tokens}) for text in _texts(total)]
        (folder / "prompts.jsonl").write_text("\n".join(rows))
        backend = {"kind": "openai_http", "target": url, "model": "null", "request_format": "/v1/completions"}
        warmup = {"value": scenario.warmup, "mode": "requests"}
        self._start(
            folder,
            *("run", "--disable-console"),
            *("--backend", json.dumps({**backend, "http2": False})),
            *("--profile", json.dumps({"kind": "concurrent", "streams": [scenario.in_flight], "warmup": warmup})),
            *("--constraint", json.dumps({"kind": "max_requests", "count": total})),
            *("--tokenizer", json.dumps({"kind": "huggingface_auto", "model": str(self._tokenizer)})),
            *("--data", json.dumps({"kind": "json_file", "path": "prompts.jsonl"})),
            *("--output", json.dumps({"kind": "json", "path": "report.json"})),
            GUIDELLM__MAX_WORKER_PROCESSES=str(len(os.sched_getaffinity(0))),
        )
        metrics = _read(folder / "report.json")["benchmarks"][0]["metrics"]
        if failed := metrics["request_totals"]["errored"]:
            raise NotCompared(f"{failed} of its requests failed")
        times = [(metrics[name]["successful"], unit) for name, unit in _GUIDELLM]
        return _report(*(_quantiles(found["percentiles"] if found["count"] else None, unit) for found, unit in times))


_GUIDELLM = (("request_latency", 1e3), ("time_to_first_token_ms", 1.0), ("inter_token_latency_ms", 1.0))


class AiPerf(Peer):
    """ai-dynamo/aiperf, without its scraping of the server."""

    package = Package("aiperf", "0.13.0", "about 0.9 GB")

    def run(self, scenario: Scenario, url: str, folder: Path) -> Report:
        """One run with a warm-up."""
        warmup, requests = _phases(scenario)
        self._start(
            folder,
            *("profile", "--model", "null", "--url", url, "--endpoint-type", "completions", "--streaming"),
            *("--tokenizer", str(self._tokenizer), "--artifact-dir", str(folder / "reports")),
            *("--concurrency", str(scenario.in_flight), "--warmup-request-count", str(warmup)),
            *("--request-count", str(requests), "--isl", str(len(PROMPT_WORDS)), "--osl", str(scenario.tokens)),
            *("--extra-inputs", "ignore_eos:true", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics"),
        )
        found = _read(folder / "reports/profile_export_aiperf.json")
        _all_good(found["request_count"]["avg"], scenario)
        return _report(*(_quantiles(found.get(name), 1.0) for name in _AIPERF))


_AIPERF = ("request_latency", "time_to_first_token", "inter_token_latency")

PEERS: tuple[type[Peer], ...] = (InferencePerf, GuideLlm, AiPerf)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of a few words, since peers want one from a model hub: `tokenizers`' own format (WordLevel)."""
    vocabulary = {word: number for number, word in enumerate(("<unk>", "<eos>", *PROMPT_WORDS))}
    tokenizer: dict[str, Any] = {
        **dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder")),
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }
    special = {"unk_token": "<unk>", "eos_token": "<eos>", "pad_token": "<eos>"}
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special, "model_max_length": 1_000_000})
    )


def _texts(count: int) -> list[str]:
    return [" ".join([*PROMPT_WORDS[1:], PROMPT_WORDS[index % len(PROMPT_WORDS)]]) for index in range(count)]


def _phases(scenario: Scenario) -> tuple[int, int]:
    return scenario.warmup, scenario.requests


def _always(value: int, count: int) -> dict[str, Any]:
    return {"type": "fixed", "min": value, "max": value, "mean": value, "std_dev": 0, "total_count": count}


def _last_error(output: str) -> str:
    """The last line that speaks of an error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])[:300]


def _read(path: Path) -> Any:
    if not path.exists():
        raise NotCompared(f"it left no {path.name}")
    return json.loads(path.read_text())


def _all_good(count: float, scenario: Scenario) -> None:
    if count != scenario.requests:
        raise NotCompared(f"{scenario.requests - count:.0f} of its {scenario.requests} requests failed")


def _quantiles(found: Mapping[str, float] | None, unit_ms: float) -> Quantiles | None:
    if not found:
        return None
    p50 = found["median"] if "median" in found else found["p50"]
    return Quantiles(p50 * unit_ms, found["p95"] * unit_ms, found["p99"] * unit_ms)
