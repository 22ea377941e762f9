"""The facts that the rules of routing look at, each read on its own: a refusal costs what it refuses, nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from kubernetes.utils.quantity import parse_quantity

from llmd_runbook.analysis.picker_config import PickerConfig
from llmd_runbook.analysis.picker_loaded import loaded
from llmd_runbook.analysis.routing_facts import (
    ConfigFacts,
    NodeFacts,
    PickerFacts,
    PickerPod,
    ReplicaFacts,
    RouteFacts,
    RoutingFacts,
    Unread,
    Workload,
)
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, NODES, Kubernetes, Object
from llmd_runbook.clients.metrics import Scraper
from llmd_runbook.errors import ClusterError
from llmd_runbook.topology import (
    PoolView,
    Replica,
    condition,
    picker_arguments,
    picker_config,
    picker_workload,
    replicas,
    route_of,
    trouble,
)

T = TypeVar("T")


def routing_facts(
    kube: Kubernetes,
    namespace: str,
    pool: PoolView,
    model: str,
    *,
    shared_prompts: Mapping[str, Sequence[str]],
    control_prompts: Sequence[str],
    load_prompts: Sequence[str],
) -> RoutingFacts:
    """What the routing to a pool rests on; each replica is asked twice, for its metrics and for its models."""
    workload = _read(lambda: picker_workload(kube, namespace, pool))
    scraper = Scraper(kube, pool.target_port)
    return RoutingFacts(
        model=model,
        pool=pool.name,
        replicas=_read(lambda: tuple(_replica(scraper, item) for item in replicas(kube, namespace, pool))),
        workloads=_read(lambda: tuple(map(_workload, kube.all(DEPLOYMENTS, namespace)))),
        selector=pool.selector,
        routes=_read(lambda: tuple(map(_route, kube.all(HTTP_ROUTES, namespace)))),
        picker=workload if isinstance(workload, Unread) else _picker(kube, namespace, *workload),
        config=workload if isinstance(workload, Unread) else _config(kube, namespace, workload[0]),
        nodes=_read(lambda: tuple(map(_node, kube.all(NODES)))),
        shared_prompts=shared_prompts,
        control_prompts=control_prompts,
        load_prompts=load_prompts,
    )


def served_names(container: Object) -> list[str]:
    """The names that a model server's command line gives its model; empty where it names none.

    >>> served_names({"command": ["vllm", "serve"], "args": ["Qwen/Qwen3-0.6B", "--served-model-name=a"]})
    ['a']
    """
    words: list[str] = [*container.get("command", []), *container.get("args", [])]
    for name in ("--served-model-name", "--model"):
        found = _values(words, name)
        if found:
            return found if name == "--served-model-name" else found[:1]
    after = words[words.index("serve") + 1 :] if "serve" in words else []
    return [word for word in after[:1] if not word.startswith("-")]


def _values(words: list[str], name: str) -> list[str]:
    """What follows an option, up to the next one: vLLM takes several served names."""
    found: list[str] = []
    for index, word in enumerate(words):
        key, equals, value = word.partition("=")
        if key == name:
            rest = words[index + 1 :]
            end = next((at for at, other in enumerate(rest) if other.startswith("-")), len(rest))
            found = [value] if equals else rest[:end]
    return found


def _read(call: Callable[[], T]) -> T | Unread:
    try:
        return call()
    except ClusterError as error:
        return Unread(f"{error.what}: {error.reason or error.where}")


def _replica(scraper: Scraper, replica: Replica) -> ReplicaFacts:
    named = tuple(served_names(replica.manifest["spec"]["containers"][0]))
    if not replica.ready:
        models = named or Unread("not Ready, and its arguments name no model")
        return ReplicaFacts(replica.name, False, models, "its arguments", Unread("not Ready"))
    answer = _read(lambda: tuple(scraper.models(replica.manifest)))
    models, said_by = (named, "its arguments") if isinstance(answer, Unread) and named else (answer, "GET /v1/models")
    snapshot = _read(lambda: scraper.scrape(replica.manifest))
    if isinstance(snapshot, Unread):
        return ReplicaFacts(replica.name, True, models, said_by, snapshot)
    series = {name: [labels for labels, _ in samples] for name, samples in snapshot.samples.items()}
    return ReplicaFacts(replica.name, True, models, said_by, series)


def _workload(deployment: Object) -> Workload:
    spec = deployment["spec"]
    labels = spec["template"]["metadata"].get("labels", {})
    return Workload(deployment["metadata"]["name"], spec.get("selector", {}), labels)


def _route(item: Object) -> RouteFacts:
    view = route_of(item)
    return RouteFacts(view.name, tuple(view.backends), view.conditions)


def _picker(kube: Kubernetes, namespace: str, deployment: Object, pods: list[Object]) -> PickerFacts:
    spec = deployment["spec"]["template"]["spec"]
    return PickerFacts(
        deployment=deployment["metadata"]["name"],
        image=spec["containers"][0].get("image", ""),
        arguments=tuple(picker_arguments(deployment)),
        replicas=int(deployment["spec"].get("replicas", 1)),
        pods=tuple(sorted((_picker_pod(kube, namespace, pod) for pod in pods), key=lambda pod: pod.name)),
        requests_cpus=_requested(spec["containers"], "cpu"),
        requests_bytes=_requested(spec["containers"], "memory"),
    )


def _picker_pod(kube: Kubernetes, namespace: str, pod: Object) -> PickerPod:
    status = pod.get("status", {})
    states = [item.get("state", {}) for item in status.get("containerStatuses", [])]
    started = next((state["running"].get("startedAt", "") for state in states if state.get("running")), "")
    return PickerPod(
        name=pod["metadata"]["name"],
        ready=condition(status, "Ready").startswith("True"),
        scheduled=bool(pod.get("spec", {}).get("nodeName")),
        started=started,
        trouble=trouble(pod),
        loaded=_loaded(kube, namespace, pod) if started else Unread("its container does not run"),
    )


def _loaded(kube: Kubernetes, namespace: str, pod: Object) -> PickerConfig | Unread:
    """What the log of the picker's container, a pod's first, shows at its start."""
    name, container = pod["metadata"]["name"], pod["spec"]["containers"][0]["name"]
    text = _read(lambda: kube.log_start(name, namespace, container))
    if isinstance(text, Unread):
        return text
    try:
        return loaded(text.splitlines()) or Unread("its log does not reach back to its start, or does not tell")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return Unread(f"its log tells what it loaded in a form that is not understood: {error}")


def _config(kube: Kubernetes, namespace: str, deployment: Object) -> ConfigFacts | Unread:
    found = _read(lambda: picker_config(kube, namespace, deployment))
    if isinstance(found, Unread):
        return found
    config_map, key = found
    meta = config_map["metadata"]
    return ConfigFacts(
        source=f"ConfigMap {meta['name']}, key {key}",
        text=config_map.get("data", {}).get(key, ""),
        changed=max((item.get("time", "") for item in meta.get("managedFields", [])), default=""),
    )


def _node(node: Object) -> NodeFacts:
    offered = node.get("status", {}).get("allocatable", {})
    return NodeFacts(
        node["metadata"]["name"],
        float(parse_quantity(offered.get("cpu", 0))),
        float(parse_quantity(offered.get("memory", 0))),
    )


def _requested(containers: Iterable[Object], resource: str) -> float:
    requests = (item.get("resources", {}).get("requests", {}).get(resource, 0) for item in containers)
    return float(sum(parse_quantity(value) for value in requests))
