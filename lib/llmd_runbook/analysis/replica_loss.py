"""What losing a replica during traffic did: who answered, what was lost, where prefixes went.

All times are seconds, 0 when the replica was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmd_runbook.analysis.affinity import ALPHA, Judgement, affinity

STEADY = 0.8
"""Part of a prefix's requests that its home must answer."""


@dataclass(frozen=True)
class Request:
    """One request: group of its prefix, when it was sent and ended, who answered (None: not known), how it failed."""

    group: str
    sent_s: float
    done_s: float
    replica: str | None
    error: str | None

    @property
    def ok(self) -> bool:
        """A whole answer came."""
        return self.error is None


@dataclass(frozen=True)
class Home:
    """The replica that answered most of a group (the first by name of equals), and how many of how many."""

    replica: str
    served: int
    of: int


@dataclass(frozen=True)
class Outcome:
    """Requests of one phase: sent, answered, and lost by kind of error."""

    sent: int
    answered: int
    lost: dict[str, int]


@dataclass(frozen=True)
class Loss:
    """The figures.

    Attributes:
        before, in_flight, after: ended before the kill; under way when it came; sent after it.
        last_chosen_s: when the last request was sent that failed or that the killed replica answered; None: none.
        answered_again_s: end of the first answer to a request sent after `last_chosen_s`; None: none came.
        longest_gap_s: longest time after the kill without the end of an answer; None where none came after it.
        by_survivors: answers to requests sent after the kill by replicas that had been there before.
        unattributed: answers to requests sent after the kill by a replica that is not known.
    """

    before: Outcome
    in_flight: Outcome
    after: Outcome
    last_chosen_s: float | None
    answered_again_s: float | None
    longest_gap_s: float | None
    by_survivors: int
    unattributed: int

    @property
    def lost(self) -> int:
        """Requests without a whole answer, from the kill on."""
        return sum(self.in_flight.lost.values()) + sum(self.after.lost.values())


def homes(requests: Iterable[Request]) -> dict[str, Home]:
    """The home of each group that was answered by a known replica."""
    served: dict[str, Counter[str]] = {}
    for request in requests:
        if request.ok and request.replica is not None:
            served.setdefault(request.group, Counter())[request.replica] += 1
    found = {}
    for group, counts in sorted(served.items()):
        replica = min(counts, key=lambda name: (-counts[name], name))
        found[group] = Home(replica, counts[replica], counts.total())
    return found


def fullest(found: dict[str, Home]) -> str:
    """The replica that is home to the most groups (the first by name of equals).

    Raises:
        ValueError: no group has a home.
    """
    if not found:
        raise ValueError("no group has a home")
    counts = Counter(home.replica for home in found.values())
    return min(counts, key=lambda name: (-counts[name], name))


def loss(requests: Sequence[Request], killed: str) -> Loss:
    """What happened to all requests of the stream."""
    early = {request.replica for request in requests if request.sent_s < 0 and request.replica}
    later = [request for request in requests if request.sent_s >= 0]
    chosen = [request.sent_s for request in later if not request.ok or request.replica == killed]
    last_chosen_s = max(chosen, default=None)
    ends = sorted(request.done_s for request in requests if request.ok and request.done_s >= 0)
    again = [r.done_s for r in later if r.ok and (last_chosen_s is None or r.sent_s > last_chosen_s)]
    return Loss(
        before=_outcome(request for request in requests if request.done_s < 0),
        in_flight=_outcome(request for request in requests if request.sent_s < 0 <= request.done_s),
        after=_outcome(later),
        last_chosen_s=last_chosen_s,
        answered_again_s=min(again, default=None),
        longest_gap_s=max((b - a for a, b in zip([0.0, *ends], ends, strict=False)), default=None),
        by_survivors=sum(request.ok and request.replica in early - {killed} for request in later),
        unattributed=sum(request.ok and request.replica is None for request in later),
    )


def judge_service(found: Loss, *, within_s: float) -> Judgement:
    """Whether the others went on serving, and requests stopped being lost within a time."""
    if found.after.sent == 0:
        return Judgement(None, "no request was sent after the kill")
    lost = ", ".join(f"{kind} {count}" for kind, count in sorted(_kinds(found).items())) or "none"
    last = "none of them" if found.last_chosen_s is None else f"the last {found.last_chosen_s:.2f} s"
    gap = "no answer after it" if found.longest_gap_s is None else f"longest gap {found.longest_gap_s:.2f} s"
    shown = (
        f"{found.lost} of {found.in_flight.sent + found.after.sent} requests lost ({lost}), {last} sent after the kill"
        f"; {found.by_survivors} answers by the other replicas; {gap}"
    )
    if not found.by_survivors and found.unattributed:
        return Judgement(None, f"{shown}; who gave the other {found.unattributed} answers is not known")
    settled = found.last_chosen_s is None or found.last_chosen_s <= within_s
    return Judgement(found.by_survivors > 0 and settled and found.answered_again_s is not None, shown)


def judge_moves(
    before: dict[str, Home], later: Sequence[Request], killed: str, *, seed: int, alpha: float = ALPHA
) -> Judgement:
    """Whether every prefix of the killed replica got one new home.

    Each must have at least `STEADY` of its later requests at one replica; and that all prefixes keep to their
    replicas must be more than routing blind to prefixes gives (permutation test of `affinity`).

    Args:
        before: homes before the kill.
        later: requests of all groups, sent after the killed replica was last chosen.
        killed: name of the killed replica.
        seed: of the permutations.
        alpha: level of the test.
    """
    moved = [group for group, home in before.items() if home.replica == killed]
    served = [request for request in later if request.ok and request.replica is not None]
    if not moved or not served:
        return Judgement(None, f"{len(moved)} prefixes to move, {len(served)} answers by a known replica afterwards")
    after = homes(served)
    settled = [after[group] for group in moved if group in after and after[group].replica != killed]
    steady = sum(home.served >= STEADY * home.of for home in settled)
    shown = (
        f"{steady} of {len(moved)} prefixes of the killed replica have a new home, with "
        f"{sum(home.served for home in settled)} of {sum(home.of for home in settled)} later requests"
    )
    if steady < len(moved):
        return Judgement(False, shown)
    names = sorted({home.replica for home in after.values()} | {str(request.replica) for request in served})
    table = [[sum(r.group == group and r.replica == name for r in served) for name in names] for group in after]
    try:
        p_value = affinity(table, seed=seed).p_value
    except ValueError as error:
        return Judgement(None, f"{shown}: {error}")
    shown += f"; all prefixes: p = {p_value:.2g} over {len(names)} replicas"
    if p_value <= alpha:
        return Judgement(True, shown)
    return Judgement(None, f"{shown}: too few requests or replicas to tell it from routing blind to prefixes")


def _kinds(found: Loss) -> Counter[str]:
    return Counter(found.in_flight.lost) + Counter(found.after.lost)


def _outcome(requests: Iterable[Request]) -> Outcome:
    mine = list(requests)
    errors = Counter(request.error for request in mine if request.error is not None)
    return Outcome(len(mine), sum(request.ok for request in mine), dict(sorted(errors.items())))
