"""One run at a time, and a run that was killed goes on where it was: on a sandbox, with real processes and Leases."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from llmd_runbook.clients.gke import Bounds, GkePool
from llmd_runbook.clients.kubernetes import PODS, connect
from llmd_runbook.clients.lease import Lease
from llmd_runbook.errors import Forbidden, LockLost
from llmd_runbook.manifest import How, Run, Status
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT, load
from llmd_runbook.run import StageRun, begin, lock
from llmd_runbook.run.context import this_process
from llmd_runbook.run.lock import Times
from llmd_runbook.run.store import all_runs
from llmd_runbook.stages.pool import scale
from llmd_runbook.verdicts import StepStatus, Verdict
from tests.end_to_end.conftest import PROGRAMS, Sandbox
from tests.guards import anything

pytestmark = pytest.mark.timeout(600)

SANDBOX_OPTIONS = ("--startup-scale", "0.05")
"""Slow enough that a resize, 3 s then, can be caught under way."""
LEASE = "llmd-runbook-nvidia-t4-pool"
POOL, SWAP = "02_scale_pool", "03_swap_patterns"
RESIZE = "SET_NODE_POOL_SIZE"
LAB = """
import os, nbformat
from nbformat import v4
from nbclient import NotebookClient
cells = {cells!r}
book = v4.new_notebook(cells=[v4.new_code_cell(text) for text in cells])
NotebookClient(book, timeout=300, kernel_name="python3").execute(env={{**os.environ, "JPY_SESSION_NAME": "02.ipynb"}})
"""
HELD = """
from pathlib import Path
from llmd_runbook.run import begin
stage = begin("02_scale_pool", "sandbox", "new", output=Path({output!r}))
"""
BUSY = """
with stage.changing():
    Path({flag!r}).touch()
    while Path({flag!r}).exists():
        sum(range(100000))
"""


class Bench:
    """A sandbox, a pool of it, and records."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder, self.output = sandbox, folder, folder / "runs"
        pool = load("sandbox").pool
        self.pool = GkePool(pool.project, pool.location, pool.cluster, pool.name, before_change=anything)

    def words(self, *more: str, profile: str = "sandbox") -> list[str]:
        return [str(PROGRAMS / "llmd-runbook"), "run", profile, "--json", "--output", str(self.output), *more]

    def run(self, *more: str, profile: str = "sandbox") -> subprocess.CompletedProcess[str]:
        return self.sandbox.start(*self.words(*more, profile=profile))

    def record(self) -> Run:
        """The newest run of the command."""
        runs = (store.read() for store in all_runs(self.output))
        return next(run for run in runs if run.how is How.CLI)

    def open(self) -> StageRun:
        return begin(POOL, "sandbox", "new", output=self.output)

    def resizes(self) -> int:
        return sum(item.type == RESIZE for item in self.pool.operations())

    def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self.locks("get", "lease", LEASE, "-o", "json"))["spec"]
        return spec

    def patch(self, **spec: Any) -> None:
        self.locks("patch", "lease", LEASE, "--type=merge", "-p", json.dumps({"spec": spec}))

    def locks(self, *words: str) -> str:
        """kubectl in the namespace of the locks."""
        return self.sandbox.kubectl("--namespace", lock.NAMESPACE, *words)

    def kill_during(self, step: str, detail: str, *more: str) -> None:
        """SIGKILL for the runner and its kernel as soon as that step tells of that."""
        with subprocess.Popen(
            self.words(*more), env=self.sandbox.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as runner:
            assert runner.stdout is not None
            for line in runner.stdout:
                told = json.loads(line)
                if told["event"] == "progress" and told["data"]["step"] == step and detail in told["data"]["detail"]:
                    break
            else:
                raise AssertionError(f"it never came to {step}")
            kernels = psutil.Process(runner.pid).children()
            for process in [psutil.Process(runner.pid), *kernels]:
                process.kill()
        assert runner.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))


def until(true: Any) -> None:
    deadline_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.05)


