from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.analysis.scorers import (
    BadRequest,
    Generation,
    InferenceRequest,
    Rules,
    block_hashes,
    parse_request,
)

MODEL = "Qwen/Qwen2.5-3B-Instruct"
V0_4, V0_10 = Generation.V0_4, Generation.V0_10


@pytest.mark.parametrize(
    ("generation", "block_bytes", "length", "expected"),
    [
        (V0_4, 64, 130, [0x94D9668293B022DC, 0xA34CE94B1F00C440]),
        (V0_10, 256, 130, [0xD71EE472D1E8A6F4]),
        (V0_10, 256, 300, [0xB1D5E1CC43E2CA88, 0x7F48B40E6040F6FF]),
    ],
)
def test_hashes_of_the_real_pickers(generation: Generation, block_bytes: int, length: int, expected: list[int]) -> None:
    request = InferenceRequest(MODEL, b"A" * length)
    assert block_hashes(generation, request, block_bytes, 256) == expected


def test_a_prompt_shorter_than_a_block_has_no_hash_on_v0_4_and_one_on_v0_10() -> None:
    request = InferenceRequest("m", b"short")
    assert block_hashes(V0_4, request, 64, 256) == []
    assert len(block_hashes(V0_10, request, 256, 2048)) == 1


def test_no_more_blocks_are_hashed_than_the_limit() -> None:
    request = InferenceRequest("m", b"x" * 64 * 300)
    assert len(block_hashes(V0_4, request, 64, 256)) == 256
    assert len(block_hashes(V0_4, request, 64, 0)) == 300


def test_the_salt_changes_every_hash() -> None:
    plain = block_hashes(V0_4, InferenceRequest("m", b"x" * 256), 64, 0)
    salted = block_hashes(V0_4, InferenceRequest("m", b"x" * 256, "tenant"), 64, 0)
    assert not set(plain) & set(salted)


@given(shared=st.binary(max_size=700), left=st.binary(max_size=300), right=st.binary(max_size=300))
def test_hashes_agree_exactly_on_the_blocks_that_are_equal(shared: bytes, left: bytes, right: bytes) -> None:
    texts = [shared + left, shared + right]
    for generation, size in ((V0_4, 64), (V0_10, 256)):
        ours = [block_hashes(generation, InferenceRequest("m", text), size, 0) for text in texts]
        same = 0
        for index in range(min(len(ours[0]), len(ours[1]))):
            blocks = [text[index * size : (index + 1) * size] for text in texts]
            padded = [block + bytes(-len(block) % 4) for block in blocks]
            if padded[0] != padded[1]:
                break
            same += 1
        assert ours[0][:same] == ours[1][:same]
        assert not set(ours[0][same:]) & set(ours[1][same:])


def test_chat_is_serialised_as_go_does_on_v0_4_and_concatenated_on_v0_10() -> None:
    body = {
        "model": "m",
        "messages": [{"content": "a<b>&\n é \u2028", "name": "x", "role": "user"}],
        "tools": [{"a": 1}],
    }
    expected = '[{"role":"user","content":"a\\u003cb\\u003e\\u0026\\n é \\u2028"}]'
    assert parse_request(V0_4, body).text == expected.encode()
    assert parse_request(V0_10, body).text == '[{"a":1}]usera<b>&\n é \u2028'.encode()


def test_structured_content() -> None:
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "u"}}]
    body = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    expected = (
        '[{"role":"user","content":[{"type":"text","text":"hi","image_url":{}},'
        '{"type":"image_url","image_url":{"url":"u"}}]}]'
    )
    assert parse_request(V0_4, body).text.decode() == expected
    assert parse_request(V0_10, body).text == b"userhi"


def test_a_lone_surrogate_is_replaced() -> None:
    assert parse_request(V0_4, b'{"model":"m","prompt":"\\ud800"}').text == "\ufffd".encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "Error unmarshaling request body"),
        (b"[1]", "Error unmarshaling request body"),
        (b"\xff", "Error unmarshaling request body"),
        (b"null", "model not found in request body"),
        (b'{"model": 3, "prompt": "x"}', "model not found in request body"),
        (b'{"model": "m"}', "at least one message"),
        (b'{"model": "m", "prompt": ["a"]}', "at least one message"),
    ],
)
def test_bodies_that_the_picker_refuses(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_request(V0_4, body)


@given(st.text())
def test_bytes_and_mapping_are_read_alike(prompt: str) -> None:
    body: dict[str, Any] = {"model": "m", "prompt": prompt or "x"}
    assert parse_request(V0_4, json.dumps(body).encode()) == parse_request(V0_4, body)


def test_block_sizes() -> None:
    old, new = Rules.v0_4({}), Rules.v0_10({})
    assert [old.block_bytes(tokens) for tokens in (0, 16, 32)] == [64, 64, 128]
    assert [new.block_bytes(tokens) for tokens in (0, 16, 128)] == [256, 256, 512]
    assert new.block_limit(256) == 2048
    assert new.block_limit(512) == 1024


def test_rules_refuse_a_scorer_that_is_not_modelled() -> None:
    with pytest.raises(ValueError, match="load-aware-scorer"):
        Rules.v0_4({"load-aware-scorer": 1})
