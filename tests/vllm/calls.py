"""Every request whose answers are compared."""

from __future__ import annotations

from tests.vllm.servers import CONTEXT_TOKENS, MODEL
from tests.vllm.surfaces import Call

_PROMPT = list(range(3, 140))
_MESSAGES = [{"role": "user", "content": "Hi"}]
_FOUR = {"model": MODEL, "max_tokens": 4, "ignore_eos": True}
# so many that not all of them come in the first and the last chunk, which hold several where the processors are busy
_STREAM = {"max_tokens": 64, "stream": True, "stream_options": {"include_usage": True}}
_TEXT = {"model": MODEL, "prompt": "Hello"}


def _complete(body: dict[str, object]) -> Call:
    return Call("POST", "/v1/completions", body)


def _chat(body: dict[str, object]) -> Call:
    return Call("POST", "/v1/chat/completions", body)


CALLS = {
    "completion": _complete({**_FOUR, "prompt": _PROMPT}),
    "completion, cached": _complete({**_FOUR, "prompt": _PROMPT}),
    "completion, stream": _complete({**_FOUR, **_STREAM, "prompt": _PROMPT}),
    "completion, two prompts": _complete({**_FOUR, "prompt": [_PROMPT, _PROMPT[::-1]]}),
    "chat": _chat({**_FOUR, "messages": _MESSAGES}),
    "chat, stream": _chat({**_FOUR, **_STREAM, "messages": _MESSAGES}),
    "models": Call("GET", "/v1/models"),
    "tokenize": Call("POST", "/tokenize", _TEXT),
    "health": Call("GET", "/health"),
    "ping": Call("GET", "/ping"),
    "unknown model": _complete({"model": "nope", "prompt": "x"}),
    "unknown model, chat": _chat({"model": "nope", "messages": _MESSAGES}),
    "prompt too long": _complete({"model": MODEL, "prompt": list(range(3, CONTEXT_TOKENS + 20))}),
    "prompt fills the context": _complete({"model": MODEL, "prompt": list(range(3, CONTEXT_TOKENS + 3))}),
    "answer would not fit": _complete({"model": MODEL, "prompt": [3, 4, 5], "max_tokens": CONTEXT_TOKENS - 2}),
    "answer too long": _complete({"model": MODEL, "prompt": [3, 4, 5], "max_tokens": CONTEXT_TOKENS + 1}),
    "no tokens asked": _complete({**_TEXT, "max_tokens": 0}),
    "tokens that are a word": _complete({**_TEXT, "max_tokens": "many"}),
    "negative temperature": _complete({**_TEXT, "temperature": -1}),
    "stream options without stream": _complete({**_TEXT, "stream_options": {"include_usage": True}}),
    "no prompt": _complete({"model": MODEL}),
    "empty prompt": _complete({"model": MODEL, "prompt": ""}),
    "no messages": _chat({"model": MODEL}),
    "broken JSON": Call("POST", "/v1/completions", raw=b'{"model": "x", "prompt"'),
    "no JSON object": Call("POST", "/v1/completions", raw=b"[1]"),
    "not UTF-8": Call("POST", "/v1/completions", raw=b'{"a": "\xff"}'),
    "not called JSON": Call("POST", "/v1/completions", _TEXT, content_type="text/plain"),
    "no such path": Call("GET", "/v2/nothing"),
    "wrong method": Call("GET", "/v1/completions"),
}
