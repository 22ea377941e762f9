"""Requests as a file of JSON lines, read for replay: the product's own prompt file, or a Mooncake trace.

The product's own form keeps the prompts, so that a run's load can be replayed::

    {"arrival_s": 0.0, "model": "m", "prompt": "...", "output_tokens": 98}

with `messages` in place of `prompt` for chat. A Mooncake trace has lengths and block ids instead of text
(Qin et al., Mooncake, USENIX FAST '25, https://github.com/kvcache-ai/Mooncake)::

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, ...]}

`timestamp` is in ms; an id stands for 512 tokens (the last for what is left) and covers all blocks before it, so
that equal ids are equal prefixes. An id becomes a block of bytes of its own, four a token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import xxhash

from llmd_runbook.analysis.scorers import BadRequest, Generation, InferenceRequest, parse_request
from llmd_runbook.analysis.scorers.rules import BYTES_PER_TOKEN

CACHE_BLOCK_TOKENS = 16
"""vLLM's block: only full ones are cached."""
MOONCAKE_BLOCK_TOKENS = 512
_CACHE_BLOCK_BYTES = CACHE_BLOCK_TOKENS * BYTES_PER_TOKEN
_MOONCAKE_MODEL = "trace"
_OWN_KEYS = frozenset({"arrival_s", "model", "prompt", "messages", "output_tokens"})
_MOONCAKE_KEYS = ("timestamp", "input_length", "output_length", "hash_ids")


class TraceError(ValueError):
    """A file that is no trace; `line` counts from 1, `key` is empty where the whole line is meant."""

    def __init__(self, line: int, key: str, value: object, reason: str) -> None:
        self.line, self.key, self.value, self.reason = line, key, value, reason
        super().__init__(f"line {line}: " + (f"{key}: {value!r}: " if key else "") + reason)


@dataclass(frozen=True)
class Segment:
    """A run of full cache blocks of a prompt; `key` covers it and all before it."""

    key: int
    blocks: int


