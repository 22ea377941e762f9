"""What is recorded is replayed and agrees, with the metrics that were logged as with those that scores imply."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.analysis.picker_log_lines import Decided, Metrics
from llmd_runbook.analysis.recording import NotRecordable, recording
from llmd_runbook.analysis.replay import HASHES, PICK, read_header, replay
from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER, Generation, Rules

DATA = Path(__file__).parents[2] / "data"


def golden(generation: Generation) -> tuple[Rules, dict[str, dict[str, int]], list[dict[str, Any]]]:
    with gzip.open(DATA / f"picker-golden-{generation}.jsonl.gz", "rt", encoding="utf-8") as lines:
        first, *rest = lines
    sizes = {name: dict(one) for name, one in read_header(1, first).endpoints.items()}
    return read_header(1, first).rules, sizes, [json.loads(line) for line in rest]


def decided(sizes: dict[str, dict[str, int]], items: list[dict[str, Any]]) -> Iterator[Decided]:
    for item in items:
        seen = {
            name: Metrics(one["waiting"], one["kv"], sizes[name]["block_size"], sizes[name]["num_gpu_blocks"])
            for name, one in item["pods"].items()
        }
        hashes = [int(block, 16) for block in item["hashes"]] if "hashes" in item else None
        yield Decided(item["id"], [f"ip-{item['picked']}"], item["scores"], seen, {}, hashes)


@pytest.mark.parametrize("generation", list(Generation))
def test_a_real_pickers_decisions_survive_the_way_through_log_and_recording(generation: Generation) -> None:
    rules, sizes, items = golden(generation)
    bodies = {item["id"]: item["body"] for item in items}
    addresses = {f"ip-{name}": name for name in sizes}
    lines = list(recording(rules, decided(sizes, items), bodies, addresses, what="test"))
    assert [json.loads(line)["picked"] for line in lines[1:]] == [item["picked"] for item in items]
    found = replay(lines)
    assert (found.whole, found.decisions, found.header.rules.generation) == (True, 400, generation)
    assert (HASHES in found.compared) is (generation is Generation.V0_4)


def test_metrics_that_were_not_logged_follow_from_the_scores() -> None:
    """Without an eviction sizes do not matter; the first decisions of a real picker, its metrics taken away."""
    rules, sizes, items = golden(Generation.V0_4)
    untuned = [replace(one, metrics={}) for one in decided(sizes, items[:10])]
    bodies = {item["id"]: item["body"] for item in items}
    lines = list(recording(rules, untuned, bodies, {f"ip-{name}": name for name in sizes}, what="test"))
    found = replay(lines)
    assert found.whole, found.disagreements
    assert found.agreed == dict.fromkeys([HASHES, QUEUE_SCORER, KV_SCORER, PREFIX_SCORER, PICK], 10)
    assert any(one["waiting"] > 0 for line in lines[1:] for one in json.loads(line)["pods"].values())


def test_a_recording_of_a_picker_that_decides_otherwise_does_not_agree() -> None:
    rules, sizes, items = golden(Generation.V0_4)
    for item in items:
        item["scores"][KV_SCORER] = dict.fromkeys(item["pods"], 1.0)
    bodies = {item["id"]: item["body"] for item in items}
    lines = recording(rules, decided(sizes, items), bodies, {f"ip-{name}": name for name in sizes}, what="test")
    assert not replay(lines).whole


def test_what_the_form_cannot_say_is_not_recorded() -> None:
    rules, sizes, items = golden(Generation.V0_4)
    tuned = replace(rules, lru_capacity=7)
    with pytest.raises(NotRecordable, match="more than weights"):
        list(recording(tuned, decided(sizes, items), {}, {}, what="test"))
    choices = [Decided("r", ["ip-p0"])]
    with pytest.raises(NotRecordable, match="verbosity 4"):
        list(recording(rules, choices, {"r": {"model": "m"}}, {"ip-p0": "p0"}, what="test"))


def test_requests_of_somebody_else_and_unclear_ones_are_left_out() -> None:
    rules, sizes, items = golden(Generation.V0_4)
    first, second, third, *_ = decided(sizes, items)
    bodies = {item["id"]: item["body"] for item in items[1:]}
    unclear = replace(second, chosen=[*second.chosen, "ip-other"])
    lines = list(recording(rules, [first, unclear, third], bodies, {f"ip-{name}": name for name in sizes}, what="t"))
    assert [json.loads(line)["id"] for line in lines[1:]] == [third.request_id]
