"""Each rule both ways, and where it cannot know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmd_runbook.analysis import routing_lint
from llmd_runbook.analysis.picker_config import parse
from llmd_runbook.analysis.picker_flags import KV_METRIC, REMOVED_KV_METRIC
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
from llmd_runbook.analysis.routing_lint import Finding, Rule, guide_prompts, lint

MODEL = "Qwen/Qwen2.5-3B-Instruct"
NO = Unread("no permission to look")
V0_4 = """apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  - type: prefix-cache-scorer
schedulingProfiles:
  - name: default
    plugins:
      - {pluginRef: queue-scorer, weight: 2}
      - {pluginRef: kv-cache-utilization-scorer, weight: 2}
      - {pluginRef: prefix-cache-scorer, weight: 3}
"""
V0_10 = V0_4.replace("inference.networking.x-k8s.io/v1alpha1", "llm-d.ai/v1alpha1")
EARLY, LATE, LATER = "2026-11-24T10:00:00Z", "2026-11-24T10:05:00Z", "2026-11-24T10:05:01Z"
LABELS = {"inference": "yes", "model": "qwen"}
CACHE = {"block_size": "16", "num_gpu_blocks": "7600"}


def replica(name: str, **changes: Any) -> ReplicaFacts:
    series = {KV_METRIC: [{"engine": "0"}], "vllm:cache_config_info": [CACHE]}
    return replace(ReplicaFacts(name, True, (MODEL,), "GET /v1/models", series), **changes)


def pod(name: str = "epp-1", **changes: Any) -> PickerPod:
    return replace(PickerPod(name, True, True, LATE, "", parse(V0_4)), **changes)


PICKER = PickerFacts(
    deployment="epp",
    image="ghcr.io/llm-d/llm-d-inference-scheduler:v0.4.0",
    arguments=("--kv-cache-usage-percentage-metric", KV_METRIC, "-v", "4"),
    replicas=1,
    pods=(pod(),),
    requests_cpus=0.5,
    requests_bytes=2**30,
)
ROUTE = RouteFacts("route", ("InferencePool/pool",), {"Accepted": "True (Ok)", "ResolvedRefs": "True (Ok)"})
FACTS = RoutingFacts(
    model=MODEL,
    pool="pool",
    replicas=(replica("a"), replica("b"), replica("c")),
    workloads=(Workload("servers", {"matchLabels": LABELS}, LABELS), Workload("web", {"matchLabels": {"w": "1"}}, {})),
    selector=LABELS,
    routes=(ROUTE,),
    picker=PICKER,
    config=ConfigFacts("ConfigMap epp, key x.yaml", V0_4, EARLY),
    nodes=(NodeFacts("n1", 3.9, 12 * 2**30),),
    shared_prompts={name: [f"{name * 512} {end * 60}" for end in "xyz"] for name in "AB"},
    control_prompts=["C" * 512],
    load_prompts=["D" * 280, "E" * 290],
)


def judged(rule: Rule, **changes: Any) -> Finding:
    return rule(replace(FACTS, **changes))


def picker(**changes: Any) -> PickerFacts:
    return replace(PICKER, **changes)


def config(text: str, changed: str = EARLY) -> ConfigFacts:
    return ConfigFacts("ConfigMap epp, key x.yaml", text, changed)


def tuned(parameters: str) -> ConfigFacts:
    old, plugin = "- type: prefix-cache-scorer", "- {type: prefix-cache-scorer, parameters: {%s}}"
    return config(V0_4.replace(old, plugin % parameters))


def test_everything_as_it_should_be() -> None:
    found = lint(FACTS)
    assert [item for item in found if not item.ok] == []
    assert [item.rule for item in found] == [rule.__name__ for rule in routing_lint.RULES]
    assert all(item.expected and item.observed for item in found)


@pytest.mark.parametrize("missing", ["replicas", "workloads", "routes", "picker", "config", "nodes"])
def test_what_cannot_be_read_is_never_judged_and_keeps_the_servers_reason(missing: str) -> None:
    unread: dict[str, Any] = {missing: NO}
    found = lint(replace(FACTS, **unread))
    assert [item for item in found if item.ok is False] == []
    needed = {"nodes": "picker_fits", "workloads": "selector", "routes": "route", "replicas": "selector"}
    rule = next(item for item in found if item.rule == needed.get(missing, "config_loaded"))
    assert NO.reason in f"{rule.observed} {rule.evidence}"
    assert (rule.ok is None) == (missing != "nodes")  # nodes are evidence only


def test_a_configuration_that_the_picker_refuses_names_the_line() -> None:
    spoilt = config(V0_4.replace("- type: queue-scorer", "- type: queue-scorerr"))
    found = judged(routing_lint.config, config=spoilt)
    assert found.ok is False
    assert "line 4: type: 'queue-scorerr'" in found.observed
    assert {item.rule: item.ok for item in lint(replace(FACTS, config=spoilt))}["block_size"] is None


def test_a_plugin_that_the_model_cannot_follow_is_known_all_the_same() -> None:
    text = V0_4.replace("- type: queue-scorer", "- type: load-aware-scorer").replace("f: queue-s", "f: load-aware-s")
    found = judged(routing_lint.config, config=config(text))
    assert found.ok is True
    assert "cannot follow it" in str(found.evidence)
    assert judged(routing_lint.block_size, config=config(text)).ok is None


def test_the_log_of_the_start_has_the_word_whatever_the_times_say() -> None:
    same = judged(routing_lint.config_loaded, config=config(V0_4, LATER))
    assert same.ok is True
    assert "by the picker's own log" in same.observed
    other = judged(routing_lint.config_loaded, config=config(V0_4.replace("weight: 3", "weight: 1"), EARLY))
    assert other.ok is False
    assert "epp-1: weight of prefix-cache-scorer: 3 in the log, 1 in the file" in other.observed
    two = picker(pods=(pod(), pod("epp-2", loaded=parse(V0_4.replace("weight: 3", "weight: 1")))))
    found = judged(routing_lint.config_loaded, picker=two)
    assert (found.ok, "epp-2" in found.observed) == (False, True)


def test_without_that_log_a_change_after_the_start_proves_nothing() -> None:
    silent = picker(pods=(pod(loaded=NO),))
    later = judged(routing_lint.config_loaded, picker=silent, config=config(V0_4, LATER))
    assert later.ok is None
    assert "picker started 2026-11-24T10:05:00Z" in later.observed
    assert NO.reason in later.observed
    assert judged(routing_lint.config_loaded, picker=silent).ok is True
    untimed = judged(routing_lint.config_loaded, picker=silent, config=config(V0_4, ""))
    assert (untimed.ok, "no time of change is kept" in untimed.observed) == (None, True)
    half = picker(pods=(pod(), pod("epp-2", loaded=NO)))
    assert judged(routing_lint.config_loaded, picker=half, config=config(V0_4, LATER)).ok is None


def test_no_picker_and_a_file_that_it_refuses_cannot_be_compared() -> None:
    assert judged(routing_lint.config_loaded, picker=picker(pods=())).ok is None
    refused = judged(routing_lint.config_loaded, config=config(V0_4.replace("queue-scorer", "queue-scorerr"), LATER))
    assert (refused.ok, "refused" in refused.observed) == (None, True)


def test_the_metric_of_a_removed_name_is_a_constant() -> None:
    for arguments in ((), ("--kv-cache-usage-percentage-metric=" + REMOVED_KV_METRIC,)):
        found = judged(routing_lint.kv_metric, picker=picker(arguments=arguments))
        assert found.ok is False
        assert REMOVED_KV_METRIC in found.observed
        assert "a, b, c" in str(found.evidence)


def test_the_replicas_have_the_word_and_not_the_name() -> None:
    old: dict[str, list[dict[str, str]]] = {REMOVED_KV_METRIC: [{}]}
    replicas = tuple(replica(name, series=old) for name in "abc")
    assert judged(routing_lint.kv_metric, picker=picker(arguments=()), replicas=replicas).ok is True
    assert judged(routing_lint.kv_metric, replicas=replicas).ok is False
    one = (*FACTS.ready[:2], replica("c", series=old))
    assert judged(routing_lint.kv_metric, replicas=one).ok is False


@pytest.mark.parametrize(("labels", "ok"), [('{engine="0"}', True), ("{engine=1}", False)])
def test_a_metric_may_ask_for_labels(labels: str, ok: bool) -> None:
    arguments = ("--kv-cache-usage-percentage-metric", KV_METRIC + labels)
    assert judged(routing_lint.kv_metric, picker=picker(arguments=arguments)).ok is ok


def test_an_image_of_unknown_age_and_no_flag_decide_nothing() -> None:
    unknown = picker(arguments=(), image="mirror/own:v1.0")
    assert judged(routing_lint.kv_metric, picker=unknown).ok is None
    nothing = tuple(replica(name, series={}) for name in "abc")
    assert judged(routing_lint.kv_metric, picker=unknown, replicas=nothing).ok is False


def test_unread_replicas_and_none_at_all_prove_nothing_of_the_metric() -> None:
    some = (*FACTS.ready[:2], replica("c", series=NO))
    found = judged(routing_lint.kv_metric, replicas=some)
    assert (found.ok, "c: no permission" in str(found.evidence)) == (None, True)
    assert judged(routing_lint.kv_metric, replicas=(replica("a", ready=False),)).ok is None


def test_a_picker_that_does_not_look_at_kv_use_needs_no_metric() -> None:
    zero = config(V0_4.replace("utilization-scorer, weight: 2", "utilization-scorer, weight: 0"))
    assert judged(routing_lint.kv_metric, picker=picker(arguments=()), config=zero).ok is True


def test_a_pod_of_another_model() -> None:
    foreign = (*FACTS.ready, replica("d", ready=False, models=("google/gemma-2b-it",), said_by="its arguments"))
    found = judged(routing_lint.selector, replicas=foreign)
    assert found.ok is False
    assert "1 of 4 pods" in found.observed
    assert "d: google/gemma-2b-it (its arguments)" in found.evidence
    two_names = (replica("a", models=("other", MODEL)),)
    assert judged(routing_lint.selector, replicas=two_names).ok is True


def test_a_pod_that_does_not_say_its_model_and_an_empty_pool() -> None:
    assert judged(routing_lint.selector, replicas=(replica("a", models=NO),)).ok is None
    assert judged(routing_lint.selector, replicas=()).observed == "the pool selects no pod"


@pytest.mark.parametrize(
    ("selector", "ok"),
    [
        ({"matchLabels": LABELS}, False),
        ({"matchLabels": {"inference": "yes"}}, False),
        ({}, False),
        ({"matchLabels": {"model": "gemma"}}, True),
        ({"matchExpressions": [{"key": "model", "operator": "In", "values": ["qwen"]}]}, False),
        ({"matchExpressions": [{"key": "model", "operator": "NotIn", "values": ["qwen"]}]}, True),
        ({"matchExpressions": [{"key": "model", "operator": "Exists"}]}, False),
        ({"matchExpressions": [{"key": "model", "operator": "DoesNotExist"}]}, True),
    ],
)
def test_a_deployment_that_claims_the_pools_pods(selector: dict[str, Any], ok: bool) -> None:
    mine = Workload("servers", {"matchLabels": LABELS}, LABELS)
    found = judged(routing_lint.selector, workloads=(mine, Workload("other", selector, {"model": "gemma"})))
    assert found.ok is ok
    assert ("Deployment other" in str(found.evidence)) is not ok


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (RouteFacts("route", ("InferencePool/other", "Service/pool"), ROUTE.conditions), "no HTTPRoute names the pool"),
        (RouteFacts("route", ROUTE.backends, {}), "no conditions"),
        (RouteFacts("route", ROUTE.backends, {"Accepted": "True (Ok)"}), "Accepted True"),
        (RouteFacts("route", ROUTE.backends, {**ROUTE.conditions, "ResolvedRefs": "False (Gone)"}), "False (Gone)"),
        (RouteFacts("route", ROUTE.backends, {**ROUTE.conditions, "Accepted": "Unknown (old)"}), "Unknown (old)"),
    ],
)
def test_a_route_that_does_not_lead_here(route: RouteFacts, said: str) -> None:
    found = judged(routing_lint.route, routes=(route,))
    assert found.ok is False
    assert said in found.observed
    assert judged(routing_lint.route, routes=(route, ROUTE)).ok is True


def test_no_route() -> None:
    assert judged(routing_lint.route, routes=()).ok is False


def test_one_picker_and_no_more() -> None:
    two = (pod("epp-1"), pod("epp-2"))
    assert judged(routing_lint.single_picker, picker=picker(pods=two)).ok is False
    assert judged(routing_lint.single_picker, picker=picker(replicas=2)).ok is False
    leader = ("--ha-enable-leader-election",)
    stands_by = (pod("epp-1"), pod("epp-2", ready=False))
    assert judged(routing_lint.single_picker, picker=picker(replicas=2, pods=stands_by, arguments=leader)).ok is True
    off = ("--ha-enable-leader-election=false",)
    assert judged(routing_lint.single_picker, picker=picker(replicas=2, pods=stands_by, arguments=off)).ok is False


def test_no_picker_at_all() -> None:
    down = picker(pods=(pod(ready=False, trouble="CrashLoopBackOff: again"),))
    found = judged(routing_lint.single_picker, picker=down)
    assert found.ok is False
    assert "no picker serves" in found.remedy
    assert "CrashLoopBackOff" in str(found.evidence)


def test_a_picker_that_fits_no_node() -> None:
    word = "Unschedulable: 0/4 nodes are available: 4 Insufficient cpu."
    pending = picker(pods=(pod(ready=False, scheduled=False, trouble=word),), requests_cpus=8, requests_bytes=8 * 2**30)
    found = judged(routing_lint.picker_fits, picker=pending)
    assert found.ok is False
    assert f"epp-1: {word}" in found.evidence
    assert "a pod requests 8 CPUs and 8.0 GiB" in found.evidence
    assert "the largest node offers 3.9 CPUs, the one with most memory 12.0 GiB" in found.evidence
    assert judged(routing_lint.picker_fits, picker=picker(pods=())).ok is None


@pytest.mark.parametrize(
    ("file", "prefix_bytes", "blocks"),
    [(config(V0_4), 64, 1), (config(V0_4), 63, 0), (config(V0_10), 256, 1), (config(V0_10), 255, 0)],
)
def test_a_prefix_is_seen_from_one_block_on(file: ConfigFacts, prefix_bytes: int, blocks: int) -> None:
    prompts = {"g": ["p" * prefix_bytes + end * 300 for end in "xyz"]}
    found = judged(routing_lint.block_size, config=file, shared_prompts=prompts)
    assert found.ok is (blocks > 0)
    assert f"g: {prefix_bytes} bytes, {blocks} blocks" in found.evidence


def test_the_replicas_block_size_counts_unless_the_picker_does_not_tune() -> None:
    large = replica("a", series={"vllm:cache_config_info": [{"block_size": "256"}]})
    assert judged(routing_lint.block_size, replicas=(large, replica("b"))).ok is False
    fixed = tuned("autoTune: false, blockSize: 128")
    found = judged(routing_lint.block_size, replicas=(large,), config=fixed)
    assert found.ok is True
    assert "a block is 128 bytes" in found.observed
    assert judged(routing_lint.block_size, replicas=(replica("a", series=NO),)).ok is None
    assert judged(routing_lint.block_size, replicas=(replica("a", series=NO),), config=fixed).ok is True


def test_without_a_prefix_scorer_there_are_no_blocks() -> None:
    blind = config(V0_4.replace("prefix-cache-scorer, weight: 3", "prefix-cache-scorer, weight: 0"))
    for rule in (routing_lint.block_size, routing_lint.index_size, routing_lint.prompts):
        found = judged(rule, config=blind)
        assert (found.ok, "prefixes are not looked at" in found.observed) == (False, True)


@pytest.mark.parametrize(("capacity", "ok"), [(100, True), (32, True), (31, None), (11, None), (10, False)])
def test_an_index_holds_the_test_in_one_replica_or_in_none(capacity: int, ok: bool | None) -> None:
    """Two prefixes and two control prompts of 8 blocks each; the endings fill none."""
    control = ["C" * 512, "F" * 512]
    found = judged(
        routing_lint.index_size,
        config=tuned(f"autoTune: false, lruCapacityPerServer: {capacity}"),
        control_prompts=control,
    )
    assert "32 blocks" in found.observed
    assert found.ok is ok


def test_an_index_is_tuned_to_the_smallest_cache_and_otherwise_to_its_default() -> None:
    small = (replica("a", series={"vllm:cache_config_info": [{**CACHE, "num_gpu_blocks": "5"}]}), replica("b"))
    found = judged(routing_lint.index_size, replicas=small)
    assert (found.ok, "5 a replica (num_gpu_blocks)" in found.observed) == (False, True)
    silent = tuple(replica(name, series={}) for name in "abc")
    assert "31250 a replica (lruCapacityPerServer)" in judged(routing_lint.index_size, replicas=silent).observed
    assert judged(routing_lint.index_size, shared_prompts={}, control_prompts=["short"]).ok is None


def test_the_load_is_told_beside_the_test() -> None:
    assert "8 blocks, which leaves room" in str(judged(routing_lint.index_size).evidence)
    pushed = judged(routing_lint.index_size, config=tuned("autoTune: false, lruCapacityPerServer: 2"))
    assert "8 blocks, which pushes the test's blocks out" in str(pushed.evidence)


@pytest.mark.parametrize(("size", "ok"), [(64, True), (63, False)])
def test_prompts_of_the_load_below_a_block(size: int, ok: bool) -> None:
    found = judged(routing_lint.prompts, load_prompts=["D" * 280, "E" * size])
    assert found.ok is ok
    assert f"{0 if ok else 1} of 2 prompts are shorter" in found.observed
    assert judged(routing_lint.prompts, load_prompts=[]).ok is None


@pytest.mark.parametrize(
    ("file", "hashes"), [(V0_4, [0, 1, 0, 0, 0, 0]), (V0_10, [1, 1, 1, 1, 1, 1])], ids=["v0.4", "v0.10"]
)
def test_the_guides_own_prompts(file: str, hashes: list[int]) -> None:
    found = guide_prompts(replace(FACTS, config=config(file)))
    assert not isinstance(found, Unread)
    assert [item.size_bytes for item in found] == [30, 72, 23, 23, 25, 5]
    assert [item.hashes for item in found] == hashes
    assert [item.full_blocks for item in found] == ([0, 1, 0, 0, 0, 0] if file == V0_4 else [0] * 6)
    assert guide_prompts(replace(FACTS, config=NO)) == NO


def test_hashes_need_rules() -> None:
    with pytest.raises(ValueError, match="not known"):
        replace(FACTS, config=NO).hashes("text")
