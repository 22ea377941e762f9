"""What vLLM logs: its start, in the time that a T4 needs for it, and its throughput."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from llmd_sandbox.images.vllm import VERSION, failing
from llmd_sandbox.images.vllm.args import Config, kv_gib
from llmd_sandbox.images.vllm.failing import Failure, Line
from llmd_sandbox.images.vllm.families import EngineMetrics
from llmd_sandbox.images.vllm.models import GIB, T4
from llmd_sandbox.images.vllm.scheduler import Scheduler

_DOWNLOAD_BYTES_PER_S = 80e6
"""A model hub to a GKE node, about; the emptyDir is empty at every start."""
_LOAD_BYTES_PER_S = 400e6
_IMPORT_S, _CONFIG_S, _DISTRIBUTED_S, _COMPILE_S, _PROFILE_S, _CAPTURE_S = 14.0, 9.0, 6.0, 32.0, 4.0, 21.0

LOG_STATS_S = 10.0
"""Interval of the engine's statistics line."""


_BAR_STEPS = 20


@dataclass(frozen=True)
class Download:
    """How the weights come: in so many seconds of a T4's start (None: at the usual rate), with a progress bar or not.

    vLLM hides the bar (`DisabledTqdm`); huggingface_hub's own for each file shows where TQDM_POSITION is -1.
    """

    seconds: float | None = None
    shown: bool = False


def log(message: str, where: str, level: str = "INFO") -> None:
    """One line in the form of vLLM's logger; `where` is the file it would name, empty for what prints by itself."""
    if not where:
        print(message, flush=True)
        return
    process = "APIServer" if where.startswith(("api_server", "utils", "loggers", "model.py")) else "EngineCore_DP0"
    stamp = time.strftime("%m-%d %H:%M:%S")
    print(f"({process} pid=1) {level} {stamp} [{where}] {message}", flush=True)


def phases(config: Config, download: Download = Download(), failure: Failure = Failure.NONE) -> Iterator[Line]:
    """Each line of the start of a pod on a T4, as far as it comes."""
    weights = config.model.weights_bytes(config.dtype)
    weights_gib = weights / GIB
    download_s = weights / _DOWNLOAD_BYTES_PER_S if download.seconds is None else download.seconds
    load_s = weights / _LOAD_BYTES_PER_S
    tokens = config.num_gpu_blocks * config.block_size
    name = config.model_name
    yield _IMPORT_S, "INFO", "api_server.py", f"vLLM API server version {VERSION}"
    yield 0, "INFO", "utils.py", f"non-default args: {config.non_default}"
    if failure is Failure.FORBIDDEN:
        yield from failing.forbidden(name)
        return
    if config.dtype_from_auto:
        yield (
            _CONFIG_S / 2,
            "WARNING",
            "model.py",
            f"Your device '{T4.name}' (with compute capability {T4.capability}) doesn't support "
            "torch.bfloat16. Falling back to torch.float16 for compatibility.",
        )
    yield _CONFIG_S / 2, "INFO", "model.py", f"Using max model len {config.max_model_len}"
    yield (
        _CONFIG_S / 2,
        "INFO",
        "core.py",
        f"Initializing a V1 LLM engine (v{VERSION}) with config: model='{name}', speculative_config=None, "
        f"tokenizer='{name}', dtype=torch.{config.dtype}, max_seq_len={config.max_model_len}, "
        f"load_format=auto, tensor_parallel_size=1, pipeline_parallel_size=1, quantization=None, "
        f"enforce_eager={'enforce_eager' in config.non_default}, kv_cache_dtype=auto, seed=0, "
        f"served_model_name={config.served_names[0]}, enable_prefix_caching={config.enable_prefix_caching}, "
        "chunked_prefill_enabled=True",
    )
    yield _DISTRIBUTED_S, "INFO", "cuda.py", "Using FlashInfer backend on V1 engine."
    yield 0, "INFO", "gpu_model_runner.py", f"Starting to load model {name}..."
    if download.shown:
        yield from _bar(weights, download_s)
    yield (
        0 if download.shown else download_s,
        "INFO",
        "weight_utils.py",
        f"Time spent downloading weights for {name}: {download_s:.6f} seconds",
    )
    yield load_s, "INFO", "default_loader.py", f"Loading weights took {load_s:.2f} seconds"
    yield (
        0,
        "INFO",
        "gpu_model_runner.py",
        f"Model loading took {weights_gib:.4f} GiB and {download_s + load_s:.6f} seconds",
    )
    if "enforce_eager" not in config.non_default:
        yield _COMPILE_S, "INFO", "monitor.py", f"torch.compile takes {_COMPILE_S:.2f} s in total"
    yield _PROFILE_S, "INFO", "gpu_worker.py", f"Available KV cache memory: {kv_gib(config):.2f} GiB"
    yield 0, "INFO", "kv_cache_utils.py", f"GPU KV cache size: {tokens:,} tokens"
    yield (
        0,
        "INFO",
        "kv_cache_utils.py",
        f"Maximum concurrency for {config.max_model_len:,} tokens per request: {tokens / config.max_model_len:.2f}x",
    )
    if "enforce_eager" not in config.non_default:
        yield (
            _CAPTURE_S,
            "INFO",
            "gpu_model_runner.py",
            f"Graph capturing finished in {_CAPTURE_S:.0f} secs, took 0.47 GiB",
        )
    if failure is Failure.CUDA_OOM:
        yield from failing.cuda_oom(config.max_num_seqs)
        return
    yield 2.0, "INFO", "api_server.py", f"Starting vLLM API server 0 on http://0.0.0.0:{config.port}"


