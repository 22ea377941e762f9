"""One node: its lease, its status, and the time that a machine takes to boot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform

import aiohttp

from llmd_sandbox.kube import ApiStatus, KubeApi, Object, path
from llmd_sandbox.kubelet.events import EventRecorder, node_reference
from llmd_sandbox.kubelet.times import age_s, rfc3339, rfc3339_micro
from llmd_sandbox.site import Site

log = logging.getLogger(__name__)

KUBELET_VERSION = "v1.36.3"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_S, HEARTBEAT_S = 40, 300.0
BOOT_S, DEVICE_PLUGIN_S = 60.0, 20.0
"""How long a new machine takes to be Ready, and then its GPUs to be seen; both times `startup_scale`."""

SILENCE = "llmd-sandbox/kubelet"
"""The annotation of a Node that makes its kubelet fall silent: `silent`."""

_MACHINES = {"n1-standard-4": ("4", "15Gi"), "e2-standard-4": ("4", "16Gi")}
_UNKNOWN_MACHINE = ("4", "16Gi")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class NodeKeeper:
    """Keeps one Node object alive, as the kubelet on that machine would."""

    def __init__(self, site: Site, api: KubeApi, events: EventRecorder, node: Object) -> None:
        self._site, self._api, self._events, self._node = site, api, events, node
        self.name = str(node["metadata"]["name"])
        self.booted = asyncio.Event()
        self._has_gpus = False
        self._renew_s = site.node_grace_s / 5  # as on a real node: every 10 s of 50
        self._stale = asyncio.Event()
        self._since: dict[str, tuple[str, str]] = {}

    @property
    def silent(self) -> bool:
        """Whether it neither renews its lease nor writes a status, as a kubelet that hangs or is cut off."""
        return (self._node["metadata"].get("annotations") or {}).get(SILENCE) == "silent"

    @property
    def allocatable(self) -> dict[str, str]:
        """What pods may ask of the node now."""
        labels = self._node["metadata"].get("labels") or {}
        cpu, memory = _MACHINES.get(labels.get("node.kubernetes.io/instance-type", ""), _UNKNOWN_MACHINE)
        resources = {"cpu": cpu, "memory": memory, "ephemeral-storage": "94Gi", "pods": "110"}
        gpus = labels.get("cloud.google.com/gke-accelerator-count")
        if gpus:
            resources["nvidia.com/gpu"] = gpus if self._has_gpus else "0"
        return resources

    def update(self, node: Object) -> None:
        """The API's node changed; when somebody else declared it not ready, say again that it is."""
        self._node = node
        conditions = (node.get("status") or {}).get("conditions") or []
        ready = next((c["status"] for c in conditions if c["type"] == "Ready"), None)
        if self.booted.is_set() and ready != "True":
            self._stale.set()

    async def run(self) -> None:
        """Boot, then renew the lease and the status until cancelled."""
        self._events.emit(node_reference(self.name), "Starting", "Starting kubelet.", node=self.name)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_lease())
            group.create_task(self._boot())
            group.create_task(self._write_statuses())

    def status(self) -> Object:
        """The `NodeStatus` as it is now."""
        ip, port = self._site.kubelet
        booted = self.booted.is_set()
        return {
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": self.name}],
            "capacity": self.allocatable,
            "allocatable": self.allocatable,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": {
                "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "operatingSystem": "linux",
                "kernelVersion": platform.release(),
                "osImage": "llmd-sandbox",
                "containerRuntimeVersion": "containerd://2.1.4",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": "",
                "machineID": self.name,
                "systemUUID": self.name,
                "bootID": self.name,
            },
            "conditions": [
                self._pressure("Memory", "kubelet has sufficient memory available"),
                self._pressure("Disk", "kubelet has no disk pressure"),
                self._pressure("PID", "kubelet has sufficient PID available"),
                self._condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")
                if booted
                else self._condition("Ready", "False", "KubeletNotReady", "the node is booting"),
            ],
        }

    def _pressure(self, what: str, message: str) -> Object:
        word = {"Memory": "SufficientMemory", "Disk": "NoDiskPressure", "PID": "SufficientPID"}[what]
        return self._condition(f"{what}Pressure", "False", f"KubeletHas{word}", message)

    def _condition(self, kind: str, status: str, reason: str, message: str) -> Object:
        stored = (self._node.get("status") or {}).get("conditions") or []
        old = next((c for c in stored if c["type"] == kind and c["status"] == status), None)
        if old:
            self._since[kind] = (status, old["lastTransitionTime"])
        elif self._since.get(kind, ("",))[0] != status:
            self._since[kind] = (status, rfc3339())
        return {
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": rfc3339(),
            "lastTransitionTime": self._since[kind][1],
        }

    async def _boot(self) -> None:
        scale = self._site.startup_scale
        age = age_s(self._node["metadata"]["creationTimestamp"])
        self._stale.set()
        await asyncio.sleep(max(0.0, BOOT_S * scale - age))
        self.booted.set()
        self._stale.set()
        message = f"Node {self.name} status is now: NodeReady"
        self._events.emit(node_reference(self.name), "NodeReady", message, node=self.name)
        await asyncio.sleep(max(0.0, (BOOT_S + DEVICE_PLUGIN_S) * scale - max(age, BOOT_S * scale)))
        self._has_gpus = True
        self._stale.set()

    async def _write_statuses(self) -> None:
        url = path("v1", "nodes", None, self.name, "status")
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):  # `wait_for` of Python 3.11 may swallow a cancel
                    await self._stale.wait()
            self._stale.clear()
            if self.silent:
                continue
            try:
                await self._api.strategic(url, {"status": self.status()})
            except (ApiStatus, aiohttp.ClientError, TimeoutError) as error:
                log.info("status of node %s not written, next try follows: %s", self.name, error)
                await asyncio.sleep(1)
                self._stale.set()

    async def _renew_lease(self) -> None:
        wait_s = self._renew_s
        while True:
            try:
                if not self.silent:
                    await self._lease()
                wait_s = self._renew_s
            except (ApiStatus, aiohttp.ClientError, TimeoutError) as error:
                log.info("lease of node %s not renewed, next try follows: %s", self.name, error)
                wait_s = 1.0
            await asyncio.sleep(wait_s)

    async def _lease(self) -> Object:
        url = path("coordination.k8s.io/v1", "leases", LEASE_NAMESPACE, self.name)
        try:
            return await self._api.merge(url, {"spec": {"renewTime": rfc3339_micro()}})
        except ApiStatus as status:
            if status.code != 404:
                raise
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": self._node["metadata"]["uid"]}
        spec = {"holderIdentity": self.name, "leaseDurationSeconds": LEASE_S, "renewTime": rfc3339_micro()}
        lease = {"metadata": {"name": self.name, "ownerReferences": [owner]}, "spec": spec}
        return await self._api.create(path("coordination.k8s.io/v1", "leases", LEASE_NAMESPACE), lease)
