"""For every check a cluster on which it fails: broken by the public protocols, as an operator or an accident would.

One sandbox serves the whole file, from Pattern 1 through the swap to the restored Pattern 1, in the order of the
tests. Each fault is undone by the test that made it.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmd_runbook.clients.gke import ENDPOINT_VARIABLE, Bounds
from llmd_runbook.clients.inference import Inference
from llmd_runbook.clients.kubernetes import HTTP_ROUTES, PODS
from llmd_runbook.errors import ClusterError, Conflict
from llmd_runbook.load.background import Background
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT
from llmd_runbook.run import begin
from llmd_runbook.stages import all_checks, cleanup, cleanup_plan, throughput_and_cost, verify
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import beside
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.review import capacity, permissions, state, surroundings
from llmd_runbook.stages.review import configuration as review_configuration
from llmd_runbook.stages.routing import affinity as routing_affinity
from llmd_runbook.stages.routing import changes, explained, replica_failure
from llmd_runbook.stages.routing import configuration as routing_configuration
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.topology import condition, endpoint
from llmd_runbook.verdicts import Check, Verdict
from tests.end_to_end.bench import PICKER3, SERVERS1, SERVERS3, Bench, all_pass, broken
from tests.end_to_end.callers import REVIEW, called_by, printed_roles, variant, with_values
from tests.end_to_end.cases import COVERED, fails
from tests.end_to_end.conftest import Sandbox
from tests.llmd_runbook.clients.server import Reply, serving

pytestmark = pytest.mark.timeout(300)

REMOVE_TOKEN = '[{"op": "remove", "path": "/data/HF_TOKEN"}]'


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))
    assert os.environ.get("KUBECONFIG") != sandbox.kubeconfig


# --- 01, Pattern 1 serves ---------------------------------------------------------------------------------------


def test_review_passes_when_nothing_is_wrong(bench: Bench) -> None:
    all_pass(bench.judge("01_review_state", *REVIEW))


@fails("tools.versions")
def test_a_machine_without_helm(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bench.judge("01_review_state", review_configuration.tools)
    assert "cannot run helm" in broken(found, "tools.versions").observed


@fails("configuration.renders")
def test_a_pool_of_another_name_than_the_profile_says(bench: Bench, tmp_path: Path) -> None:
    other = variant(bench, tmp_path, {"inference_pool: gaie-pattern3": "inference_pool: gaie-another"})
    found = other.judge("01_review_state", review_configuration.configuration)
    assert "gaie-pattern3 instead of gaie-another" in broken(found, "configuration.renders").observed


@fails("configuration.branch")
def test_pattern_3_with_the_values_of_pattern_1(bench: Bench, tmp_path: Path) -> None:
    other = variant(bench, tmp_path, {"helm/ms-pattern3.yaml": "helm/ms-pattern1.yaml"})
    found = other.judge("01_review_state", review_configuration.configuration)
    assert "google/gemma-2b-it" in broken(found, "configuration.branch", "configuration.values").observed


@fails("configuration.values")
def test_values_with_a_replica_too_few(bench: Bench, tmp_path: Path) -> None:
    other = with_values(bench, tmp_path, "ms-pattern3.yaml", "replicas: 3", "replicas: 2")
    found = other.judge("01_review_state", review_configuration.configuration)
    assert "2 replicas instead of 3" in broken(found, "configuration.values").observed


@fails("token.secret")
def test_a_token_under_another_key(bench: Bench, tmp_path: Path) -> None:
    """The guide's own key, which the chart does not read."""
    before = bench.saved("secret", "huggingface-token")
    bench.create(before.replace('"HF_TOKEN"', '"token"'), tmp_path)
    bench.kubectl("patch", "secret", "huggingface-token", "--type=json", "-p", REMOVE_TOKEN)
    found = bench.judge("01_review_state", review_configuration.configuration)
    bench.kubectl("delete", "secret", "huggingface-token")
    bench.create(before, tmp_path)
    said = broken(found, "token.secret")
    assert said.observed == "Secret huggingface-token has no HF_TOKEN but token"
    assert json.loads(before)["data"]["HF_TOKEN"] not in str(said)


