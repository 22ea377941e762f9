from __future__ import annotations

from typing import Any

import pytest
import yaml

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.profile import PARAMETERS, Profile
from llmd_runbook.stages.review.configuration import Rendered
from llmd_runbook.stages.review.surroundings import judge_health_check, judge_owners, judge_selectors
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.stages.rendered import gateway, policy, pool, route, servers

ONE, THREE, SHARED = {"serving": "true", "model": "a"}, {"serving": "true", "model": "b"}, {"serving": "true"}
REFUSED = "not permitted: cannot list"
ARGO: dict[str, Any] = {"labels": {"argocd.argoproj.io/instance": "web"}}


@pytest.fixture
def profile(bench: Bench) -> Profile:
    return bench.profile


@pytest.fixture
def wanted(profile: Profile) -> dict[str, Rendered]:
    first = [pool("one", ONE), servers("ms-x", "a", ONE), policy("one")]
    third = [pool("three", THREE), servers("ms-y", "b", THREE), policy("three")]
    return {
        "Pattern 1": Rendered(profile.pattern1, ["gaie-x", "ms-x"], first),
        "Pattern 3": Rendered(profile.pattern3, ["gaie-y", "ms-y"], third),
    }


@pytest.fixture
def live() -> dict[str, list[Object]]:
    return {
        "deployments": [servers("ms-x", "a", ONE)],
        "inferencepools": [pool("one", ONE)],
        "gateways": [gateway("g")],
        "httproutes": [route("r")],
        "healthcheckpolicies": [policy("one")],
    }


def verdicts(wanted: dict[str, Rendered], live: dict[str, Any], profile: Profile, **refused: str) -> list[Check]:
    judges = (judge_owners, judge_health_check)
    return [judge_selectors(wanted, live, refused), *(judge(wanted, live, refused, profile) for judge in judges)]


def test_a_namespace_in_order_passes(wanted: Any, live: Any, profile: Profile) -> None:
    assert [check.verdict for check in verdicts(wanted, live, profile)] == [Verdict.PASS] * 3


@pytest.mark.parametrize("plural", ["deployments", "inferencepools", "gateways", "httproutes", "healthcheckpolicies"])
def test_what_may_not_be_read_proves_nothing(wanted: Any, live: Any, profile: Profile, plural: str) -> None:
    del live[plural]
    checks = verdicts(wanted, live, profile, **{plural: REFUSED})
    unsure = [check for check in checks if check.verdict is Verdict.INCONCLUSIVE]
    assert unsure
    assert all(REFUSED in check.observed and "roles" in str(check.remedy) for check in unsure)
    assert not [check for check in checks if check.verdict is Verdict.FAIL]


def test_pattern_3_would_select_pattern_1s_pods(wanted: Any, live: Any) -> None:
    wanted["Pattern 3"].manifests[0] = pool("three", SHARED)
    check = judge_selectors(wanted, live, {})
    assert check.verdict is Verdict.FAIL
    assert check.observed == "InferencePool three (Pattern 3) selects the pods of Deployment ms-x (Pattern 1)"
    assert "b: {'serving': 'true', 'llm-d.ai/model': 'b'}" in str(check.remedy)


@pytest.mark.parametrize(
    ("chart", "values", "servers_values"),
    [
        ("inferencePool", "gaie-pattern3.yaml", "ms-pattern3.yaml"),
        ("router", "router-pattern3.yaml", "ms-pattern3.newest.yaml"),
    ],
)
def test_the_remedy_names_the_keys_and_labels_of_both_layouts(
    wanted: Any, live: Any, chart: str, values: str, servers_values: str
) -> None:
    """What it advises where the model's label is left out of a layout's values is what these have."""
    folder = PARAMETERS / "helm"
    labels = yaml.safe_load((folder / values).read_text())[chart]["modelServers"]["matchLabels"]
    of_servers = yaml.safe_load((folder / servers_values).read_text())["modelArtifacts"]["labels"]
    shared = {key: value for key, value in labels.items() if key != "llm-d.ai/model"}
    pattern = wanted["Pattern 3"].pattern.model_copy(update={"model": "Qwen/Qwen2.5-3B-Instruct"})
    manifests = [pool("three", shared), servers("ms-y", "b", shared)]
    wanted["Pattern 3"] = Rendered(pattern, ["gaie-y", "ms-y"], manifests)
    live["deployments"] += [servers("left-over", "b", shared)]
    check = judge_selectors(wanted, live, {})
    assert check.verdict is Verdict.FAIL
    assert f"Qwen/Qwen2.5-3B-Instruct: {labels}" in str(check.remedy)
    assert f"`{chart}.modelServers.matchLabels`" in str(check.remedy)
    assert labels == {key: value for key, value in of_servers.items() if value is not None}


