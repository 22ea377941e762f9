from __future__ import annotations

import random

import pytest

from llmd_runbook.analysis.replica_loss import Home, Request, fullest, homes, judge_moves, judge_service, loss

GROUPS = [f"g{n}" for n in range(6)]
BEFORE = {group: Home("abc"[n % 3], 3, 3) for n, group in enumerate(GROUPS)}


def request(
    group: str, sent_s: float, replica: str | None = "b", error: str | None = None, took_s: float = 0.5
) -> Request:
    return Request(group, sent_s, sent_s + took_s, replica, error)


def later(place: dict[str, str], rounds: int = 6) -> list[Request]:
    return [request(group, 1 + n + i / 10, place[group]) for n in range(rounds) for i, group in enumerate(GROUPS)]


MOVED = {"g0": "b", "g1": "b", "g2": "c", "g3": "c", "g4": "b", "g5": "c"}


def test_homes_are_where_most_was_answered() -> None:
    found = homes(
        [
            request("g0", 0, "b"),
            request("g0", 1, "a"),
            request("g0", 2, "a"),
            request("g1", 3, "b"),
            request("g1", 4, "a"),
            request("g2", 5, None),
            request("g3", 6, "a", "timeout"),
        ]
    )
    assert found == {"g0": Home("a", 2, 3), "g1": Home("a", 1, 2)}  # of equals the first by name
    assert fullest(found) == "a"
    with pytest.raises(ValueError, match="no group"):
        fullest({})


def test_every_request_is_counted_once_by_phase_and_outcome() -> None:
    found = loss(
        [
            request("g0", -2.0, "a"),
            request("g0", -1.0, "c"),
            request("g1", -0.2, None, "disconnected"),
            request("g2", -0.1, "b"),
            request("g3", 0.1, "a", "http_503", 0.1),
            request("g4", 0.2, "b"),
            request("g5", 2.0, "d"),
            request("g5", 3.0, None),
        ],
        "a",
    )
    assert (found.before.sent, found.in_flight.sent, found.after.sent) == (2, 2, 4)
    assert (found.in_flight.lost, found.after.lost) == ({"disconnected": 1}, {"http_503": 1})
    assert (found.lost, found.after.answered) == (2, 3)
    assert (found.last_chosen_s, found.answered_again_s) == (0.1, 0.7)
    assert found.longest_gap_s == pytest.approx(1.8)
    assert (found.by_survivors, found.unattributed) == (1, 1)  # "d" came after the kill: no survivor


def test_an_answer_by_the_killed_replica_counts_as_choosing_it() -> None:
    assert loss([request("g0", -1, "b"), request("g0", 0.3, "a"), request("g0", 0.6, "b")], "a").last_chosen_s == 0.3


def served(*requests: Request) -> bool | None:
    early = [request("g0", -2.0, "a"), request("g1", -2.0, "b")]
    return judge_service(loss([*early, *requests], "a"), within_s=30).ok


def test_service_continues_only_where_others_answer_and_losses_end() -> None:
    good = [request("g1", 1.0, "b"), request("g1", 50.0, "b")]
    assert served(*good) is True
    assert served(request("g0", 29.0, None, "http_503"), *good) is True
    assert served(request("g0", 31.0, None, "http_503"), *good) is False
    assert served(request("g0", 31.0, "a"), *good) is False
    assert served(request("g1", 1.0, "d")) is False  # only its replacement answers
    assert served(request("g1", 1.0, "b"), request("g1", 2.0, None, "timeout")) is False  # and nothing after it
    assert served(request("g1", 1.0, None)) is None  # somebody answered: who, is not known
    assert served() is None


def test_every_prefix_with_one_new_home_passes() -> None:
    judged = judge_moves(BEFORE, later(MOVED), "a", seed=1)
    assert judged.ok is True
    assert "2 of 2 prefixes of the killed replica have a new home" in judged.reason


@pytest.mark.parametrize("seed", range(20))
def test_routing_blind_to_prefixes_fails(seed: int) -> None:
    rng = random.Random(seed)
    blind = [Request(r.group, r.sent_s, r.done_s, rng.choice("bc"), None) for r in later(MOVED, rounds=12)]
    assert judge_moves(BEFORE, blind, "a", seed=seed).ok is False


def test_one_prefix_that_finds_no_home_fails() -> None:
    lost = [r for r in later(MOVED) if r.group != "g0"]
    wandering = [request("g0", 1 + n, "bc"[n % 2]) for n in range(6)]
    still = [request("g0", 1 + n, "a") for n in range(6)]
    for own in ([], wandering, still):
        assert judge_moves(BEFORE, [*lost, *own], "a", seed=1).ok is False


def test_nothing_is_proved_by_one_replica_or_by_nobody_knows_whom() -> None:
    one = dict.fromkeys(GROUPS, "b")
    assert judge_moves(BEFORE, later(one), "a", seed=1).ok is None
    assert judge_moves(BEFORE, later(MOVED, rounds=1), "a", seed=1).ok is None
    assert judge_moves(BEFORE, [request("g0", 1, None)], "a", seed=1).ok is None
    assert judge_moves({}, later(MOVED), "a", seed=1).ok is None
