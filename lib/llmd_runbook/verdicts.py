"""What a stage says: checks with three verdicts, notes, steps, tables; and the registry of all checks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmd_runbook.errors import redact


class Verdict(StrEnum):
    """`inconclusive` means that nothing was proved; it is never shown as a pass."""

    PASS = "pass"
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


class StepStatus(StrEnum):
    """How one idempotent step ended."""

    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Check(_Model):
    """One judged statement. `id` is in the registry; `expected` and `observed` are for people."""

    id: str
    proves: str
    verdict: Verdict
    expected: str
    observed: str
    evidence: list[str] = Field(default_factory=list)
    remedy: str | None = None


class Note(_Model):
    """Something worth saying that nothing here can prove or disprove."""

    title: str
    text: str


class Step(_Model):
    """One step of a stage: what was done, how it ended, how long it took (s)."""

    name: str
    status: StepStatus
    detail: str = ""
    duration_s: float = 0.0


class Approval(_Model):
    """A plan that must be approved before anything is changed, and whether it was.

    Attributes:
        hash: SHA-256 of the plan's intent.
        intent: its canonical JSON, so that anyone can recompute the hash.
        by: `self` (the profile of a simulated cluster), `hash` (an operator gave it), None: nobody.
        given: the hash that was given, where it was another one.
    """

    hash: str
    intent: str
    by: Literal["self", "hash"] | None
    given: str = ""


class Table(_Model):
    """Rows for people; every row as long as `columns`."""

    title: str
    columns: list[str]
    rows: list[list[str | int | float | None]]


class StageResult(_Model):
    """What a stage found; what scrapbook exports and the record keeps.

    `data` holds figures that later stages read (JSON values only, units in the names). `plan_only`: the stage ended
    with its plan. `waits_for`: the earlier stage without whose result it cannot be planned.
    """

    stage: str
    simulated: bool
    checks: list[Check]
    notes: list[Note] = Field(default_factory=list)
    steps: list[Step] = Field(default_factory=list)
    tables: list[Table] = Field(default_factory=list)
    data: dict[str, Any] = Field(default_factory=dict)
    approvals: list[Approval] = Field(default_factory=list)
    plan_only: bool = False
    waits_for: str = ""

    @property
    def would_change(self) -> bool:
        """Whether the stage's plan changes something; one that cannot be made yet counts as one that does."""
        return bool(self.approvals or self.waits_for)

    @property
    def unapproved(self) -> list[Approval]:
        """Plans that nobody approved: what they ask for was not done."""
        return [approval for approval in self.approvals if approval.by is None]

    @property
    def verdict(self) -> Verdict:
        """The worst of the checks; without checks, or with something left undone, nothing better than inconclusive."""
        undone = [Verdict.INCONCLUSIVE for _ in self.unapproved]
        return overall([*(check.verdict for check in self.checks), *undone])


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Fail if any failed, else inconclusive if any is or there are none, else pass."""
    found = set(verdicts)
    if Verdict.FAIL in found:
        return Verdict.FAIL
    if not found or Verdict.INCONCLUSIVE in found:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS


@dataclass(frozen=True)
class CheckSpec:
    """A check as the registry knows it: what a pass proves, and what to do when there is none.

    `never_fails` is the reason why one can at worst be inconclusive, where that is so.
    """

    id: str
    proves: str
    remedy: str
    never_fails: str = ""

    def judge(
        self,
        ok: bool | None,
        *,
        expected: object,
        observed: object,
        evidence: Iterable[str] = (),
        remedy: str = "",
    ) -> Check:
        """The check with its verdict; `ok=None` is inconclusive. All texts are redacted.

        Raises:
            ValueError: a failure of a check that never fails.
        """
        if ok is False and self.never_fails:
            raise ValueError(f"check {self.id!r} cannot fail: {self.never_fails}")
        verdict = Verdict.INCONCLUSIVE if ok is None else Verdict.PASS if ok else Verdict.FAIL
        return Check(
            id=self.id,
            proves=self.proves,
            verdict=verdict,
            expected=redact(str(expected)),
            observed=redact(str(observed)),
            evidence=[redact(str(line)) for line in evidence],
            remedy=None if ok else redact(remedy or self.remedy),
        )


REGISTRY: dict[str, CheckSpec] = {}


def declare(id: str, proves: str, remedy: str, *, never_fails: str = "") -> CheckSpec:
    """Enter a check into the registry.

    Raises:
        ValueError: when the id is taken.
    """
    if id in REGISTRY:
        raise ValueError(f"check {id!r} is declared twice")
    REGISTRY[id] = CheckSpec(id, proves, remedy, never_fails)
    return REGISTRY[id]
