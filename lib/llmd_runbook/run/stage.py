"""One attempt at a stage: its steps, checks, notes and tables, kept in `run.json` as they come."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from llmd_runbook.errors import RunbookError, redact
from llmd_runbook.manifest import ENDED, Attempt, ClusterIdentity, ErrorRecord, How, Status
from llmd_runbook.plans import Plan
from llmd_runbook.profile import Profile
from llmd_runbook.run import approvals, display, lock
from llmd_runbook.run.context import PLAN_ONLY_VARIABLE, in_kernel, this_process
from llmd_runbook.run.kernel import Recorder, redacted
from llmd_runbook.run.notebooks import stage_names
from llmd_runbook.run.store import RunStore, now
from llmd_runbook.verdicts import Approval, Check, Note, StageResult, Step, StepStatus, Table, Verdict

T = TypeVar("T")
_PROGRESS_INTERVAL_S = 0.2


class StepHandle:
    """How a step says what it did; without a word it ends as `ok`."""

    def __init__(self, stage: StageRun, name: str) -> None:
        self.status = StepStatus.OK
        self.detail = ""
        self.remarks: list[str] = []
        self._stage = stage
        self._name = name

    def ok(self, detail: str = "") -> None:
        """It was as it should be, or only looked."""
        self._say(StepStatus.OK, detail)

    def changed(self, detail: str = "") -> None:
        """Something was changed."""
        self._say(StepStatus.CHANGED, detail)

    def skipped(self, detail: str = "") -> None:
        """There was nothing to do."""
        self._say(StepStatus.SKIPPED, detail)

    def progress(self, text: str, done: float | None = None, total: float | None = None) -> None:
        """Show how far it is; `done` of `total` where that is known."""
        self._stage._progress(self._name, text, done, total)

    def remark(self, text: str) -> None:
        """Say something that the record keeps beside what the step did."""
        self.remarks.append(redact(text))
        self.progress(text)

    def _say(self, status: StepStatus, detail: str) -> None:
        self.status, self.detail = status, redact(detail)


class StageRun:
    """What a notebook works with; made by `begin`."""

    def __init__(
        self,
        stage: str,
        profile: Profile,
        cluster: ClusterIdentity,
        store: RunStore,
        attempt: Attempt,
        recorder: Recorder | None,
        how: How,
        approve: str,
    ) -> None:
        self.stage = stage
        self.profile = profile
        self.cluster = cluster
        self.data: dict[str, Any] = {}
        self.kept: dict[str, Any] = {}  # what a cell hands on to later cells; never in the record
        self._store = store
        self._number = attempt.number
        self._how = how
        self._approve = approve
        self._recorder = recorder
        self._checks: list[Check] = []
        self._notes: list[Note] = []
        self._steps: list[Step] = []
        self._tables: list[Table] = []
        self._approvals: list[Approval] = []
        self._undo: list[tuple[str, Callable[[], object]]] = []
        self._waits_for = ""
        self._finished = False
        self._display: tuple[int, display.LiveDisplay, int] | None = None
        self._step_started_s = 0.0
        self._shown_s = 0.0
        if recorder:
            recorder.attach(self._cell_failed)
        atexit.register(self._process_ends)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._store.run_id

    @property
    def folder(self) -> Path:
        """Where the run's record lies."""
        return self._store.folder

    @property
    def simulated(self) -> bool:
        """Whether the cluster is a simulated one."""
        return self.cluster.simulated

    @property
    def plan_only(self) -> bool:
        """Whether this run stops after the plans."""
        return os.environ.get(PLAN_ONLY_VARIABLE) == "1"

    def new_file(self, name: str) -> Path:
        """Where to keep a file beside the notebook: `05_NAME`, or `05_ATTEMPT_NAME`; none is there yet."""
        number = self._number
        while True:
            file = self.folder / f"{self.stage[:2]}_{'' if number == 1 else f'{number}_'}{name}"
            if not file.exists():
                return file
            number += 1

    def earlier(self, stage: str) -> StageResult | None:
        """The result of this run's latest attempt at another stage; None unless that attempt finished."""
        attempts = self._store.read().stage(stage).attempts
        if not attempts or attempts[-1].status is not Status.FINISHED:
            return None
        return attempts[-1].result

    def measured_s(self) -> dict[str, float]:
        """How long each step that changed or awaited something took in this run, the latest attempt's (s), by name."""
        attempts = [attempt for record in self._store.read().stages for attempt in record.attempts]
        steps = [step for attempt in attempts if attempt.result for step in attempt.result.steps]
        return {step.name: step.duration_s for step in steps if step.status in (StepStatus.OK, StepStatus.CHANGED)}

    def planned_before(self) -> list[str]:
        """Earlier stages of this run that would change something, and ended with their plan."""
        found = self._store.read().stages
        return [item.stage for item in found if item.stage < self.stage and item.plan_only and item.would_change]

    def wait_for(self, stage: str, why: str) -> None:
        """Say that without an earlier stage's result this one can neither be planned nor approved."""
        self._waits_for = stage
        self.note("Not planned", f"It depends on the result of stage {stage}, so it cannot be approved before: {why}")

    @contextmanager
    def step(self, name: str) -> Iterator[StepHandle]:
        """Time one step and record how it ended; an exception makes it `failed` and goes on."""
        handle = StepHandle(self, name)
        self._step_started_s = time.monotonic()
        self._show(name, "running", "")
        try:
            yield handle
        except BaseException as error:
            reason = (str(error).splitlines() or [""])[0]
            handle._say(StepStatus.FAILED, f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
            raise
        finally:
            elapsed_s = time.monotonic() - self._step_started_s
            detail = "; ".join(text for text in (handle.detail, *handle.remarks) if text)
            step = Step(name=name, status=handle.status, detail=detail, duration_s=round(elapsed_s, 3))
            self._steps.append(step)
            self._show(name, step.status, step.detail, ended=True)
            self._save(Status.RUNNING)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock of cluster and pool: outside of it `stages.site`'s clients refuse to change anything.

        Inside another one of this process it does nothing.

        Raises:
            Locked: another run holds it.
            ClusterError: the API does not answer, or refuses.
        """
        if lock.holds(self.profile):
            yield
            return
        with self.step("take the lock") as step:
            step.ok(lock.take(self.profile, self.run_id, self.stage, step.progress))
        try:
            yield
        finally:
            if trouble := lock.give_back(self.profile):
                self.note("The lock was not given back", f"{trouble}; others wait until it expires")

    def check(self, check: Check) -> None:
        """Add a judged statement; it is in the record at once."""
        self._checks.append(check)
        self._save(Status.RUNNING)

    def checks(self, ids: Iterable[str]) -> list[Check]:
        """Statements that were judged already, in the order of judging."""
        wanted = set(ids)
        return [check for check in self._checks if check.id in wanted]

    def note(self, title: str, text: str) -> None:
        """Add something that nothing here can prove."""
        self._notes.append(Note(title=redact(title), text=redact(text)))

    def table(self, table: Table) -> display.Shown:
        """Add a table and give it back to be shown."""
        clean: Table = Table.model_validate(redacted(table.model_dump(mode="json")))
        self._tables.append(clean)
        return display.table(clean)

    def plan(self, plan: Plan) -> display.Shown:
        """Add what will change, and what to know before; give it back to be shown."""
        clean = replace(plan, diffs=[redact(text) for text in plan.diffs])
        for table in plan.tables():
            self.table(table)
        for title, texts in display.notes(clean):
            for text in texts:
                self.note(title, text)
        return display.plan(clean)

    def approved(self, plan: Plan) -> bool:
        """Whether to go on with a plan that has an intent; one that nobody approved is in the record and shown.

        Raises:
            ValueError: the plan has no intent, or one that is no JSON.
        """
        if plan.intent is None:
            raise ValueError("a plan without an intent cannot be approved")
        approval = approvals.judged(plan.intent, self.profile, self._approve)
        self._approvals.append(approval)
        display.show(display.lines(approvals.how_to(approval, self.stage, self.profile.path)))
        self._save(Status.RUNNING)
        return approval.by is not None

    def undo_at_end(self, by_hand: str, undo: Callable[[], object]) -> None:
        """Have something put back when this attempt ends, also by an error; the latest first.

        Args:
            by_hand: the command that does the same, shown where `undo` raises.
            undo: does nothing where there is nothing to put back.
        """
        self._undo.append((by_hand, undo))

    def finish(self) -> StageResult:
        """End the stage: put back what is to be put back, show the verdicts, glue the result, write the record."""
        self._put_back()
        if self._approve and not self._approvals:
            self.note("An approval that was not needed", f"No plan asked for one; {self._approve} was given.")
        result = self._result()
        if not self.plan_only:
            display.show(display.judged(result))
        if in_kernel():
            import scrapbook  # loads pandas and papermill: paid once, at the end

            scrapbook.glue("result", result.model_dump(mode="json"), encoder="json")
        self._finished = True
        self._save(Status.FINISHED, verdict=None if self.plan_only else result.verdict)
        if self._recorder:
            self._recorder.write()
        return result

    def abandon(self, kind: str, message: str) -> None:
        """Say that this attempt ended before its time, unless it had ended already."""
        self._put_back()
        attempt = self._store.read().stage(self.stage).attempts[self._number - 1]
        if attempt.status not in ENDED:
            self._save(Status.INTERRUPTED, error=ErrorRecord(kind=kind, message=message))
        if self._recorder:
            self._recorder.write()
            self._recorder.detach()
        atexit.unregister(self._process_ends)

    def _result(self) -> StageResult:
        return StageResult(
            stage=self.stage,
            simulated=self.simulated,
            checks=self._checks,
            notes=self._notes,
            steps=self._steps,
            tables=self._tables,
            data=redacted(self.data),
            approvals=self._approvals,
            plan_only=self.plan_only,
            waits_for=self._waits_for,
        )

    def _put_back(self) -> None:
        """Undo what `undo_at_end` was told of; what cannot be undone is said with the command that does it."""
        while self._undo:
            by_hand, undo = self._undo.pop()
            try:
                undo()
            except Exception as error:  # whatever it is, the operator must get the command
                said = redact(f"could not put back: {error}\nput it back by hand: {by_hand}")
                self._steps.append(Step(name="put back", status=StepStatus.FAILED, detail=said))
                self.note("Put this back by hand", said)
                display.show(display.lines(said.splitlines()))
                print(said, file=sys.stderr)

    def _save(self, status: Status, *, verdict: Verdict | None = None, error: ErrorRecord | None = None) -> None:
        with self._store.change() as run:
            attempt = run.stage(self.stage).attempts[self._number - 1]
            attempt.status = status
            attempt.result = self._result()
            attempt.verdict = verdict or attempt.verdict
            attempt.error = error or attempt.error
            attempt.ended = now() if status in ENDED else None
            if run.how is not How.CLI and status is Status.FINISHED:
                run.verdict = run.judge()
                if [self.stage] == stage_names()[-1:]:
                    run.status, run.ended = Status.FINISHED, now()

    def _cell_failed(self, kind: str, message: str, cell: str) -> None:
        if self._finished and self._how is How.LAB:
            return  # somebody tries things out below a finished stage
        self._put_back()
        status = Status.INTERRUPTED if kind == "KeyboardInterrupt" else Status.FAILED
        self._save(status, error=ErrorRecord(kind=kind, message=redact(message), cell=redact(cell)))

    def _process_ends(self) -> None:
        try:
            self.abandon("ProcessEnded", "the process ended before the stage reached finish()")
        except RunbookError as error:  # somebody removed the record, or it cannot be written
            if not self._finished:
                print(error, file=sys.stderr)

    def _progress(self, name: str, text: str, done: float | None, total: float | None) -> None:
        if time.monotonic() - self._shown_s >= _PROGRESS_INTERVAL_S:
            self._show(name, "running", redact(text), done=done, total=total)

    def _show(
        self,
        name: str,
        status: str,
        detail: str,
        *,
        done: float | None = None,
        total: float | None = None,
        ended: bool = False,
    ) -> None:
        self._shown_s = time.monotonic()
        elapsed_s = self._shown_s - self._step_started_s
        payload = {
            "stage": self.stage,
            "step": name,
            "status": status,
            "detail": detail,
            "done": done,
            "total": total,
            "elapsed_s": round(elapsed_s, 1),
        }
        self._show_payload(payload, ended)

    def _show_payload(self, payload: dict[str, Any], ended: bool) -> None:
        if not in_kernel():
            return
        live, first = self._cell_display()
        done, total, detail = payload["done"], payload["total"], payload["detail"] or "running"
        share = f" {done:g}/{total:g}" if done is not None and total else ""
        running = None if ended else f"{payload['step']}:{share} {detail}, {payload['elapsed_s']:.0f} s"
        live.show(*display.steps(self._steps[first:], running), payload)

    def _cell_display(self) -> tuple[display.LiveDisplay, int]:
        from IPython import get_ipython  # only a kernel has it loaded

        cell = get_ipython().execution_count
        if self._display is None or self._display[0] != cell:
            started = len(self._steps)
            name = f"{self.run_id}-{self.stage}-{self._number}-{cell}"
            self._display = (cell, display.LiveDisplay(name), started)
        return self._display[1:]


def changes(apply: Callable[[StageRun], T]) -> Callable[[StageRun], T]:
    """For a function that changes the cluster: it holds the lock from its first look to its last wait."""

    @wraps(apply)
    def held(stage: StageRun) -> T:
        with stage.changing():
            return apply(stage)

    return held


def adopt(store: RunStore, stage: str) -> Attempt:
    """The attempt that the runner planned for this stage, now running in this process.

    Raises:
        IndexError: none was planned.
    """
    with store.change() as run:
        attempt = run.stage(stage).attempts[-1]
        attempt.status, attempt.started, attempt.process = Status.RUNNING, now(), this_process()
    return attempt
