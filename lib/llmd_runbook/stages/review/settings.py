"""What rendered manifests say of the model servers; pure functions, so that each judgement can be tested alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubernetes.utils.quantity import parse_quantity

from llmd_runbook.analysis.picker_flags import flag
from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.discovery import served_names
from llmd_runbook.profile import HelmfileReleases, Pattern
from llmd_runbook.topology import GPU

T4 = "nvidia-tesla-t4"


@dataclass(frozen=True)
class ServerSettings:
    """A Deployment of model servers; `cpus` and `memory_bytes` are what one pod requests.

    Attributes:
        prefix_caching: what the arguments say; None: nothing, and the engine's default decides.
        max_model_len: prompt and answer together, in tokens; None: the model's own.
        token: Secret and key that the Hugging Face token is read from; None: no token.
    """

    name: str
    models: tuple[str, ...]
    replicas: int
    gpus: int
    cpus: float
    memory_bytes: float
    prefix_caching: bool | None
    max_model_len: int | None
    gpu_memory_utilization: str
    dtype: str
    token: tuple[str, str] | None


def gpu_deployments(manifests: Sequence[Object]) -> list[Object]:
    """The Deployments whose pods ask for GPUs."""
    return [item for item in manifests if item["kind"] == "Deployment" and _gpu_container(item) is not None]


def server_settings(deployment: Object) -> ServerSettings:
    """What a Deployment of `gpu_deployments` says."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    server = _gpu_container(deployment)
    assert server is not None
    words = [*server.get("command", []), *server.get("args", [])]
    length = flag(words, "max-model-len") or ""
    references = [entry.get("valueFrom", {}).get("secretKeyRef") for entry in server.get("env") or []]
    token = next((item for item in references if item), None)
    return ServerSettings(
        name=deployment["metadata"]["name"],
        models=tuple(served_names(server)),
        replicas=int(deployment["spec"].get("replicas", 1)),
        gpus=int(server["resources"]["limits"][GPU]),
        cpus=_requested(containers, "cpu"),
        memory_bytes=_requested(containers, "memory"),
        prefix_caching=_prefix_caching(words),
        max_model_len=int(length) if length.isdigit() else None,
        gpu_memory_utilization=flag(words, "gpu-memory-utilization") or "",
        dtype=flag(words, "dtype") or "",
        token=(token["name"], token["key"]) if token else None,
    )


def unexpected(manifests: Sequence[Object], names: Sequence[str], pattern: Pattern) -> list[str]:
    """What the configuration renders that the profile does not name, or does not render that it names."""
    wrong = []
    if isinstance(pattern.releases, HelmfileReleases):
        ending = f"-{pattern.releases.postfix}"
        wrong += [f"release {name} does not end in {ending}" for name in names if not name.endswith(ending)]
    pools = sorted(item["metadata"]["name"] for item in manifests if item["kind"] == "InferencePool")
    if pools != [pattern.inference_pool]:
        wrong.append(f"InferencePools: {', '.join(pools) or 'none'} instead of {pattern.inference_pool}")
    servers = [item["metadata"]["name"] for item in gpu_deployments(manifests)]
    if len(servers) != 1:
        wrong.append(f"Deployments that ask for {GPU}: {', '.join(servers) or 'none'} instead of one")
    gateways = {item["metadata"]["name"] for item in manifests if item["kind"] == "Gateway"}
    wrong += [f"Gateway {name} instead of {pattern.gateway}" for name in sorted(gateways - {pattern.gateway})]
    return wrong


def shortcomings(
    found: ServerSettings,
    pattern: Pattern,
    names: tuple[str, ...],
    *,
    accelerator: str,
    longest_tokens: int,
    caches: bool,
) -> list[str]:
    """What keeps these model servers from being the pattern that the profile describes.

    Args:
        names: the model names that it is to answer to.
        longest_tokens: the longest prompt and answer that the run will send.
        caches: whether the pattern rests on prefix caching.
    """
    wrong = []
    if found.models != names:
        wrong.append(f"serves {', '.join(found.models) or 'no named model'} instead of {', '.join(names)}")
    if found.replicas != pattern.replicas:
        wrong.append(f"{found.replicas} replicas instead of {pattern.replicas}")
    if found.gpus != 1:
        wrong.append(f"{found.gpus} GPUs a replica instead of one")
    if caches and found.prefix_caching is False:
        wrong.append("prefix caching is off (--no-enable-prefix-caching)")
    if found.max_model_len is not None and found.max_model_len < longest_tokens:
        wrong.append(f"--max-model-len {found.max_model_len} is below the {longest_tokens} tokens that the run sends")
    if accelerator == T4 and found.dtype == "bfloat16":
        wrong.append("--dtype bfloat16, which a T4 does not have: use half")
    return wrong


def cannot_hold(found: ServerSettings, gpus: int, cpus: float, memory_bytes: float) -> list[str]:
    """Which requests of a replica exceed what one node has to give."""
    asked = {"GPUs": (found.gpus, gpus), "CPUs": (found.cpus, cpus)}
    asked["GiB of memory"] = (found.memory_bytes / 2**30, memory_bytes / 2**30)
    return [f"{need:g} {what} of {has:.4g}" for what, (need, has) in asked.items() if need > has]


def _gpu_container(deployment: Object) -> Object | None:
    containers: list[Object] = deployment["spec"]["template"]["spec"]["containers"]
    return next((item for item in containers if GPU in item.get("resources", {}).get("limits", {})), None)


def _prefix_caching(words: Sequence[str]) -> bool | None:
    said = [word for word in words if word in ("--enable-prefix-caching", "--no-enable-prefix-caching")]
    return said[-1] == "--enable-prefix-caching" if said else None


def _requested(containers: Sequence[Object], resource: str) -> float:
    """Of all containers; a limit without a request is one."""
    resources = [item.get("resources", {}) for item in containers]
    values = [{**each.get("limits", {}), **each.get("requests", {})}.get(resource, 0) for each in resources]
    return float(sum(parse_quantity(value) for value in values))