def _bar(size: float, seconds: float) -> Iterator[Line]:
    """tqdm's lines for a file of `size` bytes."""
    for step in range(1, _BAR_STEPS + 1):
        part = step / _BAR_STEPS
        clocks = [f"{int(at_s) // 60:02d}:{int(at_s) % 60:02d}" for at_s in (part * seconds, (1 - part) * seconds)]
        rate = f"{size / seconds / 1e6:.1f}MB/s" if seconds else "?B/s"
        amounts = f"{part * size / 1e9:.2f}G/{size / 1e9:.2f}G [{'<'.join(clocks)}, {rate}]"
        yield seconds / _BAR_STEPS, "INFO", "", f"model.safetensors: {part:4.0%}|{'█' * int(10 * part):<10}| {amounts}"


async def start(config: Config, scale: float, download: Download = Download(), failure: Failure = Failure.NONE) -> None:
    """Log the start-up, at absolute times, `scale` times as slowly as a T4."""
    print(
        f"llm-d sandbox: a simulated vLLM on a simulated {T4.name}; start-up times scaled by {scale}",
        flush=True,
    )
    due_s = time.monotonic()
    for wait_s, level, where, message in phases(config, download, failure):
        due_s += wait_s * scale
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
        log(message, where, level)


async def log_stats(scheduler: Scheduler, metrics: EngineMetrics) -> None:
    """Log the engine's throughput every 10 s, while there is some and once after."""
    before, idle = (0.0, 0.0), True
    while True:
        await asyncio.sleep(LOG_STATS_S)
        now = (metrics.prompt_tokens.value(), metrics.generation_tokens.value())
        quiet = now == before and not scheduler.running
        if not (quiet and idle):
            prompt, generation = ((new - old) / LOG_STATS_S for new, old in zip(now, before, strict=True))
            hit_rate = scheduler.hit_tokens / scheduler.queried_tokens if scheduler.queried_tokens else 0.0
            log(
                f"Engine 000: Avg prompt throughput: {prompt:.1f} tokens/s, Avg generation throughput: "
                f"{generation:.1f} tokens/s, Running: {len(scheduler.running)} reqs, Waiting: "
                f"{len(scheduler.waiting)} reqs, GPU KV cache usage: {scheduler.pool.usage:.1%}, "
                f"Prefix cache hit rate: {hit_rate:.1%}",
                "loggers.py",
            )
        before, idle = now, quiet
