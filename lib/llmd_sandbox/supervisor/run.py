"""From nothing to a serving sandbox, phase by phase, and then until told to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from llmd_sandbox.control_plane import assets
from llmd_sandbox.control_plane.runner import ControlPlane
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.gateway.controller import GatewayController
from llmd_sandbox.gke.server import GkeServer
from llmd_sandbox.images.vllm_cpu import environment as vllm
from llmd_sandbox.kube import KubeApi
from llmd_sandbox.kubelet.kubelet import Kubelet
from llmd_sandbox.site import VLLM, Site
from llmd_sandbox.supervisor import environment, objects
from llmd_sandbox.supervisor.patterns import Patterns
from llmd_sandbox.supervisor.state import UP, Order, Progress

log = logging.getLogger(__name__)

_COMPONENTS_S = 120.0


class Component(Protocol):
    """A part of the sandbox: runs until cancelled, says when it is ready."""

    ready: asyncio.Event

    async def run(self) -> None:
        """Run until cancelled."""


async def run(site: Site, order: Order, progress: Progress) -> None:
    """Run until cancelled.

    Raises:
        SandboxError, or a group with one in it: a part failed.
    """
    found = assets.find()
    if absent := [name for name in assets.NEEDED if name not in found]:
        raise SandboxError(f"Not built yet: {', '.join(absent)}.", remedy="llmd-sandbox build")
    if site.engine == VLLM and not vllm.built():
        raise SandboxError("Not built yet: the real vLLM.", remedy="llmd-sandbox build --engine vllm")
    environment.write(site, found)
    plane = ControlPlane(site, found)
    progress.enter("control plane")
    async with asyncio.TaskGroup() as parts:
        parts.create_task(plane.run())
        await plane.ready.wait()
        async with KubeApi.from_kubeconfig(site.component_kubeconfig) as api:
            progress.enter("kinds and components")
            async with asyncio.TaskGroup() as both:
                both.create_task(objects.create(api, site, found[assets.GATEWAY_CRDS]))
                both.create_task(_components(parts, site, api))
            if not order.bare:
                await _patterns(site, api, found["helm"], order, progress)
            progress.enter(UP)
            log.info("up after %.2f s: %s", progress.state.ready_after_s, progress.state.timings_s)
            await asyncio.Event().wait()


async def _components(parts: asyncio.TaskGroup, site: Site, api: KubeApi) -> None:
    components: Mapping[str, Component] = {
        "kubelet": Kubelet(site, api),
        "gateway controller": GatewayController(site, api, route_lag_s=site.route_lag_s),
        "GKE API": GkeServer(site, api),
    }
    for name, component in components.items():
        parts.create_task(_for_ever(name, component))
    waiting = {name: asyncio.ensure_future(each.ready.wait()) for name, each in components.items()}
    _, late = await asyncio.wait(waiting.values(), timeout=_COMPONENTS_S)
    if late:
        names = ", ".join(name for name, task in waiting.items() if task in late)
        for task in late:
            task.cancel()
        raise SandboxError(f"Not ready after {_COMPONENTS_S:.0f} s: {names}.", where=str(site.logs))


async def _for_ever(name: str, component: Component) -> None:
    await component.run()
    raise SandboxError(f"The {name} ended by itself.")


async def _patterns(site: Site, api: KubeApi, helm: Path, order: Order, progress: Progress) -> None:
    pattern = Patterns(site, api, helm, Path(order.values), beside=order.pattern2, newest=order.newest)
    progress.enter("releases")
    await pattern.install()
    await pattern.wait_serving(progress.enter)
