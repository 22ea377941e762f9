"""What routing rests on in one cluster, as it was discovered; `Unread` in place of what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmd_runbook.analysis.picker_config import ConfigError, PickerConfig, parse
from llmd_runbook.analysis.picker_flags import flag
from llmd_runbook.analysis.scorers import InferenceRequest, Rules, block_hashes

_CACHE_INFO = "vllm:cache_config_info"


@dataclass(frozen=True)
class Unread:
    """Why something is not known, in the server's own words."""

    reason: str


@dataclass(frozen=True)
class ReplicaFacts:
    """A pod that the InferencePool selects.

    Attributes:
        models: the names that it serves.
        said_by: where those names come from.
        series: metric name -> the label sets under which its `/metrics` shows it.
    """

    name: str
    ready: bool
    models: tuple[str, ...] | Unread
    said_by: str
    series: Mapping[str, Sequence[Mapping[str, str]]] | Unread


@dataclass(frozen=True)
class Workload:
    """A Deployment: its label selector (the API's JSON) and the labels of its pods."""

    name: str
    selector: Mapping[str, Any]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class RouteFacts:
    """An HTTPRoute: backends as `Kind/name`, conditions as `True (Reason)`; one of an older generation is Unknown."""

    name: str
    backends: tuple[str, ...]
    conditions: Mapping[str, str]


@dataclass(frozen=True)
class PickerPod:
    """A pod of the endpoint picker.

    Attributes:
        started: its container's start (RFC 3339), empty while it does not run.
        loaded: the configuration that its log shows at that start.
    """

    name: str
    ready: bool
    scheduled: bool
    started: str
    trouble: str
    loaded: PickerConfig | Unread


@dataclass(frozen=True)
class PickerFacts:
    """The endpoint picker's Deployment and pods; what a pod requests is in CPUs and bytes."""

    deployment: str
    image: str
    arguments: tuple[str, ...]
    replicas: int
    pods: tuple[PickerPod, ...]
    requests_cpus: float
    requests_bytes: float


@dataclass(frozen=True)
class ConfigFacts:
    """The picker's configuration file, where it lies, and when that was last changed (RFC 3339)."""

    source: str
    text: str
    changed: str


@dataclass(frozen=True)
class NodeFacts:
    """What a node has to give to pods, in CPUs and bytes."""

    name: str
    cpus: float
    memory_bytes: float


@dataclass(frozen=True)
class RoutingFacts:
    """Everything that the rules look at.

    Attributes:
        shared_prompts: group -> the prompts of the affinity test that share its prefix.
        control_prompts: the prompts of its control arm.
        load_prompts: the prompts of the profile's load.
    """

    model: str
    pool: str
    replicas: tuple[ReplicaFacts, ...] | Unread
    workloads: tuple[Workload, ...] | Unread
    selector: Mapping[str, str]
    routes: tuple[RouteFacts, ...] | Unread
    picker: PickerFacts | Unread
    config: ConfigFacts | Unread
    nodes: tuple[NodeFacts, ...] | Unread
    shared_prompts: Mapping[str, Sequence[str]]
    control_prompts: Sequence[str]
    load_prompts: Sequence[str]

    @cached_property
    def parsed(self) -> PickerConfig | ConfigError | Unread:
        """The configuration as the picker understands it, or why it would refuse it."""
        if isinstance(self.config, Unread):
            return self.config
        try:
            return parse(self.config.text)
        except ConfigError as error:
            return error

    @cached_property
    def rules(self) -> Rules | Unread:
        """What the reference model routes by."""
        if isinstance(self.parsed, Unread):
            return self.parsed
        if isinstance(self.parsed, ConfigError):
            return Unread(f"the picker's configuration is refused: {self.parsed}")
        try:
            return self.parsed.rules()
        except ConfigError as error:
            return Unread(str(error))

    @cached_property
    def ready(self) -> tuple[ReplicaFacts, ...]:
        """The replicas that the picker chooses from."""
        return () if isinstance(self.replicas, Unread) else tuple(item for item in self.replicas if item.ready)

    @cached_property
    def caches(self) -> list[tuple[int, int]] | Unread:
        """Block size (tokens) and number of blocks of each Ready replica; 0 where it does not report them."""
        if isinstance(self.replicas, Unread):
            return self.replicas
        arguments = () if isinstance(self.picker, Unread) else self.picker.arguments
        name = flag(arguments, "cache-info-metric") or _CACHE_INFO
        found = []
        for replica in self.ready:
            if isinstance(replica.series, Unread):
                return Unread(f"{replica.name}: {replica.series.reason}")
            labels = next(iter(replica.series.get(name, ())), {})
            found.append((_number(labels.get("block_size")), _number(labels.get("num_gpu_blocks"))))
        return found or Unread("no replica is Ready")

    @cached_property
    def block_bytes(self) -> int | Unread:
        """Bytes of prompt in a block; the largest that a Ready replica gives, for the first candidate's counts."""
        rules, caches = self.rules, self.caches
        if isinstance(rules, Unread):
            return rules
        if isinstance(caches, Unread):
            return caches if rules.auto_tune else rules.block_bytes(0)
        return max(rules.block_bytes(tokens) for tokens, _ in caches)

    def hashes(self, prompt: str) -> list[int]:
        """The hashes of a completion's prompt.

        Raises:
            ValueError: rules or block size are not known.
        """
        if isinstance(self.rules, Unread) or isinstance(self.block_bytes, Unread):
            raise ValueError("rules or block size are not known")
        request = InferenceRequest(self.model, prompt.encode())
        limit = self.rules.block_limit(self.block_bytes)
        return block_hashes(self.rules.generation, request, self.block_bytes, limit)


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0
