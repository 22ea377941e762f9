"""Starts that fail: what the real engine prints before it ends with 1.

The lines are those of vLLM 0.32 with huggingface_hub 2.4 where the hub answers with 403, and where the warm-up of the
sampler raises; the processes are named as in 0.11. Left out are the frames of the tracebacks, and PyTorch's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

Line = tuple[float, str, str, str]
"""(seconds before it, level, where, message); without a `where` the message is the whole line."""

_HUB = "https://huggingface.co"
_TRACEBACK = "Traceback (most recent call last):"
_CAUSED = ("", "The above exception was the direct cause of the following exception:", "", _TRACEBACK)


class Failure(StrEnum):
    """How a start fails."""

    NONE = ""
    CUDA_OOM = "cuda-oom"
    """The guide's Issue 3: no GPU memory is left when the sampler is warmed up."""
    FORBIDDEN = "forbidden"
    """The guide's Issue 2: the model hub answers with 403, for a gated model that the token's owner may not have."""


def forbidden(model: str) -> Iterator[Line]:
    """What is printed when the hub refuses the model's configuration, the first that is asked of it."""
    refused = (
        "403 Client Error. (Request ID: Root=1-00000000-000000000000000000000000)",
        "",
        f"Cannot access gated repo for url {_HUB}/{model}/resolve/main/config.json.",
        f"Access to model {model} is restricted and you are not in the authorized list. "
        f"Visit {_HUB}/{model} to ask for access.",
    )
    yield from _bare(_TRACEBACK, f"huggingface_hub.errors.GatedRepoError: {refused[0]}", *refused[1:], *_CAUSED)
    yield from _bare("OSError: You are trying to access a gated repo.")
    yield from _bare(f"Make sure to have access to it at {_HUB}/{model}.", *refused)


def cuda_oom(requests: int) -> Iterator[Line]:
    """What is printed when a GPU has no memory left to warm up the sampler with so many requests."""
    no_memory = "torch.OutOfMemoryError: CUDA out of memory."
    words = (
        f"RuntimeError: CUDA out of memory occurred when warming up sampler with {requests} dummy requests. Please try "
        "lowering `max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
    )
    chain = (_TRACEBACK, no_memory, *_CAUSED, words)
    for message in ("EngineCore failed to start.", *chain):
        yield 0, "ERROR", "core.py", message
    yield from _bare("Process EngineCore_DP0:", *chain)
    yield from _bare(
        _TRACEBACK,
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
    )


def _bare(*messages: str) -> Iterator[Line]:
    return ((0, "", "", message) for message in messages)
