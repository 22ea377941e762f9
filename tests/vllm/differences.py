"""Where simulator and real vLLM differ, each with its reason. Whatever is not here is the same, or a test fails.

The simulator keeps to vLLM 0.11.2, which is in the guide's image (llm-d-cuda:v0.4.0); the real one here is newer,
for there is no older one for CPU. "Since 0.11.2" was looked up in the source of both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.table import Table

from llmd_runbook.profile import PROJECT_ROOT
from tests.vllm.servers import MODEL

PAGE = PROJECT_ROOT / "docs" / "vllm-differences.md"


@dataclass(frozen=True)
class Difference:
    """Facts that differ alike: the simulator's, the real one's (`-`: there is none), where, and why that stays."""

    simulated: str
    real: str
    reason: str
    where: tuple[str, ...]


SINCE = "since 0.11.2"
ENVELOPE = "0.11.2 has every refusal in one envelope; later ones leave a body that is no text to the framework"
_WHOLE = ("completion", "completion, cached", "completion, two prompts")


def _each(cases: tuple[str, ...], *fields: str) -> tuple[str, ...]:
    return tuple(f"{case}: {field}" for case in cases for field in fields)


_NEW_NULLS = ("choices[].routed_experts", "ec_transfer_params", "metrics", "usage.completion_tokens_details")
_NEW_DETAILS = ("usage.prompt_tokens_details.created_cache_tokens", "usage.prompt_tokens_details.multimodal_tokens")

PLACE = f"{SINCE} a fault of the body is told by the field's path, and its input is not shown"
NOT_READ = "of the process and the web framework; nobody reads it here"
_PROCESS_GAUGES = ("process_max_fds", "process_open_fds", "process_virtual_memory_bytes", "python_info")
_PROCESS_COUNTERS = ("python_gc_collections", "python_gc_objects_collected", "python_gc_objects_uncollectable")
_NEW_COUNTERS = (
    "vllm:admission_rejections",
    "vllm:estimated_flops_per_gpu",
    "vllm:estimated_read_bytes_per_gpu",
    "vllm:estimated_write_bytes_per_gpu",
    "vllm:prompt_tokens_by_source",
    "vllm:prompt_tokens_cached",
    "vllm:prompt_tokens_cached_by_source",
)
_NEW_HISTOGRAMS = ("vllm:request_num_preemptions", "vllm:request_prefill_kv_computed_tokens")
_NEW_CACHE_FIELDS = """
_block_size_resolved cache_hit_alignment_tokens effective_attention_block_size enable_mamba_shared_prefix_checkpoint
hash_block_size kv_cache_dtype_skip_layers kv_cache_layout kv_offloading_backend kv_offloading_size
kv_sharing_fast_prefill mamba_block_size mamba_cache_dtype mamba_cache_mode mamba_page_size_padded mamba_ssm_cache_dtype
prefix_cache_retention_interval prefix_match_unit replayssm_buffer_len skip_page_size_padded swa_bounded_replay
use_kda_recoverssm use_replayssm
"""

FIELD = f"{SINCE} a message ends with the field at fault"
WORDS = f"{SINCE} worded anew"
NO_ROOM = "a prompt that leaves no room is told by its length in 0.11.2, by the room in later ones"
CACHE = "fields of the cache's configuration that say nothing here: other kinds of models, offloading, later versions"
_LIMIT = "This model's maximum context length is 512 tokens."
_REDUCE = "Please reduce the length of the input messages."
_NO_DICT = "Input should be a valid dictionary or object to extract fields from"
_NO_INTEGER = "Input should be a valid integer, unable to parse string as an integer"

said = json.dumps
"""A value as the facts have it."""


def _invalid(detail: str) -> str:
    return f"1 validation error:\n  {{'type': {detail}}}"


DIFFERENCES = [
    Difference(
        "-",
        "null",
        f"fields of features that vLLM has {SINCE}",
        (
            *_each(_WHOLE, *_NEW_NULLS, *_NEW_DETAILS),
            *_each(("chat",), *_NEW_NULLS, "prompt_text", _NEW_DETAILS[1]),
            "chat, stream: first.prompt_text",
        ),
    ),
    Difference(
        "-",
        "int",
        f"tokens that a request adds to the cache are told {SINCE}",
        (
            "chat: usage.prompt_tokens_details.created_cache_tokens",
            "chat, stream: usage.usage.prompt_tokens_details.created_cache_tokens",
        ),
    ),
    Difference(
        "null",
        "-",
        "0.11.2 says nothing of cached tokens when there are none; later ones say 0",
        (
            "completion: usage.prompt_tokens_details",
            "chat: usage.prompt_tokens_details",
        ),
    ),
    Difference(
        "-",
        "int",
        "the same: 0 is said",
        (
            "completion: usage.prompt_tokens_details.cached_tokens",
            "chat: usage.prompt_tokens_details.cached_tokens",
        ),
    ),
    Difference("null", "str", f"the server's version is told {SINCE}", _each((*_WHOLE, "chat"), "system_fingerprint")),
    Difference(
        "-",
        "str",
        f"the server's version is told {SINCE}",
        _each(("completion, stream", "chat, stream"), "usage.system_fingerprint"),
    ),
    Difference(
        "null",
        "-",
        "0.11.2 writes the usage that a chunk has not; later ones leave it out",
        _each(("completion, stream",), "first.usage", "between.usage", "last.usage"),
    ),
    Difference(
        "null", "-", "the old name of `reasoning`, gone in later ones", ("chat: choices[].message.reasoning_content",)
    ),
    Difference(
        "[]",
        "-",
        "0.11.2 writes tool calls that a message has not; later ones leave them out",
        ("chat: choices[].message.tool_calls",),
    ),
    Difference(
        "400",
        "200",
        "0.11.2 refuses an answer that does not fit behind the prompt; later ones cut it short",
        ("answer would not fit: status",),
    ),
    Difference("400", "-", ENVELOPE, ("not UTF-8: error.code",)),
    Difference("null", "-", ENVELOPE, ("not UTF-8: error.param",)),
    Difference(said("Bad Request"), "-", ENVELOPE, ("not UTF-8: error.type",)),
    Difference(said("There was an error parsing the body"), "-", ENVELOPE, ("not UTF-8: error.message",)),
    Difference("-", said("There was an error parsing the body"), ENVELOPE, ("not UTF-8: detail",)),
    Difference(
        said("max_tokens must be at least 1, got 0."),
        said("max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
        FIELD,
        ("no tokens asked: error.message",),
    ),
    Difference(
        said("temperature must be non-negative, got -1.0."),
        said("temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)"),
        FIELD,
        ("negative temperature: error.message",),
    ),
    Difference(
        said("Stream options can only be defined when `stream=True`."),
        said("Stream options can only be defined when `stream=True`. (parameter=stream_options)"),
        FIELD,
        ("stream options without stream: error.message",),
    ),
    Difference(
        said("Either prompt or prompt_embeds must be provided and non-empty."),
        said("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)"),
        FIELD,
        ("no prompt: error.message", "empty prompt: error.message"),
    ),
    Difference(
        said(f"{_LIMIT} However, your request has 529 input tokens. {_REDUCE}"),
        said(
            f"{_LIMIT} However, your prompt contains 529 input tokens, which exceeds this limit even without any "
            "output tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=529)"
        ),
        WORDS,
        ("prompt too long: error.message",),
    ),
    Difference(
        said(f"{_LIMIT} However, your request has 512 input tokens. {_REDUCE}"),
        said("max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"),
        NO_ROOM,
        ("prompt fills the context: error.message",),
    ),
    Difference(said("input_tokens"), said("max_tokens"), NO_ROOM, ("prompt fills the context: error.param",)),
    Difference(
        said(
            f"'max_tokens' or 'max_completion_tokens' is too large: 513. {_LIMIT[:-1]} and your request has 3 input "
            "tokens (513 > 512 - 3)."
        ),
        said(
            "max_tokens=513 cannot be greater than max_model_len=512. Please request fewer output tokens. "
            "(parameter=max_tokens, value=513)"
        ),
        WORDS,
        ("answer too long: error.message",),
    ),
    Difference(
        said(_invalid("'json_invalid', 'loc': ('body', 23), 'msg': 'JSON decode error', 'input': {}")),
        said(
            _invalid(
                "'json_invalid', 'loc': 'body.23', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', "
                "'ctx': {'error': \"Expecting ':' delimiter\"}"
            )
        ),
        PLACE,
        ("broken JSON: error.message",),
    ),
    Difference(
        said(_invalid(f"'model_attributes_type', 'loc': ('body',), 'msg': '{_NO_DICT}', 'input': [1]")),
        said(_invalid(f"'model_attributes_type', 'loc': 'body', 'msg': '{_NO_DICT}', 'input': '<list of 1 items>'")),
        PLACE,
        ("no JSON object: error.message",),
    ),
    Difference(
        said(
            _invalid(
                f"'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {{'model': '{MODEL}'}}"
            )
        ),
        said(_invalid("'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 1 items>'")),
        PLACE,
        ("no messages: error.message",),
    ),
    Difference(
        said(_invalid(f"'int_parsing', 'loc': ('body', 'max_tokens'), 'msg': '{_NO_INTEGER}', 'input': 'many'")),
        said(_invalid(f"'int_parsing', 'loc': 'body.max_tokens', 'msg': '{_NO_INTEGER}', 'input': 'many'")),
        PLACE,
        ("tokens that are a word: error.message",),
    ),
    Difference("null", '"body.23"', PLACE, ("broken JSON: error.param",)),
    Difference("null", '"body"', PLACE, ("no JSON object: error.param",)),
    Difference("null", '"body.messages"', PLACE, ("no messages: error.param",)),
    Difference("null", '"body.max_tokens"', PLACE, ("tokens that are a word: error.param",)),
    Difference(
        "-",
        "gauge",
        "the simulator leaves out when counters began, as PROMETHEUS_DISABLE_CREATED_SERIES does",
        ("metrics: *_created",),
    ),
    Difference("-", "gauge", NOT_READ, _each(("metrics",), *_PROCESS_GAUGES)),
    Difference("-", "counter", NOT_READ, _each(("metrics",), *_PROCESS_COUNTERS)),
    Difference("-", "histogram", NOT_READ, ("metrics: http_request_duration_highr_seconds",)),
    Difference("-", "summary", NOT_READ, ("metrics: http_request_size_bytes", "metrics: http_response_size_bytes")),
    Difference("-", "gauge", f"a family that vLLM has {SINCE}", ("metrics: vllm:num_requests_waiting_by_reason",)),
    Difference("-", "counter", f"a family that vLLM has {SINCE}", _each(("metrics",), *_NEW_COUNTERS)),
    Difference("-", "histogram", f"a family that vLLM has {SINCE}", _each(("metrics",), *_NEW_HISTOGRAMS)),
    Difference(
        "-",
        "label",
        CACHE,
        _each(("metrics",), *(f"vllm:cache_config_info{{{label}}}" for label in _NEW_CACHE_FIELDS.split())),
    ),
]


def table() -> Table:
    """All of it, for a terminal."""
    shown = Table("where", "simulator", "real vLLM", "why it stays", title="Simulator and real vLLM differ in")
    for difference in DIFFERENCES:
        first, *rest = difference.where
        place = first + (f" and {len(rest)} more" if rest else "")
        shown.add_row(place, *(text[:40] for text in (difference.simulated, difference.real)), difference.reason)
    return shown


def markdown() -> str:
    """All of it as a page: one row a difference, every place named."""
    lines = [
        "# Where the simulator and the real vLLM differ",
        "",
        "Written by `make docs` from `tests/vllm/differences.py`. `make test-vllm` compares both and fails where "
        "they differ in anything that is not here, and where something here is no difference any more.",
        "",
        "| where | simulator | real vLLM | why it stays |",
        "|---|---|---|---|",
    ]
    for difference in DIFFERENCES:
        cells = ["<br>".join(difference.where), _cell(difference.simulated), _cell(difference.real), difference.reason]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(fact: str) -> str:
    return "none" if fact == "-" else f"`` {fact} ``" if "`" in fact else f"`{fact}`"


if __name__ == "__main__":
    PAGE.write_text(markdown())
