"""What a stage is about to change, what of it is approved, and what must still hold when it is changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import rfc8785

from llmd_runbook.errors import Conflict, UsageError
from llmd_runbook.verdicts import Table

_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Change:
    """One difference between what is and what shall be, in words a person can judge."""

    subject: str
    before: str
    after: str

    @property
    def needed(self) -> bool:
        """Something is different."""
        return self.before != self.after


@dataclass(frozen=True)
class Duration:
    """How long a part of a plan may take: its deadline (s) and where that comes from, and what this run measured."""

    what: str
    at_most_s: float
    source: str
    measured_s: float | None = None


@dataclass(frozen=True)
class Price:
    """What one kind of thing costs: how many now and then, and the price of one (USD/h)."""

    what: str
    now: int
    then: int
    usd_per_hour: float


@dataclass(frozen=True)
class Intent:
    """What is approved: the stage, the cluster (kube-system UID) and the target, JSON values all of it.

    Nothing in a target may depend on when it was read: what it was computed from are `Preconditions`.
    """

    stage: str
    cluster: str
    target: Mapping[str, Any]

    @property
    def canonical(self) -> bytes:
        """Canonical JSON (RFC 8785) of stage, cluster and target.

        Raises:
            ValueError: the target holds something that is no JSON value.
        """
        return bytes(rfc8785.dumps({"stage": self.stage, "cluster": self.cluster, "target": dict(self.target)}))

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal: what an operator approves, and anyone can recompute."""
        return hashlib.sha256(self.canonical).hexdigest()


@dataclass(frozen=True)
class Preconditions:
    """What a plan was computed from (UIDs, generations, the fields read), each under a name for people."""

    facts: Mapping[str, Any]

    def moved(self, now: Preconditions) -> list[str]:
        """What is not as it was, in words."""
        names = sorted({*self.facts, *now.facts})
        return [
            f"{name}: {self.facts.get(name, 'absent')} became {now.facts.get(name, 'absent')}"
            for name in names
            if self.facts.get(name) != now.facts.get(name)
        ]

    def require(self, now: Preconditions, *, where: str) -> None:
        """To be called right before the change.

        Raises:
            Conflict: something moved; it is named.
        """
        if moved := self.moved(now):
            raise Conflict(
                "the plan does not fit any more; nothing was changed",
                where=where,
                reason="; ".join(moved),
                remedy="run the stage again: its plan is made anew",
            )


@dataclass(frozen=True)
class Plan:
    """All changes of a stage, what an operator must know before they are made, and what is approved.

    Attributes:
        changes: what is and what shall be.
        warnings: what to know before.
        intent: what is approved; None where nothing asks for approval.
        diffs: objects before and after, unified diffs; no Secret's values.
        durations: how long its parts may take.
        prices: what is paid for, now and then; `prices_as_of` says when the prices were right, and who says so.
        not_previewed: what this plan cannot show.
        not_undone: what cannot be taken back.
    """

    changes: list[Change]
    warnings: list[str]
    intent: Intent | None = None
    diffs: list[str] = field(default_factory=list)
    durations: list[Duration] = field(default_factory=list)
    prices: list[Price] = field(default_factory=list)
    prices_as_of: str = ""
    not_previewed: list[str] = field(default_factory=list)
    not_undone: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing would change."""
        return not any(change.needed for change in self.changes)

    def table(self) -> Table:
        """The changes for people."""
        rows: list[list[str | int | float | None]] = [
            [item.subject, item.before, item.after, "change" if item.needed else "as it is"] for item in self.changes
        ]
        return Table(title="Plan", columns=["what", "now", "then", "action"], rows=rows)

    def tables(self) -> list[Table]:
        """The changes, and where they are known the prices and the durations."""
        return [
            self.table(),
            *([self._prices()] if self.prices else []),
            *([self._durations()] if self.durations else []),
        ]

    def _prices(self) -> Table:
        now = sum(item.now * item.usd_per_hour for item in self.prices)
        then = sum(item.then * item.usd_per_hour for item in self.prices)
        rows: list[list[str | int | float | None]] = [
            [item.what, item.now, item.then, item.usd_per_hour, round((item.then - item.now) * item.usd_per_hour, 3)]
            for item in self.prices
        ]
        rows.append(["in all (USD/h)", round(now, 3), round(then, 3), None, round(then - now, 3)])
        columns = ["what", "now", "then", "USD/h each", "USD/h more"]
        return Table(title=f"Dollars per hour ({self.prices_as_of})", columns=columns, rows=rows)

    def _durations(self) -> Table:
        rows: list[list[str | int | float | None]] = [
            [
                item.what,
                item.at_most_s,
                item.source,
                "not yet" if item.measured_s is None else f"{item.measured_s:.1f} s",
            ]
            for item in self.durations
        ]
        return Table(
            title="How long", columns=["part", "at most (s)", "deadline from", "measured in this run"], rows=rows
        )


def checked_hash(text: str, *, where: str) -> str:
    """A hash as an operator gives it, blanks around it taken away; empty means that none is given.

    Raises:
        UsageError: it is no SHA-256 in hexadecimal.
    """
    found = text.strip()
    if found and not _HASH.fullmatch(found):
        raise UsageError(
            "an approval is the hash of a plan, 64 hexadecimal digits in lower case",
            where=where,
            reason=f"{found!r} is none",
            remedy="copy it from the plan that the stage shows",
        )
    return found
