"""One `coordination.k8s.io/v1` Lease: seen, taken, renewed and given back, each by compare-and-swap.

The client library's `leaderelection` is not used: its lock reaches only the default context, it waits for ever
instead of saying who holds it, judges expiry by the wall clock, never gives a Lease back, and runs the work that it
protects in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llmd_runbook.clients.kubernetes import LEASES, Kubernetes, Object
from llmd_runbook.errors import Conflict, DeadlineExceeded

_UNSAID_S = 30.0
"""For a Lease that does not say for how long it is held."""
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Seen:
    """A Lease as it was read. Its times are by its holder's clock, and nothing is decided by them."""

    item: Object

    @property
    def version(self) -> str:
        """The resourceVersion: another one means that it was written since."""
        return str(self.item["metadata"]["resourceVersion"])

    @property
    def holder(self) -> str:
        """The holder's identity; empty where nobody holds it."""
        return str(self._spec.get("holderIdentity") or "")

    @property
    def duration_s(self) -> float:
        """How long it is held without being renewed."""
        return float(self._spec.get("leaseDurationSeconds") or _UNSAID_S)

    @property
    def acquired(self) -> datetime | None:
        """Since when it is held."""
        return _time(self._spec.get("acquireTime"))

    @property
    def renewed(self) -> datetime | None:
        """When it was last renewed."""
        return _time(self._spec.get("renewTime"))

    @property
    def _spec(self) -> Object:
        return self.item.get("spec") or {}


class Lease:
    """A named Lease, for one would-be holder.

    Args:
        kube: a client that may write; used by one thread at a time.
        identity: of that holder, unlike any other's.
        duration_s: whole seconds that others must see it unchanged before they may take it.

    Every method raises `ClusterError` where the API does not answer or refuses.
    """

    def __init__(self, kube: Kubernetes, namespace: str, name: str, identity: str, duration_s: int) -> None:
        self._kube, self._namespace, self.name = kube, namespace, name
        self.identity, self._duration_s = identity, duration_s

    @property
    def where(self) -> str:
        """What it is called, for messages."""
        return f"lease {self._namespace}/{self.name}"

    def look(self) -> Seen | None:
        """The Lease now; None where there is none."""
        found = self._kube.find(LEASES, self.name, self._namespace)
        return Seen(found) if found else None

    def take(self, seen: Seen | None) -> bool:
        """Make it this holder's, provided that it is as it was seen; whether it is.

        Whoever holds it loses it: call this for one that nobody holds or whose holder is gone.
        """
        spec = dict(seen._spec) if seen else {}
        changes = int(spec.get("leaseTransitions") or 0) + (1 if seen else 0)
        stamp = _stamp()
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._duration_s,
            "acquireTime": stamp,
            "renewTime": stamp,
            "leaseTransitions": changes,
        }
        try:
            if seen:
                self._kube.replace(LEASES, {**seen.item, "spec": spec}, self._namespace)
            else:
                made = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": self.name}}
                self._kube.create(LEASES, {**made, "spec": spec}, self._namespace)
        except Conflict:
            return False
        return True

    def renew(self) -> Seen | None:
        """Say that its holder lives; who holds it instead where this one does not (any more), else None."""
        return self._mine(lambda spec: {**spec, "renewTime": _stamp()})

    def give_back(self) -> None:
        """Let others have it at once; nothing where it is somebody else's already."""
        self._mine(lambda spec: {key: value for key, value in spec.items() if key != "holderIdentity"})

    def unchanged(self, seen: Seen, for_s: float, on_wait: Callable[[], Any]) -> bool:
        """Watch a held Lease for so long; False as soon as it changes.

        What counts is the time by this machine's clock, as for client-go: clocks of two machines differ.
        """

        def written(items: list[Object]) -> bool:
            on_wait()
            here = [item["metadata"]["resourceVersion"] for item in items if item["metadata"]["name"] == self.name]
            return here != [seen.version]

        try:
            self._kube.wait(
                LEASES,
                written,
                what="the lease to be renewed",
                timeout_s=for_s,
                remedy="",
                namespace=self._namespace,
            )
        except DeadlineExceeded:
            return True
        return False

    def _mine(self, change: Callable[[Object], Object]) -> Seen | None:
        """Change it if it is this holder's; else what is there, which may be held by nobody."""
        while True:
            seen = self.look()
            if seen is None or seen.holder != self.identity:
                return seen or Seen({"metadata": {"resourceVersion": ""}})
            try:
                self._kube.replace(LEASES, {**seen.item, "spec": change(seen._spec)}, self._namespace)
            except Conflict:
                continue  # somebody wrote it since: a label, or another holder
            return None


def _stamp() -> str:
    return datetime.now(UTC).strftime(_TIME)


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
