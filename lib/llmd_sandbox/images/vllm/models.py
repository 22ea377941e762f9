"""Sizes of the models and of the GPU, and how many KV blocks are left beside the weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmd_sandbox.images.vllm.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A GPU: usable memory, peak memory bandwidth, peak rate for each dtype."""

    name: str
    capability: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops_per_s: dict[str, float]


T4 = Gpu("Tesla T4", "7.5", int(14.56 * GIB), 320e9, {"float16": 65e12, "float32": 8.1e12})
"""NVIDIA T4 data sheet; the memory is what the driver leaves of 15,360 MiB."""

ACTIVATION_BYTES = GIB
"""Peak of activations and of what the CUDA context holds, about, for models of this class."""

BYTES_PER_VALUE = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Model:
    """A decoder model. `kv_values_per_token` is 2 x layers x KV heads x head size."""

    parameters: float
    kv_values_per_token: int
    max_position_embeddings: int
    vocabulary: int

    def weights_bytes(self, dtype: str) -> int:
        """Memory that the weights take."""
        return int(self.parameters * BYTES_PER_VALUE[dtype])

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Memory that keys and values of one token take."""
        return self.kv_values_per_token * BYTES_PER_VALUE[dtype]


_KNOWN = {
    "qwen2.5-3b": Model(3.09e9, 2 * 36 * 2 * 128, 32_768, 151_936),
    "gemma-2b": Model(2.51e9, 2 * 18 * 1 * 256, 8_192, 256_000),
    "phi-3-mini": Model(3.82e9, 2 * 32 * 32 * 96, 4_096, 32_064),
    "phi-3-mini-128k": Model(3.82e9, 2 * 32 * 32 * 96, 131_072, 32_064),
    "qwen3-0.6b": Model(0.596e9, 2 * 28 * 8 * 128, 40_960, 151_936),
}
"""From the models' config.json files, by the start of the name."""

_LIKE = _KNOWN["qwen2.5-3b"]


def find(name: str) -> Model:
    """The model of that Hugging Face name; an unknown one is estimated from the size in its name, else 3B.

    >>> find("Qwen/Qwen2.5-3B-Instruct").kv_bytes_per_token("float16")
    36864
    >>> find("someone/Model-7B").parameters
    7000000000.0
    """
    short = name.rsplit("/", 1)[-1].lower()
    for prefix in sorted(_KNOWN, key=len, reverse=True):
        if short.startswith(prefix):
            return _KNOWN[prefix]
    size = re.search(r"(?<![\d.])(\d+(?:\.\d+)?)(b|m)(?![a-z])", short)
    if size is None:
        return _LIKE
    parameters = float(size[1]) * (1e9 if size[2] == "b" else 1e6)
    kv_values = round(_LIKE.kv_values_per_token * parameters / _LIKE.parameters)
    return Model(parameters, max(kv_values, 1), _LIKE.max_position_embeddings, _LIKE.vocabulary)


def kv_memory_bytes(model: Model, gpu: Gpu, dtype: str, gpu_memory_utilization: float) -> int:
    """What is left for KV blocks: utilization x memory - weights - activations.

    Raises:
        ConfigError: nothing is left.
    """
    weights = model.weights_bytes(dtype)
    if weights > gpu.memory_bytes:
        raise ConfigError(
            f"torch.OutOfMemoryError: CUDA out of memory. GPU 0 has a total capacity of "
            f"{gpu.memory_bytes / GIB:.2f} GiB; the weights take {weights / GIB:.2f} GiB."
        )
    left = int(gpu.memory_bytes * gpu_memory_utilization) - weights - ACTIVATION_BYTES
    if left <= 0:
        raise ConfigError(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` "
            "when initializing the engine."
        )
    return left


def kv_blocks(model: Model, kv_bytes: int, dtype: str, block_size: int, max_model_len: int) -> int:
    """Number of KV blocks in `kv_bytes`.

    Raises:
        ConfigError: not even one request of `max_model_len` tokens fits.
    """
    per_token = model.kv_bytes_per_token(dtype)
    needed = max_model_len * per_token
    if needed > kv_bytes:
        raise ConfigError(
            f"ValueError: To serve at least one request with the models's max seq len ({max_model_len}), "
            f"({needed / GIB:.2f} GiB KV cache is needed, which is larger than the available KV cache "
            f"memory ({kv_bytes / GIB:.2f} GiB). Based on the available memory, the estimated maximum model "
            f"length is {kv_bytes // per_token // block_size * block_size}. Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        )
    return kv_bytes // (per_token * block_size)
