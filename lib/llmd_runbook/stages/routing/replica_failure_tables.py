"""What a lost replica did, as tables."""

from __future__ import annotations

from dataclasses import dataclass

from llmd_runbook.analysis.replica_loss import Home, Loss, Outcome
from llmd_runbook.verdicts import Table


@dataclass
class Moments:
    """What the API said and when, on the stream's clock (s).

    Attributes:
        killed_s: the pod was deleted.
        gone_s: it was seen gone, or not Ready.
        full_s: all replicas were available again.
        trouble: why they were not within the deadline.
        unseen: why nobody could look.
    """

    killed_s: float
    gone_s: float | None = None
    full_s: float | None = None
    trouble: str = ""
    unseen: str = ""

    def after_kill(self, at_s: float | None) -> float | None:
        """A moment as seconds after the kill."""
        return None if at_s is None else at_s - self.killed_s


def outcomes(found: Loss) -> Table:
    """Every request once, by when it was sent and how it ended."""

    def row(name: str, outcome: Outcome) -> list[str | int | float | None]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in outcome.lost.items())
        return [name, outcome.sent, outcome.answered, sum(outcome.lost.values()), kinds]

    rows = [
        row("ended before the kill", found.before),
        row("in flight at the kill", found.in_flight),
        row("sent after the kill", found.after),
    ]
    return Table(title="Requests by outcome", columns=["when", "sent", "answered", "lost", "how"], rows=rows)


def moments_table(found: Loss, moments: Moments) -> Table:
    """What happened when."""

    def after(seconds: float | None, zero_s: float = 0.0) -> float | None:
        return None if seconds is None else round(seconds - zero_s, 2)

    rows: list[list[str | int | float | None]] = [
        ["the pod is gone from the API, or not Ready", after(moments.gone_s, moments.killed_s)],
        ["last request sent that the killed replica got, or that was lost", after(found.last_chosen_s)],
        ["first answer to a request sent after that", after(found.answered_again_s)],
        ["all replicas available again", after(moments.full_s, moments.killed_s)],
    ]
    return Table(title="Moments", columns=["what", "seconds after the kill"], rows=rows)


def moves(before: dict[str, Home], after: dict[str, Home], killed: str) -> Table:
    """The home of every prefix before and after."""
    rows: list[list[str | int | float | None]] = [
        [group, home_text(home), home_text(after.get(group)), "killed" if home.replica == killed else "stays"]
        for group, home in before.items()
    ]
    return Table(title="Homes of the prefixes", columns=["prefix", "before", "after", "replica"], rows=rows)


def home_text(home: Home | None) -> str:
    """A home in words."""
    return "none" if home is None else f"{home.replica} ({home.served} of {home.of})"
