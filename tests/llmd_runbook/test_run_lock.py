"""The lock on a Lease API in memory: who gets it, who is told what, and when its holder stops."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from llmd_runbook.clients.lease import Lease
from llmd_runbook.errors import EXIT_LOCKED, Conflict, Locked, LockLost
from llmd_runbook.manifest import Process
from llmd_runbook.run import StageRun, begin, changes, lock
from llmd_runbook.run.context import machine, this_process
from llmd_runbook.run.lock import Holder, Lock, Times
from llmd_runbook.verdicts import StepStatus
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.lease_api import LeaseApi

NAME = "llmd-runbook-pool"
WHERE = f"lease default/{NAME}"
OFTEN = Times(lease_s=30, renew_s=0.01, trusted_s=600.0)
LONG_AGO, NEVER_YET = "2001-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"


def holder(run: str, **other: Any) -> Holder:
    return replace(Holder("ann", run, "02_scale_pool", this_process(), machine()), **other)


ELSEWHERE = holder("other", process=Process(pid=7, host="far", started_s=5.0), machine="f00")


class Bob:
    """Makes locks on one API, and gives them all back."""

    def __init__(self) -> None:
        self.api = LeaseApi()
        self.told: list[str] = []
        self._made: list[Lock] = []

    def lock(self, run: str = "mine", times: Times = OFTEN) -> Lock:
        identity = holder(run).identity
        leases = [Lease(self.api.client(), lock.NAMESPACE, NAME, identity, times.lease_s) for _ in range(2)]
        return Lock(leases[0], leases[1], times)

    def acquired(self, run: str = "mine", times: Times = OFTEN) -> Lock:
        made = self.lock(run, times)
        made.acquire(self.told.append)
        self._made.append(made)
        return made

    def end(self) -> None:
        self.api.down = False
        for made in self._made:
            made.release()

    def held_by(self, identity: str, **spec: Any) -> None:
        """A Lease as somebody else left it, who does nothing more."""
        given = {"holderIdentity": identity, "leaseDurationSeconds": 30, "acquireTime": LONG_AGO, "renewTime": LONG_AGO}
        self.api.write(NAME, {"metadata": {"name": NAME}, "spec": given | spec})

    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.items[NAME]["spec"]
        return found

    def lost(self, held: Lock) -> LockLost:
        """What the holder is told once it has learned that the lock is lost."""
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            try:
                held.check()
            except LockLost as error:
                return error
            time.sleep(0.005)
        raise AssertionError("the loss was never noticed")


@pytest.fixture
def bob() -> Iterator[Bob]:
    made = Bob()
    yield made
    made.end()


def test_a_free_lock_is_taken_kept_and_given_back(bob: Bob) -> None:
    mine = bob.lock()
    assert mine.acquire(bob.told.append) == ""
    mine.check()
    first = bob.spec()
    assert first["holderIdentity"] == holder("mine").identity
    assert (first["leaseDurationSeconds"], first["leaseTransitions"]) == (30, 0)
    bob.api.until(lambda: bob.spec()["renewTime"] > first["renewTime"])
    mine.check()
    assert bob.spec()["acquireTime"] == first["acquireTime"]
    assert mine.release() == ""
    assert "holderIdentity" not in bob.spec()
    with pytest.raises(LockLost):
        mine.check()
    bob.acquired("next").check()
    assert bob.told == []
    assert bob.spec()["leaseTransitions"] == 1


def test_a_second_run_learns_who_holds_it_since_when_and_until_when(bob: Bob) -> None:
    bob.acquired("first")
    with pytest.raises(Locked) as refused:
        bob.lock("second").acquire(bob.told.append)
    error = refused.value
    since = bob.spec()["acquireTime"]
    assert (error.exit_code, error.where) == (EXIT_LOCKED, WHERE)
    assert error.reason is not None
    assert error.reason.startswith(f"ann@{this_process().host}, run first, stage 02_scale_pool, pid ")
    assert f"holds it since {since[:10]} {since[11:19]} UTC, until " in error.reason
    assert "run first" in bob.told[0]
    assert "30 s" in bob.told[0]


def test_an_expired_one_is_taken_and_it_is_said_from_whom(bob: Bob) -> None:
    bob.held_by(ELSEWHERE.identity)
    bob.api.patience_over = True
    said = bob.lock().acquire(bob.told.append)
    assert said == f"taken over from {ELSEWHERE}: it was not renewed for 30 s"
    assert bob.spec()["leaseTransitions"] == 1


@pytest.mark.parametrize("renewed", [LONG_AGO, NEVER_YET], ids=["a clock far behind", "a clock far ahead"])
def test_other_clocks_decide_nothing(bob: Bob, renewed: str) -> None:
    """What the holder's clock says is neither a reason to take the lock nor one to leave it."""
    bob.held_by(ELSEWHERE.identity, renewTime=renewed)
    writer = threading.Timer(0.05, lambda: bob.api.edit(NAME, renewTime=renewed.replace("01T", "02T")))
    writer.start()
    with pytest.raises(Locked, match="another run"):
        bob.lock().acquire(bob.told.append)
    writer.join()
    bob.api.patience_over = True
    assert bob.lock().acquire(bob.told.append).endswith("it was not renewed for 30 s")


