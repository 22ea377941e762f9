"""The facts of routing from a cluster in memory: what is read, and what a refusal costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.analysis.picker_config import PickerConfig
from llmd_runbook.analysis.routing_facts import PickerFacts, PickerPod, RoutingFacts, Unread
from llmd_runbook.clients.kubernetes import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    NODES,
    PODS,
    SERVICES,
    Kubernetes,
    Object,
    Resource,
)
from llmd_runbook.discovery import routing_facts, served_names
from llmd_runbook.errors import Forbidden
from llmd_runbook.topology import PoolView
from tests.llmd_runbook.memory import Memory

DATA = Path(__file__).parents[1] / "data"
NS = "llm-d"
LABELS = {"model": "qwen"}
POOL = PoolView("pool", LABELS, 8000, "epp", 9002, {})
METRICS = '# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{block_size="16",num_gpu_blocks="9"} 1.0\n'


class Cluster(Memory):
    """Objects, the replicas' pages by path, and what is not allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, str] = {}
        self.log = ""
        self.refused: set[str] = set()

    def raw(self, path: str) -> str:
        if path not in self.pages:
            raise Forbidden("not permitted", where=path, reason=f"no pods/proxy for {path.rpartition('/')[2]}")
        return self.pages[path]

    def log_start(self, pod: str, namespace: str, container: str) -> str:
        if "log" in self.refused:
            raise Forbidden("not permitted", where=pod, reason="may not get log")
        return self.log if (pod, container) == ("epp-1", "epp") else ""

    def all(
        self, resource: Resource, namespace: str | None = None, selector: str = "", fields: str = ""
    ) -> list[Object]:
        if resource.plural in self.refused:
            raise Forbidden("not permitted", where=resource.path(namespace), reason=f"may not list {resource.plural}")
        return super().all(resource, namespace, selector, fields)

    def get(self, resource: Resource, name: str, namespace: str | None = None, sub: str | None = None) -> Object:
        if resource.plural in self.refused:
            raise Forbidden("not permitted", where=name, reason=f"may not get {resource.plural}")
        return super().get(resource, name, namespace, sub)


def named(name: str, labels: dict[str, str] | None = None, **rest: Any) -> Object:
    return {"metadata": {"name": name, "namespace": NS, "labels": labels or {}}, **rest}


def server(name: str, *words: str, ready: str = "True") -> Object:
    spec = {"nodeName": "n1", "containers": [{"command": ["vllm", "serve"], "args": list(words)}]}
    return named(name, LABELS, spec=spec, status={"conditions": [{"type": "Ready", "status": ready, "reason": "R"}]})


@pytest.fixture
def cluster() -> Cluster:
    kube = Cluster()
    for name in ("a", "b"):
        kube.add(PODS, server(name, "Qwen/Q", "--port=8000"))
        root = f"/api/v1/namespaces/{NS}/pods/{name}:8000/proxy/"
        kube.pages |= {f"{root}metrics": METRICS, f"{root}v1/models": '{"data": [{"id": "Qwen/Q"}, {"id": "lora"}]}'}
    container = {
        "name": "epp",
        "image": "epp:v1.2.0",
        "args": ["--config-file", "/config/x.yaml", "-v=4"],
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
    }
    sidecar = {"resources": {"requests": {"cpu": "2"}}}
    spec = {"containers": [container, sidecar], "volumes": [{"name": "config", "configMap": {"name": "epp"}}]}
    template = {"metadata": {"labels": {"app": "epp"}}, "spec": spec}
    kube.add(SERVICES, named("epp", spec={"selector": {"app": "epp"}}))
    kube.add(DEPLOYMENTS, named("epp", spec={"selector": {"matchLabels": {"app": "epp"}}, "template": template}))
    state = {"state": {"running": {"startedAt": "2026-11-24T10:00:00Z"}}}
    status = {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [state]}
    kube.add(
        PODS, named("epp-1", {"app": "epp"}, spec={"nodeName": "n1", "containers": [container, sidecar]}, status=status)
    )
    config = named("epp", data={"x.yaml": "kind: EndpointPickerConfig"})
    config["metadata"]["managedFields"] = [{"time": "2026-11-24T09:00:00Z"}, {"time": "2026-11-24T09:30:00Z"}, {}]
    kube.add(CONFIG_MAPS, config)
    backend = {"kind": "InferencePool", "name": "pool"}
    kube.add(HTTP_ROUTES, named("route", spec={"rules": [{"backendRefs": [backend]}]}))
    kube.add(NODES, {"metadata": {"name": "n1"}, "status": {"allocatable": {"cpu": "3920m", "memory": "12Gi"}}})
    return kube


def read(kube: Kubernetes) -> RoutingFacts:
    return routing_facts(kube, NS, POOL, "Qwen/Q", shared_prompts={}, control_prompts=[], load_prompts=[])


