"""How long one step of the engine takes on the GPU.

    step = host + (weights + kv) / bandwidth + tokens x flops_per_token / rate + sequences x host_per_sequence

- Every step reads all weights and the keys and values of all contexts in it; measured kernels reach a part
  of the peak bandwidth.
- Every token in the step, prompt or output, costs 2 x parameters floating-point operations (Kaplan et al.
  2020, https://arxiv.org/abs/2001.08361, 2.1); kernels overlap this with the reading so little at these
  sizes that the two are added. Cached prompt tokens are not in the step, so a prefix hit shortens the
  prefill by just their share.
- The host launches kernels, samples, and streams a token for each sequence.

The efficiencies are fitted to two rows measured on T4s with Qwen2.5-3B: one stream, 50 tokens in 1.637 s;
three replicas at concurrency 20, about 70 prompt and 98 output tokens, 5.54 requests/s with a median of
3.55 s. Other models scale with their weights and KV sizes.
"""

from __future__ import annotations

from llmd_sandbox.images.vllm.models import BYTES_PER_VALUE, Gpu, Model

BANDWIDTH_EFFICIENCY = 0.69
COMPUTE_EFFICIENCY = 0.34
HOST_S = 0.0037
HOST_PER_SEQUENCE_S = 0.00022


class StepTime:
    """Step times of one model on one GPU."""

    def __init__(self, model: Model, gpu: Gpu, dtype: str) -> None:
        bandwidth = gpu.bandwidth_bytes_per_s * BANDWIDTH_EFFICIENCY
        self._base_s = HOST_S + model.parameters * BYTES_PER_VALUE[dtype] / bandwidth
        self._token_s = 2 * model.parameters / (gpu.flops_per_s[dtype] * COMPUTE_EFFICIENCY)
        self._context_token_s = model.kv_bytes_per_token(dtype) / bandwidth

    def step_s(self, tokens: int, sequences: int, context_tokens: int) -> float:
        """Seconds for a step that computes `tokens` for `sequences` whose contexts hold `context_tokens`."""
        return (
            self._base_s
            + tokens * self._token_s
            + sequences * HOST_PER_SEQUENCE_S
            + context_tokens * self._context_token_s
        )
