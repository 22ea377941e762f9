"""Runs stages in order, each in a kernel of its own, and keeps `run.json` true whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel

from llmd_runbook.errors import (
    EXIT_APPROVAL,
    EXIT_FAIL,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_LOCKED,
    EXIT_PASS,
    Locked,
    LockLost,
)
from llmd_runbook.manifest import Attempt, ClusterIdentity, ErrorRecord, How, Run, Status
from llmd_runbook.profile import Profile
from llmd_runbook.records.engine import Job, StageFailed, execute
from llmd_runbook.records.resuming import keeps, reopen
from llmd_runbook.records.signals import Interruption
from llmd_runbook.run.context import PLAN_ONLY_VARIABLE, RECORDER_VARIABLE, this_process
from llmd_runbook.run.notebooks import PLAN_TAG
from llmd_runbook.run.store import OUTPUT_VARIABLE, RunStore, create, now
from llmd_runbook.verdicts import Verdict

_EXIT_CODES = {
    Verdict.PASS: EXIT_PASS,
    Verdict.FAIL: EXIT_FAIL,
    Verdict.INCONCLUSIVE: EXIT_INCONCLUSIVE,
}

_LOCKED = {kind.__name__ for kind in (Locked, LockLost)}

Kind = Literal["run_started", "stage_started", "progress", "stage_ended", "run_ended"]


class Event(BaseModel):
    """Something that happened in a run; one JSON line of `--json`."""

    event: Kind
    run: str
    stage: str = ""
    data: dict[str, Any] = {}


Listener = Callable[[Event], None]


class Runner:
    """One headless run.

    Args:
        profile: a valid one.
        cluster: who answered.
        notebooks: the stages, in order.
        root: folder of all runs.
        stage_timeout_s: for each notebook.
        listen: called with each event.
        interruption: how somebody ends it.
        approvals: hash of the approved plan, by stage.
        plan_only: each notebook ends with its plan; nothing is changed or measured.
        resume: the run to take up again, whose stages `notebooks` are; a new one where none is given.
    """

    def __init__(
        self,
        profile: Profile,
        cluster: ClusterIdentity,
        notebooks: list[Path],
        *,
        root: Path,
        stage_timeout_s: float,
        listen: Listener,
        interruption: Interruption,
        approvals: Mapping[str, str] = MappingProxyType({}),
        plan_only: bool = False,
        resume: RunStore | None = None,
    ) -> None:
        self._profile = profile
        self._cluster = cluster
        self._notebooks = notebooks
        self._root = root
        self._stage_timeout_s = stage_timeout_s
        self._listen = listen
        self._interruption = interruption
        self._approvals = approvals
        self._plan_only = plan_only
        self._resume = resume

    def run(self) -> RunStore:
        """Run all stages until one fails or needs approval; the record has status, verdict and exit code.

        A signal ends it as `interrupted`.

        Raises:
            RunbookError: the record cannot be written.
            UsageError: the run cannot be taken up again.
        """
        store = self._resume
        if store:
            run = reopen(store, self._profile, self._cluster, this_process(), self._approvals)
            self._approvals = run.approvals
        else:
            store = create(
                self._root,
                self._profile,
                self._cluster,
                How.CLI,
                requested=[notebook.stem for notebook in self._notebooks],
                process=this_process(),
                approvals=self._approvals,
            )
        self._tell(store, "run_started", {"folder": str(store.folder), "simulated": self._cluster.simulated})
        with self._interruption.deferred():
            try:
                reason = self._stages(store)
            except KeyboardInterrupt as error:
                self._end_interrupted(store, str(error))
            else:
                self._end(store, reason)
        run = store.read()
        outcome = {"status": run.status, "verdict": run.verdict, "exit_code": run.exit_code}
        self._tell(store, "run_ended", outcome)
        return store

    def _stages(self, store: RunStore) -> str | None:
        """Run stage after stage; say which one ended the run early."""
        keeping = self._resume is not None
        for notebook in self._notebooks:
            self._interruption.check()
            if keeping and self._kept(store, notebook.stem):
                continue
            keeping = False  # what comes after a stage that ran again is run again, too
            attempt = self._stage(store, notebook)
            needed = bool(attempt.result and attempt.result.unapproved)
            outcome = {"status": attempt.status, "verdict": attempt.verdict, "needs_approval": needed}
            self._tell(store, "stage_ended", outcome, notebook.stem)
            if attempt.status is not Status.FINISHED:
                return f"{notebook.stem} {attempt.status}"
            if attempt.verdict is Verdict.FAIL:
                return f"a check of {notebook.stem} failed"
            if attempt.result and attempt.result.unapproved and not self._plan_only:
                return f"{notebook.stem} {Status.NEEDS_APPROVAL}"  # later stages may build on it, or remove it
        return None

    def _kept(self, store: RunStore, stage: str) -> bool:
        """Whether a stage of a run that is taken up again need not run again; told where it was begun before."""
        record = store.read().stage(stage)
        if record.status is not Status.FINISHED:
            return False
        self._tell(store, "stage_started", {"notebook": record.attempts[-1].notebook}, stage)

        def tell(progress: dict[str, Any]) -> None:
            self._tell(store, "progress", progress, stage)

        with self._interruption.at_once():
            reason = keeps(store, stage, self._profile, self._cluster, tell)
        if reason is None:
            return False
        outcome = {"status": record.status, "verdict": record.verdict, "needs_approval": False, "kept": reason}
        self._tell(store, "stage_ended", outcome, stage)
        return True

    def _stage(self, store: RunStore, notebook: Path) -> Attempt:
        stage = notebook.stem
        planned = store.add_attempt(stage, None, Status.PLANNED)
        self._tell(store, "stage_started", {"notebook": planned.notebook}, stage)
        parameters = {"profile": str(self._profile.path), "run": store.run_id}
        if stage in self._approvals:
            parameters["approve"] = self._approvals[stage]
        job = Job(
            notebook=notebook,
            record=store.folder / planned.notebook,
            parameters=parameters,
            environment={
                RECORDER_VARIABLE: "runner",
                OUTPUT_VARIABLE: str(self._root),
                PLAN_ONLY_VARIABLE: "1" if self._plan_only else "",
            },
            timeout_s=self._stage_timeout_s,
            on_progress=lambda progress: self._tell(store, "progress", progress, stage),
            interruption=self._interruption,
            last_tag=PLAN_TAG if self._plan_only else "",
        )
        failed: StageFailed | None = None
        try:
            execute(job)
        except StageFailed as error:
            failed = error
        with store.change() as run:
            attempt = run.stage(stage).attempts[-1]
            if failed and failed.by_cell and attempt.status in {Status.FAILED, Status.INTERRUPTED}:
                attempt.status = Status.FAILED  # the kernel said why; nobody interrupted this run
            elif failed:
                _close(attempt, Status.FAILED, failed.record)
            elif attempt.status not in {Status.FINISHED, Status.FAILED}:
                message = "the notebook ended without finish()"
                _close(attempt, Status.FAILED, ErrorRecord(kind="Unfinished", message=message))
        return attempt

    def _end(self, store: RunStore, reason: str | None) -> None:
        with store.change() as run:
            _leave_out(run, reason or "")
            run.verdict = run.judge()
            broken = any(record.attempts and record.status is not Status.FINISHED for record in run.stages)
            if broken or run.verdict is Verdict.FAIL:
                run.status, run.exit_code = Status.FAILED, EXIT_LOCKED if _is_locked(run) else EXIT_FAIL
            elif self._plan_only:
                changes = any(record.would_change for record in run.stages)
                run.status, run.exit_code = Status.FINISHED, EXIT_APPROVAL if changes else EXIT_PASS
                run.verdict = None  # nothing was judged
            elif any(record.unapproved for record in run.stages):
                run.status, run.exit_code = Status.NEEDS_APPROVAL, EXIT_APPROVAL
            else:
                run.status, run.exit_code = Status.FINISHED, _EXIT_CODES[run.verdict]
            run.ended = now()

    def _end_interrupted(self, store: RunStore, name: str) -> None:
        error = ErrorRecord(kind="Interrupted", message=f"the run was ended by {name}")
        with store.change() as run:
            for record in run.stages:
                if record.attempts and record.attempts[-1].status not in {Status.FINISHED, Status.FAILED}:
                    _close(record.attempts[-1], Status.INTERRUPTED, error)
            _leave_out(run, f"the run was ended by {name}")
            run.status, run.error = Status.INTERRUPTED, error
            run.exit_code, run.ended = EXIT_INTERRUPTED, now()

    def _tell(self, store: RunStore, event: Kind, data: dict[str, Any], stage: str = "") -> None:
        self._listen(Event(event=event, run=store.run_id, stage=stage, data=data))


def _close(attempt: Attempt, status: Status, error: ErrorRecord) -> None:
    attempt.status, attempt.error, attempt.ended = status, error, now()


def _is_locked(run: Run) -> bool:
    """Whether it was the lock of somebody else that ended a stage."""
    errors = [record.attempts[-1].error for record in run.stages if record.attempts]
    return any(error is not None and error.kind in _LOCKED for error in errors)


def _leave_out(run: Run, reason: str) -> None:
    for record in run.stages:
        if not record.attempts:
            record.not_run = reason
