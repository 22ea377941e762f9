"""The protocol of a release tool's driver, and what it reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from llmd_runbook.clients.releases.manifests import Manifest

OnLine = Callable[[str], None]
"""Gets each line that a tool prints, redacted, as it comes."""


@dataclass(frozen=True)
class Release:
    """A release as helm has it stored in the cluster."""

    name: str
    namespace: str
    chart: str
    revision: int
    status: str
    updated: datetime


@dataclass(frozen=True)
class Outcome:
    """What became of one release: `ok` was as wanted already, `skipped` was not there to remove."""

    release: str
    status: Literal["ok", "changed", "skipped"]


class Driver(Protocol):
    """Installs and removes an ordered set of releases.

    Those that change something ask the driver's guard first, and while their command runs. Every method raises
    `ToolError` when the tool is missing, too old, fails, or does not end in time; `ToolCutShort` where something may
    have been changed all the same.
    None waits for pods: the caller watches what it needs.
    """

    def names(self) -> list[str]:
        """Names of the driver's releases."""
        ...

    def installed(self, namespace: str) -> list[Release]:
        """Every release in the namespace, whoever installed it, failed and half-done ones too."""
        ...

    def render(self, releases: Sequence[str] = ()) -> list[Manifest]:
        """Manifests of the named releases, or of all, as they would be installed; secrets only as keys."""
        ...

    def apply(self, on_line: OnLine) -> list[Outcome]:
        """Install or upgrade what differs from what is installed."""
        ...

    def settle(self, releases: Sequence[str], on_line: OnLine) -> None:
        """Record as deployed those of the named releases that a command left failed or half done.

        For releases of which the caller has seen that all their objects are as rendered.
        """
        ...

    def destroy(self, on_line: OnLine) -> list[Outcome]:
        """Remove the releases; those that others need come last."""
        ...

    def charts(self) -> dict[str, str]:
        """Digest of each release's chart, `sha256:...` by release: what is approved is this very chart."""
        ...

    def stored(self, release: str) -> list[Manifest]:
        """Manifests of an installed release as helm has stored them; secrets only as keys."""
        ...

    def differing(self) -> list[str]:
        """Names of the releases that `apply` would install or upgrade now; nothing is changed."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions of the tools, by name."""
        ...