@fails("pool.capacity")
def test_a_zone_that_has_no_more_gpus(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """GKE's own answer about the pool, with what it adds after a stock-out."""
    path, real = f"/v1/{bench.pool.name}", os.environ[ENDPOINT_VARIABLE].rstrip("/")
    its_cluster = path.partition("/nodePools/")[0]
    answer = httpx.get(real + path).json()
    answer["conditions"] = [{"code": "GCE_STOCKOUT", "message": "ZONE_RESOURCE_POOL_EXHAUSTED"}]
    with serving() as gke:
        gke.on(path, Reply(body=answer))
        gke.on(its_cluster, Reply(body=httpx.get(real + its_cluster).json()))
        monkeypatch.setenv(ENDPOINT_VARIABLE, gke.url)
        found = bench.judge("01_review_state", capacity.capacity)
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in broken(found, "pool.capacity").observed


@fails("pool.fits")
def test_a_replica_larger_than_a_node(bench: Bench, tmp_path: Path) -> None:
    other = with_values(bench, tmp_path, "ms-pattern3.yaml", "memory: 8Gi", "memory: 64Gi")
    found = other.judge("01_review_state", capacity.capacity)
    assert "64 GiB of memory" in str(broken(found, "pool.fits").evidence)


@fails("patterns.selectors")
def test_a_pool_that_would_take_the_other_patterns_pods(bench: Bench, tmp_path: Path) -> None:
    label = "      llm-d.ai/model: Qwen2.5-3B-Instruct"
    other = with_values(bench, tmp_path, "gaie-pattern3.yaml", label, "      #")
    found = other.judge("01_review_state", surroundings.surroundings)
    said = broken(found, "patterns.selectors")
    assert f"(Pattern 3) selects the pods of Deployment {SERVERS1} (Pattern 1)" in said.observed


@fails("owners.none")
def test_a_route_that_argo_cd_puts_back(bench: Bench) -> None:
    mark = "argocd.argoproj.io/tracking-id"
    bench.kubectl("annotate", "httproute", "llm-d-route", f"{mark}=web:gateway.networking.k8s.io/HTTPRoute:llm-d/r")
    found = bench.judge("01_review_state", surroundings.surroundings)
    with pytest.raises(Conflict) as refused:
        bench.judge("03_swap_patterns", plan.plan)
    bench.kubectl("annotate", "httproute", "llm-d-route", f"{mark}-")
    said = broken(found, "owners.none")
    assert said.observed == "HTTPRoute llm-d-route: Argo CD application web"
    assert "name: gaie-pattern3" in str(said.remedy)
    assert "HTTPRoute llm-d/llm-d-route: Argo CD application web" in str(refused.value.reason)
    assert re.search(r"^\+ +name: gaie-pattern3$", str(refused.value.remedy), re.MULTILINE)


@fails("pattern2.before", "pattern2.after")
def test_a_pattern_2_that_does_not_run(bench: Bench, tmp_path: Path) -> None:
    route = "{name: r, ready_timeout_s: 1}"
    absent = f"{{model: phi, inference_pool: gaie-pattern2, gateway: infra-pattern2, route: {route}}}"
    other = variant(bench, tmp_path, {"pattern3:\n": f"pattern2: {absent}\npattern3:\n"})
    found = other.judge("02_scale_pool", beside.before, beside.after)
    broken(found, "pattern2.before", "pattern2.after")
    assert found["pattern2.before"].observed == "0 of 0 Ready; no InferencePool gaie-pattern2"
    there = ("get", "pods,httproutes", "-o", "jsonpath={.items[*].metadata.uid}{.items[*].spec.rules}")
    before = bench.pool.describe(), bench.kubectl(*there)
    for stage, calls in {
        "02_scale_pool": (scale.plan, scale.apply, scale.verify),
        "03_swap_patterns": (plan.plan, patterns.apply, patterns.verify),
        "07_cleanup": (cleanup_plan.plan, cleanup.apply, cleanup.verify),
    }.items():
        stopped = other.judge(stage, *calls)  # the profile approves its plans itself, and still nothing is changed
        assert list(stopped) == ["pattern2.before"], stage
    assert (bench.pool.describe(), bench.kubectl(*there)) == before


@fails("healthcheck.policy")
def test_a_pool_whose_health_check_is_gone(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("healthcheckpolicy", "gaie-pattern1")
    bench.kubectl("delete", "healthcheckpolicy", "gaie-pattern1")
    found = bench.judge("01_review_state", surroundings.surroundings)
    bench.create(before, tmp_path)
    assert broken(found, "healthcheck.policy").observed == "gaie-pattern1 has none"


@fails("permissions.read", "permissions.change")
def test_an_operator_without_the_route(bench: Bench, tmp_path: Path) -> None:
    manifests = printed_roles(bench.sandbox, "operator")
    for item in manifests:
        if "rules" in item:
            item["rules"] = [rule for rule in item["rules"] if rule.get("resources") != ["httproutes"]]
    found = called_by(bench, tmp_path, manifests).judge("01_review_state", permissions.permissions)
    assert "list httproutes" in broken(found, "permissions.read", "permissions.change").observed
    assert "patch httproutes" in found["permissions.change"].observed


@fails("baseline.samples")
def test_a_load_too_short_for_its_percentiles(bench: Bench) -> None:
    found = bench.judge("01_review_state", state.baseline, state.samples)
    assert broken(found, "baseline.samples").observed == "36 answers"


@fails("pattern1.releases")
def test_a_release_that_helm_does_not_know(bench: Bench, tmp_path: Path) -> None:
    secret = "sh.helm.release.v1.ms-pattern1.v1"
    before = bench.saved("secret", secret)
    bench.kubectl("delete", "secret", secret)
    found = bench.judge("01_review_state", state.deployments)
    bench.create(before, tmp_path)
    assert "ms-pattern1: absent" in broken(found, "pattern1.releases").observed


@fails("pattern1.ready")
def test_a_replica_that_finds_no_gpu(bench: Bench) -> None:
    bench.scaled(SERVERS1, 2)
    bench.pods("llm-d.ai/model=gemma-2b-it", 2)
    found = bench.judge("01_review_state", state.deployments)
    bench.scaled(SERVERS1, 1)
    bench.settled(SERVERS1)
    assert "1 of 2 pods" in broken(found, "pattern1.ready").observed


@fails("pattern1.route")
def test_no_route(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("httproute", "llm-d-route")
    bench.kubectl("delete", "httproute", "llm-d-route")
    found = bench.judge("01_review_state", state.deployments)
    bench.create(before, tmp_path)
    broken(found, "pattern1.route")


@fails("gateway.programmed")
def test_no_gateway(bench: Bench, tmp_path: Path) -> None:
    name = bench.profile.pattern1.gateway
    before = bench.saved("gateway", name)
    bench.kubectl("delete", "gateway", name)
    found = bench.judge("01_review_state", state.deployments)
    bench.create(before, tmp_path)
    broken(found, "gateway.programmed", "pattern1.route")
    bench.kubectl("wait", f"gateway/{name}", "--for=condition=Programmed", "--timeout=30s")
    bench.answers(bench.profile.pattern1.model)


@fails("baseline.answers")
def test_a_baseline_without_a_picker(bench: Bench) -> None:
    with bench.without_picker("pattern1"):
        found = bench.judge("01_review_state", state.baseline)
    assert "http_500" in str(broken(found, "baseline.answers").evidence)


@fails("pool.present")
def test_a_pool_without_nodes(bench: Bench) -> None:
    bench.resized(0)
    found = bench.judge("01_review_state", state.node_pool)
    bench.resized(1)
    bench.settled(SERVERS1)
    assert "0 GPUs" in broken(found, "pool.present").observed


# --- 02, the pool grows -----------------------------------------------------------------------------------------


def test_the_pool_passes_once_it_is_scaled(bench: Bench) -> None:
    all_pass(bench.judge("02_scale_pool", scale.plan, scale.apply, scale.verify))


@fails("pool.autoscaling")
def test_somebody_changes_the_autoscaling(bench: Bench) -> None:
    bench.pool.wait(bench.pool.set_autoscaling(Bounds(1, 4)), 60)
    found = bench.judge("02_scale_pool", scale.verify)
    bench.pool.wait(bench.pool.set_autoscaling(Bounds(3, 5)), 60)
    assert "1 to 4" in broken(found, "pool.autoscaling").observed


@fails("pool.allocatable")
def test_a_node_that_takes_no_pods(bench: Bench) -> None:
    label = "cloud.google.com/gke-nodepool=nvidia-t4-pool"
    node = bench.kubectl("get", "nodes", "-l", label, "-o", "jsonpath={.items[0].metadata.name}")
    bench.kubectl("cordon", node)
    found = bench.judge("02_scale_pool", scale.verify)
    bench.kubectl("uncordon", node)
    assert "schedulable False" in str(broken(found, "pool.allocatable").evidence)


@fails("pool.size")
def test_a_node_too_few(bench: Bench) -> None:
    bench.resized(2)
    found = bench.judge("02_scale_pool", scale.verify)
    broken(found, "pool.size", "pool.allocatable")
    all_pass(bench.judge("02_scale_pool", scale.plan, scale.apply, scale.verify))


# --- 03, Pattern 3 takes over -----------------------------------------------------------------------------------


def test_the_swap_passes(bench: Bench) -> None:
    all_pass(bench.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify))


@fails("pattern1.gone")
def test_something_of_pattern_1_comes_back(bench: Bench) -> None:
    chart, values = PROJECT_ROOT / "lib/llmd_sandbox/charts/inferencepool", PARAMETERS / "helm/gaie-pattern1.yaml"
    where = ("--namespace", "llm-d")
    done = bench.sandbox.start("helm", "install", "gaie-pattern1", chart, "-f", values, *where)
    assert done.returncode == 0, done.stderr
    found = bench.judge("03_swap_patterns", patterns.verify)
    bench.sandbox.start("helm", "uninstall", "gaie-pattern1", *where)
    assert "gaie-pattern1" in broken(found, "pattern1.gone").observed


@fails("pattern3.ready")
def test_a_replica_too_few(bench: Bench) -> None:
    bench.scaled(SERVERS3, 2)
    bench.settled(SERVERS3)
    found = bench.judge("03_swap_patterns", patterns.verify)
    assert "2 of 2 Ready" in broken(found, "pattern3.ready").observed
    all_pass(bench.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify))


@fails("pattern3.route")
def test_the_route_points_at_the_pattern_that_is_gone(bench: Bench) -> None:
    opened = traffic.manifest(bench.profile, bench.profile.pattern1)
    bench.kube.apply(HTTP_ROUTES, opened, "llm-d")
    found = bench.judge("03_swap_patterns", patterns.verify)
    broken(found, "pattern3.route", "pattern3.answers")
    all_pass(bench.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify))


