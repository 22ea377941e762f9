"""The counters of Pattern 3's replicas around requests of ours."""

from __future__ import annotations

import time
from collections.abc import Callable

from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.clients.metrics import REQUESTS, Scraper, Snapshot
from llmd_runbook.profile import Profile
from llmd_runbook.stages import site
from llmd_runbook.topology import PoolView, Replica, replicas

Snapshots = dict[str, Snapshot]
_COUNTED_WITHIN_S = 3.0
_POLL_S = 0.02


class Counters:
    """The Ready replicas of a pool as they are when this is made."""

    def __init__(self, kube: Kubernetes, namespace: str, pool: PoolView) -> None:
        self._kube, self._namespace, self._pool = kube, namespace, pool
        found = replicas(kube, namespace, pool)
        self.pods: list[Object] = [item.manifest for item in found if item.ready]
        self._states = _states(found)
        self._scraper = Scraper(kube, pool.target_port)

    @classmethod
    def of_pattern3(cls, profile: Profile) -> Counters:
        """Those of Pattern 3.

        Raises:
            NotFound: there is no InferencePool.
        """
        kube = site.kubernetes(profile)
        return cls(kube, profile.namespace, site.pattern3_pool(kube, profile))

    def scrape(self) -> Snapshots:
        """All replicas now, by name."""
        return self._scraper.all(self.pods)

    def counted(self, before: Snapshots, answered: int) -> Snapshots:
        """The counters as soon as they have moved by so much; they may lag the answers a little."""
        deadline = time.monotonic() + _COUNTED_WITHIN_S
        while True:
            after = self.scrape()
            if difference(before, after, REQUESTS) >= answered or time.monotonic() >= deadline:
                return after
            time.sleep(_POLL_S)

    def changed(self) -> str:
        """Which of the pool's pods are not as they were when this was made; empty where all are."""
        now = _states(replicas(self._kube, self._namespace, self._pool))
        others = sorted(name for name in {*now, *self._states} if now.get(name) != self._states.get(name))
        return f"{', '.join(others)} came, went or began anew meanwhile" if others else ""

    def served_while(self, send: Callable[[], int]) -> dict[str, int]:
        """How many requests each replica served while `send` ran; it returns how many were answered."""
        before = self.scrape()
        after = self.counted(before, send())
        return {name: int(difference({name: before[name]}, after, REQUESTS)) for name in before}


def _states(found: list[Replica]) -> dict[str, tuple[str, bool, int]]:
    """Pod -> its UID, whether it is Ready, its restarts."""
    return {item.name: (item.manifest["metadata"]["uid"], item.ready, item.restarts) for item in found}


def difference(first: Snapshots, last: Snapshots, metric: str) -> float:
    """By how much a metric moved, over the replicas of `first`."""
    return sum((last[name].total(metric) or 0) - (first[name].total(metric) or 0) for name in first)
