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
QWEN = "Qwen/Qwen2.5-3B-Instruct"
"""The guide's Pattern 3. Its Issue 3 is of this model on a T4, with vLLM's own number of sequences there."""
_HELD, _RAN_OUT = 0.75, 0.80
"""The share of a T4's memory with which it starts, and the one with which it does not, as the guide reports."""
_UNITS = {"k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}
_UNSAID = 0.9
"""vLLM's default up to 0.11; 0.92 in 0.32."""
_SEQUENCES = 256
"""vLLM's `--max-num-seqs` on a GPU as small as a T4: the dummy requests that its sampler is warmed up with."""


@dataclass(frozen=True)
class ServerSettings:
    """A Deployment of model servers; `cpus` and `memory_bytes` are what one pod requests.

    Attributes:
        prefix_caching: what the arguments say; None: nothing, and the engine's default decides.
        max_model_len: prompt and answer together, in tokens; None: no number is given.
        max_num_seqs: sequences that are computed at once; None: vLLM's own number.
        gpu_memory_utilization: share of a GPU's memory, as it is written; empty: vLLM's default, 0.9 or more.
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
    max_num_seqs: int | None
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
        max_model_len=_whole(flag(words, "max-model-len")),
        max_num_seqs=_whole(flag(words, "max-num-seqs")),
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
    share, said = _share(found)
    if share is None:
        wrong.append(f"{said} is no share of a GPU's memory: more than 0, at most 1")
    elif _warms_up_as_the_guide(found, accelerator) and share >= _RAN_OUT:
        wrong.append(
            f"{said}, with which {QWEN} on a T4 runs out of memory as its sampler is warmed up (the guide's Issue 3): "
            f"use {_HELD}, or a --max-num-seqs below {_SEQUENCES}"
        )
    return wrong


def unproved(found: ServerSettings, *, accelerator: str) -> list[str]:
    """What these values leave open, so that nothing shows whether the model servers start with it."""
    open_ = []
    if found.max_model_len is None:
        open_.append("--max-model-len gives no number: the length is the model's own, or what vLLM finds room for")
    share, said = _share(found)
    if share is not None and _warms_up_as_the_guide(found, accelerator) and _HELD < share < _RAN_OUT:
        open_.append(
            f"{said} is between the {_HELD} with which the guide's {QWEN} starts on a T4 and the {_RAN_OUT:.2f} with "
            "which it does not"
        )
    return open_


def cannot_hold(found: ServerSettings, gpus: int, cpus: float, memory_bytes: float) -> list[str]:
    """Which requests of a replica exceed what one node has to give."""
    asked = {"GPUs": (found.gpus, gpus), "CPUs": (found.cpus, cpus)}
    asked["GiB of memory"] = (found.memory_bytes / 2**30, memory_bytes / 2**30)
    return [f"{need:g} {what} of {has:.4g}" for what, (need, has) in asked.items() if need > has]


def _gpu_container(deployment: Object) -> Object | None:
    containers: list[Object] = deployment["spec"]["template"]["spec"]["containers"]
    return next((item for item in containers if GPU in item.get("resources", {}).get("limits", {})), None)


def _share(found: ServerSettings) -> tuple[float | None, str]:
    """Of a GPU's memory, None where vLLM refuses what is written; and that in words."""
    if not found.gpu_memory_utilization:
        return _UNSAID, f"no --gpu-memory-utilization, so vLLM's default of {_UNSAID} or more"
    try:
        share = float(found.gpu_memory_utilization)
    except ValueError:
        share = 0.0
    return share if 0 < share <= 1 else None, f"--gpu-memory-utilization {found.gpu_memory_utilization}"


def _warms_up_as_the_guide(found: ServerSettings, accelerator: str) -> bool:
    sequences = _SEQUENCES if found.max_num_seqs is None else found.max_num_seqs
    return accelerator == T4 and QWEN in found.models and sequences >= _SEQUENCES


def _whole(word: str | None) -> int | None:
    """A number as vLLM reads it: 2k is 2000, 2K is 2048."""
    digits, unit = (word[:-1], word[-1]) if word and word[-1] in _UNITS else (word or "", "")
    return int(digits) * _UNITS.get(unit, 1) if digits.isdigit() else None


def _prefix_caching(words: Sequence[str]) -> bool | None:
    said = [word for word in words if word in ("--enable-prefix-caching", "--no-enable-prefix-caching")]
    return said[-1] == "--enable-prefix-caching" if said else None


def _requested(containers: Sequence[Object], resource: str) -> float:
    """Of all containers; a limit without a request is one."""
    resources = [item.get("resources", {}) for item in containers]
    values = [{**each.get("limits", {}), **each.get("requests", {})}.get(resource, 0) for each in resources]
    return float(sum(parse_quantity(value) for value in values))
