"""What a picker reads of a request: the model, and the bytes whose blocks it hashes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from llmd_runbook.analysis.scorers.rules import BYTES_PER_TOKEN, Generation

_GO_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_GO_ESCAPED = re.compile("[<>&\u2028\u2029]")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRequest(ValueError):
    """A request that the picker refuses with status 400; the text is the picker's own."""


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """`text` is what gets hashed; `salt` keeps prefix caches of tenants apart."""

    model: str
    text: bytes
    salt: str = ""


def parse_request(generation: Generation, body: bytes | Mapping[str, Any]) -> InferenceRequest:
    """Read a completions or chat completions request as the picker does: by its content, not by its path.

    Raises:
        BadRequest: no JSON object, no model, or nothing to route by.
    """
    if isinstance(body, bytes):
        try:
            decoded = json.loads(body)
        except ValueError:
            raise BadRequest("Error unmarshaling request body") from None
        if decoded is not None and not isinstance(decoded, dict):
            raise BadRequest("Error unmarshaling request body")
        body = decoded or {}
    model, salt = body.get("model"), body.get("cache_salt", "")
    if not isinstance(model, str):
        raise BadRequest("model not found in request body")
    return InferenceRequest(model, _text(generation, body), salt if isinstance(salt, str) else "")


def _text(generation: Generation, body: Mapping[str, Any]) -> bytes:
    prompt, messages = body.get("prompt"), body.get("messages")
    if isinstance(prompt, str) and prompt:
        return _utf8(prompt)
    if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
        if generation is Generation.V0_4:
            return _go_json([_v0_4_message(message) for message in messages])
        tools = body.get("tools")
        parts = [_go_json(tools)] if tools else []
        parts += [_utf8(f"{_string(m.get('role'))}{_plain(m.get('content'))}") for m in messages]
        return b"".join(parts)
    prefix = "inference gateway: BadRequest - "
    raise BadRequest(
        f"failed to extract request data: {prefix}invalid chat-completions request: "
        f"{prefix}chat-completions request must have at least one message"
    )


def _v0_4_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that v0.4 keeps of a message, in its order; an empty role is left out."""
    content = message.get("content")
    kept: dict[str, Any] = {"role": message["role"]} if _string(message.get("role")) else {}
    if isinstance(content, list):
        kept["content"] = [_v0_4_part(part) for part in content if isinstance(part, dict)]
    else:
        kept["content"] = _string(content)
    return kept


def _v0_4_part(part: Mapping[str, Any]) -> dict[str, Any]:
    text, image = _string(part.get("text")), part.get("image_url")
    url = _string(image.get("url")) if isinstance(image, dict) else ""
    return {
        "type": _string(part.get("type")),
        **({"text": text} if text else {}),
        "image_url": {"url": url} if url else {},
    }


def _plain(content: object) -> str:
    if isinstance(content, list):
        return "".join(_string(part.get("text")) for part in content if isinstance(part, dict))
    return _string(content)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _go_json(value: object) -> bytes:
    """JSON as Go's encoding/json writes it: compact, and safe inside HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _utf8(_GO_ESCAPED.sub(lambda found: _GO_ESCAPES[found.group()], text))


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", text).encode()


def block_hashes(generation: Generation, request: InferenceRequest, block_bytes: int, limit: int) -> list[int]:
    """The chained 64-bit hashes of the request's blocks, first block first; at most `limit` (0: no bound).

    Each hash covers its block and the hash before it; the first hangs on the model and the salt. v0.4 drops a
    last block that is not full, v0.10 hashes it, padded with zero bytes to whole pseudo-tokens.
    """
    digest = xxhash.xxh64_intdigest
    text = request.text[: limit * block_bytes] if limit else request.text
    previous = digest(_utf8(request.model + request.salt))
    hashes: list[int] = []
    if generation is Generation.V0_4:
        for start in range(0, len(text) - block_bytes + 1, block_bytes):
            previous = digest(text[start : start + block_bytes] + previous.to_bytes(8, "little"))
            hashes.append(previous)
        return hashes
    text += bytes(-len(text) % BYTES_PER_TOKEN)
    for start in range(0, len(text), block_bytes):
        block = digest(text[start : start + block_bytes])
        previous = digest(block.to_bytes(8, "little") + previous.to_bytes(8, "little"))
        hashes.append(previous)
    return hashes