def test_everything_is_found_through_the_pool(cluster: Cluster) -> None:
    facts = read(cluster)
    assert [(item.name, item.models, item.said_by) for item in facts.ready] == [
        ("a", ("Qwen/Q", "lora"), "GET /v1/models"),
        ("b", ("Qwen/Q", "lora"), "GET /v1/models"),
    ]
    assert facts.caches == [(16, 9), (16, 9)]
    assert isinstance(facts.picker, PickerFacts)
    assert (facts.picker.image, facts.picker.replicas) == ("epp:v1.2.0", 1)
    assert (facts.picker.requests_cpus, facts.picker.requests_bytes) == (2.5, 2**30)
    (pod,) = facts.picker.pods
    assert (pod.name, pod.ready, pod.scheduled, pod.started) == ("epp-1", True, True, "2026-11-24T10:00:00Z")
    assert not isinstance(facts.config, Unread)
    assert (facts.config.source, facts.config.changed) == ("ConfigMap epp, key x.yaml", "2026-11-24T09:30:00Z")
    assert facts.config.text == "kind: EndpointPickerConfig"
    assert not isinstance(facts.routes, Unread)
    assert facts.routes[0].backends == ("InferencePool/pool",)
    assert not isinstance(facts.nodes, Unread)
    assert (facts.nodes[0].cpus, facts.nodes[0].memory_bytes) == (3.92, 12 * 2**30)
    assert not isinstance(facts.workloads, Unread)
    assert facts.workloads[0].selector == {"matchLabels": {"app": "epp"}}


def picker_pod(kube: Kubernetes) -> PickerPod:
    facts = read(kube)
    assert isinstance(facts.picker, PickerFacts)
    return facts.picker.pods[0]


def test_what_the_picker_loaded_is_in_its_log(cluster: Cluster) -> None:
    cluster.log = (DATA / "picker-v0.4-start.log").read_text(encoding="utf-8")
    found = picker_pod(cluster).loaded
    assert isinstance(found, PickerConfig)
    assert found.weights == {"queue-scorer": 2, "kv-cache-utilization-scorer": 1, "prefix-cache-scorer": 3}


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "does not reach back to its start"),
        ('2026-11-28T12:34:44Z\tINFO\tx\tLoaded configuration\t{"config": "[]"}', "not understood: no list of plugins"),
        ("2026-11-28T12:34:44Z\tINFO\tx\tLoaded configuration\t{}", "not understood"),
        ("x Loaded configuration", "not understood"),
    ],
)
def test_a_log_that_does_not_tell_says_why(cluster: Cluster, log: str, reason: str) -> None:
    cluster.log = log
    found = picker_pod(cluster).loaded
    assert isinstance(found, Unread)
    assert reason in found.reason


def test_a_log_that_may_not_be_read_costs_what_it_tells(cluster: Cluster) -> None:
    cluster.refused = {"log"}
    found = picker_pod(cluster)
    assert found.loaded == Unread("not permitted: may not get log")
    assert found.ready


def test_a_pod_that_is_not_ready_is_known_by_its_arguments(cluster: Cluster) -> None:
    cluster.add(PODS, server("c", "google/gemma-2b-it", ready="False"))
    cluster.add(PODS, server("d", ready="False"))
    facts = read(cluster)
    assert not isinstance(facts.replicas, Unread)
    last = facts.replicas[2:]
    assert [item.ready for item in last] == [False, False]
    assert (last[0].models, last[0].said_by) == (("google/gemma-2b-it",), "its arguments")
    assert last[1].models == Unread("not Ready, and its arguments name no model")
    assert [item.name for item in facts.ready] == ["a", "b"]


def test_a_pod_that_does_not_answer_keeps_the_reason(cluster: Cluster) -> None:
    cluster.pages.clear()
    facts = read(cluster)
    assert facts.ready[0].models == ("Qwen/Q",)
    assert facts.ready[0].said_by == "its arguments"
    series = facts.ready[0].series
    assert isinstance(series, Unread)
    assert "no pods/proxy for metrics" in series.reason
    assert isinstance(facts.caches, Unread)
    cluster.add(PODS, server("a"))
    models = read(cluster).ready[0].models
    assert isinstance(models, Unread)
    assert "no pods/proxy for models" in models.reason


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("pods", {"replicas", "picker", "config"}),
        ("deployments", {"workloads", "picker", "config"}),
        ("services", {"picker", "config"}),
        ("httproutes", {"routes"}),
        ("configmaps", {"config"}),
        ("nodes", {"nodes"}),
    ],
)
def test_a_refusal_costs_what_it_refuses_and_nothing_more(cluster: Cluster, kind: str, lost: set[str]) -> None:
    cluster.refused = {kind}
    facts = read(cluster)
    unread = {name for name, value in vars(facts).items() if isinstance(value, Unread)}
    assert unread == lost
    assert all(kind in getattr(facts, name).reason for name in lost)


@pytest.mark.parametrize(
    ("container", "names"),
    [
        ({"command": ["vllm", "serve"], "args": ["a/b", "--port", "1"]}, ["a/b"]),
        ({"args": ["--model", "a/b", "--served-model-name", "x", "y", "--port=1"]}, ["x", "y"]),
        ({"args": ["--model=a/b", "--served-model-name=x"]}, ["x"]),
        ({"args": ["--model=a/b"]}, ["a/b"]),
        ({"command": ["vllm", "serve", "--port", "1"]}, []),
        ({}, []),
    ],
)
def test_the_names_on_a_command_line(container: Object, names: list[str]) -> None:
    assert served_names(container) == names
