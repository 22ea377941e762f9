"""From the words of a pod's vLLM container, meant for a GPU, to those of a vLLM that runs here.

Everything is passed on as it stands, but what names the model's files, an address or a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmd_sandbox.images.vllm.args import DEFAULT_MODEL, given
from llmd_sandbox.images.vllm.models import find

BLOCK_TOKENS = 32
"""The smallest block that vLLM's CPU attention is fast with; a GPU's is 16."""

PORT = 8000
"""Where vLLM listens unless it is told otherwise."""

KV_BYTES = 256 * 2**20
"""131,072 tokens of the tiny model: as many as a T4 has beside a model of 3B."""

_MODEL_FILES = """
code_revision config_format download_dir generation_config hf_config_path hf_overrides hf_token ignore_patterns
load_format model_loader_extra_config pt_load_map_location quantization revision safetensors_load_strategy tokenizer
tokenizer_mode tokenizer_revision trust_remote_code
"""
_GPU_ONLY = """
attention_backend attention_config calculate_kv_scales compilation_config cpu_offload_gb cuda_graph_sizes
cudagraph_capture_sizes data_parallel_size disable_custom_all_reduce distributed_executor_backend dtype
enable_expert_parallel enforce_eager gpu_memory_utilization kv_cache_dtype kv_offloading_backend kv_offloading_size
max_cudagraph_capture_size max_seq_len_to_capture pipeline_parallel_size swap_space tensor_parallel_size
"""
_LEFT_OUT = {*_MODEL_FILES.split(), *_GPU_ONLY.split()}
_OURS = {"model_tag", "model", "served_model_name", "host", "block_size", "kv_cache_memory_bytes"}


@dataclass(frozen=True)
class Translation:
    """What to run: the context that the asked model has, flags, and what was left out, for the pod's log."""

    model: str
    port: int
    max_position_embeddings: int
    flags: list[str]
    left_out: list[str]


def translate(argv: list[str], address: str) -> Translation:
    """The flags of vLLM's API server, without `--model`, for a container's words; it listens on `address`.

    Raises:
        SystemExit: 2, after argparse's message on stderr: words that vLLM does not know.
    """
    said = given(argv)
    model = str(said.get("model_tag") or said.get("model") or DEFAULT_MODEL)
    secret_hidden = {**said, **({"hf_token": "***"} if "hf_token" in said else {})}
    left_out = [word for name, value in secret_hidden.items() if name in _LEFT_OUT for word in _words(name, value)]
    kept = {name: value for name, value in said.items() if name not in _LEFT_OUT | _OURS}
    ours: dict[str, object] = {
        "served_model_name": said.get("served_model_name", [model]),
        "host": address,
        "block_size": said.get("block_size", BLOCK_TOKENS),
        "kv_cache_memory_bytes": said.get("kv_cache_memory_bytes", KV_BYTES),
        "load_format": "dummy",
        "dtype": "float32",
        "enforce_eager": True,
        "distributed_executor_backend": "uni",
    }
    flags = [word for name, value in {**ours, **kept}.items() for word in _words(name, value)]
    return Translation(model, int(str(said.get("port", PORT))), find(model).max_position_embeddings, flags, left_out)


def _words(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    if isinstance(value, list):
        return [f"--{flag}", *map(str, value)]
    return [f"--{flag}", str(value)]