def test_one_that_somebody_holds_for_an_hour_is_not_waited_for_that_long(bob: Bob) -> None:
    bob.held_by("maintenance", leaseDurationSeconds=3600)
    bob.api.patience_over = True
    with pytest.raises(Locked, match="it was not renewed for 60 s"):
        bob.lock().acquire(bob.told.append)
    assert bob.spec()["holderIdentity"] == "maintenance"


def test_one_that_does_not_say_for_how_long_is_watched_too(bob: Bob) -> None:
    bob.held_by("somebody", leaseDurationSeconds=None)
    bob.api.patience_over = True
    assert bob.lock().acquire(bob.told.append).endswith("it was not renewed for 30 s")
    assert "30 s" in bob.told[0]


def test_whoever_is_not_ours_is_named_as_it_is(bob: Bob) -> None:
    bob.held_by("some-operator_123", acquireTime=None, renewTime="nonsense")
    threading.Timer(0.05, lambda: bob.api.edit(NAME, renewTime="again")).start()
    with pytest.raises(Locked) as refused:
        bob.lock().acquire(bob.told.append)
    assert "some-operator_123 holds it since a time that it does not say" in str(refused.value)


def test_a_holder_that_gives_it_back_while_somebody_waits_is_followed_at_once(bob: Bob) -> None:
    bob.held_by(ELSEWHERE.identity)
    threading.Timer(0.05, lambda: bob.api.edit(NAME, holderIdentity="")).start()
    assert bob.lock().acquire(bob.told.append) == ""