@fails("pattern3.answers", "verify.answer")
def test_no_picker_no_answer(bench: Bench) -> None:
    with bench.without_picker("pattern3"):
        swapped = bench.judge("03_swap_patterns", patterns.verify)
        verified = bench.judge("04_verify", verify.answers)
    assert "500" in broken(swapped, "pattern3.answers").observed
    assert "500" in broken(verified, "verify.answer", "verify.models").observed


# --- 04, the criteria -------------------------------------------------------------------------------------------


def test_verification_passes(bench: Bench) -> None:
    calls = (verify.replicas_and_gpus, verify.answers, verify.prefix_caching, verify.scorer_weights)
    all_pass(bench.judge("04_verify", *calls))


@fails("verify.replicas")
def test_a_fourth_replica_that_never_gets_ready(bench: Bench) -> None:
    bench.scaled(SERVERS3, 4)
    bench.pods("llm-d.ai/model=Qwen2.5-3B-Instruct", 4)
    found = bench.judge("04_verify", verify.replicas_and_gpus)
    bench.scaled(SERVERS3, 3)
    bench.settled(SERVERS3)
    assert "4 selected, 3 Ready" in broken(found, "verify.replicas", "verify.gpus").observed


@fails("verify.gpus")
def test_a_replica_on_a_node_of_another_pool(bench: Bench) -> None:
    label = "cloud.google.com/gke-nodepool"
    node = bench.kubectl("get", "nodes", "-l", f"{label}=nvidia-t4-pool", "-o", "jsonpath={.items[0].metadata.name}")
    bench.kubectl("label", "node", node, f"{label}=elsewhere", "--overwrite")
    found = bench.judge("04_verify", verify.replicas_and_gpus)
    bench.kubectl("label", "node", node, f"{label}=nvidia-t4-pool", "--overwrite")
    assert "2 of 3" in broken(found, "verify.gpus").observed