@dataclass(frozen=True)
class PromptRequest:
    """A request with its text; `body` is what a client sends. Tokens are estimated at four bytes each."""

    arrival_s: float
    output_tokens: int
    body: Mapping[str, Any]

    def parsed(self, generation: Generation) -> InferenceRequest:
        """What a picker of that generation reads of it."""
        return parse_request(generation, self.body)

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, estimated."""
        return math.ceil(len(self._text) / BYTES_PER_TOKEN)

    @cached_property
    def segments(self) -> list[Segment]:
        """The full blocks that a replica can cache, one a segment."""
        previous = xxhash.xxh64_digest(str(self.body["model"]).encode())
        found = []
        for start in range(0, len(self._text) - _CACHE_BLOCK_BYTES + 1, _CACHE_BLOCK_BYTES):
            previous = xxhash.xxh64_digest(self._text[start : start + _CACHE_BLOCK_BYTES] + previous)
            found.append(Segment(int.from_bytes(previous, "little"), 1))
        return found

    @cached_property
    def _text(self) -> bytes:
        return parse_request(Generation.V0_10, self.body).text


@dataclass(frozen=True)
class BlocksRequest:
    """A request without its text: the ids of its blocks of 512 tokens. `line` makes tokens without an id its own."""

    arrival_s: float
    output_tokens: int
    prompt_tokens: int
    hash_ids: tuple[int, ...]
    line: int

    def parsed(self, generation: Generation) -> InferenceRequest:
        """What a picker reads of the bytes that stand for it; the same for both generations."""
        length = self.prompt_tokens * BYTES_PER_TOKEN
        text = b"".join(map(_block_text, self.hash_ids))
        missing = -(-(length - len(text)) // (MOONCAKE_BLOCK_TOKENS * BYTES_PER_TOKEN))
        text += b"".join(_block_text(f"{self.line}/{index}") for index in range(missing))
        return InferenceRequest(_MOONCAKE_MODEL, text[:length])

    @cached_property
    def segments(self) -> list[Segment]:
        """One a block id; a last one that is not full is equal only to one as long."""
        found, left, previous = [], self.prompt_tokens, 0
        for block in self.hash_ids:
            tokens = min(left, MOONCAKE_BLOCK_TOKENS)
            left -= tokens
            previous = xxhash.xxh64_intdigest(f"{previous}/{block}/{tokens}".encode())
            if tokens >= CACHE_BLOCK_TOKENS:
                found.append(Segment(previous, tokens // CACHE_BLOCK_TOKENS))
        return found


TraceRequest = PromptRequest | BlocksRequest


def read(lines: Iterable[str]) -> list[TraceRequest]:
    """The requests of a file of either form, by arrival; the first line says which form it is.

    Raises:
        TraceError: with line, key, value and reason.
    """
    requests: list[TraceRequest] = []
    mooncake: bool | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        content = _object(number, line)
        if mooncake is None:
            mooncake = _is_mooncake(number, content)
        requests.append(_blocks_request(number, content) if mooncake else _prompt_request(number, content))
    if not requests:
        raise TraceError(1, "", None, "the file holds no request")
    return sorted(requests, key=lambda request: request.arrival_s)


def prompt_requests(
    model: str, texts: Sequence[str], *, output_tokens: int, arrivals_s: Sequence[float]
) -> list[PromptRequest]:
    """Completion requests for these prompts, arriving at these times (s)."""
    return [
        PromptRequest(arrival_s, output_tokens, {"model": model, "prompt": text})
        for text, arrival_s in zip(texts, arrivals_s, strict=True)
    ]


def write(requests: Iterable[PromptRequest]) -> Iterator[str]:
    """The lines of a prompt file, which `read` reads."""
    for request in requests:
        content = {"arrival_s": request.arrival_s, **request.body, "output_tokens": request.output_tokens}
        yield json.dumps(content, ensure_ascii=False) + "\n"


def _is_mooncake(line: int, content: Mapping[str, Any]) -> bool:
    if "arrival_s" in content:
        return False
    if "timestamp" in content or "hash_ids" in content:
        return True
    keys = ", ".join(sorted(content)) or "none"
    raise TraceError(line, "", None, f"neither arrival_s nor timestamp among its keys ({keys})")


def _prompt_request(line: int, content: Mapping[str, Any]) -> PromptRequest:
    unknown = sorted(content.keys() - _OWN_KEYS)
    if unknown:
        reason = f"unknown key; known are {', '.join(sorted(_OWN_KEYS))}"
        raise TraceError(line, unknown[0], content[unknown[0]], reason)
    if ("prompt" in content) == ("messages" in content):
        raise TraceError(line, "prompt", content.get("prompt"), "exactly one of prompt and messages is needed")
    if not isinstance(content.get("model"), str):
        raise TraceError(line, "model", content.get("model"), "must be a text")
    body = {key: content[key] for key in ("model", "prompt", "messages") if key in content}
    request = PromptRequest(_number(line, content, "arrival_s"), _count(line, content, "output_tokens"), body)
    try:
        request.parsed(Generation.V0_10)
    except BadRequest:
        key = "prompt" if "prompt" in body else "messages"
        raise TraceError(line, key, body[key], "must be a text, or a list of messages, and not empty") from None
    return request


def _blocks_request(line: int, content: Mapping[str, Any]) -> BlocksRequest:
    for key in _MOONCAKE_KEYS:
        if key not in content:
            raise TraceError(line, key, None, "is missing")
    tokens = _count(line, content, "input_length")
    ids = content["hash_ids"]
    if not isinstance(ids, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in ids):
        raise TraceError(line, "hash_ids", ids, "must be a list of integers")
    most = math.ceil(tokens / MOONCAKE_BLOCK_TOKENS)
    if len(ids) > most:
        reason = f"more than the {most} blocks of {MOONCAKE_BLOCK_TOKENS} tokens that {tokens} tokens fill"
        raise TraceError(line, "hash_ids", f"{len(ids)} ids", reason)
    arrival_s = _number(line, content, "timestamp") / 1000
    return BlocksRequest(arrival_s, _count(line, content, "output_length"), tokens, tuple(ids), line)


def _object(line: int, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TraceError(line, "", None, f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise TraceError(line, "", None, "not a JSON object")
    return content


def _number(line: int, content: Mapping[str, Any], key: str) -> float:
    value = content.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise TraceError(line, key, value, "must be a number, 0 or more")
    return float(value)


def _count(line: int, content: Mapping[str, Any], key: str) -> int:
    value = content.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TraceError(line, key, value, "must be an integer, 1 or more")
    return value


def _block_text(block: object) -> bytes:
    """The 512 tokens that stand for a block id: 16 characters that only this id has, again and again."""
    return xxhash.xxh64_hexdigest(str(block).encode()).encode() * (MOONCAKE_BLOCK_TOKENS * BYTES_PER_TOKEN // 16)
