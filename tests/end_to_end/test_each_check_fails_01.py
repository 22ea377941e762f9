"""For every check of stage 01 a cluster on which it does not pass: broken by the public protocols, as an operator or an
accident would. Pattern 1 serves. Each fault is undone by the test that made it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmd_runbook.clients.compute import ENDPOINT_VARIABLE as COMPUTE_VARIABLE
from llmd_runbook.clients.gke import ENDPOINT_VARIABLE
from llmd_runbook.errors import Conflict
from llmd_runbook.stages import cleanup, cleanup_plan
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.review import capacity, permissions, state, surroundings
from llmd_runbook.stages.review import configuration as review_configuration
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.verdicts import Check, Verdict
from tests.end_to_end.bench import SERVERS1, Bench, all_pass, broken
from tests.end_to_end.callers import REVIEW, called_by, printed_roles, variant, with_values
from tests.end_to_end.cases import fails
from tests.llmd_runbook.clients.server import Reply, serving

pytestmark = pytest.mark.timeout(300)

REMOVE_TOKEN = '[{"op": "remove", "path": "/data/HF_TOKEN"}]'


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
def test_pattern_3_in_a_release_of_pattern_1(bench: Bench, tmp_path: Path) -> None:
    """To install the one would replace the other, though each renders what its values say."""
    other = variant(bench, tmp_path, {"name: ms-pattern3": "name: ms-pattern1"})
    found = other.judge("01_review_state", review_configuration.configuration)
    assert broken(found, "configuration.branch").observed == "in common: ms-pattern1"


def test_pattern_3_with_the_values_of_pattern_1(bench: Bench, tmp_path: Path) -> None:
    """Another model than the profile says, too."""
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


def with_pool(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], None]
) -> dict[str, Check]:
    """What is judged of the pool's capacity where GKE's own answer about the pool is changed."""
    path, real = f"/v1/{bench.pool.name}", os.environ[ENDPOINT_VARIABLE].rstrip("/")
    its_cluster = path.partition("/nodePools/")[0]
    answer = httpx.get(real + path).json()
    change(answer)
    with serving() as gke:
        gke.on(path, Reply(body=answer))
        gke.on(its_cluster, Reply(body=httpx.get(real + its_cluster).json()))
        monkeypatch.setenv(ENDPOINT_VARIABLE, gke.url)
        return bench.judge("01_review_state", capacity.capacity)


@fails("pool.capacity")
def test_a_zone_that_has_no_more_gpus(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What GKE adds to its answer after a stock-out."""
    stockout = {"code": "GCE_STOCKOUT", "message": "ZONE_RESOURCE_POOL_EXHAUSTED"}
    found = with_pool(bench, monkeypatch, lambda pool: pool.update(conditions=[stockout]))
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in broken(found, "pool.capacity").observed


@fails("pool.quota")
def test_a_quota_below_the_nodes_to_come(bench: Bench) -> None:
    door = f"{os.environ[ENDPOINT_VARIABLE].rstrip('/')}/faults"
    httpx.put(door, json={"gpu_quota": 2}).raise_for_status()
    found = bench.judge("01_review_state", capacity.capacity)
    httpx.put(door, json={"gpu_quota": 8}).raise_for_status()
    said = broken(found, "pool.quota").observed
    assert said.startswith("short: NVIDIA_T4_GPUS: 2 to come, 1 of 2 in use")


def test_a_quota_that_nobody_says_is_inconclusive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMPUTE_VARIABLE, "http://127.0.0.1:9/")
    found = bench.judge("01_review_state", capacity.capacity)
    said = broken(found, "pool.quota", verdict=Verdict.INCONCLUSIVE)
    assert said.observed.startswith("quota not read: cannot read the Compute Engine API")


