"""Log lines as both generations of the real picker wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_runbook.analysis.picker_log_lines import Metrics, PickerLines, pod_of
from llmd_runbook.analysis.scorers import KV_SCORER, NO_HIT_SCORER, PREFIX_SCORER, QUEUE_SCORER

DATA = Path(__file__).parents[2] / "data"


def lines(generation: str) -> list[str]:
    return (DATA / f"picker-{generation}-one-request.log").read_text(encoding="utf-8").splitlines()


def as_json(console: str) -> str:
    """A v0.4 line as `--zap-encoder json` has it."""
    time, level, caller, message, fields = console.split("\t")
    return json.dumps({"level": level, "ts": time, "caller": caller, "msg": message, **json.loads(fields)})


@pytest.mark.parametrize("form", ["console", "json"])
def test_v0_4_in_both_forms(form: str) -> None:
    found = PickerLines()
    found.feed(lines("v0.4") if form == "console" else [as_json(line) for line in lines("v0.4")])
    [decided] = found.handled
    chosen, others = "ms-pattern3-decode-77f4b89c85-kjfvs", {"z6p5r", "6wzfh"}
    assert (decided.request_id, decided.chosen, found.unreadable) == ("probe-2", ["127.1.0.11:8000"], 0)
    assert decided.addresses["127.1.0.11:8000"] == chosen
    assert decided.scores[PREFIX_SCORER][chosen] == 1
    assert {decided.scores[PREFIX_SCORER][f"ms-pattern3-decode-77f4b89c85-{end}"] for end in others} == {0}
    assert [len(decided.scores[scorer]) for scorer in (QUEUE_SCORER, KV_SCORER)] == [3, 3]
    assert decided.totals[chosen] == 7
    assert decided.metrics[chosen] == Metrics(waiting=0, kv_usage=0, block_size=32, num_blocks=16384)
    assert decided.hashes is not None
    assert (len(decided.hashes), decided.hashes[0]) == (6, 8335010772753779818)


def test_v0_10() -> None:
    found = PickerLines()
    found.feed(lines("v0.10"))
    [decided] = found.handled
    assert decided.chosen == ["127.2.0.2:8000"]
    assert decided.addresses["127.2.0.2:8000"] == "p1"
    assert decided.scores[QUEUE_SCORER] == {"p0": 1, "p2": 0.75, "p1": 1, "p3": 0}
    assert decided.scores[NO_HIT_SCORER]["p3"] == 0.33333333333333337
    assert decided.metrics["p2"] == Metrics(waiting=2, kv_usage=0.159, block_size=16, num_blocks=64)
    assert decided.totals["p1"] == 5.748
    assert decided.hashes is None


def test_lines_that_come_twice_change_nothing() -> None:
    once, twice = PickerLines(), PickerLines()
    once.feed(lines("v0.4"))
    twice.feed([*lines("v0.4"), *lines("v0.4")])
    assert twice.decided == once.decided


def test_at_level_3_only_the_choice_is_known() -> None:
    found = PickerLines()
    found.feed(line for line in lines("v0.4") if "LEVEL(-3)" in line)
    [decided] = found.handled
    assert (decided.chosen, decided.scores, decided.metrics) == (["127.1.0.11:8000"], {}, {})


def test_an_id_that_is_used_twice_keeps_both_choices() -> None:
    handled = next(line for line in lines("v0.4") if "Request handled" in line)
    found = PickerLines()
    found.feed([handled, handled.replace("127.1.0.11", "127.1.0.12")])
    assert found.decided["probe-2"].chosen == ["127.1.0.11:8000", "127.1.0.12:8000"]


def test_a_line_that_was_cut_is_counted_and_passed_over() -> None:
    found = PickerLines()
    found.feed([line[:-20] if "Candidate pods" in line else line for line in lines("v0.10")])
    assert found.unreadable == 1
    assert len(found.handled) == 1


@pytest.mark.parametrize("name", ["odd-rank-", "rank-0", "-rank-0", "pod-rank-x"])
def test_a_name_without_a_rank_is_a_pods_own(name: str) -> None:
    assert pod_of(name) == name
