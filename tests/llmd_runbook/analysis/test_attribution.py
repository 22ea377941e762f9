"""Who served what: the order of the evidence, what contradicts it, and counters that do not add up."""

from __future__ import annotations

import pytest

from llmd_runbook.analysis.attribution import (
    Counts,
    Evidence,
    Replica,
    Sent,
    Served,
    attribute,
    in_headers,
    reconcile,
)
from llmd_runbook.analysis.picker_log_lines import Decided

REPLICAS = [Replica("a", "10.0.0.1:8000"), Replica("b", "10.0.0.2:8000")]


def logged(*chosen: str) -> dict[str, Decided]:
    return {"r": Decided("r", list(chosen))}


@pytest.mark.parametrize(
    ("headers", "replica"),
    [
        ({"x-inference-pod": "b"}, "b"),
        ({"x-endpoint": "a-rank-0"}, "a"),
        ({"x-gateway-destination-endpoint": "10.0.0.2:8000"}, "b"),
        ({"x-inference-pod": "c"}, None),
        ({"one": "a", "two": "b"}, None),
        ({"server": "uvicorn"}, None),
    ],
)
def test_a_header_names_one_replica_or_none(headers: dict[str, str], replica: str | None) -> None:
    assert in_headers(headers, REPLICAS) == replica


def test_the_best_evidence_at_hand_is_taken() -> None:
    header, log = {"x-inference-pod": "a"}, logged("10.0.0.1:8000")
    [served] = attribute([Sent("r", header, ["a"])], REPLICAS, log)
    assert (served.replica, served.evidence) == ("a", Evidence.HEADER)
    [served] = attribute([Sent("r", {}, ["a"])], REPLICAS, log)
    assert (served.replica, served.evidence) == ("a", Evidence.PICKER_LOG)
    [served] = attribute([Sent("r", {}, ["b"])], REPLICAS)
    assert (served.replica, served.evidence) == ("b", Evidence.COUNTERS)


@pytest.mark.parametrize(
    ("sent", "log", "reason"),
    [
        (Sent("r", {"x-inference-pod": "b"}), logged("10.0.0.1:8000"), "the response names b, the picker's log a"),
        (Sent("r", {}), logged(), "does not have this request"),
        (Sent("r", {}), {}, "does not have this request"),
        (Sent("r", {}), logged("10.0.0.1:8000", "10.0.0.2:8000"), "10.0.0.1:8000 and 10.0.0.2:8000"),
        (Sent("r", {}), logged("10.9.9.9:8000"), "none of the replicas"),
        (Sent("r", {}, []), {}, "no replica"),
        (Sent("r", {}, ["a", "b"]), {}, "moved at a, b"),
    ],
)
def test_what_is_not_known_is_not_guessed(sent: Sent, log: dict[str, Decided], reason: str) -> None:
    [served] = attribute([sent], REPLICAS, log)
    assert (served.replica, served.evidence) == (None, None)
    assert reason in served.reason


def test_every_kind_of_evidence_states_its_claim() -> None:
    assert len({kind.claim for kind in Evidence}) == len(Evidence)
    assert "weaker" in Evidence.COUNTERS.claim


@pytest.mark.parametrize(
    ("counts", "answered", "unanswered", "ok", "reason"),
    [
        ({"a": Counts(10, 13), "b": Counts(0, 2)}, 5, 0, True, "5 counted for 5 sent"),
        ({"a": Counts(10, 13), "b": Counts(0, 3)}, 5, 0, None, "1 of somebody else's"),
        ({"a": Counts(10, 13), "b": Counts(0, 1)}, 5, 0, False, "1 served by no replica of these"),
        ({"a": Counts(10, 1), "b": Counts(0, 4)}, 5, 0, None, "fell at a"),
        ({"a": Counts(10, 13), "b": Counts(None, 2)}, 5, 0, None, "no counter of requests at b"),
        ({"a": Counts(10, 13), "b": Counts(0, 3)}, 5, 1, True, "6 counted for 6 sent"),
        ({"a": Counts(10, 13), "b": Counts(0, 2)}, 5, 1, True, "5 counted for 6 sent"),
        ({"a": Counts(10, 13), "b": Counts(0, 4)}, 5, 1, None, "1 of somebody else's"),
    ],
)
def test_the_counters_are_reconciled_with_what_was_sent(
    counts: dict[str, Counts], answered: int, unanswered: int, ok: bool | None, reason: str
) -> None:
    found = reconcile(counts, answered, unanswered)
    assert found.ok is ok
    assert reason in found.reason


def test_too_few_are_counted_where_a_counter_may_have_begun_anew() -> None:
    counts = {"a": Counts(0, 3), "b": Counts(0, 1)}
    assert reconcile(counts, 5).ok is False
    assert reconcile(counts, 5, 2).ok is False  # requests that failed are none that were answered
    found = reconcile(counts, 5, changed="b came, went or began anew meanwhile")
    assert found.ok is None
    assert "1 served by no replica of these, as far as one can tell: b came" in found.reason


def test_a_sum_that_is_right_by_accident_does_not_hide_a_contradiction() -> None:
    served = [Served(str(index), replica, Evidence.PICKER_LOG) for index, replica in enumerate("aab")]
    assert reconcile({"a": Counts(0, 2), "b": Counts(0, 1)}, 3, served=served).ok
    found = reconcile({"a": Counts(0, 1), "b": Counts(0, 2)}, 3, served=served)
    assert found.ok is None
    assert "a counted 1 of 2; b counted 2 of 1" in found.reason
