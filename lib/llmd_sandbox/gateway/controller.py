"""The gateway controller: watches the API, configures Envoy, writes statuses."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

import aiohttp

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.gateway.addresses import AddressBook
from llmd_sandbox.gateway.envoy import Envoy
from llmd_sandbox.gateway.envoy_config import BodyMode, Snapshot
from llmd_sandbox.gateway.objects import World
from llmd_sandbox.gateway.status import Served, writes
from llmd_sandbox.gateway.translate import CONTROLLER, GATEWAY_CLASS, our_gateways, translate
from llmd_sandbox.kube import ApiStatus, Cache, KubeApi, Object, path
from llmd_sandbox.site import Site

log = logging.getLogger(__name__)

LOAD_BALANCER_S = 60.0
"""How long a cloud load balancer takes to be set up, before `Site.startup_scale`."""

_DEBOUNCE_S = 0.02  # a rollout changes many objects at once; one configuration is enough for them
_RETRY_S = 1.0
_ENVOY_RETRY_S = 10.0  # a port may become free, a permission may be given
_GATEWAY, _INFERENCE = "gateway.networking.k8s.io", "inference.networking.k8s.io"
_COLLECTIONS = {
    "classes": (f"{_GATEWAY}/v1", "gatewayclasses"),
    "gateways": (f"{_GATEWAY}/v1", "gateways"),
    "routes": (f"{_GATEWAY}/v1", "httproutes"),
    "pools": (f"{_INFERENCE}/v1", "inferencepools"),
    "services": ("v1", "services"),
    "pods": ("v1", "pods"),
    "grants": (f"{_GATEWAY}/v1beta1", "referencegrants"),
    "namespaces": ("v1", "namespaces"),
}


class GatewayController:
    """Gateways of class `gke-l7-regional-external-managed`, served by one Envoy.

    Args:
        api: with the right to read the kinds above and to write their statuses.
        body_mode: how pickers get bodies where a Gateway's annotation says nothing.
        route_lag_s: how long the data path follows a change of routes or backends after the conditions that
            announce it, before `Site.startup_scale`; 0: the data path comes first.
    """

    def __init__(
        self,
        site: Site,
        api: KubeApi,
        *,
        body_mode: BodyMode = BodyMode.FULL_DUPLEX_STREAMED,
        route_lag_s: float = 0.0,
    ) -> None:
        self.ready = asyncio.Event()
        self._site, self._api, self._body_mode = site, api, body_mode
        self.lag_s = route_lag_s * site.startup_scale
        self._envoy = Envoy(site)
        self._caches = {name: Cache(api, path(*where)) for name, where in _COLLECTIONS.items()}
        self._addresses = AddressBook(site.gateway_ip)
        self._provisioned_at: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._reconciled = asyncio.Event()
        self._late: asyncio.Queue[tuple[float, Snapshot]] = asyncio.Queue()
        self._applied = Snapshot()
        self._errors: dict[str, str] = {}
        self._failure: str | None = None

    async def run(self) -> None:
        """Serve until cancelled; then Envoy is ended.

        `ready` is set when Envoy runs and the class exists; that the kinds' definitions are installed may come
        after the start.

        Raises:
            ExceptionGroup: with the SandboxError of an Envoy that cannot be started.
        """
        for cache in self._caches.values():
            cache.listen(lambda _event, _item: self._changed.set())
        async with asyncio.TaskGroup() as tasks:
            for cache in self._caches.values():
                tasks.create_task(cache.run())
            tasks.create_task(self._envoy.run())
            tasks.create_task(self._reconcile_forever())
            tasks.create_task(self._apply_late())
            await self._envoy.ready.wait()
            await self._reconciled.wait()
            self.ready.set()

    async def _reconcile_forever(self) -> None:
        for cache in self._caches.values():
            await cache.synced.wait()
        self._changed.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_DEBOUNCE_S)
            self._changed.clear()
            try:
                await self._reconcile()
                self._reconciled.set()
            except (ApiStatus, aiohttp.ClientError, TimeoutError) as error:
                log.warning("reconciling gateways failed: %s", error)
                self._again_after(_RETRY_S)

    async def _reconcile(self) -> None:
        world = World(**{name: dict(cache.objects) for name, cache in self._caches.items()})
        if GATEWAY_CLASS not in world.classes:
            await self._create_class()
        addresses = self._provisioned(world)
        found = translate(world, addresses, self._envoy.paths, self._body_mode)
        if self.lag_s:
            self._late.put_nowait((asyncio.get_running_loop().time() + self.lag_s, found.snapshot))
        else:
            await self._apply(found.snapshot)
        served = Served(addresses, frozenset(self._applied.routes), self._errors, self._failure)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for write in writes(world, found, served, now):
            try:
                await self._api.merge(write.url, write.status)
            except ApiStatus as status:
                if status.code != 404:  # it was deleted meanwhile
                    raise

    async def _apply(self, snapshot: Snapshot) -> None:
        """Have Envoy serve `snapshot`, if it does not yet; what fails is kept for the statuses and tried again."""
        if snapshot == self._applied and not self._errors:
            return
        try:
            self._errors = await self._envoy.apply(snapshot)
        except SandboxError as error:
            log.warning("%s", error)
            self._failure = str(error)
            self._again_after(_ENVOY_RETRY_S)
            return
        self._applied, self._failure = snapshot, None
        if self._errors:
            log.warning("Envoy cannot serve: %s", self._errors)
            self._again_after(_ENVOY_RETRY_S)

    def _again_after(self, delay_s: float) -> None:
        asyncio.get_running_loop().call_later(delay_s, self._changed.set)

    async def _apply_late(self) -> None:
        """Give Envoy each configuration when it is due; statuses are written again after."""
        loop = asyncio.get_running_loop()
        while True:
            due, snapshot = await self._late.get()
            await asyncio.sleep(due - loop.time())
            if snapshot != self._applied:
                await self._apply(snapshot)
                self._changed.set()

    def _provisioned(self, world: World) -> dict[str, str]:
        """Addresses, by uid, of the Gateways whose load balancer is set up; the others' time starts now."""
        loop = asyncio.get_running_loop()
        gateways = list(our_gateways(world).values())
        lent = self._addresses.assign(gateways)
        for gateway in gateways:
            uid = gateway["metadata"]["uid"]
            if uid not in self._provisioned_at:
                delay_s = 0.0 if _was_programmed(gateway) else LOAD_BALANCER_S * self._site.startup_scale
                self._provisioned_at[uid] = loop.time() + delay_s
                loop.call_later(delay_s, self._changed.set)
        self._provisioned_at = {uid: at for uid, at in self._provisioned_at.items() if uid in lent}
        return {uid: lent[uid] for uid, at in self._provisioned_at.items() if at <= loop.time()}

    async def _create_class(self) -> None:
        """Create the class that a GKE cluster with Gateway API has from the start."""
        body: Object = {
            "apiVersion": f"{_GATEWAY}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": GATEWAY_CLASS},
            "spec": {"controllerName": CONTROLLER},
        }
        try:
            await self._api.create(path(*_COLLECTIONS["classes"]), body)
        except ApiStatus as status:
            if status.code != 409:
                raise


def _was_programmed(gateway: Object) -> bool:
    conditions = gateway.get("status", {}).get("conditions", [])
    return any(entry["type"] == "Programmed" and entry["status"] == "True" for entry in conditions)
