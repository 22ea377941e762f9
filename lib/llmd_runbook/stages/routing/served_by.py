"""Which replica got which request of a stream: by the response's header, else by the picker's log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from llmd_runbook.analysis.attribution import Evidence, Replica, Sent, attribute
from llmd_runbook.clients.kubernetes import PODS, Kubernetes
from llmd_runbook.clients.picker_log import PickerLog
from llmd_runbook.load.samples import Sample
from llmd_runbook.profile import Profile
from llmd_runbook.topology import PoolView, picker, selector_text

_LOGGED_WITHIN_S = 2.0
_POLL_S = 0.05


class ServedBy:
    """Hears the picker's log from now on, and remembers pods and addresses, so that a pod that is gone is known."""

    def __init__(self, kube: Kubernetes, profile: Profile, pool: PoolView) -> None:
        self._kube, self._namespace, self._pool = kube, profile.namespace, pool
        self._log = PickerLog(kube, profile.namespace, picker(kube, profile.namespace, pool).pods)
        self._replicas: dict[str, Replica] = {}
        self._evidence: set[Evidence] = set()

    def close(self) -> None:
        """Stop hearing the picker's log."""
        self._log.close()

    @property
    def how(self) -> str:
        """The evidence that there was, in words."""
        return " and ".join(sorted(self._evidence)) or "nothing"

    def of(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Pod by request id, of those of which it is known; a line may come a little after its answer."""
        deadline = time.monotonic() + _LOGGED_WITHIN_S
        while True:
            found = self._known(samples)
            whole = all(sample.request_id in found for sample in samples if sample.ok)
            if whole or time.monotonic() >= deadline:
                return found
            time.sleep(_POLL_S)

    def _known(self, samples: Sequence[Sample]) -> dict[str, str]:
        for pod in self._kube.all(PODS, self._namespace, selector_text(self._pool.selector)):
            if address := pod.get("status", {}).get("podIP"):
                name = pod["metadata"]["name"]
                self._replicas[name] = Replica(name, f"{address}:{self._pool.target_port}")
        sent = [Sent(sample.request_id, sample.headers) for sample in samples]
        served = attribute(sent, list(self._replicas.values()), self._log.read().decided)
        self._evidence |= {one.evidence for one in served if one.evidence}
        return {one.request_id: one.replica for one in served if one.replica}
