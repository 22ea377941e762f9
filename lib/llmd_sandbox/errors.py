"""The sandbox's errors for everything that its user can act on.

SandboxError          something failed
+-- NotToBeHad        what is needed cannot be had on this machine; nothing was started
"""

from __future__ import annotations


class SandboxError(Exception):
    """What failed, where, the reason as the failing part gave it, and what to do now."""

    def __init__(
        self, what: str, *, where: str | None = None, reason: str | None = None, remedy: str | None = None
    ) -> None:
        self.what, self.where, self.reason, self.remedy = what, where, reason, remedy
        super().__init__(what)

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"  where:  {self.where}"] if self.where else []
        parts += [f"  reason: {self.reason}"] if self.reason else []
        parts += [f"  to do:  {self.remedy}"] if self.remedy else []
        return "\n".join(parts)


class NotToBeHad(SandboxError):
    """A program or package that this machine lacks and cannot get, or has no room for."""
