"""What GKE remembers of the cluster: pools and operations, in one JSON file that survives a restart.

The live size of a pool is not here: it is the number of its nodes, as on GKE, where `initialNodeCount` says
with how many a pool was created and nothing else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

PROJECT = "sandbox-project"
PROJECT_NUMBER = "100000000001"
LOCATION = "us-central1-a"
ZONES = tuple(f"us-central1-{letter}" for letter in "abcf")
"""Those of the region that have T4s; the cluster's own comes first."""
CLUSTER = "llm-d-cluster"
GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Autoscaling(_Model):
    """Bounds in nodes a zone or, where `total_max_nodes` is set, in nodes of the whole pool, as GKE has them."""

    enabled: bool = False
    min_nodes: int = 0
    max_nodes: int = 0
    total_min_nodes: int = 0
    total_max_nodes: int = 0

    @property
    def totals(self) -> bool:
        """Whether the bounds are of the whole pool."""
        return self.total_max_nodes > 0

    @property
    def least(self) -> int:
        """The lower bound, in nodes a zone or of the pool."""
        return self.total_min_nodes if self.totals else self.min_nodes

    @property
    def most(self) -> int:
        """The upper bound, in nodes a zone or of the pool."""
        return self.total_max_nodes if self.totals else self.max_nodes


class Pool(_Model):
    """A node pool with one instance group a zone; `targets` has the nodes that each was last asked for."""

    name: str
    machine_type: str
    initial_node_count: int
    targets: dict[str, int]
    accelerator: str | None = None
    accelerator_count: int = 0
    autoscaling: Autoscaling = Field(default_factory=Autoscaling)
    stockout: str | None = None
    spot: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    taints: list[dict[str, str]] = Field(default_factory=list)
    """Labels and taints that were asked for when it was created, as Nodes have them."""

    @property
    def target_size(self) -> int:
        """Nodes that all its instance groups were last asked for."""
        return sum(self.targets.values())


class Goal(_Model):
    """What an operation is to bring about, `node_count` in each zone; an interrupted one is taken up again from it."""

    pool: str
    node_count: int | None = None
    autoscaling: Autoscaling | None = None
    created: Pool | None = None
    deleted: bool = False


class Operation(_Model):
    """A change under way or done; `error_code` is a google.rpc.Code, 0 for none."""

    name: str
    type: str
    goal: Goal
    status: str = "PENDING"
    start_time: str
    end_time: str = ""
    error_code: int = 0
    error_message: str = ""


def _initial_pools() -> list[Pool]:
    return [
        Pool(name="default-pool", machine_type="e2-standard-4", initial_node_count=1, targets={LOCATION: 1}),
        Pool(
            name="nvidia-t4-pool",
            machine_type="n1-standard-4",
            initial_node_count=1,
            targets={LOCATION: 1},
            accelerator="nvidia-tesla-t4",
            accelerator_count=1,
        ),
    ]


class State(_Model):
    """Everything; in GPUs, `gpu_quota` limits what may be asked for, `gpu_stock` what the zone can give."""

    gpu_quota: int = 8
    gpu_stock: int = 8
    create_time: str = Field(default_factory=lambda: now())
    pools: list[Pool] = Field(default_factory=_initial_pools)
    operations: list[Operation] = Field(default_factory=list)

    @staticmethod
    def load(file: Path, gpu_nodes: int = 1, gpu_zones: int = 1) -> State:
        """The state as last saved, or that of a new cluster with so many GPU nodes in each of so many zones."""
        if file.exists():
            return State.model_validate_json(file.read_text())
        fresh = State()
        for pool in fresh.pools:
            if pool.accelerator:
                pool.initial_node_count = gpu_nodes
                pool.targets = dict.fromkeys(ZONES[:gpu_zones], gpu_nodes)
        return fresh

    def save(self, file: Path) -> None:
        """Replace the file in one step."""
        fresh = file.with_suffix(".new")
        fresh.write_text(self.model_dump_json(indent=1))
        fresh.replace(file)

    def pool(self, name: str) -> Pool | None:
        """The pool of that name."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def operation(self, name: str) -> Operation | None:
        """The operation of that name."""
        return next((operation for operation in self.operations if operation.name == name), None)

    def running(self) -> Operation | None:
        """The operation that is not done; GKE admits one at a time in a cluster."""
        return next((operation for operation in self.operations if operation.status != "DONE"), None)


def now() -> str:
    """The time as GKE writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
