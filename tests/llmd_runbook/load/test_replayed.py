"""A trace as prompts: its times, its lengths, and what its requests share."""

from __future__ import annotations

import json

import pytest

from llmd_runbook.analysis.traces import read
from llmd_runbook.load.replayed import replayed


def test_a_prompt_file_is_sent_as_it_stands_from_its_first_arrival_on() -> None:
    lines = [
        json.dumps({"arrival_s": at, "model": "m", "prompt": text, "output_tokens": tokens})
        for at, text, tokens in ((12.5, "second", 7), (10.0, "first", 3))
    ]
    prompts, times = replayed(read(lines), seed=1)
    assert times.due_s == [0.0, 2.5]
    assert [(prompt.text, prompt.output_tokens) for prompt in prompts] == [("first", 3), ("second", 7)]
    assert [prompt.group for prompt in prompts] == ["t0", "t1"]


def test_blocks_of_a_mooncake_trace_become_words_that_are_shared_as_the_ids_are() -> None:
    lines = [
        json.dumps({"timestamp": at, "input_length": tokens, "output_length": 5, "hash_ids": ids})
        for at, tokens, ids in ((1000, 1000, [7, 8]), (1500, 600, [7, 9]), (1500, 700, [7]))
    ]
    prompts, times = replayed(read(lines), seed=1)
    words = [prompt.text.split() for prompt in prompts]
    assert times.due_s == [0.0, 0.5, 0.5]
    assert list(map(len, words)) == [1000, 600, 700]
    assert words[0][:512] == words[1][:512] == words[2][:512]
    assert words[0][512:600] != words[1][512:600] != words[2][512:600]
    assert replayed(read(lines), seed=1)[0] == prompts
    assert replayed(read(lines), seed=2)[0] != prompts


def test_chat_messages_are_refused() -> None:
    line = json.dumps(
        {"arrival_s": 0, "model": "m", "messages": [{"role": "user", "content": "hi"}], "output_tokens": 1}
    )
    with pytest.raises(ValueError, match="chat messages"):
        replayed(read([line]), seed=1)
