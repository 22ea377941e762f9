"""Taking up a run again: whether that is allowed, and which of its stages need not run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from llmd_runbook.errors import RunbookError, UsageError
from llmd_runbook.manifest import ENDED, ClusterIdentity, ErrorRecord, How, Process, Resumption, Run, Status
from llmd_runbook.profile import Profile
from llmd_runbook.run.context import alive, who
from llmd_runbook.run.recheck import Recheck
from llmd_runbook.run.stage import StageRun
from llmd_runbook.run.store import RunStore, all_runs, find, now
from llmd_runbook.verdicts import Verdict

Verify = Callable[[StageRun], object]

CHANGING: Mapping[str, str] = {
    "02_scale_pool": "pool.scale",
    "03_swap_patterns": "swap.patterns",
    "07_cleanup": "cleanup",
}
"""Stages that leave something in the cluster, with the module whose `verify` looks at it again."""
UNDONE_BY = "07_cleanup"
"""Once it has begun, what the other stages left is not to be there any more."""

_KERNEL_ENDS_S = 5.0
_ANEW = "start a new run: its stages look first and do only what is missing"


def named(root: Path, profile: Profile, reference: str, stages: str) -> RunStore:
    """The run that an operator means: an id, or `latest` for the newest that this command began.

    Args:
        stages: as given beside it; a run that is taken up again has its own.

    Raises:
        UsageError: there is none, or stages were chosen.
    """
    if stages != "all":
        raise UsageError("--resume and --stages do not go together", remedy="a run is resumed with all of its stages")
    if reference != "latest":
        return find(root, profile.name, reference)
    for store in all_runs(root, profile.name):
        if store.read().how is How.CLI:
            return store
    raise UsageError(
        "there is no run to resume", where=str(root / profile.name), remedy="start one: leave --resume out"
    )


def reopen(
    store: RunStore, profile: Profile, cluster: ClusterIdentity, process: Process, approvals: Mapping[str, str]
) -> Run:
    """Make `process` the run's owner, say what became of the one before, and give back the record.

    Args:
        approvals: given now, by stage; those given before stay valid beside them.

    Raises:
        UsageError: it is a run by hand, has finished, is another profile's or cluster's, or somebody works on it.
    """
    _wait_for_kernel(store.read())
    with store.change() as run:
        _require(run, store, profile, cluster)
        gone = ErrorRecord(kind="Lost", message="its process was gone when the run was resumed")
        for record in run.stages:
            record.not_run = None
            for attempt in record.attempts:
                if attempt.status not in ENDED:
                    attempt.status, attempt.error, attempt.ended = Status.LOST, gone, now()
        run.status, run.process, run.ended = Status.RUNNING, process, None
        run.verdict, run.exit_code, run.error = None, None, None
        run.approvals = {**run.approvals, **approvals}
        run.resumed.append(Resumption(at=now(), who=who(), process=process))
    return run


def keeps(
    store: RunStore, stage: str, profile: Profile, cluster: ClusterIdentity, tell: Callable[[dict[str, Any]], None]
) -> str | None:
    """Why a stage need not run again, which is in the record then; None where it must.

    One that finished without a failed check and without a plan that waits for approval is kept. What it left in
    the cluster is looked at again, as by its own `verify`, and must be no worse than it was.
    """
    run = store.read()
    record = run.stage(stage)
    if record.status is not Status.FINISHED or record.verdict in (None, Verdict.FAIL) or record.unapproved:
        return None
    if stage not in CHANGING:
        return _noted(store, stage, "it changes nothing")
    if stage != UNDONE_BY and run.stage(UNDONE_BY).attempts:
        return _noted(store, stage, f"{UNDONE_BY}, which undoes it, has begun")
    verify: Verify = import_module(f"llmd_runbook.stages.{CHANGING[stage]}").verify
    attempt = record.attempts[-1]
    again = Recheck(stage, profile, cluster, store, attempt, tell)
    try:
        found = again.look(verify)
    except RunbookError as error:
        tell(_message(f"what it left cannot be seen, so it runs again: {error.what}"))
        return None
    with store.change() as changed:
        changed.resumed[-1].rechecked.append(found)
    if found.verdict not in (Verdict.PASS, record.verdict):
        failed = ", ".join(check.id for check in found.checks if check.verdict is not Verdict.PASS)
        tell(_message(f"what it left is not there any more, so it runs again: {failed}"))
        return None
    return _noted(store, stage, "its postconditions hold")


def _noted(store: RunStore, stage: str, reason: str) -> str:
    with store.change() as run:
        run.resumed[-1].kept[stage] = reason
    return reason


def _message(text: str) -> dict[str, Any]:
    return {"step": "look again", "status": "ok", "detail": text, "done": None, "total": None, "elapsed_s": 0.0}


def _require(run: Run, store: RunStore, profile: Profile, cluster: ClusterIdentity) -> None:
    """Refuse with the reason, and with what to do instead."""

    def refuse(reason: str, remedy: str) -> None:
        raise UsageError(f"run {run.id} cannot be resumed", where=str(store.folder), reason=reason, remedy=remedy)

    if run.how is not How.CLI:
        refuse(f"it is a run by hand ({run.how})", "open its next notebook: that joins the run")
    if run.profile.digest != profile.digest:
        refuse(
            f"the profile has changed since it began: {profile.path}",
            f"put it back as it was (profile.content in {store.folder}/run.json), or {_ANEW}",
        )
    if run.cluster.kube_system_uid != cluster.kube_system_uid:
        refuse(
            f"it is a run on another cluster ({run.cluster.context}, {run.cluster.server})",
            "set KUBECONFIG and context to that cluster",
        )
    for process in _working(run):
        here = process.host == who().host  # of another host nothing is known
        refuse(
            f"process {process.pid} on {process.host} {'works' if here else 'may still work'} on it",
            f"wait for it or end it (kill {process.pid}); if {process.host} itself is gone, {_ANEW}",
        )
    if run.status is Status.FINISHED:
        refuse(
            f"it has finished (verdict {run.verdict})",
            "there is nothing left to do; for another one leave --resume out",
        )


def _working(run: Run) -> list[Process]:
    """Processes that may still work on a run: its runner, and kernels that outlived theirs."""
    runner = [run.process] if run.process and run.status is Status.RUNNING else []
    kernels = [a.process for record in run.stages for a in record.attempts if a.process and a.status not in ENDED]
    return [process for process in [*runner, *kernels] if alive(process)]


def _wait_for_kernel(run: Run) -> None:
    """A kernel notices within a second or two that its runner was killed, and ends by itself."""
    working = _working(run)
    if working and (run.process is None or not alive(run.process)):
        for process in working:
            try:
                psutil.Process(process.pid).wait(_KERNEL_ENDS_S)
            except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                continue
