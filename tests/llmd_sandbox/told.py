"""What a build tells of itself, kept for a test to read."""

from __future__ import annotations


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, int | None]] = []
        self.details: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, title: str, total: int | None) -> None:
        self.steps.append((title, total))

    def advance(self, detail: str) -> None:
        self.details.append(detail)
