"""When a pod last came further, and how long it may take until it does again; times are those of the caller's clock."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from llmd_runbook.profile import ProgressDeadlines
from llmd_runbook.stages.waiting.phases import Phase


def limits(deadlines: ProgressDeadlines) -> dict[Phase, float]:
    """How long (s) a pod may be without progress, by its phase; `START` has the time of the phases that it stands for.

    A pod that is Ready, or ends, has no deadline of its own.
    """
    after = {
        Phase.DOWNLOAD: deadlines.download_s,
        Phase.LOAD: deadlines.load_s,
        Phase.WARM_UP: deadlines.warm_up_s,
    }
    before = {Phase.CAPACITY: deadlines.capacity_s, Phase.IMAGE_PULL: deadlines.image_pull_s}
    return {**before, Phase.START: sum(after.values()), **after}


def picker_limits(deadlines: ProgressDeadlines) -> dict[Phase, float]:
    """The same for an endpoint picker's pod, which has no model: from its container's start to Ready is one phase."""
    return {
        Phase.CAPACITY: deadlines.capacity_s,
        Phase.IMAGE_PULL: deadlines.image_pull_s,
        Phase.START: deadlines.warm_up_s,
    }


class Progress:
    """One pod. Progress is a phase later than any before, or something said that it never said before.

    A restart is none, and what a restarted container says is none until it is past where the one before had come: a
    crash loop repeats itself. Every time is seconds of one monotonic clock.
    """

    def __init__(self, now_s: float) -> None:
        self.phase = Phase.CAPACITY
        self.restarts = 0
        self.moved_s = now_s
        self._furthest = Phase.CAPACITY
        self._since_s, self._first, self._again = now_s, True, False
        self._said: set[str] = set()
        self._spent_s: dict[Phase, float] = {}

    def see(self, phase: Phase, restarts: int, said: Collection[str], now_s: float) -> None:
        """Take in what the pod is and says now."""
        self._again = self._again or (restarts > self.restarts and not self._first)
        new = [text for text in said if text not in self._said]
        if phase < self._furthest <= Phase.WARM_UP and not self._again:
            phase = self._furthest  # the line that told has left the end of the log
        if phase > self._furthest:
            self._furthest, self._again, self.moved_s = phase, False, now_s
        elif phase >= Phase.READY or (new and not self._again):
            self.moved_s = now_s
        if self._first:
            self.phase = phase
        elif phase is not self.phase:
            self._spent_s = self.spent_s(now_s)
            self.phase, self._since_s = phase, now_s
        self.restarts, self._first = restarts, False
        self._said.update(new)

    def still_s(self, now_s: float) -> float:
        """Seconds without progress."""
        return now_s - self.moved_s

    def overdue(self, allowed: Mapping[Phase, float], now_s: float) -> bool:
        """Whether it is longer without progress than its phase allows (s)."""
        return self.still_s(now_s) >= allowed.get(self.phase, math.inf)

    def in_phase_s(self, now_s: float) -> float:
        """Seconds since it was first seen in its phase."""
        return now_s - self._since_s

    def spent_s(self, now_s: float) -> dict[Phase, float]:
        """Seconds in each phase that it was seen in, the present one too."""
        before = self._spent_s.get(self.phase, 0.0)
        return {**self._spent_s, self.phase: before + self.in_phase_s(now_s)}
