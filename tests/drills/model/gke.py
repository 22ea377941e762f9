"""A node pool's API in memory, in the place of Google's client: describe, resize, operations; one at a time."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

from google.api_core import exceptions
from google.cloud import container_v1

from tests.drills.model.api_server import HOST as API_SERVER
from tests.drills.model.calls import Calls, Trouble
from tests.drills.model.clock import Clock
from tests.drills.model.cluster import GPU_POOL, NAMESPACE, Cluster

_PENDING_S, _RUN_S, _DRAIN_S = 2.0, 10.0, 6.0
ENDPOINT = "https://gke.model"


class Gke:
    """The methods of `ClusterManagerClient` that a runbook for node pools calls."""

    def __init__(self, cluster: Cluster, clock: Clock, calls: Calls) -> None:
        self._cluster, self._clock, self._calls = cluster, clock, calls
        self.stock, self.quota = 8, 8
        """GPU nodes that the zone can give, and that the project may have."""
        self.enabled, self.least, self.most = False, 0, 0
        self.operations: dict[str, Any] = {}
        self.evicted: list[str] = []
        """Apps whose pods a resize took away while they served."""

    # --- as Google's client names them

    def get_node_pool(self, *, name: str, timeout: float) -> Any:
        self._calls.read()
        bounds = SimpleNamespace(
            enabled=self.enabled,
            min_node_count=self.least,
            max_node_count=self.most,
            total_min_node_count=0,
            total_max_node_count=0,
        )
        accelerator = SimpleNamespace(accelerator_type="t4", accelerator_count=1)
        return SimpleNamespace(
            name=name.rsplit("/", 1)[1],
            status=SimpleNamespace(name="RUNNING"),
            config=SimpleNamespace(
                accelerators=[accelerator],
                machine_type="n1-standard-4",
                flex_start=False,
                spot=False,
                preemptible=False,
                labels={},
                reservation_affinity=SimpleNamespace(
                    values=[], consume_reservation_type=SimpleNamespace(name="UNSPECIFIED")
                ),
            ),
            autoscaling=bounds,
            locations=["l"],
            conditions=[],
            version="1.36",
            queued_provisioning=SimpleNamespace(enabled=False),
        )

    def get_cluster(self, *, name: str, timeout: float) -> Any:
        self._calls.read()
        running = container_v1.Cluster.Status.RUNNING
        return container_v1.Cluster(name=name, endpoint=API_SERVER, status=running, current_master_version="1.36")

    def list_operations(self, *, parent: str, timeout: float) -> Any:
        self._calls.read()
        return SimpleNamespace(operations=list(self.operations.values()))

    def get_operation(self, *, name: str, timeout: float) -> Any:
        self._calls.read()
        short = name.rsplit("/", 1)[1]
        if short not in self.operations:
            raise exceptions.NotFound(f"Not found: {name}.")
        return self.operations[short]

    def update_cluster(self, *, request: Any, timeout: float) -> Any:
        bounds = request["update"]["desired_node_pool_autoscaling"]

        def run() -> str:
            self.enabled = bool(bounds["enabled"])
            self.least, self.most = bounds.get("min_node_count", 0), bounds.get("max_node_count", 0)
            return ""

        return self._start("UPDATE_CLUSTER", run, 0)

    def set_node_pool_size(self, *, request: Any, timeout: float) -> Any:
        wanted = int(request["node_count"])
        return self._start("SET_NODE_POOL_SIZE", lambda: self._resize(wanted), wanted)

    # --- what happens

    def begin_elsewhere(self) -> None:
        """Somebody else's operation runs for a while."""
        if not self._running():
            self._operate("UPGRADE_NODES", lambda: "")

    def _start(self, kind: str, run: Any, wanted: int) -> Any:
        trouble = self._calls.change("gke", kind, GPU_POOL, self._clock.now_s)
        if trouble is Trouble.CONFLICT:
            self.begin_elsewhere()
        if (running := self._running()) and trouble is not Trouble.BROKEN:
            raise _precondition(f"Cluster is running incompatible operation {running.name}.")
        if trouble in (Trouble.BROKEN, Trouble.THROTTLED):
            raise exceptions.InternalServerError("Internal error encountered.")
        if wanted > self.quota:
            raise exceptions.PermissionDenied(f"Insufficient regional quota: NVIDIA_T4_GPUS: {self.quota}")
        operation = self._operate(kind, run)
        self._calls.done(trouble)
        if trouble is Trouble.LOST:
            raise exceptions.ServiceUnavailable("the answer was lost")
        return operation

    def _running(self) -> Any:
        return next((item for item in self.operations.values() if item.status.name != "DONE"), None)

    def _operate(self, kind: str, run: Any) -> Any:
        name = f"operation-{len(self.operations) + 1}"
        operation = SimpleNamespace(
            name=name,
            operation_type=SimpleNamespace(name=kind),
            status=SimpleNamespace(name="PENDING"),
            target_link=f"https://gke/clusters/cluster/nodePools/{GPU_POOL}",
            error=SimpleNamespace(message=""),
            status_message="",
            start_time=self._clock.present().isoformat(),
            end_time="",
            detail="",
        )
        self.operations[name] = operation

        def ran() -> None:
            operation.status = SimpleNamespace(name="RUNNING")
            operation.error = SimpleNamespace(message=run())
            self._clock.after(_RUN_S, ended)

        def ended() -> None:
            operation.status = SimpleNamespace(name="DONE")

        self._clock.after(_PENDING_S, ran)
        return operation

    def _resize(self, wanted: int) -> str:
        nodes = self._cluster.gpu_nodes()
        for name in nodes[: max(0, len(nodes) - wanted)]:
            self._cluster.cordon(name)
            self.evicted += self._cluster.evict(name)
            self._clock.after(_DRAIN_S, partial(self._cluster.remove_node, name))
        missing = wanted - len(nodes)
        made = min(missing, max(0, self.stock - len(nodes)))
        for _ in range(made):
            self._cluster.add_node(GPU_POOL)
        if made < missing:
            return f"ZONE_RESOURCE_POOL_EXHAUSTED: {missing - made} of {missing} instances could not be created."
        return ""


def _precondition(message: str) -> exceptions.FailedPrecondition:
    """FAILED_PRECONDITION with Google's own error body."""
    body = {"error": {"code": 400, "status": "FAILED_PRECONDITION", "message": message}}
    return exceptions.FailedPrecondition(message, response=SimpleNamespace(json=lambda: body))


__all__ = ["ENDPOINT", "NAMESPACE", "Gke"]
