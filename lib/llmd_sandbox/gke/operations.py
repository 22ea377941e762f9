"""Operations: PENDING, RUNNING, DONE; one at a time in the cluster; an interrupted one is taken up again.

Durations are those seen on GKE, compressed by the sandbox's start-up scale: resizing takes about a minute,
changing the autoscaler's bounds about ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from llmd_sandbox.gke.nodes import Nodes
from llmd_sandbox.gke.replies import GoogleError
from llmd_sandbox.gke.state import PROJECT, Goal, Operation, Pool, State, now
from llmd_sandbox.kube import ApiStatus

log = logging.getLogger(__name__)

_PENDING_S = 1.0
_DURATION_S = {
    "SET_NODE_POOL_SIZE": 60.0,
    "UPDATE_CLUSTER": 10.0,
    "CREATE_NODE_POOL": 60.0,
    "DELETE_NODE_POOL": 60.0,
}
BOOT_S = 40.0
"""From the request for a machine to its registration as a node."""
_CANCELLED, _RESOURCE_EXHAUSTED, _INTERNAL = 1, 8, 13
_KEPT = 100
"""Operations that the list shows; GKE forgets old ones too."""


class _Stockout(Exception):
    pass


class Operations:
    """Admits, runs and cancels operations on `state`, which it saves to `file` after every change."""

    def __init__(self, state: State, file: Path, nodes: Nodes, scale: float) -> None:
        self._state, self._file, self._nodes, self._scale = state, file, nodes, scale
        self._task: asyncio.Task[None] | None = None
        self.sizing = asyncio.Lock()
        """Held by whoever makes or removes machines."""

    async def settle(self) -> None:
        """At start: make the nodes that pools of a new cluster lack, and take up an interrupted operation."""
        unfinished = self._state.running()
        for pool in self._state.pools:
            if unfinished is None or unfinished.goal.pool != pool.name:
                await self._nodes.grow(pool, self._missing(pool))
        self._save()
        if unfinished:
            self._task = asyncio.create_task(self._run(unfinished))

    async def refill(self, name: str) -> None:
        """Another machine for each that the pool lost, unless an operation is at work on it."""
        pool = self._state.pool(name)
        if pool is None or not self.idle(pool):
            return
        async with self.sizing:
            to_come = self.available(pool, self._missing(pool))
            if any(to_come.values()):
                await asyncio.sleep(BOOT_S * self._scale)
                await self._nodes.grow(pool, to_come)

    async def close(self) -> None:
        """End what runs; its operation stays as it is, for the next start."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def start(self, kind: str, goal: Goal) -> Operation:
        """Admit an operation.

        Raises:
            GoogleError: another operation runs (FAILED_PRECONDITION), or the GPU quota does not allow it.
        """
        if running := self._state.running():
            raise GoogleError("FAILED_PRECONDITION", f"Cluster is running incompatible operation {running.name}.")
        if goal.node_count is not None:
            self._require_quota(goal.created or self._state.pool(goal.pool), goal.node_count)
        operation = Operation(
            name=f"operation-{time.time_ns() // 1_000_000}-{uuid.uuid4()}",
            type=kind,
            goal=goal,
            start_time=now(),
        )
        self._state.operations = [*self._state.operations, operation][-_KEPT:]
        if goal.created:
            self._state.pools.append(goal.created.model_copy(deep=True))
        self._save()
        self._task = asyncio.create_task(self._run(operation))
        return operation

    def limit(self, gpu_stock: int | None = None, gpu_quota: int | None = None) -> None:
        """What the zone can give from now on, and what may be asked for, in GPUs."""
        self._state.gpu_stock = self._state.gpu_stock if gpu_stock is None else gpu_stock
        self._state.gpu_quota = self._state.gpu_quota if gpu_quota is None else gpu_quota
        self._save()

    def cancel(self, operation: Operation) -> None:
        """Stop an operation where it is; nodes made or removed so far stay so.

        Raises:
            GoogleError: it is done already (FAILED_PRECONDITION).
        """
        if operation.status == "DONE" or self._task is None:
            raise GoogleError("FAILED_PRECONDITION", f"Operation {operation.name} is already done.")
        operation.status = "ABORTING"
        self._save()
        self._task.cancel()

    def _require_quota(self, sized: Pool | None, node_count: int) -> None:
        if sized is None:
            return
        used = sum(pool.target_size * pool.accelerator_count for pool in self._state.pools)
        more = node_count * len(sized.targets) - sized.target_size
        wanted = used + more * sized.accelerator_count
        if wanted > self._state.gpu_quota and wanted > used:
            quota = self._state.gpu_quota
            raise GoogleError(
                "PERMISSION_DENIED",
                f"Insufficient regional quota to satisfy request: resource "
                f'"{"PREEMPTIBLE_" if sized.spot else ""}NVIDIA_T4_GPUS": request '
                f"requires '{wanted - used}.0' and is short '{wanted - quota}.0'. project has a quota of "
                f"'{quota}.0' with '{max(0, quota - used)}.0' available. View and manage quotas at "
                f"https://console.cloud.google.com/iam-admin/quotas?usage=USED&project={PROJECT}.",
            )

    async def _run(self, operation: Operation) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(_PENDING_S * self._scale)
            operation.status = "RUNNING"
            self._save()
            earliest_end = loop.time() + _DURATION_S[operation.type] * self._scale
            await self._reach(operation.goal)
            await asyncio.sleep(earliest_end - loop.time())
            if operation.goal.deleted:
                self._state.pools = [pool for pool in self._state.pools if pool.name != operation.goal.pool]
        except _Stockout as stockout:
            self._finish(operation, _RESOURCE_EXHAUSTED, str(stockout))
        except (ApiStatus, aiohttp.ClientError, TimeoutError) as error:
            log.exception("%s failed", operation.name)
            self._finish(operation, _INTERNAL, f"Internal error: {error}")
        except asyncio.CancelledError:
            if operation.status != "ABORTING":
                raise
            self._finish(operation, _CANCELLED, "Operation was cancelled.")
        else:
            self._finish(operation, 0, "")

    async def _reach(self, goal: Goal) -> None:
        pool = self._state.pool(goal.pool)
        if pool is None:
            return  # deleted before an interruption
        if goal.deleted:
            async with self.sizing:
                await self._nodes.shrink(pool, {zone: len(self._nodes.of(pool.name, zone)) for zone in pool.targets})
        if goal.autoscaling is not None:
            pool.autoscaling = goal.autoscaling
        if goal.node_count is not None:
            async with self.sizing:
                await self._resize(pool, goal.node_count)
        self._save()

    async def _resize(self, pool: Pool, node_count: int) -> None:
        pool.targets, pool.stockout = dict.fromkeys(pool.targets, node_count), None
        self._save()
        await self._nodes.shrink(pool, {zone: max(0, -count) for zone, count in self._missing(pool).items()})
        missing = {zone: max(0, count) for zone, count in self._missing(pool).items()}
        if wanted := sum(missing.values()):
            available = self.available(pool, missing)
            await asyncio.sleep(BOOT_S * self._scale)
            await self._nodes.grow(pool, available)
            if (made := sum(available.values())) < wanted:
                short = ", ".join(zone for zone in missing if available[zone] < missing[zone])
                pool.stockout = (
                    f"Google Compute Engine does not have enough resources available to fulfil the request: "
                    f"ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS: zone {short}, {pool.accelerator}, "
                    f"{wanted - made} of {wanted} instances of pool {pool.name} could not be created."
                )
                raise _Stockout(pool.stockout)

    def _missing(self, pool: Pool) -> dict[str, int]:
        """Nodes that each zone lacks of its target; negative where it has too many."""
        return {zone: target - len(self._nodes.of(pool.name, zone)) for zone, target in pool.targets.items()}

    def available(self, pool: Pool, wanted: Mapping[str, int]) -> dict[str, int]:
        """As many of the wanted nodes a zone as there are GPUs for, the first zones first."""
        left = self._free_gpus() // pool.accelerator_count if pool.accelerator_count else sum(wanted.values())
        found = {}
        for zone, count in wanted.items():
            found[zone] = max(0, min(count, left))
            left -= found[zone]
        return found

    def _free_gpus(self) -> int:
        used = sum(len(self._nodes.of(pool.name)) * pool.accelerator_count for pool in self._state.pools)
        return max(0, self._state.gpu_stock - used)

    def _finish(self, operation: Operation, code: int, message: str) -> None:
        operation.status, operation.end_time = "DONE", now()
        operation.error_code, operation.error_message = code, message
        self._save()

    def _save(self) -> None:
        self._state.save(self._file)

    def idle(self, pool: Pool) -> bool:
        """Whether no operation is at work on the pool."""
        running = self._state.running()
        return running is None or running.goal.pool != pool.name

    def aim(self, pool: Pool, zone: str, nodes: int) -> None:
        """What an instance group is asked for from now on, behind the GKE API's back, as the autoscaler does it."""
        pool.targets[zone] = nodes
        self._save()
