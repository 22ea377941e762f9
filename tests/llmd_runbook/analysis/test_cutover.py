"""A swap's requests, written out by hand: what was announced, what was not, and how long the gap was."""

from __future__ import annotations

import math

import pytest

from llmd_runbook.analysis.cutover import (
    NEW,
    OLD,
    Announced,
    Asked,
    Outcome,
    counts,
    gap,
    longest_silence_s,
    open_streams,
    outcome,
    rate_per_s,
    share_at_least,
    share_at_most,
)


def asked(
    model: str, sent_s: float, error: str | None = None, *, lasts_s: float = 0.1, streamed: bool = False
) -> Asked:
    status = 200 if error is None else int(error[5:]) if error.startswith("http_") else None
    return Asked(model, streamed, sent_s, sent_s, sent_s + lasts_s, status, error, f"{model}-{sent_s}", 1, 10)


OUTAGE = [Announced("outage", name, 10.0, 20.0, refusals_only=False) for name in (OLD, NEW)]
REFUSED = [Announced("old is refused", OLD, 10.0, math.inf, refusals_only=True)]


@pytest.mark.parametrize(
    ("one", "what"),
    [
        (asked(OLD, 5), Outcome.ANSWERED),
        (asked(OLD, 5, "http_503"), Outcome.LOST),
        (asked(OLD, 9.95, "disconnected"), Outcome.OUTAGE),  # under way when it began
        (asked(OLD, 15, "http_503"), Outcome.OUTAGE),
        (asked(OLD, 15, "http_404"), Outcome.REFUSED),
        (asked(OLD, 25, "http_404"), Outcome.REFUSED),
        (asked(OLD, 25, "http_503"), Outcome.LOST),
        (asked(NEW, 15, "timeout"), Outcome.OUTAGE),
        (asked(NEW, 15, "http_404"), Outcome.OUTAGE),
        (asked(NEW, 20.5, "http_404"), Outcome.LOST),
        (asked(NEW, 9, "http_404"), Outcome.LOST),
    ],
)
def test_what_became_of_a_request(one: Asked, what: Outcome) -> None:
    assert outcome(one, [*OUTAGE, *REFUSED]) is what


def test_all_are_counted_by_name() -> None:
    requests = [asked(OLD, 1), asked(OLD, 2), asked(OLD, 11, "http_404"), asked(NEW, 1, "http_404")]
    found = counts(requests, REFUSED)
    assert dict(found[OLD]) == {Outcome.ANSWERED: 2, Outcome.REFUSED: 1}
    assert dict(found[NEW]) == {Outcome.LOST: 1}


def test_the_gap_lies_between_the_last_answer_before_it_and_the_first_after_it() -> None:
    requests = [
        *(asked(NEW, at, "http_404") for at in (8.5, 9.5)),
        *(asked(OLD, at) for at in (8.0, 9.0)),
        asked(OLD, 9.9, "disconnected", lasts_s=0.5),
        *(asked(OLD, at, "http_503") for at in (11.0, 13.0)),
        *(asked(NEW, at, "http_503") for at in (12.0, 16.0)),
        *(asked(NEW, at) for at in (17.0, 18.0)),
        asked(OLD, 19.0, "http_404"),
    ]
    found = gap(requests, [*OUTAGE, *REFUSED])
    assert (found.before_s, found.after_s) == (9.0, 17.0)
    assert found.at_most_s == 8.0
    assert found.at_least_s == pytest.approx(6.5)  # from 9.5, refused to the new name, to 16.0
    assert found.lost == {OLD: 3, NEW: 2}


def test_an_old_name_that_is_an_alias_does_not_hide_the_gap() -> None:
    requests = [*(asked(OLD, at / 10) for at in range(10)), *(asked(OLD, at / 10, "http_503") for at in range(10, 40))]
    requests += [asked((OLD, NEW)[at % 2], at / 10) for at in range(40, 60)]
    found = gap(requests, [])
    assert (found.before_s, found.after_s) == (0.9, 4.0)
    assert found.at_least_s == pytest.approx(2.9)


def test_patterns_that_overlap_leave_no_gap_but_the_probes_spacing() -> None:
    requests = [asked(OLD, 0.1 * at) for at in range(20)] + [asked(NEW, 0.05 + 0.1 * at) for at in range(15, 30)]
    refused = [asked(OLD, 0.1 * at, "http_404") for at in range(20, 34)]  # the last one later than any answer
    found = gap([*requests, *refused], REFUSED)
    assert found.at_most_s == pytest.approx(0.1)
    assert found.at_least_s == 0.0


@pytest.mark.parametrize(
    ("requests", "ends"),
    [
        ([], (None, None)),
        ([asked(OLD, 1)], (None, None)),
        ([asked(OLD, 1, "http_503")], (None, None)),
        ([asked(OLD, 1), asked(NEW, 1.2), asked(NEW, 2.5, "http_503")], (1.2, None)),
        ([asked(OLD, 0, "http_503"), asked(NEW, 1.2), asked(NEW, 1.4)], (None, 1.2)),
    ],
)
def test_a_gap_without_both_ends_has_no_length(requests: list[Asked], ends: tuple[float | None, float | None]) -> None:
    found = gap(requests, [])
    assert (found.before_s, found.after_s) == ends
    assert found.at_most_s is None


def test_how_the_probe_kept_its_schedule() -> None:
    requests = [asked(OLD, at) for at in (0.0, 0.1, 0.2, 1.7, 2.0)]
    assert rate_per_s(requests) == pytest.approx(2.0)
    assert longest_silence_s(requests) == pytest.approx(1.5)
    assert (rate_per_s([]), longest_silence_s([])) == (0.0, 0.0)
    assert rate_per_s(requests[:1]) == 0.0


def test_streams_that_are_open_at_a_moment() -> None:
    streams = [asked(OLD, at, lasts_s=1.0, streamed=True) for at in (0.0, 0.5, 2.0)]
    assert open_streams([*streams, asked(OLD, 0.5, lasts_s=1.0)], 0.8) == 2
    assert open_streams(streams, math.inf) == 0


def test_shares_have_exact_bounds() -> None:
    assert share_at_most(0, 299) == pytest.approx(1 - 0.05 ** (1 / 299))  # none of n: 1 - alpha^(1/n)
    assert share_at_least(1, 1) == pytest.approx(0.05)
    assert (share_at_least(0, 50), share_at_most(5, 5), share_at_most(0, 0)) == (0.0, 1.0, 1.0)
    assert share_at_least(3, 40) < 3 / 40 < share_at_most(3, 40)
