"""A trace's requests as prompts and the times at which they are due."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from llmd_runbook.analysis.traces import MOONCAKE_BLOCK_TOKENS, BlocksRequest, TraceRequest
from llmd_runbook.load.plan import Prompt, Timed
from llmd_runbook.load.prompts import text


def replayed(requests: Sequence[TraceRequest], *, seed: int) -> tuple[list[Prompt], Timed]:
    """What to send and when, from the first arrival on; each prompt with the trace's own answer length.

    A block id of a Mooncake trace becomes as many words as it stands for tokens, the same for the same id and seed.

    Raises:
        ValueError: a prompt of chat messages, whose roles a completion cannot have.
    """
    begin_s = min(request.arrival_s for request in requests)
    prompts = [
        Prompt(group=f"t{number}", text=_text(request, seed), output_tokens=request.output_tokens)
        for number, request in enumerate(requests)
    ]
    return prompts, Timed(due_s=[request.arrival_s - begin_s for request in requests])


def _text(request: TraceRequest, seed: int) -> str:
    if not isinstance(request, BlocksRequest):
        if "prompt" not in request.body:
            raise ValueError("it has chat messages: only prompts of one text can be replayed")
        return str(request.body["prompt"])
    blocks: list[object] = list(request.hash_ids)
    missing = math.ceil(request.prompt_tokens / MOONCAKE_BLOCK_TOKENS) - len(blocks)
    blocks += [f"{request.line}/{number}" for number in range(missing)]
    words = " ".join(text(random.Random(f"{seed} {block}"), MOONCAKE_BLOCK_TOKENS) for block in blocks).split()
    return " ".join(words[: request.prompt_tokens])
