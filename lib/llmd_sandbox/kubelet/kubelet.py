"""The kubelet of all nodes of a sandbox."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial

import aiohttp

from llmd_sandbox.images import table
from llmd_sandbox.kube import Cache, KubeApi, Object, key
from llmd_sandbox.kubelet import server
from llmd_sandbox.kubelet.addresses import PodAddresses
from llmd_sandbox.kubelet.containers import Container
from llmd_sandbox.kubelet.context import Host, Resolver
from llmd_sandbox.kubelet.events import EventRecorder
from llmd_sandbox.kubelet.nodes import NodeKeeper
from llmd_sandbox.kubelet.pods import PodWorker
from llmd_sandbox.kubelet.sources import Sources
from llmd_sandbox.site import Site

log = logging.getLogger(__name__)


class Kubelet:
    """Serves every Node object, and runs the pods bound to them as local processes."""

    def __init__(self, site: Site, api: KubeApi, resolve: Resolver | None = None) -> None:
        self.ready = asyncio.Event()
        self._site, self._api = site, api
        self._resolve = resolve or partial(table.resolve, engine=site.engine)
        self._events = EventRecorder(api)
        self._sources = Sources(api)
        self._addresses = PodAddresses(site)
        self._nodes = Cache(api, "/api/v1/nodes")
        self._pods = Cache(api, "/api/v1/pods", {"fieldSelector": "spec.nodeName!="})
        self._keepers: dict[str, tuple[NodeKeeper, asyncio.Task[None]]] = {}
        self._workers: dict[str, PodWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._host: Host | None = None

    async def run(self) -> None:
        """Until cancelled; then every process of every pod is gone."""
        configuration = [Cache(self._api, f"/api/v1/{plural}") for plural in ("secrets", "configmaps")]
        for cache in configuration:
            cache.listen(self._sources.changed)
        tls = await asyncio.to_thread(server.certificate, self._site.pki, self._site.kubelet[0])
        app = server.application(self._find, lambda: self._pods.objects)
        listening = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as http:
            self._host = Host(self._site, self._api, self._events, self._sources, http, self._resolve)
            self._host.nodes = self._nodes.objects
            self._nodes.listen(self._on_node)
            self._pods.listen(self._on_pod)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(server.serve(app, self._site.kubelet, tls, listening))
                    group.create_task(self._events.run())
                    for cache in (self._nodes, self._pods, *configuration):
                        group.create_task(cache.run())
                    for event in (listening, self._nodes.synced, self._pods.synced):
                        await event.wait()
                    self.ready.set()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_node(self, event: str, node: Object) -> None:
        name = node["metadata"]["name"]
        if event == "DELETED":
            self._drop_node(name)
        elif name not in self._keepers:
            self._add_node(node)
        else:
            self._keepers[name][0].update(node)
            self._hear(self._keepers[name][0])

    def _add_node(self, node: Object) -> None:
        keeper = NodeKeeper(self._site, self._api, self._events, node)
        task = self._start(keeper.run(), f"node {keeper.name}")
        self._keepers[keeper.name] = (keeper, task)
        self._hear(keeper)
        self._start(self._admit_waiting(keeper), f"pods of {keeper.name}")

    def _hear(self, keeper: NodeKeeper) -> None:
        """Note that a node fell silent, or have it tell what it kept to itself."""
        assert self._host is not None, "nodes come while `run` runs"
        if keeper.silent:
            self._host.silent.add(keeper.name)
        elif keeper.name in self._host.silent:
            self._host.silent.remove(keeper.name)
            for worker in self._workers.values():
                if worker.pod["spec"].get("nodeName") == keeper.name:
                    worker.update(worker.pod)
            self._start(self._admit_waiting(keeper), f"pods of {keeper.name}")

    def _drop_node(self, name: str) -> None:
        if name in self._keepers:
            self._keepers.pop(name)[1].cancel()
        for worker in self._workers.values():
            if worker.pod["spec"].get("nodeName") == name:
                worker.node_removed()

    async def _admit_waiting(self, keeper: NodeKeeper) -> None:
        await keeper.booted.wait()
        for pod in list(self._pods.objects.values()):
            if pod["spec"].get("nodeName") == keeper.name:
                self._admit(pod)

    def _on_pod(self, event: str, pod: Object) -> None:
        worker = self._workers.get(pod["metadata"]["uid"])
        if event == "DELETED":
            if worker:
                worker.removed()
        elif worker:
            worker.update(pod)
        else:
            self._admit(pod)

    def _admit(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        keeper = self._keepers.get(pod["spec"].get("nodeName", ""), (None,))[0]
        if uid in self._workers or keeper is None or keeper.silent or not keeper.booted.is_set():
            return
        assert self._host is not None, "pods come while `run` runs"
        ip = self._addresses.take((pod.get("status") or {}).get("podIP"))
        worker = self._workers[uid] = PodWorker(self._host, pod, ip, keeper.allocatable)
        worker.update(pod)
        self._start(self._serve(worker), f"pod {key(pod)}")

    async def _serve(self, worker: PodWorker) -> None:
        try:
            await worker.run()
        finally:
            self._addresses.free(worker.ip)
        await self._forget(worker)

    async def _forget(self, worker: PodWorker) -> None:
        """Keep the finished worker while the API has its pod (finalizers): no second one may start."""
        await self._pods.wait_for(lambda objects: all(pod["metadata"]["uid"] != worker.uid for pod in objects.values()))
        self._workers.pop(worker.uid, None)
        self._events.forget(worker.uid)

    def _start(self, work: Coroutine[None, None, None], what: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=what)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("%s is not looked after any more", task.get_name(), exc_info=error)

    def _find(self, namespace: str, pod: str, container: str) -> Container | None:
        found = self._pods.objects.get(f"{namespace}/{pod}")
        worker = self._workers.get(found["metadata"]["uid"]) if found else None
        return worker.container(container) if worker else None
