"""State as the JSON of container.googleapis.com v1: clusters, node pools, operations, errors; and of
compute.googleapis.com v1 the two resources that hold quotas, and machine types.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from llmd_sandbox.gke.machines import CPU_QUOTAS, MACHINES, MachineType
from llmd_sandbox.gke.state import (
    CLUSTER,
    GPU_TAINT,
    LOCATION,
    PROJECT,
    PROJECT_NUMBER,
    Autoscaling,
    Operation,
    Pool,
    State,
)

Json = dict[str, Any]

_SERVICE = "https://container.googleapis.com/v1"
_COMPUTE = "https://www.googleapis.com/compute/v1"
_CLUSTER_LINK = f"{_SERVICE}/projects/{PROJECT}/zones/{LOCATION}/clusters/{CLUSTER}"
_CPUS = 72.0
"""CPUs of each quota that a region gives a new project."""
_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
}


class GoogleError(Exception):
    """A refusal; `status` is the name of a google.rpc.Code."""

    def __init__(self, status: str, message: str) -> None:
        self.status, self.message = status, message
        self.http_status = _HTTP_STATUS[status]
        super().__init__(f"{status}: {message}")

    def body(self) -> Json:
        """The error as Google's REST APIs write it."""
        return {"error": {"code": self.http_status, "message": self.message, "status": self.status}}


def group(pool: Pool, zone: str) -> str:
    """Name of a pool's instance group in a zone; GKE puts eight hexadecimal digits there and into its nodes' names."""
    digits = hashlib.sha256(f"{CLUSTER}/{pool.name}/{zone}".encode()).hexdigest()[:8]
    return f"gke-{CLUSTER}-{pool.name}-{digits}-grp"


def group_url(pool: Pool, zone: str) -> str:
    """Where Compute Engine has a pool's instance group of a zone."""
    return f"{_COMPUTE}/projects/{PROJECT}/zones/{zone}/instanceGroupManagers/{group(pool, zone)}"


def autoscaling(bounds: Autoscaling) -> Json:
    """NodePoolAutoscaling; empty when off, as GKE leaves defaults out."""
    if not bounds.enabled:
        return {}
    counts = (
        {"totalMinNodeCount": bounds.total_min_nodes, "totalMaxNodeCount": bounds.total_max_nodes}
        if bounds.totals
        else {"minNodeCount": bounds.min_nodes, "maxNodeCount": bounds.max_nodes}
    )
    return {"enabled": True, **counts, "locationPolicy": "BALANCED"}


def node_pool(pool: Pool, state: State, version: str) -> Json:
    """A NodePool resource."""
    config: Json = {
        "machineType": pool.machine_type,
        "diskSizeGb": 100,
        "imageType": "COS_CONTAINERD",
        "oauthScopes": ["https://www.googleapis.com/auth/cloud-platform"],
    }
    if pool.accelerator:
        config["accelerators"] = [
            {"acceleratorCount": str(pool.accelerator_count), "acceleratorType": pool.accelerator}
        ]
        config["taints"] = [{**taint, "effect": "NO_SCHEDULE"} for taint in [GPU_TAINT, *pool.taints]]
    if pool.spot:
        config["spot"] = True
    if pool.labels:
        config["labels"] = pool.labels
    running = state.running()
    goal = running.goal if running is not None and running.goal.pool == pool.name else None
    status = "RUNNING_WITH_ERROR" if pool.stockout else "RUNNING"
    if goal is not None:
        status = "PROVISIONING" if goal.created else "STOPPING" if goal.deleted else "RECONCILING"
    conditions = []
    if pool.stockout:
        conditions = [{"code": "GCE_STOCKOUT", "canonicalCode": "RESOURCE_EXHAUSTED", "message": pool.stockout}]
    return {
        "name": pool.name,
        "config": config,
        "initialNodeCount": pool.initial_node_count,
        "autoscaling": autoscaling(pool.autoscaling),
        "management": {"autoUpgrade": True, "autoRepair": True},
        "locations": list(pool.targets),
        "selfLink": f"{_CLUSTER_LINK}/nodePools/{pool.name}",
        "version": version,
        "instanceGroupUrls": [group_url(pool, zone) for zone in pool.targets],
        "status": status,
        "conditions": conditions,
    }


