"""For every check of stage 05 a cluster on which it does not pass; Pattern 3 serves. Each fault is undone by the test
that made it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.clients.inference import Inference
from llmd_runbook.clients.kubernetes import HTTP_ROUTES, PODS
from llmd_runbook.errors import ClusterError
from llmd_runbook.run import begin
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.routing import affinity as routing_affinity
from llmd_runbook.stages.routing import changes, explained, replica_failure
from llmd_runbook.stages.routing import configuration as routing_configuration
from llmd_runbook.topology import condition, endpoint
from llmd_runbook.verdicts import Check, Verdict
from tests.end_to_end.bench import PICKER3, QWEN, SERVERS3, Bench, all_pass, broken
from tests.end_to_end.callers import variant
from tests.end_to_end.cases import fails

pytestmark = pytest.mark.timeout(300)


def test_pattern_3_serves(bench: Bench) -> None:
    bench.swapped()


LATER = "routing.config_loaded"
"""What is not proved either while the picker would not start with its ConfigMap, or while no picker runs."""
BLOCKS = ("routing.block_size", "routing.index_size", "routing.prompts")


def configuration(bench: Bench) -> dict[str, Check]:
    return bench.judge("05_routing_affinity", routing_configuration.configuration)


def prefixes(parameters: str) -> tuple[str, str]:
    """The plugin that looks at prefixes, and the same with these parameters and without tuning by itself."""
    plain = "type: prefix-cache-scorer"
    return f"- {plain}", f"- {{{plain}, parameters: {{autoTune: false, {parameters}}}}}"


@fails("routing.config")
def test_a_plugin_that_the_picker_does_not_know(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file("- type: queue-scorer", "- type: queue-scorerr", tmp_path, restarts=False):
        found = configuration(bench)
    assert "line 4: type: 'queue-scorerr'" in broken(found, "routing.config", LATER, *BLOCKS).observed
    assert {found[name].verdict for name in (LATER, *BLOCKS)} == {Verdict.INCONCLUSIVE}


@contextmanager
def edited(bench: Bench, folder: Path) -> Iterator[None]:
    """Another weight in the ConfigMap of Pattern 3's picker, which goes on with the one that it started with."""
    before = bench.saved("configmap", PICKER3)
    assert "weight: 3" in before
    bench.create(before.replace("weight: 3", "weight: 1"), folder)
    try:
        yield
    finally:
        bench.create(before, folder)


@fails("routing.config_loaded")
def test_a_configuration_that_was_changed_after_the_picker_had_started(bench: Bench, tmp_path: Path) -> None:
    with edited(bench, tmp_path):
        found = configuration(bench)
    assert (
        "weight of prefix-cache-scorer: 3 in the log, 1 in the file" in broken(found, "routing.config_loaded").observed
    )


@fails("routing.block_size")
def test_blocks_larger_than_the_shared_prefix(bench: Bench, tmp_path: Path) -> None:
    """But not larger than a whole prompt, nor than those of a load of longer ones."""
    other = variant(bench, tmp_path, {"prompt_tokens: 70": "prompt_tokens: 200"})
    with bench.picker_file(*prefixes("blockSize: 544"), tmp_path):
        found = configuration(other)
    assert "a block is 544 bytes" in broken(found, "routing.block_size").observed


