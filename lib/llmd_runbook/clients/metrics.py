"""Counters of one replica, as its `/metrics` shows them, and their differences."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from llmd_runbook.clients.kubernetes import PODS, Kubernetes, Object
from llmd_runbook.errors import ApiError, ClusterError, Unreachable

REQUESTS = "vllm:request_success_total"
PREFIX_QUERIES = "vllm:prefix_cache_queries_total"
PREFIX_HITS = "vllm:prefix_cache_hits_total"
RUNNING = "vllm:num_requests_running"
WAITING = "vllm:num_requests_waiting"
KV_USAGE = "vllm:kv_cache_usage_perc"
CACHE_CONFIG = "vllm:cache_config_info"

_CONNECT_S, _READ_S = 2, 10


@dataclass(frozen=True)
class Snapshot:
    """One scrape of one pod.

    Attributes:
        pod: the pod's name.
        via: how it was reached: `pods/proxy` or `pod IP`.
        samples: metric name -> list of (labels, value).
    """

    pod: str
    via: str
    samples: dict[str, list[tuple[dict[str, str], float]]]

    def total(self, name: str) -> float | None:
        """Sum over all label sets; None when the metric is not there."""
        found = self.samples.get(name)
        return None if found is None else sum(value for _, value in found)

    def labels(self, name: str) -> dict[str, str]:
        """Labels of an info metric; empty when it is not there."""
        found = self.samples.get(name)
        return found[0][0] if found else {}


def parse(pod: str, via: str, text: str, only: tuple[str, ...] = ()) -> Snapshot:
    """Read the Prometheus text format; `only` lines that begin so, which is many times cheaper than a whole page.

    Raises:
        ApiError: the text is something else.
    """
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    if only:
        text = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(only))
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise ApiError(
            "not the Prometheus text format",
            where=f"/metrics of {pod}",
            reason=f"{type(error).__name__}: {error}",
            remedy="check which program serves the pod's port",
        ) from None
    return Snapshot(pod, via, samples)


T = TypeVar("T")


def served(pod: str, via: str, text: str) -> list[str]:
    """Read the answer to GET /v1/models.

    Raises:
        ApiError: the text is something else.
    """
    try:
        return [str(model["id"]) for model in json.loads(text)["data"]]
    except (ValueError, LookupError, TypeError) as error:
        raise ApiError(
            "not a list of models",
            where=f"/v1/models of {pod}",
            reason=f"{type(error).__name__}: {error}",
            remedy="check which program serves the pod's port",
        ) from None


class Scraper:
    """Reads replicas' metrics through the API server or, where that is refused, from the pod's address.

    The way that worked is kept; each snapshot says which it was. With `only`, snapshots have the metrics that begin so.
    """

    def __init__(self, kube: Kubernetes, port: int, only: tuple[str, ...] = ()) -> None:
        self._kube, self._port, self._only = kube, port, only
        self._ways: list[tuple[str, Callable[[Object, str], str]]] = [
            ("pods/proxy", self._by_proxy),
            ("pod IP", self._direct),
        ]

    def scrape(self, pod: Object) -> Snapshot:
        """One pod's metrics.

        Raises:
            Unreachable: both ways failed; the reasons of both are given.
        """
        return self._read(pod, "metrics", partial(parse, only=self._only))

    def models(self, pod: Object) -> list[str]:
        """The names that one pod serves, by its own word.

        Raises:
            Unreachable: both ways failed; the reasons of both are given.
        """
        return self._read(pod, "v1/models", served)

    def all(self, pods: list[Object]) -> dict[str, Snapshot]:
        """Snapshots by pod name."""
        return {pod["metadata"]["name"]: self.scrape(pod) for pod in pods}

    def _read(self, pod: Object, path: str, parsed: Callable[[str, str, str], T]) -> T:
        name, reasons = pod["metadata"]["name"], []
        for way in list(self._ways):
            via, read = way
            try:
                found = parsed(name, via, read(pod, path))
            except ClusterError as error:
                reasons.append(f"{via}: {error.reason or error.what}")
                continue
            self._ways.sort(key=lambda item: item is not way)
            return found
        raise Unreachable(
            f"cannot read a replica's {path}",
            where=f"{pod['metadata']['namespace']}/{name}:{self._port}/{path}",
            reason="; ".join(reasons),
            remedy="allow `get` on `pods/proxy`, or run where pod addresses can be reached",
        )

    def _by_proxy(self, pod: Object, path: str) -> str:
        root = PODS.path(pod["metadata"]["namespace"], pod["metadata"]["name"])
        return self._kube.raw(f"{root}:{self._port}/proxy/{path}")

    def _direct(self, pod: Object, path: str) -> str:
        address = pod.get("status", {}).get("podIP")
        if not address:
            raise Unreachable("the pod has no address", reason="no podIP")
        try:
            timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
            host = f"[{address}]" if ":" in address else address
            url = f"http://{host}:{self._port}/{path}"
            return httpx.get(url, timeout=timeout, verify=self._tls, trust_env=False).raise_for_status().text
        except httpx.HTTPError as error:
            raise Unreachable("the pod does not answer", reason=str(error) or type(error).__name__) from None

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """Made once: to load the CA bundle takes longer than to read a page."""
        return httpx.create_ssl_context()
