"""How long to wait before the next try."""

from __future__ import annotations

FIRST_S, LONGEST_S, FORGET_AFTER_S = 10.0, 300.0, 600.0


class BackOff:
    """10 s, doubling to 5 minutes; forgotten after 10 minutes without a failure. Seconds are uncompressed."""

    def __init__(self, *, first_at_once: bool) -> None:
        self._first_s = 0.0 if first_at_once else FIRST_S
        self._next_s = self._first_s

    def next_s(self, ran_s: float = 0.0) -> float:
        """The delay after a failure that came `ran_s` after the start."""
        if ran_s > FORGET_AFTER_S:
            self._next_s = self._first_s
        delay_s = self._next_s
        self._next_s = min(LONGEST_S, 2 * delay_s) if delay_s else FIRST_S
        return delay_s


def go_duration(seconds: float) -> str:
    """Whole seconds as Go prints a duration.

    >>> go_duration(80)
    '1m20s'
    """
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
