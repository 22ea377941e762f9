"""A pod's status: what its containers' states add up to, as the real kubelet derives it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet.times import rfc3339


@dataclass
class ContainerState:
    """What is known of one container; `state` and `last` hold one of waiting, running, terminated."""

    name: str
    image: str
    state: Object = field(default_factory=lambda: {"waiting": {"reason": "ContainerCreating"}})
    last: Object = field(default_factory=dict)
    restarts: int = 0
    ready: bool = False
    started: bool = False
    container_id: str = ""

    @property
    def terminated(self) -> Object | None:
        """How the container ended, when it has ended."""
        found: Object | None = self.state.get("terminated")
        return found

    def waits(self, reason: str, message: str = "") -> None:
        """The container has no process now, for this reason; a state it ended in becomes the last one."""
        if ended := self.terminated:
            self.last = {"terminated": ended}
        self.ready = self.started = False
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def runs(self, container_id: str) -> None:
        """The container's process has started."""
        if ended := self.terminated:
            self.last = {"terminated": ended}
        self.container_id = container_id
        self.state = {"running": {"startedAt": rfc3339()}}

    def ended(self, exit_code: int, reason: str | None = None) -> None:
        """The container's process ended; 128 and more is a signal."""
        started = (self.state.get("running") or {}).get("startedAt", rfc3339())
        self.ready = self.started = False
        ended = {
            "exitCode": exit_code,
            "reason": reason or ("Completed" if exit_code == 0 else "Error"),
            "startedAt": started,
            "finishedAt": rfc3339(),
            "containerID": self.container_id,
        }
        if 128 < exit_code < 128 + 65:
            ended["signal"] = exit_code - 128
        self.state = {"terminated": ended}

    def take_over(self, earlier: Object) -> None:
        """Go on counting from a status written before the kubelet was started again; its process is gone."""
        self.restarts = int(earlier.get("restartCount", 0))
        self.last = earlier.get("lastState") or {}
        state = earlier.get("state") or {}
        if running := state.get("running"):
            self.container_id, self.state = earlier.get("containerID", ""), {"running": running}
            self.ended(255, "Unknown")
            self.waits("ContainerCreating")
        elif ended := state.get("terminated"):
            self.last = {"terminated": ended}
        if self.last:
            self.restarts += 1

    def as_status(self) -> Object:
        """The `ContainerStatus`."""
        status: Object = {
            "name": self.name,
            "image": self.image,
            "imageID": self.image if self.container_id else "",
            "ready": self.ready,
            "started": self.started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }
        return {**status, "containerID": self.container_id} if self.container_id else status


class Conditions:
    """The kubelet's own conditions of a pod; a time changes only with its status."""

    def __init__(self, earlier: Sequence[Object] = ()) -> None:
        self._known: dict[str, Object] = {item["type"]: item for item in earlier}

    def set(self, kind: str, holds: bool, reason: str = "", message: str = "") -> Object:
        """The condition, with the time of its last transition."""
        status = "True" if holds else "False"
        old = self._known.get(kind)
        when = old["lastTransitionTime"] if old and old["status"] == status else rfc3339()
        fresh: dict[str, Any] = {
            "type": kind,
            "status": status,
            "lastTransitionTime": when,
            "lastProbeTime": None,
            "reason": reason or None,
            "message": message or None,
        }
        self._known[kind] = fresh
        return fresh


def phase(init: Sequence[ContainerState], main: Sequence[ContainerState], *, finished: bool) -> str:
    """The pod's phase; `finished` when no container will be started again."""
    if finished:
        codes = [c.terminated["exitCode"] for c in [*init, *main] if c.terminated]
        return "Failed" if any(codes) or not all(c.terminated for c in main) else "Succeeded"
    if all(c.state.keys() & {"running", "terminated"} or c.last for c in main):
        return "Running"
    return "Pending"


def initialized(init: Sequence[ContainerState]) -> bool:
    """All init containers ended well."""
    return all(c.terminated is not None and c.terminated["exitCode"] == 0 for c in init)


def pod_conditions(
    known: Conditions,
    init: Sequence[ContainerState],
    main: Sequence[ContainerState],
    phase_now: str,
    *,
    sandboxed: bool,
) -> list[Object]:
    """PodReadyToStartContainers, Initialized, ContainersReady, Ready; PodScheduled is the scheduler's."""
    over = phase_now in ("Succeeded", "Failed")
    unready = [c.name for c in main if not c.ready]
    if phase_now == "Succeeded":
        why = ("PodCompleted", "")
    elif phase_now == "Failed":
        why = ("PodFailed", "")
    else:
        why = ("ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]")
    incomplete = [c.name for c in init if not initialized([c])]
    starting = known.set("PodReadyToStartContainers", sandboxed and not over)
    if incomplete:
        message = f"containers with incomplete status: [{' '.join(incomplete)}]"
        first = known.set("Initialized", False, "ContainersNotInitialized", message)
    else:
        first = known.set("Initialized", True, "PodCompleted" if phase_now == "Succeeded" else "")
    if unready or over:
        return [starting, first, known.set("ContainersReady", False, *why), known.set("Ready", False, *why)]
    return [starting, first, known.set("ContainersReady", True), known.set("Ready", True)]


def statuses_differ(sent: Object | None, wanted: Object, stored: Object) -> bool:
    """Whether to write: something changed here, or somebody else overwrote one of our conditions."""
    if sent != wanted:
        return True
    there = {item["type"]: item["status"] for item in stored.get("conditions") or []}
    return any(there.get(item["type"]) != item["status"] for item in wanted["conditions"])
