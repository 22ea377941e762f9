"""The command line of `vllm serve`, as far as the simulator acts on it, and the configuration it results in.

Flags of vLLM that make no difference here are accepted and ignored; what vLLM does not know is refused as
it would.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from typing import NoReturn

from llmd_sandbox.images.vllm.errors import ConfigError
from llmd_sandbox.images.vllm.models import GIB, T4, Model, find, kv_blocks, kv_memory_bytes

_IGNORED_VALUES = """
additional-config allowed-headers allowed-methods allowed-origins api-server-count attention-backend
attention-config chat-template chat-template-content-format code-revision compilation-config config-format
cpu-offload-gb data-parallel-size default-chat-template-kwargs disable-access-log-for-endpoints
distributed-executor-backend download-dir
ec-transfer-config generation-config guided-decoding-backend h11-max-header-count
h11-max-incomplete-event-size hf-config-path hf-overrides hf-token host io-processor-plugin kv-cache-dtype
kv-events-config kv-offloading-backend kv-offloading-size kv-transfer-config limit-mm-per-prompt load-format
log-config-file logprobs-mode long-prefill-token-threshold lora-dtype max-cpu-loras
max-cudagraph-capture-size max-log-len max-logprobs max-long-partial-prefills max-lora-rank max-loras
max-num-partial-prefills max-parallel-loading-workers max-seq-len-to-capture mm-processor-cache-gb
mm-processor-kwargs model-impl model-loader-extra-config observability-config otlp-traces-endpoint
override-generation-config override-neuron-config override-pooler-config pt-load-map-location quantization
reasoning-parser response-role revision root-path runner safetensors-load-strategy scheduler-cls
scheduling-policy seed show-hidden-metrics-for-version shutdown-timeout speculative-config stream-interval
structured-outputs-config swap-space task tokenizer tokenizer-mode tokenizer-revision tool-call-parser
tool-parser-plugin uvicorn-log-level worker-cls worker-extension-cls
"""

_IGNORED_LISTS = """
collect-detailed-traces cuda-graph-sizes cudagraph-capture-sizes ignore-patterns logits-processors
lora-modules middleware
"""

_IGNORED_SWITCHES = """
allow-credentials async-scheduling calculate-kv-scales disable-cascade-attn disable-chunked-mm-input
disable-custom-all-reduce disable-fastapi-docs disable-frontend-multiprocessing
disable-hybrid-kv-cache-manager disable-log-requests disable-sliding-window enable-auto-tool-choice
enable-chunked-prefill enable-expert-parallel enable-force-include-usage enable-log-outputs
enable-log-requests enable-lora enable-mfu-metrics enable-prompt-embeds enable-reasoning
enable-server-load-tracking enable-sleep-mode enable-ssl-refresh enable-tokenizer-info-endpoint
enforce-eager fully-sharded-loras kv-cache-metrics kv-sharing-fast-prefill language-model-only
log-error-stack return-tokens-as-token-ids skip-mm-profiling skip-tokenizer-init trust-remote-code
use-tqdm-on-load
"""

_ENTRIES = (
    ["vllm", "serve"],
    ["python3", "-m", "vllm.entrypoints.openai.api_server"],
    ["python", "-m", "vllm.entrypoints.openai.api_server"],
)
DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
"""What vLLM serves when no model is named."""

_DTYPES = {
    "auto": "float16",
    "half": "float16",
    "float16": "float16",
    "float": "float32",
    "float32": "float32",
}
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Config:
    """What the server is to be; derived sizes included."""

    model_name: str
    served_names: tuple[str, ...]
    model: Model
    port: int
    dtype: str
    max_model_len: int
    gpu_memory_utilization: float
    enable_prefix_caching: bool
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    kv_bytes: int
    num_gpu_blocks: int
    num_gpu_blocks_override: int | None
    prompt_tokens_details: bool
    request_id_headers: bool
    access_log: bool
    log_stats: bool
    api_keys: tuple[str, ...]
    dtype_from_auto: bool
    non_default: dict[str, object]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"usage: vllm serve [model_tag] [options]\nvllm: error: {message}\n")


def _integer(text: str) -> int:
    """An integer with an optional suffix: 2k = 2000, 2K = 2048."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgKMG])", text)
    return int(float(match[1]) * _SUFFIXES[match[2]]) if match else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="vllm serve", allow_abbrev=False)
    add, either = parser.add_argument, argparse.BooleanOptionalAction
    add("model_tag", nargs="?")
    add("--model", default=DEFAULT_MODEL)
    add("--port", type=int, default=8000)
    add("--served-model-name", nargs="+")
    add("--max-model-len", type=_integer)
    add("--gpu-memory-utilization", type=float, default=0.9)
    add("--enable-prefix-caching", action=either, default=True)
    add("--dtype", choices=["auto", "bfloat16", "float", "float16", "float32", "half"], default="auto")
    add("--max-num-seqs", type=_integer, default=256)
    add("--max-num-batched-tokens", type=_integer, default=2048)
    add("--block-size", type=int, choices=[1, 8, 16, 32, 64, 128, 256], default=16)
    add("--num-gpu-blocks-override", type=int)
    add("--kv-cache-memory-bytes", type=_integer)
    add("--prefix-caching-hash-algo", choices=["builtin", "sha256", "sha256_cbor"], default="sha256")
    add("--tensor-parallel-size", "-tp", type=int, default=1)
    add("--pipeline-parallel-size", "-pp", type=int, default=1)
    add("--api-key", nargs="+", default=[])
    add("--disable-uvicorn-access-log", action=either, default=False)
    add("--disable-log-stats", action=either, default=False)
    add("--enable-prompt-tokens-details", action=either, default=False)
    add("--enable-request-id-headers", action=either, default=False)
    for name in _IGNORED_VALUES.split():
        add(f"--{name}")
    for name in _IGNORED_LISTS.split():
        add(f"--{name}", nargs="+")
    for name in _IGNORED_SWITCHES.split():
        add(f"--{name}", action=either)
    return parser


