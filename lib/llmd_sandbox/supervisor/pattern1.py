"""Pattern 1 as the guide leaves it: Gateway, pool with picker, one replica, a route; waits for an answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import aiohttp
import yaml

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.kube import Cache, KubeApi, Object, path
from llmd_sandbox.site import SIMULATOR, VLLM, Site
from llmd_sandbox.supervisor import releases
from llmd_sandbox.supervisor.objects import NAMESPACE

log = logging.getLogger(__name__)

RELEASES = {"infra": "infra", "gaie-pattern1": "inferencepool", "ms-pattern1": "modelservice"}
"""Each release with its chart."""

GATEWAY, POOL, ROUTE = "infra-inference-gateway", "gaie-pattern1", "llm-d-route"
_GATEWAY_API = "gateway.networking.k8s.io/v1"
_SERVING_S = {SIMULATOR: 120.0, VLLM: 400.0}
"""The real engine starts in half a minute on an idle machine, and in several on a busy one."""
_ASK_AGAIN_S = 0.1


class Pattern1:
    """The releases of Pattern 1 in one sandbox, from the value files in `values`."""

    def __init__(self, site: Site, api: KubeApi, helm: Path, values: Path) -> None:
        self.site, self.api, self.helm = site, api, helm
        self.files = {release: releases.value_files(values, release) for release in RELEASES}
        self.nodes = Cache(api, path("v1", "nodes"))
        self.deployments = Cache(api, path("apps/v1", "deployments", NAMESPACE))
        self.gateways = Cache(api, path(_GATEWAY_API, "gateways", NAMESPACE))

    @property
    def model(self) -> str:
        """The name under which clients ask for the model."""
        values = yaml.safe_load(self.files["ms-pattern1"][0].read_text())
        return str(values["modelArtifacts"]["name"])

    async def install(self) -> None:
        """All releases at once, and the route, which no chart renders.

        Raises:
            SandboxError: helm failed.
        """
        async with asyncio.TaskGroup() as group:
            for release, chart in RELEASES.items():
                group.create_task(
                    releases.install(self.site, self.helm, NAMESPACE, release, chart, self.files[release])
                )
            group.create_task(self.api.create(path(_GATEWAY_API, "httproutes", NAMESPACE), _route()))

    async def wait_serving(self, enter: Callable[[str], None]) -> None:
        """Watch until a completion through the gateway is answered; `enter` is told each phase.

        Raises:
            SandboxError: it took too long; the reason says what was not there.
        """
        waits: list[tuple[str, Cache, Callable[[dict[str, Object]], bool]]] = [
            ("nodes", self.nodes, nodes_ready),
            ("model server and picker", self.deployments, deployments_available),
            ("gateway", self.gateways, lambda known: bool(gateway_url(known))),
        ]
        watching = [asyncio.ensure_future(cache.run()) for _, cache, _ in waits]
        phase, limit_s = "", _SERVING_S[self.site.engine]
        try:
            async with asyncio.timeout(limit_s):
                for phase, cache, holds in waits:
                    enter(phase)
                    await cache.wait_for(holds)
                phase = "first answer"
                enter(phase)
                await self._first_answer(gateway_url(self.gateways.objects))
        except TimeoutError as error:
            raise SandboxError(
                f"Pattern 1 does not serve after {limit_s:.0f} s: still waiting for {phase}.",
                reason=await self._warnings(),
            ) from error
        finally:
            for task in watching:
                task.cancel()

    async def _first_answer(self, url: str) -> None:
        """Envoy and the picker learn a moment after the API what the API knows, so ask until they do."""
        question = {"model": self.model, "prompt": "Hello", "max_tokens": 1}
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.post(f"{url}/v1/completions", json=question) as answer:
                        if answer.status == 200:
                            return
                        log.info("the gateway answers %s: %s", answer.status, (await answer.text())[:200])
                except (aiohttp.ClientError, OSError) as error:
                    log.info("the gateway does not answer: %s", error)
                await asyncio.sleep(_ASK_AGAIN_S)

    async def _warnings(self) -> str:
        """The namespace's latest warnings, which name what keeps a pod from running."""
        events = (await self.api.get(path("v1", "events", NAMESPACE)))["items"] or []
        lines = warnings(events)[-5:]
        return "\n          ".join(lines) or "the namespace has no warning event"


def warnings(events: list[Object]) -> list[str]:
    """A line for each Warning event; those about endpoints are left out, for pods here always cause them.

    Kubernetes refuses loopback addresses in endpoints, and nothing of the sandbox needs any.
    """
    return [
        f"{event['involvedObject']['name']}: {event.get('reason')}: {event.get('message')}"
        for event in events
        if event.get("type") == "Warning" and not str(event.get("reason")).startswith("FailedToUpdateEndpoint")
    ]


def nodes_ready(nodes: dict[str, Object]) -> bool:
    """There are nodes, and all are Ready."""
    return bool(nodes) and all(_condition(node, "Ready") for node in nodes.values())


def deployments_available(deployments: dict[str, Object]) -> bool:
    """Model server and picker have every replica available."""
    wanted = [item for item in deployments.values() if item["spec"].get("replicas")]
    return len(wanted) >= 2 and all(
        item.get("status", {}).get("availableReplicas", 0) >= item["spec"]["replicas"] for item in wanted
    )


def gateway_url(gateways: dict[str, Object]) -> str:
    """The Gateway's URL, empty while it is not programmed or has no address."""
    gateway = gateways.get(f"{NAMESPACE}/{GATEWAY}")
    if gateway is None or not _condition(gateway, "Programmed"):
        return ""
    addresses = gateway["status"].get("addresses", [])
    return f"http://{addresses[0]['value']}:{gateway['spec']['listeners'][0]['port']}" if addresses else ""


def _condition(item: Object, kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _route() -> Object:
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": POOL}
    everything = {"path": {"type": "PathPrefix", "value": "/"}}
    return {
        "apiVersion": _GATEWAY_API,
        "kind": "HTTPRoute",
        "metadata": {"name": ROUTE},
        "spec": {
            "parentRefs": [{"name": GATEWAY}],
            "rules": [{"matches": [everything], "backendRefs": [pool]}],
        },
    }
