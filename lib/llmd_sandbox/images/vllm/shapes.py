"""Bodies of the answers: OpenAI's shapes with the fields that vLLM adds."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from llmd_sandbox.images.vllm.protocol import Generation
from llmd_sandbox.images.vllm.scheduler import Request

Body = dict[str, Any]

DONE = b"data: [DONE]\n\n"


def event(body: Body) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def usage(requests: Sequence[Request], *, details: bool) -> Body:
    """Token counts; cached tokens only where the server shows them and there are some."""
    prompt = sum(len(request.prompt) for request in requests)
    completion = sum(request.produced for request in requests)
    cached = sum(request.cached_tokens for request in requests)
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached} if details and cached else None,
    }


class Shape:
    """The bodies of one generation, chat or not."""

    def __init__(self, generation: Generation, identifier: str) -> None:
        self._chat = generation.chat
        self._head: Body = {
            "id": f"{'chatcmpl' if generation.chat else 'cmpl'}-{identifier}",
            "object": "chat.completion" if generation.chat else "text_completion",
            "created": int(time.time()),
            "model": generation.model,
        }
        self._chunk_head = self._head | ({"object": "chat.completion.chunk"} if generation.chat else {})

    def whole(self, requests: Sequence[Request], counts: Body) -> Body:
        """The answer in one piece."""
        choices = []
        for index, request in enumerate(requests):
            text = "".join(request.answer.pieces[: request.produced])
            choices.append(
                {"index": index}
                | ({"message": _message(text)} if self._chat else {"text": text})
                | {"logprobs": None, "finish_reason": request.finish_reason}
                | {"stop_reason": request.answer.stop_reason, "token_ids": None}
                | ({} if self._chat else {"prompt_logprobs": None, "prompt_token_ids": None})
            )
        tail: Body = {"service_tier": None, "system_fingerprint": None, "usage": counts}
        if self._chat:
            tail |= {"prompt_logprobs": None, "prompt_token_ids": None}
        return self._head | {"choices": choices} | tail | {"kv_transfer_params": None}

    def opening(self) -> bytes:
        """A chat's first event, which names the role."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return event(self._chunk_head | {"choices": [choice], "prompt_token_ids": None})

    def token(self, index: int, piece: str, finish_reason: str | None, stop_reason: str | None) -> bytes:
        """The event of one token of one choice."""
        said = {"delta": {"content": piece}} if self._chat else {"text": piece}
        choice = {"index": index} | said | {"logprobs": None, "finish_reason": finish_reason}
        if not self._chat or finish_reason:
            choice["stop_reason"] = stop_reason
        choice |= {"token_ids": None} | ({} if self._chat else {"prompt_token_ids": None})
        return event(self._chunk_head | {"choices": [choice]} | ({} if self._chat else {"usage": None}))

    def usage_event(self, counts: Body) -> bytes:
        """The last event before [DONE], when the client asked for it; absent counts are left out."""
        return event(self._chunk_head | {"choices": [], "usage": {k: v for k, v in counts.items() if v is not None}})


def _message(text: str) -> Body:
    absent = ("refusal", "annotations", "audio", "function_call")
    message: Body = {"role": "assistant", "content": text, **dict.fromkeys(absent), "tool_calls": []}
    return message | {"reasoning": None, "reasoning_content": None}


def _permission(created: int) -> Body:
    allowed = {"create_engine": False, "sampling": True, "logprobs": True, "search_indices": False}
    allowed |= {"view": True, "fine_tuning": False}
    head = {"id": f"modelperm-{uuid.uuid4().hex}", "object": "model_permission", "created": created}
    tail = {"organization": "*", "group": None, "is_blocking": False}
    return {**head, **{f"allow_{what}": value for what, value in allowed.items()}, **tail}


def models(names: Sequence[str], root: str, max_model_len: int, created: int) -> Body:
    """`/v1/models`."""
    return {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": root,
                "parent": None,
                "max_model_len": max_model_len,
                "permission": [_permission(created)],
            }
            for name in names
        ],
    }
