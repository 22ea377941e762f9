"""04: the guide's success criteria, each so that it can fail, and the routing weights. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import yaml

from llmd_runbook.analysis.guide import GUIDE_WEIGHTS, weighed_as_the_guide_says
from llmd_runbook.analysis.picker_config import ConfigError, parse
from llmd_runbook.clients.inference import Endpoint, Inference
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, Kubernetes
from llmd_runbook.clients.metrics import CACHE_CONFIG, Scraper
from llmd_runbook.errors import ClusterError, NotFound, Unreachable
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside
from llmd_runbook.topology import GpuNode, Replica, endpoint, gpu_nodes, picker, pool_view, replicas, trouble
from llmd_runbook.verdicts import Table, declare

T = TypeVar("T")

QUESTION = "What is the capital of France?"

REPLICAS = declare(
    "verify.replicas",
    "the InferencePool selects exactly the replicas asked for, each Ready and available",
    "look at the pods that are not Ready; a selector that matches foreign pods breaks routing",
)
GPUS = declare(
    "verify.gpus",
    "every replica holds one GPU of the pool, on a node that offers it",
    "set the GPU limit in the values; a pod without one was placed where there is no GPU",
)
MODELS = declare(
    "verify.models",
    "the gateway lists exactly the model names that the profile announces for Pattern 3",
    "a foreign model means that the pool selects another pattern's pods: give each pattern labels of its own; a name "
    "that is missing or too many is set by --served-model-name in the values, and announced by swap.old_name",
)
ANSWER = declare(
    "verify.answer",
    "a completion through the gateway succeeds under the model's name, with tokens counted by the server",
    "see the reason: 401 and 403 are the gateway's policy (a token goes with route.bearer_variable or "
    "route.bearer_file), 404 is the route or the model, 500 the endpoint picker, 503 no Ready replica",
)
CACHING = declare(
    "verify.prefix_caching",
    "every replica reports that its prefix cache is on",
    "set --enable-prefix-caching in the values and install again",
)
WEIGHTS = declare(
    "verify.weights",
    "the endpoint picker's own configuration gives prefix cache, KV use and queue the weights 3, 2 and 2",
    "correct pluginsCustomConfig in the values of the InferencePool's release and restart the picker",
)
CHECKS = (REPLICAS, GPUS, MODELS, ANSWER, CACHING, WEIGHTS)


def replicas_and_gpus(stage: StageRun) -> Shown:
    """Criteria 1 to 3: the replicas run, are Ready, and hold their GPUs."""
    profile = stage.profile
    wanted = profile.pattern3.replicas
    kube = site.kubernetes(profile)
    with stage.step("read replicas and GPUs"):
        pods = _pods(stage)
        nodes = {node.name: node for node in gpu_nodes(kube, profile.pool.of_pattern3)}
        servers = site.model_servers(site.driver(profile, profile.pattern3).render(), profile)
        deployment = kube.find(DEPLOYMENTS, servers.name, profile.namespace)
    available = int((deployment or {}).get("status", {}).get("availableReplicas", 0))
    ready = [pod for pod in pods if pod.ready and pod.phase == "Running" and not pod.terminating]
    stage.check(
        REPLICAS.judge(
            len(pods) == len(ready) == available == wanted,
            expected=f"{wanted} pods selected, {wanted} Ready, {wanted} available",
            observed=f"{len(pods)} selected, {len(ready)} Ready, {available} available",
            evidence=[_state(pod, nodes) for pod in pods],
        )
    )
    holding = [pod for pod in pods if pod.gpus == 1 and pod.node in nodes and nodes[pod.node].gpus >= 1]
    stage.check(
        GPUS.judge(
            len(holding) == len(pods) == wanted,
            expected=f"{wanted} replicas with 1 GPU each, on nodes of {profile.pool.of_pattern3}",
            observed=f"{len(holding)} of {len(pods)}",
            evidence=[f"{pod.name} on {_where(pod, nodes)}: {pod.gpus} GPU" for pod in pods],
        )
    )
    rows: list[list[str | int | float | None]] = [
        [pod.name, pod.node, pod.phase, "yes" if pod.ready else "no", pod.gpus, pod.restarts] for pod in pods
    ]
    return stage.table(
        Table(title="Replicas", columns=["pod", "node", "phase", "Ready", "GPUs", "restarts"], rows=rows)
    )


def answers(stage: StageRun, via: Endpoint | None = None) -> None:
    """Criterion 4 and the guide's Test 1: the model list, and one answer, through the gateway or another way to it; and
    Pattern 2's, where there is one.
    """
    beside.after(stage)
    profile = stage.profile
    model, names = profile.pattern3.model, profile.names(profile.pattern3)
    with stage.step("ask the gateway") as step:
        kube, gateway = site.kubernetes(profile), profile.pattern3.gateway
        target, missing = _attempt(lambda: via or endpoint(kube, profile, gateway))
        models, refused, answer, failed = None, missing, None, missing
        if target:
            client = Inference(target, timeout_s=profile.load.request_timeout_s)
            models, refused = _attempt(client.models)
            answer, failed = _attempt(lambda: client.complete(model, QUESTION, max_tokens=20))
        step.ok(target.url if target else missing)
    stage.check(
        MODELS.judge(
            sorted(models or []) == sorted(names),
            expected=", ".join(names),
            observed=", ".join(models) if models else refused,
            evidence=[f"GET {target.url}/v1/models"] if target else [],
        )
    )
    stage.check(
        ANSWER.judge(
            answer is not None and answer.output_tokens > 0 and answer.text.strip() != "",
            expected="200, text, at least one output token",
            observed=f"{answer.output_tokens} tokens in {answer.elapsed_s:.2f} s" if answer else failed,
            evidence=[f"prompt: {QUESTION}", f"answer: {answer.text!r}"] if answer else [f"prompt: {QUESTION}"],
        )
    )
    if answer:
        engine = f"The engine is {_engine(stage)}: its answer says nothing about the model." if stage.simulated else ""
        said = "names" if "Paris" in answer.text else "does not name"
        text = f"The guide expects Paris; the answer {said} it. {engine}".rstrip()
        stage.note("What the model knows is not checked", text)


def prefix_caching(stage: StageRun) -> Shown:
    """Criterion 5, from each replica's own configuration metric: log lines prove nothing here."""
    profile = stage.profile
    with stage.step("read each replica's cache configuration") as step:
        pool = pool_view(site.kubernetes(profile), profile.namespace, profile.pattern3.inference_pool)
        scraper = Scraper(site.kubernetes(profile), pool.target_port if pool else 8000)
        found: dict[str, dict[str, str]] = {}
        unread: list[str] = []
        for pod in _pods(stage):
            try:
                snapshot = scraper.scrape(pod.manifest)
                found[pod.name] = snapshot.labels(CACHE_CONFIG)
                step.progress(f"{pod.name} by {snapshot.via}")
            except Unreachable as error:
                unread.append(f"{pod.name}: {error.reason}")
        step.ok(f"{len(found)} replicas")
    on = [name for name, labels in found.items() if labels.get("enable_prefix_caching") == "True"]
    off = [name for name in found if name not in on]
    verdict = False if off or not (found or unread) else None if unread else True
    stage.check(
        CACHING.judge(
            verdict,
            expected="enable_prefix_caching=True on every replica",
            observed=f"on: {len(on)}, off or unsaid: {len(off)}, unread: {len(unread)}",
            evidence=[f"{name}: {labels.get('enable_prefix_caching', 'not said')}" for name, labels in found.items()]
            + unread,
            remedy="allow reading the replicas' metrics" if verdict is None else "",
        )
    )
    columns = ["enable_prefix_caching", "block_size", "num_gpu_blocks", "gpu_memory_utilization"]
    rows: list[list[str | int | float | None]] = [
        [name, *(labels.get(column) for column in columns)] for name, labels in sorted(found.items())
    ]
    return stage.table(Table(title="Cache configuration", columns=["replica", *columns], rows=rows))