def test_a_stolen_lock_stops_the_stage_before_its_next_change(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "TIMES", Times(lease_s=30, renew_s=0.1, trusted_s=24.0))
    stage = bench.open()
    scale.plan(stage)
    real, allowed = GkePool.set_autoscaling, lock.guard(stage.profile)

    def stolen(pool: GkePool, bounds: Bounds) -> str:
        begun = real(pool, bounds)
        bench.patch(holderIdentity="somebody-else", leaseDurationSeconds=1)
        until(lambda: lost(allowed))
        return begun

    monkeypatch.setattr(GkePool, "set_autoscaling", stolen)
    with pytest.raises(LockLost, match="somebody-else holds it since"):
        scale.apply(stage)
    assert [item.type for item in bench.pool.operations()] == ["UPDATE_CLUSTER"]
    steps = stage.finish().steps
    assert [(step.name, step.status) for step in steps[-2:]] == [
        ("set the pool's autoscaling", StepStatus.CHANGED),
        ("resize the pool", StepStatus.FAILED),
    ]
    assert bench.lease()["holderIdentity"] == "somebody-else"


def lost(allowed: Any) -> bool:
    try:
        allowed()
    except LockLost:
        return True
    return False


def test_an_expired_lock_is_taken_and_somebody_elses_operation_is_waited_for(bench: Bench) -> None:
    """The thief of the test before never renewed."""
    stage = bench.open()
    scale.plan(stage)
    with stage.changing():
        assert f", run {stage.run_id}, stage {POOL}, pid {this_process().pid}," in bench.lease()["holderIdentity"]
        theirs = bench.pool.set_size(2)
        scale.apply(stage)
    *_, took, bounds, resized, _ = stage.finish().steps
    assert "taken over from somebody-else: it was not renewed for 1 s" in took.detail
    assert bounds.status is StepStatus.OK
    assert f"after {RESIZE} {theirs} of 20" in bounds.detail
    assert (resized.status, resized.detail[:12]) == (StepStatus.CHANGED, "2 to 3 nodes")
    assert "holderIdentity" not in bench.lease()
    bench.pool.wait(bench.pool.set_size(1), 120)


def test_jupyterlab_holds_it_while_its_kernel_is_busy_and_a_second_run_ends_with_5(bench: Bench) -> None:
    flag = bench.folder / "flag"
    cells = [HELD.format(output=str(bench.folder / "lab")), BUSY.format(flag=str(flag))]
    with subprocess.Popen([sys.executable, "-c", LAB.format(cells=cells)], env=bench.sandbox.environment) as lab:
        try:
            until(flag.exists)
            (store,) = all_runs(bench.folder / "lab")
            assert store.read().how is How.LAB
            operations = bench.pool.operations()
            done = bench.run("--stages", "02")
            assert done.returncode == 5, done.stderr
            assert f"run {store.run_id}, stage {POOL}" in done.stderr
            assert "holds it since" in done.stderr
            record = bench.record()
            assert (record.status, record.exit_code) == (Status.FAILED, 5)
            error = record.stage(POOL).attempts[0].error
            assert error is not None
            assert error.kind == "Locked"
            assert bench.pool.operations() == operations
            renewed = bench.lease()["renewTime"]
            until(lambda: bench.lease()["renewTime"] > renewed)
        finally:
            flag.unlink(missing_ok=True)  # or its kernel goes on for ever
        assert lab.wait(120) == 0
    assert "holderIdentity" not in bench.lease()


def test_a_profile_of_another_namespace_that_shares_the_pool_is_kept_out(bench: Bench) -> None:
    text = (PARAMETERS / "sandbox.yaml").read_text().replace("namespace: llm-d", "namespace: elsewhere")
    text = text.replace("../lib/", f"{PROJECT_ROOT}/lib/").replace("[helm/", f"[{PARAMETERS}/helm/")
    other = bench.folder / "elsewhere.yaml"
    other.write_text(text)
    assert load(str(other)).namespace == "elsewhere"
    stage, operations = bench.open(), bench.pool.operations()
    with stage.changing():
        done = bench.run("--stages", "02", profile=str(other))
    stage.finish()
    assert done.returncode == 5, done.stderr
    assert f"run {stage.run_id}, stage {POOL}" in done.stderr
    assert bench.pool.operations() == operations


