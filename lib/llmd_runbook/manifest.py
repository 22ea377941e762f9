"""`run.json`: what a run says about itself. It is the truth; notebooks and tables are shown beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmd_runbook.verdicts import Approval, StageResult, Verdict, overall


class How(StrEnum):
    """Who executes the notebooks of a run."""

    CLI = "cli"
    PAPERMILL = "papermill"
    LAB = "lab"
    NBVAL = "nbval"
    PYTHON = "python"


class Status(StrEnum):
    """How far a run or an attempt at a stage got.

    `planned`: not begun. `open`: a run by hand, waiting for its next stage. `finished`: reached its end, and
    the verdict says how. `failed`: an error or a failed check ended it. `lost`: its process is gone and said
    nothing. `not run`: an earlier stage ended the run. `needs approval`: a plan that nobody approved ended the run.
    """

    PLANNED = "planned"
    OPEN = "open"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"
    NOT_RUN = "not run"
    NEEDS_APPROVAL = "needs approval"


ENDED = frozenset(
    {
        Status.FINISHED,
        Status.FAILED,
        Status.INTERRUPTED,
        Status.LOST,
        Status.NOT_RUN,
        Status.NEEDS_APPROVAL,
    }
)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ClusterIdentity(_Model):
    """Which cluster a run talks to; `real` says for each part what is real and what stands in for it.

    `confirmed_by` says who else names the same cluster, and by what: helm, GKE.
    """

    context: str
    server: str
    kube_system_uid: str
    kubernetes_version: str
    simulated: bool
    real: dict[str, str] = Field(default_factory=dict)
    confirmed_by: list[str] = Field(default_factory=list)

    @property
    def stamp(self) -> str:
        """What made the numbers where no GPU did, for pictures; empty on a real cluster."""
        engine = self.real.get("engine", "").partition(",")[0]
        if not self.simulated:
            return ""
        return f"sandbox: {engine}" if engine.startswith("real") else "simulated engine"


class Process(_Model):
    """A process, told apart from a later one with the same id by its start (seconds since the epoch)."""

    pid: int
    host: str
    started_s: float


class ErrorRecord(_Model):
    """What ended a stage early: kind and message (redacted), and the first line of the cell that did."""

    kind: str
    message: str
    cell: str | None = None


class Attempt(_Model):
    """One execution of a stage's notebook. `result` grows step by step; its verdict counts once finished."""

    number: int
    notebook: str
    status: Status = Status.PLANNED
    verdict: Verdict | None = None
    started: datetime | None = None
    ended: datetime | None = None
    process: Process | None = None
    error: ErrorRecord | None = None
    result: StageResult | None = None


class StageRecord(_Model):
    """All attempts at one stage, oldest first."""

    stage: str
    attempts: list[Attempt] = Field(default_factory=list)
    not_run: str | None = Field(default=None, description="why it was never begun")

    @property
    def status(self) -> Status:
        """The latest attempt's; without one, planned or not run."""
        if self.attempts:
            return self.attempts[-1].status
        return Status.NOT_RUN if self.not_run else Status.PLANNED

    @property
    def verdict(self) -> Verdict | None:
        """The latest attempt's; None while it has none."""
        return self.attempts[-1].verdict if self.attempts else None

    @property
    def would_change(self) -> bool:
        """Whether the latest attempt planned a change."""
        result = self.attempts[-1].result if self.attempts else None
        return result is not None and result.would_change

    @property
    def plan_only(self) -> bool:
        """Whether the latest attempt ended with its plan."""
        result = self.attempts[-1].result if self.attempts else None
        return result is not None and result.plan_only

    @property
    def unapproved(self) -> list[Approval]:
        """Plans of the latest attempt that nobody approved."""
        result = self.attempts[-1].result if self.attempts else None
        return result.unapproved if result else []


class ProfileRecord(_Model):
    """The profile as it was: profiles hold no secrets."""

    name: str
    path: str
    digest: str
    content: dict[str, Any]


class Code(_Model):
    """The commit that ran; None outside a git checkout."""

    commit: str | None
    dirty: bool | None


class Who(_Model):
    """The account and the machine."""

    user: str
    host: str


class Resumption(_Model):
    """When somebody took a run up again, and what was not run again: why, and what was seen of it."""

    at: datetime
    who: Who
    process: Process
    kept: dict[str, str] = Field(default_factory=dict, description="stage: why it was not run again")
    rechecked: list[StageResult] = Field(default_factory=list, description="postconditions, looked at again")


class Run(_Model):
    """One pass through the stages, in one folder."""

    schema_version: Literal[1] = 1
    id: str
    profile: ProfileRecord
    simulated: bool
    cluster: ClusterIdentity
    how: How
    who: Who
    code: Code
    tools: dict[str, str]
    process: Process | None = Field(default=None, description="owner of the run; None for a run by hand")
    status: Status = Status.OPEN
    verdict: Verdict | None = None
    exit_code: int | None = None
    started: datetime
    ended: datetime | None = None
    error: ErrorRecord | None = None
    requested: list[str] = Field(default_factory=list, description="empty for a run by hand")
    approvals: dict[str, str] = Field(default_factory=dict, description="hash that was given, by stage")
    resumed: list[Resumption] = Field(default_factory=list)
    stages: list[StageRecord] = Field(default_factory=list)

    def stage(self, name: str) -> StageRecord:
        """The stage's record, entered in the order of stage numbers when it is new."""
        for record in self.stages:
            if record.stage == name:
                return record
        record = StageRecord(stage=name)
        self.stages.append(record)
        self.stages.sort(key=lambda entry: entry.stage)
        return record

    def judge(self) -> Verdict:
        """The worst of the latest verdicts; a stage without one proved nothing."""
        return overall(record.verdict or Verdict.INCONCLUSIVE for record in self.stages)

    def observed(self, alive: Callable[[Process], bool]) -> Run:
        """This run as it is now: what ran in a process that is gone is `lost`. The record itself stays."""
        seen = self.model_copy(deep=True)
        if seen.status is Status.RUNNING and seen.process and not alive(seen.process):
            seen.status = Status.LOST
        for record in seen.stages:
            for attempt in record.attempts:
                gone = attempt.process is not None and not alive(attempt.process)
                orphaned = attempt.status is Status.PLANNED and seen.status in ENDED
                if (attempt.status is Status.RUNNING and gone) or orphaned:
                    attempt.status = Status.LOST
            if not record.attempts and seen.status in ENDED and record.not_run is None:
                record.not_run = f"the run is {seen.status}"
        return seen
