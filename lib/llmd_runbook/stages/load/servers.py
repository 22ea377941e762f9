"""The replicas behind a load: their metrics, again and again, and what of them does not change meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from llmd_runbook.analysis.picker_flags import flag
from llmd_runbook.clients.gke import SPOT_LABEL
from llmd_runbook.clients.kubernetes import NODES, Kubernetes, Object
from llmd_runbook.clients.metrics import Scraper, Snapshot
from llmd_runbook.errors import ClusterError, NotFound
from llmd_runbook.load.watch import METRICS
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.stages import site
from llmd_runbook.topology import pool_view, replica_view, replicas


class Servers:
    """The replicas of a pattern, looked up at the first reading.

    Attributes:
        context_tokens: `--max-model-len` of all of them; None where they do not say, or not the same.
        ready_s: by replica, from its creation to Ready (s).
        on_spot: how many run on spot nodes; None where the nodes could not be read.
    """

    def __init__(self, profile: Profile, pattern: Pattern) -> None:
        self.context_tokens: int | None = None
        self.ready_s: dict[str, float] = {}
        self.on_spot: int | None = None
        self._profile, self._pattern = profile, pattern
        self._pods: list[Object] = []
        self._scraper: Scraper | None = None

    def read(self) -> dict[str, Snapshot]:
        """One snapshot a replica.

        Raises:
            ClusterError: the pool or a replica cannot be read.
        """
        if self._scraper is None:
            kube, namespace = site.kubernetes(self._profile), self._profile.namespace
            pool = pool_view(kube, namespace, self._pattern.inference_pool)
            if pool is None:
                raise NotFound("there is no InferencePool", where=f"{namespace}/{self._pattern.inference_pool}")
            self._pods = [item.manifest for item in replicas(kube, namespace, pool) if item.ready]
            self.context_tokens = context_tokens(self._pods)
            self.ready_s = seconds_to_ready(self._pods)
            self.on_spot = on_spot(kube, self._pods)
            self._scraper = Scraper(kube, pool.target_port, only=METRICS)
        return self._scraper.all(self._pods)


def context_tokens(pods: Sequence[Object]) -> int | None:
    """`--max-model-len` of the replicas; None where they do not say, or not the same."""
    said = set()
    for pod in pods:
        words = [
            word for item in pod["spec"]["containers"] for word in [*item.get("command", []), *item.get("args", [])]
        ]
        said.add(flag(words, "max-model-len"))
    length = said.pop() if len(said) == 1 else None
    return int(length) if length and length.isdigit() else None


def seconds_to_ready(pods: Sequence[Object]) -> dict[str, float]:
    """From a pod's creation to its condition Ready, by pod: the wait for a node, image, model and start-up.

    Kubernetes keeps the last change alone: a pod whose container was started again is left out, for its first time is
    forgotten; one that was not Ready for a while without that would show the later time.
    """
    found = {}
    for pod in pods:
        conditions = {item["type"]: item for item in pod.get("status", {}).get("conditions", [])}
        ready = conditions.get("Ready", {})
        if ready.get("status") == "True" and ready.get("lastTransitionTime") and not replica_view(pod).restarts:
            created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
            since = datetime.fromisoformat(ready["lastTransitionTime"]) - created
            found[pod["metadata"]["name"]] = since.total_seconds()
    return found


def on_spot(kube: Kubernetes, pods: Sequence[Object]) -> int | None:
    """How many of the pods run on nodes that GKE labels as spot; None where the nodes cannot be read."""
    try:
        labels = {node["metadata"]["name"]: node["metadata"].get("labels", {}) for node in kube.all(NODES)}
    except ClusterError:
        return None
    return len([pod for pod in pods if labels.get(pod["spec"].get("nodeName"), {}).get(SPOT_LABEL) == "true"])