def test_the_lock_needs_no_more_permissions_than_the_readme_says(bench: Bench, tmp_path: Path) -> None:
    found = re.search(r"^rules:\n(?:- .*leases.*\n)+", (PROJECT_ROOT / "README.md").read_text(), re.MULTILINE)
    assert found is not None
    meta, api = {"name": "locker", "namespace": lock.NAMESPACE}, "rbac.authorization.k8s.io"
    reference = {"apiGroup": api, "kind": "Role", "name": "locker"}
    account = {"kind": "ServiceAccount", **meta}
    rules = yaml.safe_load(found[0].replace("POOL", "test-pool"))
    role = {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": meta, **rules}
    bound = {"roleRef": reference, "subjects": [account]}
    objects = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        role,
        {"apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": meta, **bound},
    ]
    (tmp_path / "objects").write_text(yaml.safe_dump_all(objects))
    bench.locks("apply", "-f", str(tmp_path / "objects"))
    config = json.loads(bench.sandbox.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"][0]["user"] = {"token": bench.locks("create", "token", "locker").strip()}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    kube = connect("", str(tmp_path / "kubeconfig"), before_change=anything)
    with pytest.raises(Forbidden):
        kube.all(PODS, "llm-d")
    one, other = (Lease(kube, lock.NAMESPACE, "llmd-runbook-test-pool", name, 1) for name in ("one", "other"))
    assert one.take(None)
    assert one.renew() is None
    seen = other.look()
    assert seen is not None
    assert other.unchanged(seen, 1, lambda: None)
    assert other.take(seen)
    lost_to = one.renew()
    assert lost_to is not None
    assert lost_to.holder == "other"
    other.give_back()


def test_a_run_that_is_killed_twice_goes_on_and_repeats_nothing(bench: Bench) -> None:
    before = bench.resizes()
    bench.kill_during("resize the pool", f"{RESIZE} ", "--stages", "02,03")
    killed = bench.record()
    assert killed.stage(POOL).status is Status.RUNNING  # nobody was left to say otherwise
    bench.kill_during("wait for 3 replicas", "0 of 3", "--resume", killed.id)
    done = bench.run("--resume", "latest")
    assert done.returncode == 0, done.stderr
    assert bench.resizes() == before + 1

    run = bench.record()
    assert (run.id, run.status, run.verdict, run.exit_code) == (killed.id, Status.FINISHED, Verdict.PASS, 0)
    pool, swap = run.stage(POOL).attempts, run.stage(SWAP).attempts
    assert [attempt.status for attempt in pool] == [Status.LOST, Status.FINISHED]
    assert [attempt.status for attempt in swap] == [Status.LOST, Status.FINISHED]
    assert len({attempt.notebook for attempt in [*pool, *swap]}) == 4
    assert pool[1].result is not None
    (took,) = (step for step in pool[1].result.steps if step.name == "take the lock")
    assert f"taken over from {run.who.user}@{run.who.host}, run {run.id}, stage {POOL}" in took.detail
    assert "its process is gone" in took.detail
    assert {step.status for step in pool[1].result.steps} == {StepStatus.OK}
    assert swap[1].result is not None
    again = {step.name: step.status for step in swap[1].result.steps}
    assert again["remove google/gemma-2b-it"] is StepStatus.OK
    assert again["install Qwen/Qwen2.5-3B-Instruct"] is StepStatus.OK
    assert again["move the HTTPRoute to gaie-pattern3"] is StepStatus.CHANGED
    assert run.resumed[1].kept == {POOL: "its postconditions hold"}
    assert [found.stage for found in run.resumed[1].rechecked] == [POOL]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["kept"] == run.resumed[1].kept
    assert [stage["steps"]["failed"] for stage in summary["stages"]] == [0, 0]
    assert "recap, resumed" in done.stderr


def test_a_finished_run_is_not_resumed(bench: Bench) -> None:
    done = bench.run("--resume", "latest")
    assert done.returncode == 2
    assert "it has finished (verdict pass)" in done.stderr


def test_what_does_not_hold_any_more_is_brought_about_again(bench: Bench) -> None:
    """A run that ended after stage 02, whose nodes somebody took away since."""
    bench.kill_during("install Qwen/Qwen2.5-3B-Instruct", "", "--stages", "02,03")
    before = bench.resizes()
    bench.pool.wait(bench.pool.set_size(2), 120)
    done = bench.run("--resume", "latest")
    assert done.returncode == 0, done.stderr
    run = bench.record()
    (rechecked,) = run.resumed[0].rechecked
    assert {check.id for check in rechecked.checks if check.verdict is Verdict.FAIL} == {"pool.size"}
    assert [attempt.status for attempt in run.stage(POOL).attempts] == [Status.FINISHED, Status.FINISHED]
    assert bench.resizes() == before + 2
