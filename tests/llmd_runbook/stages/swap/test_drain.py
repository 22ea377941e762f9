"""When a pattern counts as idle, from what its replicas' counters say one reading after the other."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llmd_runbook.clients.metrics import PREFIX_QUERIES, REQUESTS, RUNNING, WAITING, Snapshot
from llmd_runbook.errors import DeadlineExceeded, NotFound, Unreachable
from llmd_runbook.run import StageRun
from llmd_runbook.stages.swap import drain
from tests.llmd_runbook.memory import Memory

Open = Callable[[str], StageRun]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, pause_s: float) -> None:
        self.now_s += pause_s


def quiet_after(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, readings: list[tuple[float, ...]]
) -> tuple[float, float]:
    """How long it was quiet, and when that was known; `readings` one a second, the last for ever; (): no answer."""
    clock, left = Clock(), list(readings)

    def read(*_: Any) -> drain.Counters:
        found = left.pop(0) if len(left) > 1 else left[0]
        if not found:
            raise Unreachable("cannot read a replica's metrics", reason="Connection refused")
        return {"pod": found}

    monkeypatch.setattr(drain, "time", clock)
    monkeypatch.setattr(drain, "read", read)
    stage = open_stage("03_swap_patterns")
    stage.profile = stage.profile.model_copy(update={"swap": stage.profile.swap.model_copy(update={"quiet_s": 5})})
    with stage.step("drain") as step:
        found = drain.until_quiet(stage, Memory(), stage.profile.pattern1, step)
    return found, clock.now_s


def test_it_is_quiet_when_nothing_moved_for_long_enough(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    assert quiet_after(open_stage, monkeypatch, [(7, 70, 0, 0)]) == (5, 5)


@pytest.mark.parametrize(
    "busy",
    [(8, 70, 0, 0), (7, 71, 0, 0), (7, 70, 1, 0), (7, 70, 0, 1)],
    ids=["a request done", "a prompt looked up", "one running", "one waiting"],
)
def test_whatever_reaches_it_begins_the_time_anew(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, busy: tuple[float, ...]
) -> None:
    calm = (7.0, 70.0, 0.0, 0.0)
    after = busy if not any(busy[2:]) else calm
    _, known_s = quiet_after(open_stage, monkeypatch, [calm, calm, calm, busy, after])
    assert known_s == (8 if after is busy else 9)


def test_a_request_that_never_ends_is_told(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeadlineExceeded, match="the requests to a to end") as caught:
        quiet_after(open_stage, monkeypatch, [(7, 70, 1, 0)])
    assert "7 requests done, 1 under way" in (caught.value.reason or "")


@pytest.mark.parametrize("first", [[], [(7.0, 70.0, 0.0, 0.0)]], ids=["at once", "later"])
def test_a_replica_that_crashes_begins_the_time_anew_and_is_read_again(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, first: list[tuple[float, ...]]
) -> None:
    _, known_s = quiet_after(open_stage, monkeypatch, [*first, (), (), (0.0, 0.0, 0.0, 0.0)])
    assert known_s == len(first) + 2 + 5


def test_a_replica_that_is_ready_and_never_answers_is_told(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        quiet_after(open_stage, monkeypatch, [(7, 70, 0, 0), ()])
    assert "cannot read a replica's metrics: Connection refused" in (caught.value.reason or "")


@pytest.mark.parametrize("ready", [True, False])
def test_only_what_is_ready_must_answer(open_stage: Open, monkeypatch: pytest.MonkeyPatch, ready: bool) -> None:
    def silent(_: Any) -> Snapshot:
        raise Unreachable("cannot read a replica's metrics", reason="Connection refused")

    monkeypatch.setattr(drain, "pool_view", lambda *_: SimpleNamespace(target_port=8000))
    monkeypatch.setattr(drain, "live", lambda *_: [SimpleNamespace(name="pod", ready=ready, manifest={})])
    monkeypatch.setattr(drain, "Scraper", lambda *_: SimpleNamespace(scrape=silent))
    stage = open_stage("03_swap_patterns")
    if ready:
        with pytest.raises(Unreachable):
            drain.read(stage, Memory(), stage.profile.pattern1)
    else:
        assert drain.read(stage, Memory(), stage.profile.pattern1) == {}


def test_what_exposes_no_counter_is_never_idle(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = [REQUESTS, PREFIX_QUERIES, RUNNING, WAITING]
    pod = Snapshot("pod", "pod IP", {name: [({}, 0.0)] for name in names[:-1]})
    monkeypatch.setattr(drain, "pool_view", lambda *_: SimpleNamespace(target_port=8000))
    monkeypatch.setattr(drain, "live", lambda *_: [SimpleNamespace(name="pod", ready=True, manifest={})])
    monkeypatch.setattr(drain, "Scraper", lambda *_: SimpleNamespace(scrape=lambda _: pod))
    stage = open_stage("03_swap_patterns")
    with pytest.raises(NotFound, match=WAITING):
        drain.read(stage, Memory(), stage.profile.pattern1)
    pod.samples[WAITING] = [({}, 2.0)]
    assert not drain.idle(drain.read(stage, Memory(), stage.profile.pattern1))
