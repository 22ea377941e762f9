"""Guards for clients that a test uses by itself: a test is alone with its cluster."""

from __future__ import annotations


def anything() -> None:
    """Allows every change."""
