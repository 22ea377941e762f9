"""A load over the workers of a real scheduler, each a process of its own; one of them is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from llmd_runbook.errors import Unreachable, UsageError
from llmd_runbook.load import fleet as fleets
from llmd_runbook.load.calibrate import known_server
from llmd_runbook.load.fleet import Fleet
from llmd_runbook.load.plan import Arrival, Closed, Open, Plan
from llmd_runbook.load.prompts import unique

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::ResourceWarning")]


@contextmanager
def process(*words: str, log: Path, says: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A dask program, once its log says that it is there; ended at the end with all that it started."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]],
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            if found := re.search(says, log.read_text()):
                yield started, found.group(1)
                break
            assert started.poll() is None, log.read_text()
            time.sleep(0.05)
        else:
            raise AssertionError(log.read_text())
    finally:
        with_all = os.getpgid(started.pid) if started.poll() is None else None
        if with_all is not None:
            os.killpg(with_all, signal.SIGKILL)
        started.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scheduler")
    words = ("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show")
    with process(*words, log=folder / "log", says=r"Scheduler at:\s+(tcp://\S+)") as (_, address):
        yield address


@contextmanager
def worker(scheduler: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    folder.mkdir()
    words = ("dask_worker", scheduler, "--host", "127.0.0.1", "--no-nanny", "--no-dashboard", "--nthreads", "1")
    with process(
        *words, "--local-directory", str(folder), log=folder / "log", says=r"Start worker at:\s+(tcp://\S+)"
    ) as found:
        yield found


def plan(url: str, requests: int, arrival: Arrival, tokens: int = 1) -> Plan:
    return Plan(url=url, model="m", prompts=unique(requests, 5, seed=1), output_tokens=tokens, arrival=arrival)


def a_second_later(do: Callable[[], None]) -> Callable[[Fleet], float]:
    """Instead of `Fleet._lead_s`: the same, and something is done a second after the common start."""
    lead_s = Fleet._lead_s

    def found(fleet: Fleet) -> float:
        seconds = lead_s(fleet)
        threading.Timer(seconds + 1, do).start()
        return seconds

    return found


def test_two_workers_send_one_load_together_and_one_that_dies_is_said(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with worker(scheduler, tmp_path / "a"), worker(scheduler, tmp_path / "b") as (dying, address):
        until_they_are_two(scheduler)
        with Fleet(scheduler) as fleet, known_server(0.02, 0.01) as (url, served):
            found = fleet.measure(plan(url, 31, Open(rate_per_s=40, gaps="constant")))
            assert found.lost == []  # first: it says why samples are missing
            assert [sample.index for sample in found.result.samples] == list(range(31))
            assert found.result.failures() == {}
            assert [sample.due_s for sample in found.result.samples] == pytest.approx(
                [index / 40 for index in range(31)], abs=0.5
            )
            error = fleet.calibrate(concurrency=4, output_tokens=2, first_s=0.02, gap_s=0.01)
            assert error.concurrency == 2
            said: list[str] = []
            monkeypatch.setattr(Fleet, "_lead_s", a_second_later(dying.kill))
            broken = fleet.measure(plan(url, 60, Closed(concurrency=2), tokens=20), said.append)
        assert [worker.address for worker in broken.lost] == [address]
        assert broken.lost[0].requests == 30
        indices = [sample.index for sample in broken.result.samples]
        assert len(indices) == 30
        assert len({index % 2 for index in indices}) == 1  # the other's part, and nothing twice
        assert any("1 lost" in line for line in said)
    assert 61 <= len(served.done_s) < 91  # what the dying one sent before is nobody's sample


def test_processes_of_this_machine_share_a_load_and_are_gone_afterwards() -> None:
    with known_server(0.02, 0.01) as (url, served), fleets.of_processes(2) as fleet:
        pids = list(fleet._client.run(os.getpid).values())
        found = fleet.measure(plan(url, 30, Closed(concurrency=4), tokens=3))
        error = fleet.calibrate(concurrency=4, output_tokens=2, first_s=0.02, gap_s=0.01)
    assert [sample.index for sample in found.result.samples] == list(range(30))
    assert (found.result.failures(), found.lost) == ({}, [])
    assert [worker.requests for worker in found.workers] == [15, 15]
    assert error.concurrency == 2
    assert len(served.done_s) == 30
    assert len(set(pids)) == 2
    assert os.getpid() not in pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def until_they_are_two(scheduler: str) -> None:
    for _ in range(600):
        try:
            with Fleet(scheduler) as fleet:
                if len(fleet.addresses) == 2:
                    return
        except UsageError:
            pass
        time.sleep(0.05)
    raise AssertionError("the workers did not come")


def test_a_scheduler_without_workers_and_none_at_all(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "_CONNECT_S", 3.0)
    with pytest.raises(UsageError, match="no worker") as raised:
        Fleet(scheduler)
    assert f"dask worker {scheduler}" in str(raised.value.remedy)
    with pytest.raises(Unreachable, match="does not answer"):
        Fleet("tcp://127.0.0.1:1")


def test_a_load_that_cannot_be_split_is_refused(scheduler: str, tmp_path: Path) -> None:
    with worker(scheduler, tmp_path / "a"), worker(scheduler, tmp_path / "b"):
        until_they_are_two(scheduler)
        with Fleet(scheduler) as fleet, pytest.raises(UsageError, match="cannot be split"):
            fleet.measure(plan("http://127.0.0.1:1", 5, Closed(concurrency=1)))
