from __future__ import annotations

import io
import json
from typing import Any

import pytest

from llmd_runbook.analysis.scorers import Generation, block_hashes
from llmd_runbook.analysis.traces import BlocksRequest, PromptRequest, TraceError, prompt_requests, read, write

OWN = {"arrival_s": 1.5, "model": "m", "prompt": "x" * 130, "output_tokens": 9}
CHAT = {"arrival_s": 0, "model": "m", "messages": [{"role": "user", "content": "y" * 200}], "output_tokens": 1}
MOONCAKE = {"timestamp": 3052, "input_length": 655, "output_length": 52, "hash_ids": [46, 47]}


def lines(*contents: dict[str, Any]) -> list[str]:
    return [json.dumps(content) + "\n" for content in contents]


def test_a_prompt_file_is_read_by_arrival_with_its_full_blocks() -> None:
    first, second = read([*lines(OWN), "\n", *lines(CHAT)])
    assert isinstance(first, PromptRequest)
    assert (first.arrival_s, second.arrival_s) == (0, 1.5)
    assert (second.prompt_tokens, second.output_tokens) == (33, 9)  # 130 bytes, four a token
    assert [segment.blocks for segment in second.segments] == [1, 1]  # 64 bytes each; 2 bytes are left
    assert first.parsed(Generation.V0_4).text.startswith(b'[{"role":"user"')
    assert first.prompt_tokens == 51  # role and content, 204 bytes
    assert len(first.segments) == 3


def test_equal_prefixes_are_equal_blocks_of_one_model_only() -> None:
    text = "x" * 128
    one, two, other = read(
        lines(OWN, {**OWN, "prompt": text + "other" * 20}, {**OWN, "model": "n", "prompt": text + "z" * 100})
    )
    assert one.segments == two.segments[:2]
    assert not {segment.key for segment in one.segments} & {segment.key for segment in other.segments}


def test_what_was_written_is_read_again() -> None:
    wanted = prompt_requests("m", ["a" * 70, "böse\u2028Zeile"], output_tokens=3, arrivals_s=[0.0, 2.5])
    text = "".join(write(wanted))
    assert text.count("\n") == 2
    assert read(io.StringIO(text)) == wanted


def test_a_mooncake_trace_shares_bytes_and_blocks_as_its_ids_say() -> None:
    one, two, short = read(
        lines(MOONCAKE, {**MOONCAKE, "hash_ids": [46, 48]}, {**MOONCAKE, "input_length": 520, "hash_ids": [46]})
    )
    assert isinstance(one, BlocksRequest)
    assert one.arrival_s == 3.052
    texts = [request.parsed(Generation.V0_4).text for request in (one, two, short)]
    assert [len(text) for text in texts] == [4 * 655, 4 * 655, 4 * 520]
    assert texts[0][:2048] == texts[1][:2048] == texts[2][:2048]
    assert texts[0][2048:] != texts[1][2048:]
    assert [segment.blocks for segment in one.segments] == [32, 8]  # 512 and 143 tokens, of which 128 fill blocks
    assert one.segments[0] == two.segments[0] == short.segments[0]
    assert one.segments[1] != two.segments[1]
    assert len(short.segments) == 1
    hashes = [block_hashes(Generation.V0_10, request.parsed(Generation.V0_10), 256, 0) for request in (one, two)]
    assert hashes[0][:8] == hashes[1][:8]
    assert hashes[0][8] != hashes[1][8]


def test_tokens_without_an_id_are_shared_with_nobody() -> None:
    one, two = read(lines({**MOONCAKE, "hash_ids": [46]}, {**MOONCAKE, "hash_ids": [46]}))
    first, second = (request.parsed(Generation.V0_4).text for request in (one, two))
    assert first[:2048] == second[:2048]
    assert first[2048:] != second[2048:]
    assert one.segments == two.segments


def test_the_same_ids_in_another_place_are_another_prefix() -> None:
    one, two = read(lines({**MOONCAKE, "hash_ids": [1, 2]}, {**MOONCAKE, "hash_ids": [3, 2]}))
    assert one.segments[1] != two.segments[1]


@pytest.mark.parametrize(
    ("content", "key", "said"),
    [
        ({**OWN, "prompts": "x"}, "prompts", "unknown key"),
        ({**OWN, "messages": []}, "prompt", "exactly one"),
        ({**OWN, "prompt": ""}, "prompt", "not empty"),
        ({**CHAT, "messages": []}, "messages", "not empty"),
        ({**OWN, "model": 3}, "model", "must be a text"),
        ({**OWN, "arrival_s": -1}, "arrival_s", "0 or more"),
        ({**OWN, "arrival_s": float("nan")}, "arrival_s", "0 or more"),
        ({**OWN, "arrival_s": True}, "arrival_s", "must be a number"),
        ({**OWN, "output_tokens": 0}, "output_tokens", "1 or more"),
        ({**OWN, "output_tokens": 1.5}, "output_tokens", "an integer"),
        ({"timestamp": 0, "input_length": 5, "hash_ids": [1]}, "output_length", "is missing"),
        ({**MOONCAKE, "input_length": "5"}, "input_length", "an integer"),
        ({**MOONCAKE, "hash_ids": ["a"]}, "hash_ids", "a list of integers"),
        ({**MOONCAKE, "hash_ids": [1, 2, 3]}, "hash_ids", "more than the 2 blocks of 512 tokens"),
        ({"prompt": "x"}, "", "neither arrival_s nor timestamp"),
    ],
)
def test_a_bad_line_is_named_with_key_value_and_reason(content: dict[str, Any], key: str, said: str) -> None:
    good = [] if not key else lines(OWN if "arrival_s" in content else MOONCAKE)
    with pytest.raises(TraceError) as caught:
        read([*good, "\n", *lines(content)])
    assert (caught.value.line, caught.value.key) == (2 + len(good), key)
    assert said in caught.value.reason
    assert str(caught.value).startswith(f"line {2 + len(good)}: ")


@pytest.mark.parametrize(("text", "said"), [("", "no request"), ("{", "not JSON"), ("[1]", "not a JSON object")])
def test_a_file_without_requests_is_none(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        read(text.splitlines())
    with pytest.raises(TraceError, match="timestamp: None: is missing"):
        read(lines(MOONCAKE, OWN))  # the first line says the form