def cluster(state: State, *, endpoint: str, authority: bytes, version: str, node_count: int) -> Json:
    """The Cluster resource with its pools; `authority` is the certificate (PEM) behind its control plane."""
    return {
        "name": CLUSTER,
        "id": hashlib.sha256(CLUSTER.encode()).hexdigest(),
        "location": LOCATION,
        "zone": LOCATION,
        "locations": [LOCATION],
        "endpoint": endpoint,
        "masterAuth": {"clusterCaCertificate": base64.b64encode(authority).decode()},
        "currentMasterVersion": version,
        "currentNodeVersion": version,
        "initialClusterVersion": version,
        "currentNodeCount": node_count,
        "createTime": state.create_time,
        "network": "default",
        "networkConfig": {"gatewayApiConfig": {"channel": "CHANNEL_STANDARD"}},
        "selfLink": _CLUSTER_LINK,
        "status": "RECONCILING" if state.running() else "RUNNING",
        "nodePools": [node_pool(pool, state, version) for pool in state.pools],
    }


def operation(op: Operation) -> Json:
    """An Operation resource (not a google.longrunning one)."""
    reply: Json = {
        "name": op.name,
        "zone": LOCATION,
        "location": LOCATION,
        "operationType": op.type,
        "status": op.status,
        "selfLink": f"{_SERVICE}/projects/{PROJECT_NUMBER}/zones/{LOCATION}/operations/{op.name}",
        "targetLink": f"{_SERVICE}/projects/{PROJECT_NUMBER}/zones/{LOCATION}/clusters/{CLUSTER}"
        f"/nodePools/{op.goal.pool}",
        "startTime": op.start_time,
    }
    if op.end_time:
        reply["endTime"] = op.end_time
    if op.error_code:
        reply["statusMessage"] = op.error_message
        reply["error"] = {"code": op.error_code, "message": op.error_message}
    return reply


def project(state: State) -> Json:
    """A compute Project with the quota that counts over all regions."""
    return {"kind": "compute#project", "name": PROJECT, "quotas": [_quota("GPUS_ALL_REGIONS", state.gpu_quota, state)]}


def region(state: State) -> Json:
    """A compute Region; on demand and spot share the sandbox's one GPU quota."""
    gpus = [_quota(f"{kind}NVIDIA_T4_GPUS", state.gpu_quota, state) for kind in ("", "PREEMPTIBLE_")]
    used = dict.fromkeys(CPU_QUOTAS.values(), 0)
    for pool in state.pools:
        machine = MACHINES[pool.machine_type]
        used[machine.cpu_quota] += pool.target_size * machine.guest_cpus
    cpus = [{"metric": metric, "limit": _CPUS, "usage": float(count)} for metric, count in used.items()]
    return {"kind": "compute#region", "name": LOCATION.rsplit("-", 1)[0], "status": "UP", "quotas": [*gpus, *cpus]}


def machine_type(machine: MachineType, zone: str) -> Json:
    """A compute MachineType, with those of its fields that say what such a machine has."""
    reply: Json = {
        "kind": "compute#machineType",
        "name": machine.name,
        "guestCpus": machine.guest_cpus,
        "memoryMb": machine.memory_mb,
        "zone": zone,
        "selfLink": f"{_COMPUTE}/projects/{PROJECT}/zones/{zone}/machineTypes/{machine.name}",
        "isSharedCpu": machine.shared_cpu,
    }
    if machine.gpu:
        accelerator, count = machine.gpu
        reply["accelerators"] = [{"guestAcceleratorType": accelerator, "guestAcceleratorCount": count}]
    return reply


def _quota(metric: str, limit: int, state: State) -> Json:
    used = sum(pool.target_size * pool.accelerator_count for pool in state.pools)
    return {"metric": metric, "limit": float(limit), "usage": float(used)}