def test_the_pattern_1_that_runs_would_own_pattern_3s_pods(wanted: Any, live: Any) -> None:
    live["deployments"] = [servers("ms-x", "a", SHARED)]  # installed from other values than are rendered now
    check = judge_selectors(wanted, live, {})
    assert check.verdict is Verdict.FAIL
    assert "Deployment ms-x (Pattern 1) selects the pods of Deployment ms-y (Pattern 3)" in check.observed


def test_pattern_2_in_the_same_namespace(wanted: Any, live: Any) -> None:
    live["deployments"].append(servers("ms-pattern2", "phi", SHARED))
    check = judge_selectors(wanted, live, {})
    assert check.verdict is Verdict.FAIL
    assert "Deployment ms-pattern2 (another workload) selects the pods of Deployment ms-y (Pattern 3)" in check.observed


def test_an_overlap_is_an_overlap_though_not_all_is_known(wanted: Any, live: Any, profile: Profile) -> None:
    wanted["Pattern 1"] = Rendered(profile.pattern1, [], [], "helm failed: x")
    assert judge_selectors(wanted, live, {}).verdict is Verdict.INCONCLUSIVE
    wanted["Pattern 3"].manifests[0] = pool("three", SHARED)
    assert judge_selectors(wanted, live, {}).verdict is Verdict.FAIL


def test_a_route_that_argo_cd_owns_comes_with_the_patch_to_commit(wanted: Any, live: Any, profile: Profile) -> None:
    live["httproutes"] = [route("r", **ARGO)]
    check = judge_owners(wanted, live, {}, profile)
    assert check.verdict is Verdict.FAIL
    assert check.observed == "HTTPRoute r: Argo CD application web"
    assert "kind: HTTPRoute" in str(check.remedy)
    assert "name: three" in str(check.remedy)


def test_a_gateway_counts_only_where_a_pattern_brings_it(wanted: Any, live: Any, profile: Profile) -> None:
    live["gateways"] = [gateway("g", **ARGO)]
    assert judge_owners(wanted, live, {}, profile).verdict is Verdict.PASS
    wanted["Pattern 3"].manifests.append(gateway("g"))
    check = judge_owners(wanted, live, {}, profile)
    assert check.verdict is Verdict.FAIL
    assert "kind: HTTPRoute" not in str(check.remedy)


def test_a_pool_without_a_health_check(wanted: Any, live: Any, profile: Profile) -> None:
    live["healthcheckpolicies"] = [policy("one", kind="Service")]
    check = judge_health_check(wanted, live, {}, profile)
    assert check.verdict is Verdict.FAIL
    assert check.observed == "one has none"


def test_a_release_that_brings_no_health_check(wanted: Any, live: Any, profile: Profile) -> None:
    del wanted["Pattern 3"].manifests[2]
    check = judge_health_check(wanted, live, {}, profile)
    assert check.verdict is Verdict.FAIL
    assert check.observed == "Pattern 3's release renders none for three"
    wanted["Pattern 3"] = Rendered(profile.pattern3, [], [], "helm failed: x")
    assert "cannot be rendered: helm failed: x" in judge_health_check(wanted, live, {}, profile).observed


def test_another_class_of_gateway_needs_none_and_no_gateway_proves_nothing(
    wanted: Any, live: Any, profile: Profile
) -> None:
    live["healthcheckpolicies"] = []
    live["gateways"] = [gateway("g", of="istio")]
    assert judge_health_check(wanted, live, {}, profile).verdict is Verdict.PASS
    live["gateways"] = []
    assert judge_health_check(wanted, live, {}, profile).verdict is Verdict.INCONCLUSIVE
