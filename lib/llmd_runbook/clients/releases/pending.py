"""Releases that a killed helm left half done, which every later `helm upgrade` refuses."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from llmd_runbook.clients.releases.base import Driver, OnLine, Release
from llmd_runbook.clients.releases.binary import Helm
from llmd_runbook.errors import ToolError

ABANDONED_S = 300.0
"""helm's own default `--timeout`: whoever began a change longer ago has ended, or was killed."""

_LOOK_AGAIN_S = 1.0
INSTALLED_ANEW = ("pending-install", "uninstalling")
"""What is abandoned in these states can only be uninstalled: then it is installed anew."""

_HALF_DONE = (*INSTALLED_ANEW, "pending-upgrade", "pending-rollback")


def half_done(release: Release) -> bool:
    """Whether a helm is at work on the release, or was killed at it; helm's record does not say which."""
    return release.status in _HALF_DONE


def recover(helm: Helm, namespace: str, names: Sequence[str], on_line: OnLine) -> tuple[list[Release], list[str]]:
    """Wait for changes under way; finish what was abandoned, so that the releases can be changed again.

    A half-done install or removal is uninstalled, a half-done upgrade is rolled back. A change counts as abandoned
    `ABANDONED_S` seconds after it began.

    Returns:
        Every release in the namespace now, and the names of those that were recovered.

    Raises:
        ToolError: helm failed.
    """
    recovered: list[str] = []
    told: set[tuple[str, int]] = set()
    while True:
        present = helm.releases(namespace)
        found = [item for item in present if item.name in names and half_done(item)]
        if not found:
            return present, recovered
        for release in found:
            age_s = (datetime.now(UTC) - release.updated).total_seconds()
            if age_s >= ABANDONED_S:
                _finish(helm, release, on_line)
                recovered.append(release.name)
            elif (release.name, release.revision) not in told:
                told.add((release.name, release.revision))
                on_line(
                    f"{release.name} is {release.status} since {release.updated:%H:%M:%S} UTC: a helm is at work on it "
                    f"or was killed; it counts as abandoned {ABANDONED_S:g} s after it began"
                )
        time.sleep(_LOOK_AGAIN_S)


def _finish(helm: Helm, release: Release, on_line: OnLine) -> None:
    where = [release.name, "--namespace", release.namespace]
    if release.status in INSTALLED_ANEW:
        on_line(f"{release.name} was left {release.status}: uninstalling it")
        helm.run("uninstall", *where, on_line=on_line)
    else:
        on_line(f"{release.name} was left {release.status}: rolling it back")
        helm.run("rollback", *where, on_line=on_line)


def settle(helm: Helm, namespace: str, names: Sequence[str], on_line: OnLine) -> None:
    """Have helm's record of releases whose objects are all as rendered say so, where it says failed or pending.

    A rollback to the revision that is there: it leaves the objects as they are and waits for nothing. Without it the
    next upgrade of a pending release is refused, and `recover` would uninstall it or go back to the revision before.

    Raises:
        ToolError: helm failed.
    """
    for release in helm.releases(namespace):
        if release.name in names and release.status != "deployed":
            on_line(f"{release.name} is {release.status}, and all its objects are there: settling helm's record")
            revision = str(release.revision)
            helm.run("rollback", release.name, revision, "--namespace", namespace, on_line=on_line)


@contextmanager
def accounted(driver: Driver, namespace: str, before: Sequence[Release]) -> Iterator[None]:
    """Add to the error of a change that ended half way what became of each release.

    Raises:
        ToolError: the block did.
    """
    try:
        yield
    except ToolError as error:
        said = "; ".join(_became(name, before, driver.installed(namespace)) for name in driver.names())
        reason = "\n".join([*([error.reason] if error.reason else []), f"releases now: {said}"])
        raise type(error)(error.what, where=error.where, reason=reason, remedy=error.remedy) from error


def _became(name: str, before: Sequence[Release], after: Sequence[Release]) -> str:
    revision = {release.name: release.revision for release in before}.get(name)
    release = {release.name: release for release in after}.get(name)
    if release is None:
        return f"{name} is not installed"
    return f"{name} {release.status}, {'unchanged' if release.revision == revision else 'changed just now'}"