@fails("routing.prompts")
def test_blocks_larger_than_the_prompts_of_the_load(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file(*prefixes("blockSize: 400"), tmp_path):
        found = configuration(bench)
    assert "36 of 36 prompts are shorter" in broken(found, "routing.prompts").observed


@fails("routing.index_size")
def test_an_index_smaller_than_the_prefixes(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file(*prefixes("lruCapacityPerServer: 4"), tmp_path):
        found = configuration(bench)
    assert "4 a replica (lruCapacityPerServer)" in broken(found, "routing.index_size").observed


def picker_arguments(bench: Bench) -> list[str]:
    found = json.loads(bench.kubectl("get", "deployment", PICKER3, "-o", "json"))
    arguments: list[str] = found["spec"]["template"]["spec"]["containers"][0]["args"]
    return arguments


@fails("routing.kv_metric")
def test_a_picker_that_reads_a_metric_which_vllm_does_not_have(bench: Bench) -> None:
    """The default of its chart."""
    args = picker_arguments(bench)
    metric = args.index("--kv-cache-usage-percentage-metric")
    with bench.picker_container({"args": [*args[:metric], *args[metric + 2 :]]}):
        bench.settled(PICKER3)
        found = configuration(bench)
    assert "vllm:gpu_cache_usage_perc" in broken(found, "routing.kv_metric").observed


def test_the_configuration_passes_though_it_was_touched_after_the_picker_had_started(bench: Bench) -> None:
    bench.kubectl("label", "configmap", PICKER3, "touched=yes")
    found = configuration(bench)
    bench.kubectl("label", "configmap", PICKER3, "touched-")
    all_pass(found)
    assert "by the picker's own log" in found["routing.config_loaded"].observed


@fails("routing.single_picker")
def test_two_pickers_at_once(bench: Bench) -> None:
    bench.scaled(PICKER3, 2)
    bench.settled(PICKER3)
    found = configuration(bench)
    bench.scaled(PICKER3, 1)
    bench.settled(PICKER3)
    assert "2 replicas, 2 Ready" in broken(found, "routing.single_picker").observed


@fails("routing.picker_fits")
def test_a_new_picker_that_fits_no_node_while_the_old_one_serves(bench: Bench) -> None:
    def refused(pods: list[dict[str, Any]]) -> bool:
        return any(condition(pod["status"], "PodScheduled") == "False (Unschedulable)" for pod in pods)

    def replaced(strategy: dict[str, Any]) -> None:
        bench.kubectl("patch", "deployment", PICKER3, "-p", json.dumps({"spec": {"strategy": strategy}}))

    replaced({"type": "RollingUpdate"})
    with bench.picker_container({"resources": {"requests": {"cpu": "500"}}}):
        bench.kube.wait(
            PODS,
            refused,
            what="a pod without a node",
            timeout_s=60,
            remedy="look",
            namespace="llm-d",
            selector=f"inferencepool={PICKER3}",
        )
        found = configuration(bench)
    replaced({"type": "Recreate", "rollingUpdate": None})
    check = broken(found, "routing.picker_fits")
    assert "1 of 2 scheduled" in check.observed
    assert "Insufficient cpu" in str(check.evidence)
    assert "requests 500 CPUs" in str(check.evidence)


@fails("routing.selector")
def test_another_models_servers_under_the_same_labels(bench: Bench, tmp_path: Path) -> None:
    """As the guide leaves its patterns: no labels of their own. The foreign server runs without a GPU here."""
    copy = json.loads(bench.saved("deployment", SERVERS3).replace(bench.profile.pattern3.model, "google/gemma-2b-it"))
    copy["metadata"]["name"] = "foreign"
    copy["spec"]["replicas"] = 1
    copy["spec"]["template"]["spec"]["containers"][0]["resources"] = {}
    bench.create(json.dumps(copy), tmp_path)
    bench.settled("foreign")
    found = configuration(bench)
    bench.kubectl("delete", "deployment", "foreign")
    bench.pods(QWEN, 3)
    check = broken(found, "routing.selector")
    assert "1 of 4 pods serve another model; 2 Deployments overlap" in check.observed
    assert "google/gemma-2b-it (GET /v1/models)" in str(check.evidence)


@fails("routing.route")
def test_a_pool_that_no_route_names(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("httproute", "llm-d-route")
    bench.kubectl("delete", "httproute", "llm-d-route")
    found = configuration(bench)
    bench.create(before, tmp_path)
    assert "no HTTPRoute names the pool" in broken(found, "routing.route").observed


def affinity(bench: Bench) -> dict[str, Check]:
    calls = (
        routing_affinity.measure_groups,
        routing_affinity.measure_independent,
        routing_affinity.judge,
        explained.explain,
    )
    return bench.judge("05_routing_affinity", *calls)


def test_affinity_passes(bench: Bench) -> None:
    bench.answers(bench.profile.pattern3.model)
    found = affinity(bench)
    all_pass(found)
    assert "58 of 58" in found["affinity.counters"].observed
    assert "40 by picker's log" in str(found["affinity.counters"].evidence)


def test_affinity_passes_with_replicas_that_name_themselves(bench: Bench) -> None:
    """As llm-d's own simulator does it, told its name by the downward API."""
    fields = {"POD_NAME": "metadata.name", "POD_NAMESPACE": "metadata.namespace"}
    names = [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()]
    bench.container({"env": names})
    bench.answers(bench.profile.pattern3.model)
    found = affinity(bench)
    bench.container({"env": [{"$patch": "delete", "name": key} for key in fields]})
    bench.answers(bench.profile.pattern3.model)
    all_pass(found)
    assert "40 by response header" in str(found["affinity.counters"].evidence)


@fails("affinity.cache_hits")
def test_replicas_that_cache_no_prefix(bench: Bench) -> None:
    with bench.with_arguments("--no-enable-prefix-caching"):
        bench.answers(bench.profile.pattern3.model)
        found = affinity(bench)
    broken(found, "affinity.cache_hits")


@fails("affinity.explained")
def test_a_configuration_that_the_picker_has_not_read(bench: Bench, tmp_path: Path) -> None:
    with edited(bench, tmp_path):
        found = affinity(bench)
    evidence = str(broken(found, "affinity.explained").evidence)
    assert "weighted total" in evidence
    assert "queue-scorer 58 of 58" in found["affinity.explained"].observed


@fails("affinity.prefix")
def test_a_picker_that_is_blind_to_prefixes(bench: Bench, tmp_path: Path) -> None:
    with bench.blind_picker(tmp_path):
        found = affinity(bench)
    broken(found, "affinity.prefix")


@contextmanager
def past_the_pool(bench: Bench, folder: Path, selector: dict[str, str], *, pool: int) -> Iterator[None]:
    """Pattern 3's route leads to the pods of a Service, to the InferencePool with `pool` times that weight."""
    spec = {"selector": selector, "ports": [{"port": 8000}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "past", "namespace": "llm-d"}, "spec": spec}
    bench.create(json.dumps(service), folder)
    route = traffic.manifest(bench.profile, bench.profile.pattern3)
    rule = route["spec"]["rules"][0]
    to_pool = [{**rule["backendRefs"][0], "weight": pool}] if pool else []
    rule["backendRefs"] = [*to_pool, {"kind": "Service", "name": "past", "port": 8000, "weight": 1}]
    bench.kube.apply(HTTP_ROUTES, route, "llm-d")
    bench.answers(bench.profile.pattern3.model)
    try:
        yield
    finally:
        bench.kube.apply(HTTP_ROUTES, traffic.manifest(bench.profile, bench.profile.pattern3), "llm-d")
        bench.kubectl("delete", "service", "past")
        bench.answers(bench.profile.pattern3.model)


@fails("affinity.spread")
def test_a_route_past_the_picker_to_one_replica(bench: Bench, tmp_path: Path) -> None:
    """Whether requests of one prefix share a replica is not known where all do; the picker was not asked."""
    selector = QWEN
    pod = bench.kubectl("get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}")
    bench.kubectl("label", "pod", pod, "only=this")
    with past_the_pool(bench, tmp_path, {"only": "this"}, pool=0):
        found = affinity(bench)
    unproved = ("affinity.prefix", "affinity.explained")
    assert "2 served none" in broken(found, "affinity.spread", *unproved).observed
    assert {found[name].verdict for name in unproved} == {Verdict.INCONCLUSIVE}
    assert "nothing to permute" in found["affinity.prefix"].observed
    assert "did not pass through it" in found["affinity.explained"].observed
    assert "by counters" in str(found["affinity.counters"].evidence)


@fails("affinity.counters")
def test_a_route_that_sends_some_requests_past_the_pool(bench: Bench, tmp_path: Path) -> None:
    """To a server of the same model that the pool does not select: who served them is not known, and nobody counts."""
    outside, labels = json.loads(bench.saved("deployment", SERVERS3)), {"app": "outside"}
    outside["metadata"]["name"] = "outside"
    outside["spec"] |= {"replicas": 1, "selector": {"matchLabels": labels}}
    outside["spec"]["template"]["metadata"]["labels"] = labels
    outside["spec"]["template"]["spec"]["containers"][0]["resources"] = {}
    bench.create(json.dumps(outside), tmp_path)
    bench.settled("outside")
    with past_the_pool(bench, tmp_path, labels, pool=9):
        found = affinity(bench)
    bench.kubectl("delete", "deployment", "outside")
    unproved = ("affinity.prefix", "affinity.spread", "affinity.cache_hits")
    assert "served by no replica of these" in broken(found, "affinity.counters", *unproved).observed
    assert {found[name].verdict for name in unproved} == {Verdict.INCONCLUSIVE}


def test_traffic_of_somebody_else(bench: Bench) -> None:
    """Foreign traffic proves nothing against the routing: inconclusive, never a failure."""
    stop = threading.Event()
    target = endpoint(bench.kube, bench.profile, bench.profile.pattern3.gateway)

    def send() -> None:
        client = Inference(target, 20)
        while not stop.wait(0.1):  # some are enough; more would only slow the test down
            try:
                client.complete(bench.profile.pattern3.model, "somebody else", max_tokens=1)
            except ClusterError:
                continue

    others = [threading.Thread(target=send) for _ in range(2)]
    for other in others:
        other.start()
    try:
        found = affinity(bench)
    finally:
        stop.set()
        for other in others:
            other.join()
    unproved = ("affinity.prefix", "affinity.spread")
    broken(found, "affinity.counters", *unproved, "affinity.cache_hits", verdict=Verdict.INCONCLUSIVE)
    assert {found[name].verdict for name in unproved} == {Verdict.INCONCLUSIVE}


def lose_a_replica(bench: Bench, ready_timeout_s: float = 90) -> dict[str, Check]:
    opened = begin("05_routing_affinity", str(bench.file), "new", output=bench.output)
    pattern3 = bench.profile.pattern3.model_copy(update={"ready_timeout_s": ready_timeout_s})
    wanted = bench.profile.affinity.model_copy(update={"kill_replica": True, "groups": 10})  # not all on one by chance
    opened.profile = bench.profile.model_copy(update={"affinity": wanted, "pattern3": pattern3})
    for call in (changes.plan, replica_failure.measure, replica_failure.judge):
        call(opened)
    return {check.id: check for check in opened.finish().checks}


def test_losing_a_replica_passes(bench: Bench) -> None:
    all_pass(lose_a_replica(bench))


@fails("failure.recovers")
def test_nowhere_to_replace_the_lost_replica(bench: Bench) -> None:
    label = "cloud.google.com/gke-nodepool=nvidia-t4-pool"
    bench.kubectl("cordon", "-l", label)
    found = lose_a_replica(bench, ready_timeout_s=10)
    bench.kubectl("uncordon", "-l", label)
    bench.settled(SERVERS3)
    assert "waited 10 s for 3 Ready replicas" in broken(found, "failure.recovers").observed


@fails("failure.service_continues")
def test_losing_the_only_replica(bench: Bench) -> None:
    bench.scaled(SERVERS3, 1)
    bench.pods(QWEN, 1)
    bench.answers(bench.profile.pattern3.model)
    found = lose_a_replica(bench)
    bench.scaled(SERVERS3, 3)
    bench.settled(SERVERS3)
    check = broken(found, "failure.service_continues", "failure.prefixes_move")
    assert "0 answers by the other replicas" in check.observed
    assert found["failure.prefixes_move"].verdict is Verdict.INCONCLUSIVE  # where there is one, every prefix shares it


@fails("failure.prefixes_move")
def test_losing_a_replica_while_the_picker_is_blind_to_prefixes(bench: Bench, tmp_path: Path) -> None:
    with bench.blind_picker(tmp_path):
        found = lose_a_replica(bench)
    broken(found, "failure.prefixes_move")
