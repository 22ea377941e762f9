"""The kernel alone is killed: the runner says so and ends; what it had begun (helm, an operation) comes to its end."""

from __future__ import annotations

import re
import subprocess
import time

import psutil
import pytest

from llmd_runbook.manifest import How, Run, Status
from llmd_runbook.run.store import all_runs
from llmd_runbook.verdicts import Verdict
from llmd_sandbox.faults.proxy import ApiProxy
from tests.drills import table
from tests.drills.faults import wait_until
from tests.drills.ground import CLEANUP, PATTERN1, RECREATE, SCALE, SWAP, Ground
from tests.drills.table import Row
from tests.end_to_end.conftest import PROGRAMS

pytestmark = [pytest.mark.drills, pytest.mark.timeout(900)]

DEATHS = [
    (SCALE, "02 size", "POST .*:setSize"),
    (SWAP, "03 install", "PATCH .*/deployments/ms-pattern3"),
    (SWAP, "03 route", "PATCH .*/httproutes/llm-d-route"),
    (CLEANUP, "07 remove", "DELETE .*/deployments/ms-pattern3"),
]
"""Stage, step, and the request after which its kernel dies."""


def test_a_kernel_that_dies(ground: Ground) -> None:
    ground.strategy = RECREATE
    with ground.door() as door:
        for number, (stage, step, request) in enumerate(DEATHS):
            since_s = time.monotonic()
            with started(ground, door, *(["--resume", "latest"] if number else ["--stages", "02,03,07"])) as runner:
                kill_kernel(runner, door, request)
                said = runner.communicate(timeout=300)[0]
            assert runner.returncode == 1, said
            attempt = record(ground).stage(stage).attempts[-1]
            assert attempt.status is Status.FAILED
            assert attempt.error is not None
            assert attempt.error.kind == "KernelDied"
            assert "SIGKILL" in said
            lost, sent = ground.probe.lost(since_s), ground.probe.count(since_s)
            happened = f"{attempt.error.kind}: {attempt.error.message.splitlines()[0]}"
            table.add(
                Row((3, 0, number), "death of the kernel alone", step, happened, lost, sent, "resumed to its end")
            )
        with started(ground, door, "--resume", "latest") as runner:
            said = runner.communicate(timeout=300)[0]
        assert runner.returncode == 0, said
    run = record(ground)
    assert (run.status, run.verdict) == (Status.FINISHED, Verdict.PASS)
    assert ground.serves() == PATTERN1
    assert ground.orphans(PATTERN1) == []


def started(ground: Ground, door: ApiProxy, *more: str) -> subprocess.Popen[str]:
    words = [str(PROGRAMS / "llmd-runbook"), "run", str(ground.files[RECREATE]), "--output", str(ground.output), *more]
    return subprocess.Popen(
        words, env=ground.environment(door), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_kernel(runner: subprocess.Popen[str], door: ApiProxy, request: str) -> None:
    """SIGKILL for the kernel as soon as such a request was answered; for nothing that it has started."""
    before = len(door.seen)
    wait_until(
        lambda: any(re.search(request, f"{seen.method} {seen.path}") for seen in door.seen[before:]),
        f"no {request}",
        timeout_s=300,
    )
    (kernel,) = psutil.Process(runner.pid).children()
    kernel.kill()


def record(ground: Ground) -> Run:
    return next(run for store in all_runs(ground.output) if (run := store.read()).how is How.CLI)
