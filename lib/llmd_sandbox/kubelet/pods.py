"""One pod on its node: volumes, init containers, containers, status, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import aiohttp

from llmd_sandbox.kube import ApiStatus, Object, path
from llmd_sandbox.kubelet import status, volumes
from llmd_sandbox.kubelet.containers import RETRY_S, Container
from llmd_sandbox.kubelet.context import Host, PodContext
from llmd_sandbox.kubelet.times import rfc3339

log = logging.getLogger(__name__)


class PodWorker:
    """Runs one pod from its arrival on the node until it is gone from the API."""

    def __init__(self, host: Host, pod: Object, ip: str, allocatable: Mapping[str, str]) -> None:
        meta, earlier = pod["metadata"], pod.get("status") or {}
        self.uid, self.ip, self.pod = str(meta["uid"]), ip, pod
        self.over = earlier.get("phase") in ("Succeeded", "Failed")
        self._dirty, self._deleting, self._hurry = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._node_gone = False
        self._context = PodContext(host, pod, ip, host.site.pods / self.uid, allocatable, changed=self._dirty.set)
        self._url = path("v1", "pods", meta["namespace"], meta["name"])
        known = {
            c["name"]: c for c in [*earlier.get("initContainerStatuses", []), *earlier.get("containerStatuses", [])]
        }
        if self.over:
            known = {}
        self.init = [
            Container(self._context, spec, init=True, earlier=known.get(spec["name"]))
            for spec in pod["spec"].get("initContainers") or []
        ]
        self.main = [
            Container(self._context, spec, earlier=known.get(spec["name"])) for spec in pod["spec"]["containers"]
        ]
        if self.init:
            for container in self.main:
                container.state.waits("PodInitializing")
        self._conditions = status.Conditions(earlier.get("conditions") or [])
        self._started = earlier.get("startTime") or rfc3339()
        self._refused: tuple[str, str] | None = None
        self._sent: Object | None = None
        self._ready_to_start = False

    def container(self, name: str) -> Container | None:
        """The container of that name, init containers included."""
        return next((c for c in [*self.init, *self.main] if c.spec["name"] == name), None)

    def update(self, pod: Object) -> None:
        """The API's pod changed: somebody may have deleted it, or overwritten its status."""
        self.pod = pod
        if self._silent:
            return
        if "deletionTimestamp" in pod["metadata"]:
            if pod["metadata"].get("deletionGracePeriodSeconds") == 0:
                self._hurry.set()
            self._deleting.set()
        self._dirty.set()

    @property
    def _silent(self) -> bool:
        """The node's kubelet neither hears of changes nor tells of any."""
        return self._context.node in self._context.host.silent

    def removed(self) -> None:
        """The pod is gone from the API: end its processes at once."""
        self._hurry.set()
        self._deleting.set()

    def node_removed(self) -> None:
        """The node is gone: the pod fails as in a node's shutdown, and the pod collector deletes it.

        Where the node fell silent before, the pod keeps the status that it had, as when a machine breaks.
        """
        self._node_gone = True
        self.removed()

    async def run(self) -> None:
        """Until the pod is deleted, or cancelled; then no process of it is left."""
        living = asyncio.create_task(self._live())
        living.add_done_callback(self._log_defect)
        writer = asyncio.create_task(self._write_status())
        try:
            await self._deleting.wait()
            grace_s = float(self.pod["metadata"].get("deletionGracePeriodSeconds", self._context.grace_s))
            await asyncio.gather(*(c.stop(grace_s, self._hurry) for c in [*self.init, *self.main]))
        finally:
            for task in (living, writer):
                task.cancel()
            await asyncio.gather(living, writer, return_exceptions=True)
        await self._leave()

    async def _live(self) -> None:
        if self.over:
            return
        if not self._accept():
            return
        self._dirty.set()
        await self._make_volumes()
        self._ready_to_start = True
        for container in self.init:
            await container.run()
            if not status.initialized([container.state]):
                self._finish()
                return
        for container in self.main:
            if container.state.state.get("waiting", {}).get("reason") == "PodInitializing":
                container.state.waits("ContainerCreating")
        async with asyncio.TaskGroup() as group:
            for container in self.main:
                group.create_task(container.run())
        if not self._deleting.is_set():
            self._finish()

    def _accept(self) -> bool:
        sidecars = [
            c["name"] for c in self.pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"
        ]
        if sidecars:
            message = f"sidecar containers are not served by this sandbox: {', '.join(sidecars)}"
            self._context.event("Failed", message, warning=True)
            self._refused = ("UnsupportedPod", message)
            self._finish()
        return not sidecars

    async def _make_volumes(self) -> None:
        context, host = self._context, self._context.host
        maker = volumes.VolumeMaker(
            host.api,
            host.sources,
            self.pod,
            ip=self.ip,
            host_ip=context.host_ip,
            allocatable=context.allocatable,
        )
        while True:
            seen = host.sources.generation
            try:
                context.volumes = await maker.make(context.folder / "volumes")
                context.kubeconfig = volumes.write_kubeconfig(
                    self.pod, context.volumes, host.api.server, context.folder / "kubeconfig"
                )
                return
            except volumes.MountError as error:
                context.event("FailedMount", str(error), warning=True)
            except (aiohttp.ClientError, TimeoutError) as error:
                log.info("volumes of %s wait for the API server: %s", context.full_name, error)
            await host.sources.news_since(seen, RETRY_S)

    def _finish(self) -> None:
        self.over = True
        self._dirty.set()

    def _log_defect(self, living: asyncio.Task[None]) -> None:
        if not living.cancelled() and (error := living.exception()):
            log.error("pod %s is not looked after any more", self._context.full_name, exc_info=error)

    async def _leave(self) -> None:
        """Say how it ended, then let the API server forget the pod."""
        self.over = True
        if self._silent:
            volumes.remove(self._context.folder)
            return
        if self._node_gone:
            self._refused = ("Terminated", "Pod was terminated in response to imminent node shutdown.")
        while True:
            try:
                await self._send()
                if not self._node_gone or "deletionTimestamp" in self.pod["metadata"]:
                    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
                    await self._context.host.api.call("DELETE", self._url, options)
                break
            except ApiStatus as refused:
                if refused.code in (404, 409):
                    break  # it is gone, or it is another pod of the same name
                log.warning("pod %s not deleted, next try follows: %s", self._context.full_name, refused)
            except (aiohttp.ClientError, TimeoutError) as error:
                log.info("pod %s not deleted, next try follows: %s", self._context.full_name, error)
            await asyncio.sleep(1)
        volumes.remove(self._context.folder)

    async def _write_status(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._send()
            except ApiStatus as refused:
                if refused.code not in (404, 409):
                    log.warning("status of pod %s not written: %s", self._context.full_name, refused)
            except (aiohttp.ClientError, TimeoutError) as error:
                log.info("status of pod %s waits: %s", self._context.full_name, error)
                await asyncio.sleep(1)
                self._dirty.set()

    async def _send(self) -> None:
        if self._silent:
            return
        if self.over and self._sent is None and not self._ready_to_start and not self._refused:
            return  # it ended before this kubelet started; its status is as it was
        wanted = self._status()
        if status.statuses_differ(self._sent, wanted, self.pod.get("status") or {}):
            body = {"metadata": {"uid": self.uid}, "status": wanted}
            answer = await self._context.host.api.strategic(f"{self._url}/status", body)
            self.pod["status"] = answer.get("status", wanted)
            self._sent = wanted

    def _status(self) -> Object:
        init, main = [c.state for c in self.init], [c.state for c in self.main]
        phase = "Failed" if self._refused else status.phase(init, main, finished=self.over)
        conditions = status.pod_conditions(self._conditions, init, main, phase, sandboxed=self._ready_to_start)
        wanted: Object = {
            "phase": phase,
            "conditions": conditions,
            "startTime": self._started,
            "hostIP": self._context.host_ip,
            "hostIPs": [{"ip": self._context.host_ip}],
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "containerStatuses": [state.as_status() for state in main],
        }
        if init:
            wanted["initContainerStatuses"] = [state.as_status() for state in init]
        if self._refused:
            wanted["reason"], wanted["message"] = self._refused
        return wanted
