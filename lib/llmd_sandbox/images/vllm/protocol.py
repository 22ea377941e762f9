"""Requests as the OpenAI API and vLLM's extensions to it have them, checked as vLLM checks them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

from llmd_sandbox.images.vllm.errors import ApiError, bad_request, malformed
from llmd_sandbox.images.vllm.tokens import Limits, chat_text, encode

T = TypeVar("T")

_COMPLETION_TOKENS = 16
"""OpenAI's default `max_tokens` of a completion; a chat may fill the context."""


@dataclass(frozen=True)
class Generation:
    """A checked request: one prompt for each choice."""

    chat: bool
    model: str
    prompts: list[list[int]]
    limits: Limits
    seed: int | None
    cache_salt: str | None
    stream: bool
    include_usage: bool


@dataclass(frozen=True)
class Served:
    """What requests are checked against."""

    names: tuple[str, ...]
    max_model_len: int
    vocabulary: int


def decode(raw: bytes, content_type: str) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        ApiError: 400, it is none.
    """
    if content_type.split(";", 1)[0].strip().lower() != "application/json":
        raise ApiError(
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed",
            "Bad Request",
            HTTPStatus.BAD_REQUEST,
        )
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        raise malformed("json_invalid", (error.pos,), "JSON decode error", {}) from error
    except UnicodeDecodeError as error:
        raise ApiError("There was an error parsing the body", "Bad Request", HTTPStatus.BAD_REQUEST) from error
    if not isinstance(body, dict):
        raise malformed(
            "model_attributes_type", (), "Input should be a valid dictionary or object to extract fields from", body
        )
    return body


def read_generation(body: dict[str, Any], served: Served, *, chat: bool) -> Generation:
    """Check the body of `/v1/completions` or `/v1/chat/completions`.

    Raises:
        ApiError: 400 or 404, in vLLM's words.
    """
    prompts = _chat_prompts(body, served) if chat else _prompts(body, served)
    model = _field(body, "model", str)
    if model and model not in served.names:
        raise ApiError(
            f"The model `{model}` does not exist. Valid aliases: {', '.join(served.names)}.",
            "NotFoundError",
            HTTPStatus.NOT_FOUND,
            "model",
        )
    if (_field(body, "n", int) or 1) != 1 or _field(body, "echo", bool):
        raise bad_request("The simulator serves n=1 without echo only.", "n")
    if (temperature := _field(body, "temperature", float)) is not None and temperature < 0:
        raise bad_request(f"temperature must be non-negative, got {temperature}.", "temperature")
    options = _field(body, "stream_options", dict)
    stream = bool(_field(body, "stream", bool))
    if options and not stream:
        raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
    return Generation(
        chat=chat,
        model=model or served.names[0],
        prompts=prompts,
        limits=_limits(body, max(map(len, prompts)), served, chat=chat),
        seed=_field(body, "seed", int),
        cache_salt=_field(body, "cache_salt", str),
        stream=stream,
        include_usage=bool((options or {}).get("include_usage")),
    )


def read_tokenize(body: dict[str, Any]) -> str:
    """The text of a `/tokenize` request: a prompt, or what messages become."""
    if "messages" in body:
        return chat_text(_messages(body))
    prompt = _field(body, "prompt", str)
    if prompt is None:
        raise malformed("missing", ("prompt",), "Field required", body)
    return prompt


def _limits(body: dict[str, Any], prompt_tokens: int, served: Served, *, chat: bool) -> Limits:
    if prompt_tokens >= served.max_model_len:
        raise bad_request(
            f"This model's maximum context length is {served.max_model_len} tokens. However, your request "
            f"has {prompt_tokens} input tokens. Please reduce the length of the input messages.",
            "input_tokens",
        )
    left = served.max_model_len - prompt_tokens
    max_tokens = _field(body, "max_completion_tokens", int) if chat else None
    if max_tokens is None:
        max_tokens = _field(body, "max_tokens", int)
    if max_tokens is None:
        max_tokens = left if chat else min(_COMPLETION_TOKENS, left)
    if max_tokens < 1:
        raise bad_request(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens")
    if max_tokens > left:
        raise bad_request(
            f"'max_tokens' or 'max_completion_tokens' is too large: {max_tokens}. This model's maximum "
            f"context length is {served.max_model_len} tokens and your request has {prompt_tokens} input "
            f"tokens ({max_tokens} > {served.max_model_len} - {prompt_tokens}).",
            "max_tokens",
        )
    min_tokens = _field(body, "min_tokens", int) or 0
    if not 0 <= min_tokens <= max_tokens:
        raise bad_request(f"min_tokens must be between 0 and max_tokens={max_tokens}, got {min_tokens}.", "min_tokens")
    return Limits(max_tokens, min_tokens, bool(_field(body, "ignore_eos", bool)), _stop(body))


def _stop(body: dict[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise malformed("string_type", ("stop",), "Input should be a valid string", stop)
    if "" in stops:
        raise bad_request("stop cannot contain an empty string.", "stop")
    return tuple(stops)


def _prompts(body: dict[str, Any], served: Served) -> list[list[int]]:
    """A text, a list of token ids, or a list of either."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and prompt and not all(_is_id(item, served) for item in prompt):
        prompts = [_one_prompt(item, served) for item in prompt]
    else:
        prompts = [_one_prompt(prompt, served)]
    if not all(prompts):
        raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    return prompts