def _words(argv: list[str]) -> list[str]:
    """Without the program's words, and with dashes for underscores in flags' names, as vLLM reads them."""
    words = []
    for word in argv[next((len(entry) for entry in _ENTRIES if argv[: len(entry)] == entry), 0) :]:
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if word.startswith("--") else word)
    return words


def given(argv: list[str]) -> dict[str, object]:
    """What a container's words say, by argparse's names; nothing for what they leave to a default.

    Raises:
        SystemExit: 2, after argparse's message on stderr.
    """
    parser, unsaid = _parser(), object()
    names = vars(parser.parse_args([]))
    said = parser.parse_args(_words(argv), argparse.Namespace(**dict.fromkeys(names, unsaid)))
    return {name: value for name, value in vars(said).items() if value is not unsaid and value is not None}


def parse(argv: list[str]) -> Config:
    """The configuration that the container's words mean.

    Raises:
        SystemExit: 2, after argparse's message on stderr.
        ConfigError: vLLM's own refusal of a value on a T4.
    """
    parser = _parser()
    given = parser.parse_args(_words(argv))
    defaults = vars(parser.parse_args([]))
    non_default = {key: value for key, value in vars(given).items() if value != defaults[key]}
    name = given.model_tag or given.model
    non_default |= {"model": name} if given.model_tag else {}
    model = find(name)
    if given.tensor_parallel_size * given.pipeline_parallel_size > 1:
        raise ConfigError(
            f"ValueError: World size ({given.tensor_parallel_size * given.pipeline_parallel_size}) is larger "
            "than the number of available GPUs (1) in this node."
        )
    if given.dtype == "bfloat16":
        raise ConfigError(
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your "
            f"{T4.name} GPU has compute capability {T4.capability}. You can use float16 instead by "
            "explicitly setting the `dtype` flag in CLI, for example: --dtype=half."
        )
    if not 0 < given.gpu_memory_utilization <= 1:
        raise ConfigError(
            f"ValueError: GPU memory utilization must be less than 1.0. Got {given.gpu_memory_utilization}."
        )
    dtype = _DTYPES[given.dtype]
    max_model_len = _max_model_len(given.max_model_len, model)
    kv_bytes = given.kv_cache_memory_bytes or kv_memory_bytes(model, T4, dtype, given.gpu_memory_utilization)
    blocks = given.num_gpu_blocks_override or kv_blocks(model, kv_bytes, dtype, given.block_size, max_model_len)
    if (blocks - 1) * given.block_size < max_model_len:  # one is the engine's null block
        raise ConfigError(
            f"ValueError: {blocks} KV blocks of {given.block_size} tokens cannot hold one request of "
            f"max_model_len={max_model_len} tokens. Raise num_gpu_blocks_override or lower max_model_len."
        )
    return Config(
        model_name=name,
        served_names=tuple(given.served_model_name or [name]),
        model=model,
        port=given.port,
        dtype=dtype,
        max_model_len=max_model_len,
        gpu_memory_utilization=given.gpu_memory_utilization,
        enable_prefix_caching=given.enable_prefix_caching,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        block_size=given.block_size,
        kv_bytes=kv_bytes,
        num_gpu_blocks=blocks,
        num_gpu_blocks_override=given.num_gpu_blocks_override,
        prompt_tokens_details=given.enable_prompt_tokens_details,
        request_id_headers=given.enable_request_id_headers,
        access_log=not given.disable_uvicorn_access_log,
        log_stats=not given.disable_log_stats,
        api_keys=tuple(given.api_key),
        dtype_from_auto=given.dtype == "auto",
        non_default=non_default,
    )


def cache_labels(config: Config) -> dict[str, str]:
    """The labels of `vllm:cache_config_info`, `engine` excepted."""
    tokens = config.num_gpu_blocks * config.block_size
    facts: dict[str, object] = {
        "block_size": config.block_size,
        "cache_dtype": "auto",
        "enable_prefix_caching": config.enable_prefix_caching,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "is_attention_free": False,
        "kv_cache_max_concurrency": round(tokens / config.max_model_len, 2),
        "kv_cache_memory_bytes": config.kv_bytes,
        "kv_cache_size_tokens": tokens,
        "num_cpu_blocks": None,
        "num_gpu_blocks": config.num_gpu_blocks,
        "num_gpu_blocks_override": config.num_gpu_blocks_override,
        "prefix_caching_hash_algo": "sha256",
        "sliding_window": None,
        "user_specified_block_size": "block_size" in config.non_default,
    }
    return {key: str(value) for key, value in facts.items()}


def kv_gib(config: Config) -> float:
    """Memory for KV blocks, GiB."""
    return config.kv_bytes / GIB


def _max_model_len(given: int | None, model: Model) -> int:
    derived = model.max_position_embeddings
    allowed = os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1"
    if given is not None and given > derived and not allowed:
        raise ConfigError(
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            f"  Value error, User-specified max_model_len ({given}) is greater than the derived "
            f"max_model_len (max_position_embeddings={derived} or model_max_length=None in model's "
            "config.json). To allow overriding this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1."
        )
    return given or derived
