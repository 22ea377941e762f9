"""What a swap of two patterns did to requests: what was answered, what was refused as announced, what was lost.

All times are seconds on one clock, that of the probe that sent the requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from scipy import stats

OLD, NEW = "old", "new"
"""Which pattern's model a request asks for."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Asked:
    """One request of the probe; `error` is None where a whole answer came, `status` where none came at all."""

    model: str
    streamed: bool
    due_s: float
    sent_s: float
    done_s: float
    status: int | None
    error: str | None
    request_id: str
    events: int
    body_bytes: int

    @property
    def ok(self) -> bool:
        """A whole answer came."""
        return self.error is None


@dataclass(frozen=True)
class Announced:
    """What the plan says of requests under one name that are under way at some time in a span.

    Attributes:
        refusals_only: they may be refused (404), and nothing else may happen to them.
    """

    why: str
    model: str
    from_s: float
    until_s: float
    refusals_only: bool

    def covers(self, asked: Asked) -> bool:
        """Whether it explains that this request was not answered."""
        meant = asked.model == self.model and asked.sent_s <= self.until_s and asked.done_s >= self.from_s
        return meant and (asked.error == "http_404" or not self.refusals_only)


class Outcome(StrEnum):
    """What became of a request."""

    ANSWERED = "answered"
    REFUSED = "refused as announced"
    OUTAGE = "lost in the announced outage"
    LOST = "lost, not announced"


def outcome(asked: Asked, announced: Iterable[Announced]) -> Outcome:
    """What became of one request, the mildest announcement that explains it first."""
    if asked.ok:
        return Outcome.ANSWERED
    found = [item for item in announced if item.covers(asked)]
    if any(item.refusals_only for item in found):
        return Outcome.REFUSED
    return Outcome.OUTAGE if found else Outcome.LOST


def counts(requests: Iterable[Asked], announced: Sequence[Announced]) -> dict[str, Counter[Outcome]]:
    """How many requests of each name came to which outcome."""
    found: dict[str, Counter[Outcome]] = {OLD: Counter(), NEW: Counter()}
    for asked in requests:
        found[asked.model][outcome(asked, announced)] += 1
    return found


@dataclass(frozen=True)
class Gap:
    """How long nobody was served, under either name.

    Attributes:
        before_s: when the last request before it was sent that was answered; None: it began before the first request.
        after_s: when the first request after it was sent that was answered; None: it went on to the last request.
        at_least_s: from the first to the last request between those two, none of which was answered.
        lost: by name, requests that ended without an answer in the announced outage.
    """

    before_s: float | None
    after_s: float | None
    at_least_s: float
    lost: dict[str, int]

    @property
    def at_most_s(self) -> float | None:
        """From one of the two to the other, with no gap the probe's own spacing; None where one of them is missing."""
        return None if self.before_s is None or self.after_s is None else self.after_s - self.before_s


_SPACING_S = 1.0
"""Without an answer for longer than this at its begin or end a probe saw a part of a gap; for less, its spacing."""
_Stretch = tuple[float | None, float | None]


def gap(requests: Sequence[Asked], announced: Sequence[Announced]) -> Gap:
    """The longest time between two requests that were answered one after the other, under whatever name."""
    sent = sorted(asked.sent_s for asked in requests)
    served = sorted(asked.sent_s for asked in requests if asked.ok)

    def length_s(stretch: _Stretch) -> float:
        before_s, after_s = stretch
        return (sent[-1] if after_s is None else after_s) - (sent[0] if before_s is None else before_s)

    open_ended: list[_Stretch] = [(None, served[0]), (served[-1], None)] if served else []
    stretches = [*pairwise(served), *(item for item in open_ended if length_s(item) > _SPACING_S)]
    before_s, after_s = max(stretches, key=length_s, default=(None, None))
    between = [
        asked.sent_s
        for asked in requests
        if not asked.ok
        and (before_s is None or asked.sent_s > before_s)
        and (after_s is None or asked.sent_s < after_s)
    ]
    lost = Counter(asked.model for asked in requests if outcome(asked, announced) is Outcome.OUTAGE)
    return Gap(
        before_s=before_s,
        after_s=after_s,
        at_least_s=max(between) - min(between) if between else 0.0,
        lost={name: lost[name] for name in (OLD, NEW)},
    )


def rate_per_s(requests: Sequence[Asked]) -> float:
    """Requests sent a second, from the first to the last; 0 of fewer than two."""
    sent = [asked.sent_s for asked in requests]
    return (len(sent) - 1) / (max(sent) - min(sent)) if len(sent) > 1 and max(sent) > min(sent) else 0.0


def longest_silence_s(requests: Sequence[Asked]) -> float:
    """Longest time in which the probe sent nothing: what happens then is not seen."""
    sent = sorted(asked.sent_s for asked in requests)
    return max((later - earlier for earlier, later in pairwise(sent)), default=0.0)


def open_streams(requests: Iterable[Asked], at_s: float) -> int:
    """Streams that were open at a moment."""
    return sum(asked.streamed and asked.sent_s < at_s < asked.done_s for asked in requests)


def share_at_most(lost: int, of: int) -> float:
    """Upper 95 % bound of the share of requests that are lost (Clopper-Pearson, one-sided); 1 of none."""
    return 1.0 if lost >= of else float(stats.beta.ppf(CONFIDENCE, lost + 1, of - lost))


def share_at_least(lost: int, of: int) -> float:
    """Lower 95 % bound of the share of requests that are lost (Clopper-Pearson, one-sided); 0 of none."""
    return 0.0 if lost == 0 else float(stats.beta.ppf(1 - CONFIDENCE, lost, of - lost + 1))
