"""The patterns as the guide leaves them: Gateway, pool with picker, one replica, a route each; waits for answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.kube import Cache, KubeApi, Object, path
from llmd_sandbox.site import SIMULATOR, VLLM, Site
from llmd_sandbox.supervisor import releases
from llmd_sandbox.supervisor.objects import NAMESPACE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """What serves one model: its releases with their charts and the stem of their value files, and its route."""

    releases: dict[str, tuple[str, str]]
    gateway: str
    pool: str
    route: str


PATTERN1 = Served(
    {
        "infra": ("infra", "infra"),
        "gaie-pattern1": ("inferencepool", "gaie-pattern1"),
        "ms-pattern1": ("modelservice", "ms-pattern1"),
    },
    "infra-inference-gateway",
    "gaie-pattern1",
    "llm-d-route",
)
PATTERN1_NEWEST = Served(
    {
        "llm-d": ("infra", "infra"),
        "pattern1": ("llm-d-router-gateway", "router-pattern1"),
        "ms-pattern1": ("modelservice", "ms-pattern1.newest"),
    },
    "llm-d-inference-gateway",
    "pattern1",
    "llm-d-route",
)
PATTERN2 = Served(
    {
        "infra-pattern2": ("infra", "infra"),
        "gaie-pattern2": ("inferencepool", "gaie-pattern2"),
        "ms-pattern2": ("modelservice", "ms-pattern2"),
    },
    "infra-pattern2-inference-gateway",
    "gaie-pattern2",
    "llm-d-route-pattern2",
)
_GATEWAY_API = "gateway.networking.k8s.io/v1"
_SERVING_S = {SIMULATOR: 120.0, VLLM: 400.0}
"""The real engine starts in half a minute on an idle machine, and in several on a busy one."""
_ASK_AGAIN_S = 0.1


class Patterns:
    """The releases of Pattern 1 in one sandbox, and of Pattern 2 `beside` it, from the value files in `values`.

    `newest`: Pattern 1 by the router chart of llm-d's newest layout.
    """

    def __init__(
        self, site: Site, api: KubeApi, helm: Path, values: Path, *, beside: bool, newest: bool = False
    ) -> None:
        self.site, self.api, self.helm = site, api, helm
        self.served = [PATTERN1_NEWEST if newest else PATTERN1, *([PATTERN2] if beside else [])]
        stems = {name: stem for each in self.served for name, (_, stem) in each.releases.items()}
        self.files = {release: releases.value_files(values, stem) for release, stem in stems.items()}
        self.nodes = Cache(api, path("v1", "nodes"))
        self.deployments = Cache(api, path("apps/v1", "deployments", NAMESPACE))
        self.gateways = Cache(api, path(_GATEWAY_API, "gateways", NAMESPACE))

    def model(self, served: Served) -> str:
        """The name under which clients ask for the model."""
        (release,) = (name for name, (chart, _) in served.releases.items() if chart == "modelservice")
        values = yaml.safe_load(self.files[release][0].read_text())
        return str(values["modelArtifacts"]["name"])

    async def install(self) -> None:
        """All releases at once, and the routes, which no chart renders.

        Raises:
            SandboxError: helm failed.
        """
        async with asyncio.TaskGroup() as group:
            for served in self.served:
                for release, (chart, _) in served.releases.items():
                    files = self.files[release]
                    group.create_task(releases.install(self.site, self.helm, NAMESPACE, release, chart, files))
                group.create_task(self.api.create(path(_GATEWAY_API, "httproutes", NAMESPACE), _route(served)))

    async def wait_serving(self, enter: Callable[[str], None]) -> None:
        """Watch until a completion through the gateway is answered; `enter` is told each phase.

        Raises:
            SandboxError: it took too long; the reason says what was not there.
        """
        waits: list[tuple[str, Cache, Callable[[dict[str, Object]], bool]]] = [
            ("nodes", self.nodes, nodes_ready),
            ("model server and picker", self.deployments, lambda known: deployments_available(known, len(self.served))),
            ("gateway", self.gateways, lambda known: all(gateway_url(known, each.gateway) for each in self.served)),
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
                for each in self.served:
                    await self._first_answer(gateway_url(self.gateways.objects, each.gateway), self.model(each))
        except TimeoutError as error:
            raise SandboxError(
                f"Pattern 1 does not serve after {limit_s:.0f} s: still waiting for {phase}.",
                reason=await self._warnings(),
            ) from error
        finally:
            for task in watching:
                task.cancel()

    async def _first_answer(self, url: str, model: str) -> None:
        """Envoy and the picker learn a moment after the API what the API knows, so ask until they do."""
        question = {"model": model, "prompt": "Hello", "max_tokens": 1}
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


def deployments_available(deployments: dict[str, Object], patterns: int) -> bool:
    """Model server and picker of so many patterns have every replica available."""
    wanted = [item for item in deployments.values() if item["spec"].get("replicas")]
    return len(wanted) >= 2 * patterns and all(
        item.get("status", {}).get("availableReplicas", 0) >= item["spec"]["replicas"] for item in wanted
    )


def gateway_url(gateways: dict[str, Object], name: str) -> str:
    """The Gateway's URL, empty while it is not programmed or has no address."""
    gateway = gateways.get(f"{NAMESPACE}/{name}")
    if gateway is None or not _condition(gateway, "Programmed"):
        return ""
    addresses = gateway["status"].get("addresses", [])
    return f"http://{addresses[0]['value']}:{gateway['spec']['listeners'][0]['port']}" if addresses else ""


def _condition(item: Object, kind: str) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _route(served: Served) -> Object:
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": served.pool}
    everything = {"path": {"type": "PathPrefix", "value": "/"}}
    return {
        "apiVersion": _GATEWAY_API,
        "kind": "HTTPRoute",
        "metadata": {"name": served.route},
        "spec": {
            "parentRefs": [{"name": served.gateway}],
            "rules": [{"matches": [everything], "backendRefs": [pool]}],
        },
    }