def test_cpus_that_a_machine_types_name_does_not_say(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_pool(bench, monkeypatch, lambda pool: pool["config"].update(machineType="a2-highgpu-1g"))
    all_pass(found)
    assert "A2_CPUS: 24 to come, 0 of 72 in use" in found["pool.quota"].observed


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


@fails("pattern2.before")
def test_a_pattern_2_that_does_not_run(bench: Bench, tmp_path: Path) -> None:
    """Nothing is changed then, so nothing is judged after."""
    route = "{name: r, ready_timeout_s: 1}"
    absent = f"{{model: phi, inference_pool: gaie-pattern2, gateway: infra-pattern2, route: {route}}}"
    other = variant(bench, tmp_path, {"pattern3:\n": f"pattern2: {absent}\npattern3:\n"})
    there = ("get", "pods,httproutes", "-o", "jsonpath={.items[*].metadata.uid}{.items[*].spec.rules}")
    before = bench.pool.describe(), bench.kubectl(*there)
    for stage, calls in {
        "02_scale_pool": (scale.plan, scale.apply, scale.verify),
        "03_swap_patterns": (plan.plan, patterns.apply, patterns.verify),
        "07_cleanup": (cleanup_plan.plan, cleanup.apply, cleanup.verify),
    }.items():
        stopped = other.judge(stage, *calls)  # the profile approves its plans itself, and still nothing is changed
        assert list(stopped) == ["pattern2.before"], stage
        assert broken(stopped, "pattern2.before").observed == "0 of 0 Ready; no InferencePool gaie-pattern2"
    assert (bench.pool.describe(), bench.kubectl(*there)) == before


@fails("healthcheck.policy")
def test_a_pool_whose_health_check_is_gone(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("healthcheckpolicy", "gaie-pattern1")
    bench.kubectl("delete", "healthcheckpolicy", "gaie-pattern1")
    found = bench.judge("01_review_state", surroundings.surroundings)
    bench.create(before, tmp_path)
    assert broken(found, "healthcheck.policy").observed == "gaie-pattern1 has none"


def without(bench: Bench, folder: Path, resource: str, *verbs: str) -> Bench:
    """The bench as an operator who may not do these things to a resource."""
    manifests = printed_roles(bench.sandbox, "operator")
    left = [rule for item in manifests for rule in item.get("rules", []) if resource in rule.get("resources", [])]
    assert left, resource
    for rule in left:
        assert rule["resources"] == [resource], "another resource would lose the verbs too"
        rule["verbs"] = [verb for verb in rule["verbs"] if verb not in verbs]
    for item in manifests:
        if "rules" in item:
            item["rules"] = [rule for rule in item["rules"] if rule["verbs"]]
    return called_by(bench, folder, manifests)


@fails("permissions.read")
def test_an_operator_who_cannot_list_routes(bench: Bench, tmp_path: Path) -> None:
    found = without(bench, tmp_path, "httproutes", "list").judge("01_review_state", permissions.permissions)
    assert "list httproutes" in broken(found, "permissions.read").observed


@fails("permissions.change")
def test_an_operator_who_cannot_move_the_route(bench: Bench, tmp_path: Path) -> None:
    found = without(bench, tmp_path, "httproutes", "patch").judge("01_review_state", permissions.permissions)
    assert "patch httproutes" in broken(found, "permissions.change").observed


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


def test_a_route_that_the_gateway_does_not_accept(bench: Bench) -> None:
    """It names the right Gateway, pool and path, and still carries nothing."""
    with bench.route_to_no_listener(bench.profile.pattern1.model):
        found = bench.judge("01_review_state", state.deployments)
    assert "Accepted False (NoMatchingParent)" in broken(found, "pattern1.route").observed


@fails("gateway.programmed")
def test_a_gateway_without_a_load_balancer(bench: Bench) -> None:
    """Its routes are accepted all the same: that condition does not wait for the load balancer."""
    name = bench.profile.pattern1.gateway
    bench.kubectl("annotate", "gateway", name, "llmd-sandbox/gateway=down")
    bench.kubectl("wait", f"gateway/{name}", "--for=condition=Programmed=False", "--timeout=30s")
    found = bench.judge("01_review_state", state.deployments)
    bench.kubectl("annotate", "gateway", name, "llmd-sandbox/gateway-")
    bench.kubectl("wait", f"gateway/{name}", "--for=condition=Programmed", "--timeout=30s")
    bench.answers(bench.profile.pattern1.model)
    assert "Programmed False" in broken(found, "gateway.programmed").observed


def test_no_gateway(bench: Bench, tmp_path: Path) -> None:
    """Nor does any gateway accept the route then."""
    name = bench.profile.pattern1.gateway
    before = bench.saved("gateway", name)
    bench.kubectl("delete", "gateway", name)
    found = bench.judge("01_review_state", state.deployments)
    bench.create(before, tmp_path)
    assert broken(found, "gateway.programmed", "pattern1.route").observed == "no such Gateway"
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
