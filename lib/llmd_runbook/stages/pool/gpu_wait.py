"""Waiting for nodes of a pool that offer their GPUs."""

from __future__ import annotations

from llmd_runbook.clients.kubernetes import NODES, Kubernetes, Object
from llmd_runbook.run import StepHandle
from llmd_runbook.topology import NODE_POOL_LABEL, GpuNode, node_view


def wait_for_gpus(kube: Kubernetes, pool: str, nodes: int, timeout_s: float, step: StepHandle) -> int:
    """Watch until `nodes` nodes of the pool are usable; how many are.

    Raises:
        DeadlineExceeded: with the state of each node.
    """

    def views(items: list[Object]) -> list[GpuNode]:
        return [node_view(item) for item in items]

    def state(items: list[Object]) -> str:
        count = sum(usable(node) for node in views(items))
        each = "; ".join(described(node) for node in views(items)) or "no nodes"
        step.progress(f"{count} of {nodes} nodes usable: {each}", done=count, total=nodes)
        return each

    def done(items: list[Object]) -> int | None:
        count = sum(usable(node) for node in views(items))
        return count if count >= nodes else None

    return kube.wait(
        NODES,
        done,
        what=f"{nodes} usable nodes in pool {pool}",
        timeout_s=timeout_s,
        remedy="look for a stock-out, a quota, or a missing GPU driver; then run the stage again",
        selector=f"{NODE_POOL_LABEL}={pool}",
        on_change=state,
    )


def usable(node: GpuNode) -> bool:
    """Whether pods with a GPU can come to a node."""
    return node.ready and node.schedulable and node.gpus > 0


def described(node: GpuNode) -> str:
    """A node in words."""
    why = f" ({node.not_ready})" if node.not_ready else ""
    return f"{node.name}: ready {node.ready}{why}, schedulable {node.schedulable}, {node.gpus} GPUs"