def scorer_weights(stage: StageRun) -> Shown:
    """The guide's Test 5, on the object that really holds the weights."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    with stage.step("read the endpoint picker's configuration") as step:
        weights, source, trouble = picker_weights(kube, profile)
        step.ok(source or trouble)
    stage.check(
        WEIGHTS.judge(
            weighed_as_the_guide_says(weights),
            expected=", ".join(f"{name} {weight:g}" for name, weight in GUIDE_WEIGHTS.items()),
            observed=", ".join(f"{name} {weight:g}" for name, weight in weights.items()) or trouble or "no scorers",
            evidence=[source or "no configuration found"],
        )
    )
    names = sorted({*weights, *GUIDE_WEIGHTS}, key=lambda name: -weights.get(name, 0))
    rows: list[list[str | int | float | None]] = [[name, weights.get(name), GUIDE_WEIGHTS.get(name)] for name in names]
    return stage.table(Table(title="Scorers", columns=["scorer", "weight here", "weight in the guide"], rows=rows))


def picker_weights(kube: Kubernetes, profile: Profile) -> tuple[dict[str, float], str, str]:
    """The weights of Pattern 3's picker by scorer, where they stand, and why there are none."""
    source = ""
    try:
        pool = pool_view(kube, profile.namespace, profile.pattern3.inference_pool)
        if pool is None:
            raise NotFound(f"there is no InferencePool {profile.pattern3.inference_pool}")
        found = picker(kube, profile.namespace, pool)
        source = f"ConfigMap {found.config_map}, key {found.config_key}"
        return dict(parse(found.config_text).weights), source, ""
    except (NotFound, ConfigError, yaml.YAMLError) as error:
        return {}, source, str(error)


def _engine(stage: StageRun) -> str:
    """What a simulated cluster says of its engine, which may be a real one."""
    said = stage.cluster.real.get("engine", "simulated")
    return "simulated" if said.startswith("simulated") else said


def _pods(stage: StageRun) -> list[Replica]:
    profile = stage.profile
    kube = site.kubernetes(profile)
    pool = pool_view(kube, profile.namespace, profile.pattern3.inference_pool)
    return replicas(kube, profile.namespace, pool) if pool else []


def _state(pod: Replica, nodes: dict[str, GpuNode]) -> str:
    """How a replica is; where it is not Ready, in Kubernetes' words why, which may be its node's fault."""
    why = "" if pod.ready else f", {trouble(pod.manifest) or 'on ' + _where(pod, nodes)}"
    return f"{pod.name}: {pod.phase}, ready {pod.ready}{why}, {pod.restarts} restarts"


def _where(pod: Replica, nodes: dict[str, GpuNode]) -> str:
    if not pod.node:
        return "no node"
    if pod.node not in nodes:
        return f"{pod.node}, which is not in the pool (any more)"
    return f"{pod.node}, which is not Ready ({nodes[pod.node].not_ready})" if nodes[pod.node].not_ready else pod.node


def _attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    """The call's answer, or None and the server's words."""
    try:
        return call(), ""
    except ClusterError as error:
        return None, error.in_short