def test_of_many_that_want_an_expired_one_exactly_one_gets_it(bob: Bob, monkeypatch: pytest.MonkeyPatch) -> None:
    bob.held_by(ELSEWHERE.identity)
    runs = [f"run-{number}" for number in range(6)]
    looked = threading.Barrier(len(runs))
    got: list[str] = []
    refused: list[str] = []

    def want(run: str) -> None:
        made, first = bob.lock(run), True
        real = made._lease.unchanged

        def unchanged(*words: Any) -> bool:
            nonlocal first
            if first:  # all see the same expired Lease before anybody takes it
                first = False
                looked.wait(60)
                return True
            return real(*words)

        monkeypatch.setattr(made._lease, "unchanged", unchanged)
        try:
            made.acquire(bob.told.append)
            got.append(run)
            bob._made.append(made)
        except Locked as error:
            refused.append(str(error))

    threads = [threading.Thread(target=want, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(got) == 1
    assert len(refused) == len(runs) - 1
    assert all(f"run {got[0]}," in message for message in refused)


def test_somebody_who_makes_it_first_is_found(bob: Bob) -> None:
    bob.api.before_write = lambda: bob.held_by(ELSEWHERE.identity)
    threading.Timer(0.05, lambda: bob.api.edit(NAME, renewTime=NEVER_YET)).start()
    with pytest.raises(Locked, match="another run"):
        bob.lock().acquire(bob.told.append)


def ended() -> Process:
    """A process of this machine that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        found = replace_started(started.pid)
        started.communicate(b"\n")
    return found


def replace_started(pid: int) -> Process:
    return this_process().model_copy(update={"pid": pid, "started_s": psutil.Process(pid).create_time()})


def test_a_holder_that_is_known_to_be_gone_is_not_waited_for(bob: Bob) -> None:
    gone = holder("killed", process=ended())
    bob.held_by(gone.identity)
    assert bob.lock().acquire(bob.told.append) == f"taken over from {gone}: its process is gone"
    assert bob.told == []


@pytest.mark.skipif(not machine(), reason="this system does not tell its machines apart")
@pytest.mark.parametrize("other", ["f00", ""], ids=["another machine", "an unknown machine"])
def test_the_number_of_a_process_elsewhere_says_nothing(bob: Bob, other: str) -> None:
    """Two machines, or containers, may have one name; their process numbers are not each other's."""
    bob.held_by(holder("far", process=ended(), machine=other).identity)
    bob.api.patience_over = True
    assert bob.lock().acquire(bob.told.append).endswith("it was not renewed for 30 s")


def test_a_holder_survives_being_written_and_read() -> None:
    found = Holder.of(ELSEWHERE.identity)
    assert found is not None
    assert found.process == ELSEWHERE.process
    assert (found.user, found.run, found.stage, found.machine) == ("ann", "other", "02_scale_pool", "f00")
    assert Holder.of("kube-scheduler_1") is None


def test_a_stolen_lock_stops_its_holder_and_names_the_thief(bob: Bob) -> None:
    mine = bob.acquired()
    bob.held_by(ELSEWHERE.identity)
    error = bob.lost(mine)
    assert str(ELSEWHERE) in (error.reason or "")
    assert error.exit_code == EXIT_LOCKED
    mine.release()
    assert bob.spec()["holderIdentity"] == ELSEWHERE.identity


@pytest.mark.parametrize("gone", [True, False], ids=["deleted", "given to nobody"])
def test_a_lock_that_is_nobodys_any_more_is_lost_too(bob: Bob, gone: bool) -> None:
    mine = bob.acquired()
    if gone:
        bob.api.write(NAME, None)
    else:
        bob.api.edit(NAME, holderIdentity=None)
    assert "nobody holds it now" in str(bob.lost(mine))


def test_a_label_that_somebody_puts_on_it_does_no_harm(bob: Bob) -> None:
    mine = bob.acquired()
    bob.api.before_write = lambda: bob.api.edit(NAME, strategy="x")
    before = bob.api.writes
    bob.api.until(lambda: bob.api.writes > before + 3)
    mine.check()
    assert bob.spec()["strategy"] == "x"


def test_it_stops_when_it_could_not_renew_for_too_long_and_says_why(bob: Bob, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(lock, "clock", lambda: now_s[0])
    mine = bob.acquired(times=replace(OFTEN, trusted_s=24.0))
    bob.api.down = True
    asked = bob.api.asked
    deadline_s = time.monotonic() + 60
    while bob.api.asked < asked + 3 and time.monotonic() < deadline_s:
        time.sleep(0.005)
    now_s[0] += 23.9
    mine.check()
    now_s[0] += 0.2
    with pytest.raises(LockLost, match="could not be renewed: no answer: the API is down"):
        mine.check()


def test_a_renewal_whose_answer_was_lost_was_made(bob: Bob) -> None:
    mine = bob.acquired()
    bob.api.lost_answers = 3
    before = bob.api.writes
    bob.api.until(lambda: bob.api.writes > before + 6)
    mine.check()


def test_a_busy_main_thread_does_not_lose_it(bob: Bob) -> None:
    mine = bob.acquired()
    before, total = bob.api.writes, 0
    while bob.api.writes < before + 5:
        total += sum(range(1000))  # never waits, never gives way by itself
    mine.check()
    assert total


def test_what_could_not_be_given_back_is_said(bob: Bob) -> None:
    mine = bob.acquired()
    bob.api.down = True
    assert mine.release() == "no answer: the API is down"


# The lock of a stage


@pytest.fixture
def stage(bench: Bench, bob: Bob, monkeypatch: pytest.MonkeyPatch) -> StageRun:
    def lease(profile: Any, who: Holder) -> Lease:
        return Lease(bob.api.client(), lock.NAMESPACE, lock.lease_name(profile), who.identity, 30)

    monkeypatch.setattr(lock, "_lease", lease)
    named = str(bench.profile_file)
    return begin("02_scale_pool", named, identify=lambda _: bench.cluster, output=bench.output)


def test_a_change_is_allowed_inside_and_nowhere_else(stage: StageRun, bob: Bob) -> None:
    may_change = lock.guard(stage.profile)
    with pytest.raises(LockLost, match="without the lock"):
        may_change()

    @changes
    def apply(opened: StageRun) -> str:
        """Say it."""
        may_change()
        with opened.changing():  # one within another
            may_change()
        may_change()
        return str(bob.spec()["holderIdentity"])

    assert f"run {stage.run_id}, stage 02_scale_pool" in apply(stage)
    assert apply.__doc__ == "Say it."
    with pytest.raises(LockLost):
        may_change()
    (step,) = stage.finish().steps
    assert (step.name, step.status, step.detail) == ("take the lock", StepStatus.OK, WHERE)


def test_two_namespaces_that_share_a_pool_share_its_lock(
    bench: Bench, bob: Bob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmd_runbook.clients.cluster.of", lambda *_, **__: bob.api.client())
    here = bench.profile
    bench.profile_file.write_text(bench.profile_file.read_text().replace("namespace: llm-d", "namespace: other"))
    there = bench.profile
    assert here.namespace != there.namespace
    assert lock.take(here, "mine", "02_scale_pool", bob.told.append) == WHERE
    try:
        assert lock._lease(there, holder("other")).where == WHERE
        lock.guard(there)()
    finally:
        assert lock.give_back(here) == ""


def test_another_pool_is_another_lock(stage: StageRun, bench: Bench) -> None:
    bench.profile_file.write_text(bench.profile_file.read_text().replace("name: pool", "name: pool-2"))
    with stage.changing(), pytest.raises(LockLost):
        lock.guard(bench.profile)()


def test_an_error_gives_it_back(stage: StageRun, bob: Bob) -> None:
    with pytest.raises(Conflict), stage.changing():
        raise Conflict("it broke")
    assert "holderIdentity" not in bob.spec()


def test_the_step_says_that_somebody_else_has_it(stage: StageRun, bob: Bob) -> None:
    bob.acquired("first")
    with pytest.raises(Locked), stage.changing():
        raise AssertionError("never")
    (step,) = stage.finish().steps
    assert (step.name, step.status) == ("take the lock", StepStatus.FAILED)
    assert step.detail.startswith("Locked: another run changes")


def test_the_step_says_from_whom_it_was_taken(stage: StageRun, bob: Bob) -> None:
    bob.held_by(ELSEWHERE.identity)
    bob.api.patience_over = True
    with stage.changing():
        pass
    (step,) = stage.finish().steps
    assert "taken over from ann@far, run other" in step.detail


def test_what_could_not_be_given_back_is_a_note(stage: StageRun, bob: Bob) -> None:
    with stage.changing():
        bob.api.down = True
    assert "until it expires" in stage.finish().notes[0].text
