"""What a statistical test concludes, for people and for a check."""

from __future__ import annotations

from dataclasses import dataclass

ALPHA = 0.01
"""Level of the routing tests: false alarms that are tolerated."""


@dataclass(frozen=True)
class Judgement:
    """`ok` is None when nothing was proved; `reason` says why, for people."""

    ok: bool | None
    reason: str
