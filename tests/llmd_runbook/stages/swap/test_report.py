"""The verdicts on a swap's probe, from requests written out by hand; each in the case in which it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmd_runbook.analysis.cutover import NEW, OLD, Asked, gap
from llmd_runbook.profile import Profile
from llmd_runbook.stages.swap.figure import requests_over_time
from llmd_runbook.stages.swap.probe import announced
from llmd_runbook.stages.swap.report import losses, service_gap
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.conftest import Bench

SURGE: dict[str, Any] = {
    "marks": {"moved": 5.0, "serving": 5.4, "drained": 6.0, "removed": 8.0},
    "trouble": "",
}
RECREATE: dict[str, Any] = {**SURGE, "marks": {"removed": 3.0, "moved": 6.5, "serving": 7.0}}


def one(model: str, sent_s: float, error: str | None, *, streamed: bool = False) -> Asked:
    status = None if error in ("connect", "disconnected") else 200 if error is None else int(error[5:])
    return Asked(model, streamed, sent_s, sent_s, sent_s + 0.3, status, error, f"{model}{sent_s}", 1, 10)


def surged(**errors: str) -> list[Asked]:
    """30 requests/s for ten seconds, the route moves at 5.1 s; `errors`: what became of request number N."""
    found = []
    for number in range(300):
        model, sent_s = (OLD, NEW)[number % 2], number / 30
        served = (model == OLD) == (sent_s < 5.1)
        error = errors.get(f"n{number}", None if served else "http_404")
        found.append(one(model, sent_s, error, streamed=number % 4 < 2))
    return found


def profile_of(bench: Bench, strategy: str, **more: str) -> Profile:
    profile = bench.profile
    return profile.model_copy(update={"swap": profile.swap.model_copy(update={"strategy": strategy, **more})})


def judged(bench: Bench, requests: list[Asked], data: dict[str, Any], strategy: str = "surge", **more: str) -> Check:
    return losses(requests, announced(profile_of(bench, strategy, **more), data), data, strategy=strategy)


def test_refusals_as_announced_are_no_losses(bench: Bench) -> None:
    found = judged(bench, surged(), SURGE)
    assert found.verdict is Verdict.PASS
    assert "0 of 300 lost at 30.0 requests/s" in found.observed
    assert "fewer than 0.99% are lost" in found.observed


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("n60", "http_404"),  # the old name before the move
        ("n60", "disconnected"),
        ("n154", "http_503"),  # the old name after it: a refusal is announced, this is none
        ("n201", "http_404"),  # the new name when Pattern 1 is drained
        ("n61", "http_500"),  # the new name before: not a refusal
    ],
)
def test_one_request_too_many_fails_and_is_named(bench: Bench, number: str, error: str) -> None:
    found = judged(bench, surged(**{number: error}), SURGE)
    assert found.verdict is Verdict.FAIL
    assert "1 of 300 lost" in found.observed
    assert any(line.startswith(f"{error}: ") for line in found.evidence)


@pytest.mark.parametrize(
    ("requests", "data", "why"),
    [
        ([asked for asked in surged() if not 2 < asked.sent_s < 4.5], SURGE, "it was silent for 2.5 s"),
        (surged()[::3], SURGE, "10.0 requests/s, 20 are needed"),
        (surged(), {**SURGE, "trouble": "the probe ended by itself"}, "the probe ended by itself"),
        ([asked for asked in surged() if not asked.streamed], SURGE, "no stream was open when the route moved"),
    ],
)
def test_a_probe_that_saw_too_little_proves_nothing(
    bench: Bench, requests: list[Asked], data: dict[str, Any], why: str
) -> None:
    found = judged(bench, requests, data)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert why in found.observed


def test_an_alias_must_be_answered(bench: Bench) -> None:
    found = judged(bench, surged(), SURGE, old_name="alias")
    assert found.verdict is Verdict.FAIL
    assert "73 of 300 lost" in found.observed  # every one under the old name, from the move on
    answered = [replace(one, error=None, status=200) if one.model == OLD else one for one in surged()]
    assert judged(bench, answered, SURGE, old_name="alias").verdict is Verdict.PASS


def test_an_alias_does_not_help_those_who_ask_at_an_address_that_is_left(bench: Bench) -> None:
    profile = profile_of(bench, "surge", old_name="alias")
    other = profile.model_copy(update={"pattern3": profile.pattern3.model_copy(update={"gateway": "h"})})
    assert any("the old address is left" in item.why for item in announced(other, SURGE))


def recreated(end: str | None = None) -> list[Asked]:
    found = []
    for number in range(300):
        model, sent_s = (OLD, NEW)[number % 2], number / 30
        if 3.0 < sent_s < 6.8:
            error: str | None = "http_503"
        else:
            served = (model == OLD) == (sent_s <= 3.0)
            error = end if served and model == NEW else None if served else "http_404"
        found.append(one(model, sent_s, error))
    return found


def test_an_announced_outage_is_measured(bench: Bench) -> None:
    said = announced(profile_of(bench, "recreate"), RECREATE)
    assert judged(bench, recreated(), RECREATE, "recreate").verdict is Verdict.PASS
    found = service_gap(recreated(), gap(recreated(), said), RECREATE)
    assert found.verdict is Verdict.PASS
    assert found.observed == "between 3.77 and 3.83 s; lost in it: 56 under the old name, 57 under the new one"


def test_an_outage_that_does_not_end_fails(bench: Bench) -> None:
    said = announced(profile_of(bench, "recreate"), RECREATE)
    requests = recreated("http_503")
    assert judged(bench, requests, RECREATE, "recreate").verdict is Verdict.FAIL
    found = service_gap(requests, gap(requests, said), RECREATE)
    assert found.verdict is Verdict.FAIL
    assert "nothing was answered after it" in found.observed


def test_a_gap_of_which_one_end_was_not_seen_is_not_known(bench: Bench) -> None:
    requests = [asked for asked in recreated() if asked.sent_s > 4]
    found = service_gap(requests, gap(requests, announced(profile_of(bench, "recreate"), RECREATE)), RECREATE)
    assert found.verdict is Verdict.INCONCLUSIVE


def test_after_a_way_back_the_new_name_may_be_refused_and_the_old_one_not(bench: Bench) -> None:
    marks = {"moved": 5.0, "serving": 5.4, "rolling back": 7.0, "restored": 8.0}
    said = announced(profile_of(bench, "surge"), {**SURGE, "marks": marks})
    assert any(item.covers(one(NEW, 7.5, "http_503")) for item in said)
    assert any(item.covers(one(OLD, 7.5, "http_404")) for item in said)
    assert not any(item.covers(one(OLD, 7.5, "http_503")) for item in said)
    assert not any(item.covers(one(OLD, 8.5, "http_404")) for item in said)
    assert not any(item.covers(one(NEW, 6.5, "http_503")) for item in said)


@pytest.mark.parametrize(
    ("marks", "end", "verdict"),
    [
        ({"rolling back": 7.0, "restored": 8.0}, None, Verdict.PASS),
        ({"rolling back": 7.0, "restored": 8.0}, "http_503", Verdict.FAIL),
        ({"rolling back": 7.0}, None, Verdict.PASS),  # what failed of the way back left the old name answered
        ({"rolling back": 7.0}, "http_503", Verdict.FAIL),
        ({}, None, Verdict.FAIL),  # it stopped where it failed: clients were to get the new name
    ],
)
def test_who_is_answered_at_the_end_depends_on_whether_a_way_back_was_begun(
    bench: Bench, marks: dict[str, float], end: str | None, verdict: Verdict
) -> None:
    """The new name is refused all the time: Pattern 3 never got a request."""
    requests = [one((OLD, NEW)[n % 2], n / 30, "http_404" if n % 2 else end if n > 240 else None) for n in range(300)]
    data = {"marks": marks, "trouble": ""}
    found = service_gap(requests, gap(requests, announced(profile_of(bench, "surge"), data)), data)
    assert found.verdict is verdict
    assert f"answers under the {'old' if marks else 'new'} name" in found.expected
    assert ("nothing was answered after it" in found.observed) is bool(end)


@pytest.mark.parametrize("stamp", ["simulated engine", ""])
@pytest.mark.parametrize("requests", [surged(n60="http_500"), []], ids=["some", "none"])
def test_a_simulated_picture_says_so(bench: Bench, requests: list[Asked], stamp: str) -> None:
    said = announced(profile_of(bench, "surge"), SURGE)
    made = requests_over_time(requests, said, SURGE["marks"], title="a swap", names={OLD: "a", NEW: "b"}, stamp=stamp)
    assert made.data.startswith(b"\x89PNG\r\n\x1a\n")
    assert ("[simulated engine]" in repr(made)) is bool(stamp)