@fails("verify.weights")
def test_other_weights(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("configmap", "gaie-pattern3-epp")
    assert "weight: 3" in before
    bench.create(before.replace("weight: 3", "weight: 1"), tmp_path)
    found = bench.judge("04_verify", verify.scorer_weights)
    bench.create(before, tmp_path)
    assert "prefix-cache-scorer 1" in broken(found, "verify.weights").observed


@fails("verify.models")
def test_a_second_name_for_the_model(bench: Bench) -> None:
    with bench.with_arguments("--served-model-name", bench.profile.pattern3.model, "another"):
        bench.answers(bench.profile.pattern3.model)
        found = bench.judge("04_verify", verify.answers)
    assert "another" in broken(found, "verify.models").observed


@fails("verify.prefix_caching", "affinity.cache_hits")
def test_prefix_caching_off(bench: Bench) -> None:
    with bench.with_arguments("--no-enable-prefix-caching"):
        bench.answers(bench.profile.pattern3.model)
        verified = bench.judge("04_verify", verify.prefix_caching)
        routed = affinity(bench)
    assert "off or unsaid: 3" in broken(verified, "verify.prefix_caching").observed
    broken(routed, "affinity.cache_hits")


# --- 05, the picker's configuration -----------------------------------------------------------------------------

LATER = "routing.config_loaded"
"""What else is not proved while the ConfigMap is newer than the picker."""
BLOCKS = ("routing.block_size", "routing.index_size", "routing.prompts")


def configuration(bench: Bench) -> dict[str, Check]:
    return bench.judge("05_routing_affinity", routing_configuration.configuration)


def prefixes(parameters: str) -> tuple[str, str]:
    """The plugin that looks at prefixes, and the same with these parameters and without tuning by itself."""
    plain = "type: prefix-cache-scorer"
    return f"- {plain}", f"- {{{plain}, parameters: {{autoTune: false, {parameters}}}}}"


@fails("routing.config", "routing.config_loaded")
def test_a_plugin_that_the_picker_does_not_know(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file("- type: queue-scorer", "- type: queue-scorerr", tmp_path):
        found = configuration(bench)
    assert "line 4: type: 'queue-scorerr'" in broken(found, "routing.config", LATER, *BLOCKS).observed
    assert {found[name].verdict for name in (LATER, *BLOCKS)} == {Verdict.INCONCLUSIVE}
    assert "picker started" in found[LATER].observed


@fails("routing.block_size")
def test_blocks_larger_than_the_shared_prefix(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file(*prefixes("blockSize: 1024"), tmp_path):
        found = configuration(bench)
    assert "a block is 1024 bytes" in broken(found, "routing.block_size", LATER, *BLOCKS).observed


@fails("routing.prompts")
def test_blocks_larger_than_the_prompts_of_the_load(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file(*prefixes("blockSize: 400"), tmp_path):
        found = configuration(bench)
    assert "36 of 36 prompts are shorter" in broken(found, "routing.prompts", LATER).observed


@fails("routing.index_size")
def test_an_index_smaller_than_the_prefixes(bench: Bench, tmp_path: Path) -> None:
    with bench.picker_file(*prefixes("lruCapacityPerServer: 4"), tmp_path):
        found = configuration(bench)
    assert "4 a replica (lruCapacityPerServer)" in broken(found, "routing.index_size", LATER).observed


@fails("routing.kv_metric", "routing.log_level")
def test_a_picker_with_the_flags_of_its_chart(bench: Bench) -> None:
    """Without flags it reads a metric that vLLM does not have, and at level 1 it logs nothing of a decision."""
    found = json.loads(bench.kubectl("get", "deployment", PICKER3, "-o", "json"))
    args = found["spec"]["template"]["spec"]["containers"][0]["args"]
    metric = args.index("--kv-cache-usage-percentage-metric")
    with bench.picker_container({"args": [*args[:metric], *args[metric + 2 :], "-v=1"]}):
        bench.settled(PICKER3)
        checks = configuration(bench)
    assert "vllm:gpu_cache_usage_perc" in broken(checks, "routing.kv_metric", "routing.log_level").observed
    assert checks["routing.log_level"].verdict is Verdict.INCONCLUSIVE
    assert "neither scores nor choices" in checks["routing.log_level"].observed


def test_the_configuration_passes(bench: Bench) -> None:
    all_pass(configuration(bench))


@fails("routing.single_picker")
def test_two_pickers_at_once(bench: Bench) -> None:
    bench.scaled(PICKER3, 2)
    bench.settled(PICKER3)
    found = configuration(bench)
    bench.scaled(PICKER3, 1)
    bench.settled(PICKER3)
    assert "2 replicas, 2 Ready" in broken(found, "routing.single_picker").observed


@fails("routing.picker_fits")
def test_a_picker_that_fits_no_node(bench: Bench) -> None:
    def refused(pods: list[dict[str, Any]]) -> bool:
        return [condition(pod["status"], "PodScheduled") for pod in pods] == ["False (Unschedulable)"]

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
    evidence = str(broken(found, "routing.picker_fits", "routing.single_picker", LATER).evidence)
    assert "Insufficient cpu" in evidence
    assert "requests 500 CPUs" in evidence


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
    bench.pods("llm-d.ai/model=Qwen2.5-3B-Instruct", 3)
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


# --- 05, routing ------------------------------------------------------------------------------------------------


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


@fails("affinity.explained")
def test_a_configuration_that_the_picker_has_not_read(bench: Bench, tmp_path: Path) -> None:
    """Somebody edits the ConfigMap, and the picker goes on with the weights that it started with."""
    before = bench.saved("configmap", "gaie-pattern3-epp")
    bench.create(before.replace("weight: 3", "weight: 1"), tmp_path)
    found = affinity(bench)
    bench.create(before, tmp_path)
    evidence = str(broken(found, "affinity.explained").evidence)
    assert "weighted total" in evidence
    assert "queue-scorer 58 of 58" in found["affinity.explained"].observed


@fails("affinity.prefix")
def test_a_picker_that_is_blind_to_prefixes(bench: Bench, tmp_path: Path) -> None:
    with bench.blind_picker(tmp_path):
        found = affinity(bench)
    broken(found, "affinity.prefix", "affinity.cache_hits")  # some prefixes meet their cache by chance


@fails("affinity.spread")
def test_a_route_past_the_picker_to_one_replica(bench: Bench, tmp_path: Path) -> None:
    selector = "llm-d.ai/model=Qwen2.5-3B-Instruct"
    pod = bench.kubectl("get", "pods", "-l", selector, "-o", "jsonpath={.items[0].metadata.name}")
    bench.kubectl("label", "pod", pod, "only=this")
    bench.create(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "one", "namespace": "llm-d"},
                "spec": {"selector": {"only": "this"}, "ports": [{"port": 8000}]},
            }
        ),
        tmp_path,
    )
    route = traffic.manifest(bench.profile, bench.profile.pattern3)
    route["spec"]["rules"][0]["backendRefs"] = [{"kind": "Service", "name": "one", "port": 8000}]
    bench.kube.apply(HTTP_ROUTES, route, "llm-d")
    bench.answers(bench.profile.pattern3.model)
    found = affinity(bench)
    bench.kube.apply(HTTP_ROUTES, traffic.manifest(bench.profile, bench.profile.pattern3), "llm-d")
    bench.kubectl("delete", "service", "one")
    bench.answers(bench.profile.pattern3.model)
    unproved = found["affinity.explained"]
    assert "2 served none" in broken(found, "affinity.spread", "affinity.prefix", unproved.id).observed
    assert unproved.verdict is Verdict.INCONCLUSIVE  # the picker was not asked
    assert "by counters" in str(found["affinity.counters"].evidence)


@fails("affinity.counters")
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
    bench.pods("llm-d.ai/model=Qwen2.5-3B-Instruct", 1)
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


# --- 06, load ---------------------------------------------------------------------------------------------------


@fails("load.answers", "load.client")
def test_a_load_that_nobody_answers(bench: Bench) -> None:
    """Without answers nothing is known of the client: inconclusive, which is all that check can be beside a pass."""
    with bench.without_picker("pattern3"):
        found = bench.judge("06_throughput_and_cost", throughput_and_cost.measure)
    assert "http_500" in str(broken(found, "load.answers", "load.client").evidence)
    assert found["load.client"].verdict is Verdict.INCONCLUSIVE


def baseline_on_pattern_3(bench: Bench, **load: Any) -> str:
    """A run whose baseline was measured on Pattern 3, as one replica's; which run."""
    stage = begin("01_review_state", str(bench.file), "new", output=bench.output)
    one = bench.profile.pattern3.model_copy(update={"replicas": 1})
    stage.profile = bench.profile.model_copy(
        update={"pattern1": one, "load": bench.profile.load.model_copy(update=load)}
    )
    state.baseline(stage)
    all_pass({check.id: check for check in stage.finish().checks})
    return stage.run_id


@fails("throughput.gain")
def test_replicas_that_take_one_request_at_a_time(bench: Bench) -> None:
    """The baseline is measured on the same three replicas while they batch; then each takes one request at a time."""
    run = baseline_on_pattern_3(bench)
    with bench.with_arguments("--max-num-seqs=1"):
        bench.answers(bench.profile.pattern3.model)
        calls = (throughput_and_cost.measure, throughput_and_cost.compare)
        found = bench.judge("06_throughput_and_cost", *calls, run=run)
    broken(found, "throughput.gain", "load.client", "comparison.same_load")  # too few answers to judge the client by


@fails("comparison.same_load")
def test_a_baseline_of_longer_answers(bench: Bench) -> None:
    run = baseline_on_pattern_3(bench, output_tokens=16)
    calls = (throughput_and_cost.measure, throughput_and_cost.compare)
    found = bench.judge("06_throughput_and_cost", *calls, run=run)
    check = broken(found, "comparison.same_load", "throughput.gain", "load.client")
    assert "tokens of an answer 16.0 and 8.0" in check.observed
    assert "not comparable" in found["throughput.gain"].observed


@fails("load.littles_law")
def test_a_load_beside_somebody_elses(bench: Bench) -> None:
    """More requests in the replicas than were asked for: what was measured is not what this load gets."""
    target, model = endpoint(bench.kube, bench.profile, bench.profile.pattern3.gateway), bench.profile.pattern3.model
    with Background(Inference(target, 60), model, in_flight=24, seed=1):
        calls = (throughput_and_cost.measure, throughput_and_cost.watched)
        found = bench.judge("06_throughput_and_cost", *calls)
    assert "somebody else's requests" in broken(found, "load.littles_law", "load.client").observed


# --- 07, the end ------------------------------------------------------------------------------------------------


def test_cleanup_passes(bench: Bench) -> None:
    all_pass(bench.judge("07_cleanup", cleanup_plan.plan, cleanup.apply, cleanup.verify))


@fails("cleanup.nodes")
def test_a_node_that_nobody_needs(bench: Bench) -> None:
    bench.resized(2)
    found = bench.judge("07_cleanup", cleanup.verify)
    bench.resized(1)
    assert "2 nodes" in broken(found, "cleanup.nodes").observed


@fails("cleanup.pods")
def test_a_pod_that_the_option_does_not_leave(bench: Bench) -> None:
    bench.scaled(SERVERS1, 2)
    bench.pods("llm-d.ai/model=gemma-2b-it", 2)
    found = bench.judge("07_cleanup", cleanup.verify)
    bench.scaled(SERVERS1, 1)
    bench.settled(SERVERS1)
    broken(found, "cleanup.pods")


@fails("cleanup.serves")
def test_nothing_leads_to_pattern_1(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("httproute", "llm-d-route")
    bench.kubectl("delete", "httproute", "llm-d-route")
    found = bench.judge("07_cleanup", cleanup.verify)
    bench.create(before, tmp_path)
    broken(found, "cleanup.serves")
    bench.answers(bench.profile.pattern1.model)
    all_pass(bench.judge("07_cleanup", cleanup.verify))


def test_every_check_has_a_case() -> None:
    import_module("tests.end_to_end.test_swap")  # it has the cases of the swap
    import_module("tests.end_to_end.test_pool_modes")  # and that one those of an autoscaler
    import_module("tests.end_to_end.test_replica_scaling")  # and that one those of the number of replicas
    assert sorted(COVERED) == sorted(spec.id for spec in all_checks())
