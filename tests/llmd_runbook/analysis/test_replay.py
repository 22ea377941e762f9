"""Every decision that was recorded from the real pickers, made again; and recordings that do not agree."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.analysis.replay import HASHES, PICK, RecordingError, replay
from llmd_runbook.analysis.scorers import KV_SCORER, NO_HIT_SCORER, PREFIX_SCORER, QUEUE_SCORER, Generation

DATA = Path(__file__).parents[2] / "data"


def recording(generation: Generation) -> list[str]:
    with gzip.open(DATA / f"picker-golden-{generation}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return list(lines)


@pytest.mark.parametrize(
    ("generation", "parts"),
    [
        (Generation.V0_4, {HASHES, QUEUE_SCORER, KV_SCORER, PREFIX_SCORER, PICK}),
        (Generation.V0_10, {NO_HIT_SCORER, QUEUE_SCORER, KV_SCORER, PREFIX_SCORER, PICK}),
    ],
)
def test_every_hash_score_and_pick_is_reproduced(generation: Generation, parts: set[str]) -> None:
    found = replay(recording(generation))
    assert found.whole
    assert found.decisions == 400
    assert found.agreed == dict.fromkeys(parts, 400)


def test_the_recordings_exercise_what_they_should() -> None:
    for generation in Generation:
        decisions = [json.loads(line) for line in recording(generation)[1:]]
        prefix = [score for line in decisions for score in line["scores"][PREFIX_SCORER].values()]
        assert sum(0 < score < 1 for score in prefix) > 50
        assert sum(score == 1 for score in prefix) > 10
        assert any("messages" in line["body"] for line in decisions)


def spoil(lines: list[str], number: int, change: Callable[[dict[str, Any]], object]) -> list[str]:
    content = json.loads(lines[number])
    change(content)
    return [*lines[:number], json.dumps(content), *lines[number + 1 :]]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (HASHES, lambda line: line["hashes"].__setitem__(0, "0" * 16)),
        (HASHES, lambda line: line["hashes"].append("0" * 16)),
        (QUEUE_SCORER, lambda line: line["scores"][QUEUE_SCORER].__setitem__("p0", 0.5)),
        (KV_SCORER, lambda line: line["scores"][KV_SCORER].__setitem__("p0", 0.25)),
        (PREFIX_SCORER, lambda line: line["scores"][PREFIX_SCORER].__setitem__("p0", 0.125)),
    ],
)
def test_one_wrong_value_is_found_and_explained(part: str, change: Callable[[dict[str, Any]], object]) -> None:
    found = replay(spoil(recording(Generation.V0_4), 1, change))
    assert not found.whole
    assert [(item.line, item.part) for item in found.disagreements] == [(2, part)]
    assert "recorded" in found.disagreements[0].detail


def test_a_pick_beside_the_best_is_found() -> None:
    def worst(line: dict[str, Any]) -> None:
        line["picked"] = "p1"  # the longest queue

    found = replay(spoil(recording(Generation.V0_4), 1, worst))
    assert found.disagreements[0].part == PICK
    assert "recorded p1" in found.disagreements[0].detail


def test_a_recording_with_other_weights_disagrees_on_picks_alone() -> None:
    lines = recording(Generation.V0_4)
    lines[0] = lines[0].replace("prefix-cache-scorer 3", "prefix-cache-scorer 0.1")
    assert {item.part for item in replay(lines).disagreements} == {PICK}


@pytest.mark.parametrize(
    ("lines", "number", "says"),
    [
        ([], 1, "empty"),
        (["{"], 1, "not JSON"),
        (["[]"], 1, "not a JSON object"),
        (["{}"], 1, "must name"),
        (['{"picker": "x", "config": "none", "pods": {}}'], 1, "no weights"),
        (['{"picker": "x", "config": "lora-scorer 1", "pods": {}}'], 1, "no scorer lora-scorer"),
        (['{"picker": "x", "config": "queue-scorer 2", "pods": {}}', '{"id": "a"}'], 2, "not a decision"),
    ],
)
def test_what_is_no_recording_is_refused_with_its_line(lines: list[str], number: int, says: str) -> None:
    with pytest.raises(RecordingError, match=says) as caught:
        replay(lines)
    assert caught.value.line == number


def test_a_header_alone_proves_nothing() -> None:
    assert not replay(recording(Generation.V0_4)[:1]).whole
