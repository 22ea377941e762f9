"""Which test shows that which check can fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

COVERED: dict[str, str] = {}
"""Check -> the test in which it does not pass."""

T = TypeVar("T", bound=Callable[..., None])


def fails(*ids: str) -> Callable[[T], T]:
    """This test shows that these checks do not pass."""

    def note(test: T) -> T:
        for name in ids:
            assert name not in COVERED, f"{name} has a case already"
            COVERED[name] = test.__name__
        return test

    return note