def _one_prompt(prompt: object, served: Served) -> list[int]:
    if prompt is None:
        return []
    if isinstance(prompt, str):
        return encode(prompt, served.vocabulary)
    if isinstance(prompt, list) and all(_is_id(item, served) for item in prompt):
        return prompt
    raise malformed("string_type", ("prompt", "str"), "Input should be a valid string", prompt)


def _is_id(item: object, served: Served) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item < served.vocabulary


def _chat_prompts(body: dict[str, Any], served: Served) -> list[list[int]]:
    return [encode(chat_text(_messages(body)), served.vocabulary)]


def _messages(body: dict[str, Any]) -> list[tuple[str, str]]:
    messages = _field(body, "messages", list)
    if messages is None:
        raise malformed("missing", ("messages",), "Field required", body)
    read = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise malformed("missing", ("messages", index, "role"), "Field required", message)
        read.append((message["role"], _content(message.get("content"), index)))
    return read


def _content(content: object, index: int) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    raise malformed("string_type", ("messages", index, "content"), "Input should be a valid string", content)


_FAULTS: dict[type, tuple[str, str]] = {
    int: ("int_type", "Input should be a valid integer"),
    float: ("float_type", "Input should be a valid number"),
    str: ("string_type", "Input should be a valid string"),
    bool: ("bool_type", "Input should be a valid boolean"),
    list: ("list_type", "Input should be a valid list"),
    dict: ("dict_type", "Input should be a valid dictionary"),
}


_PARSED: dict[type, tuple[Callable[[str], object], str]] = {int: (int, "an integer"), float: (float, "a number")}


def _parsed(name: str, text: str, kind: type) -> object:
    """The number that a string holds, as the schema reads it."""
    parse, what = _PARSED[kind]
    try:
        return parse(text)
    except ValueError as error:
        message = f"{_FAULTS[kind][1]}, unable to parse string as {what}"
        raise malformed(f"{kind.__name__}_parsing", (name,), message, text) from error


def _field(body: dict[str, Any], name: str, kind: type[T]) -> T | None:
    """A field of that type, or None when it is absent or null."""
    value = body.get(name)
    if value is None:
        return None
    if kind in _PARSED and isinstance(value, str):
        value = _parsed(name, value, kind)
    if kind is float and isinstance(value, int):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        fault, message = _FAULTS[kind]
        raise malformed(fault, (name,), message, value)
    return value
