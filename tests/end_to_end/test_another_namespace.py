"""Everything under names of one's own: another namespace, releases, InferencePools, Gateway and route."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_runbook.errors import EXIT_PASS
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT
from llmd_runbook.run.store import all_runs
from tests.end_to_end.bench import Bench, all_pass
from tests.end_to_end.callers import variant
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(300)

HERE = "serving"
CHARTS, VALUES = PROJECT_ROOT / "lib/llmd_sandbox/charts", PARAMETERS / "helm"
BLUE = {
    "edge": ("infra", ["infra.yaml", "infra.sandbox.yaml"]),
    "pool-blue": ("inferencepool", ["gaie-pattern1.yaml"]),
    "servers-blue": ("modelservice", ["ms-pattern1.yaml"]),
}
"""Pattern 1's releases by the names of this test: chart and values."""
NAMES = {
    "namespace: llm-d\n": f"namespace: {HERE}\n",
    "inference_pool: gaie-pattern1": "inference_pool: pool-blue",
    "inference_pool: gaie-pattern3": "inference_pool: pool-green",
    "- name: gaie-pattern1": "- name: pool-blue",
    "- name: gaie-pattern3": "- name: pool-green",
    "- name: ms-pattern1": "- name: servers-blue",
    "- name: ms-pattern3": "- name: servers-green",
    "gateway: infra-inference-gateway": "gateway: edge-inference-gateway",
    "name: llm-d-route": "name: clients",
    "requests: 36": "requests: 60",  # as many answers as stage 01 asks of a baseline
}


def kubectl(sandbox: Sandbox, namespace: str, *words: str | Path) -> str:
    done = sandbox.start("kubectl", "--namespace", namespace, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def uids(sandbox: Sandbox, namespace: str) -> dict[str, str]:
    """The UIDs of what patterns consist of."""
    kinds = "deployments,services,configmaps,serviceaccounts,secrets,gateways,httproutes,inferencepools"
    found = json.loads(kubectl(sandbox, namespace, "get", kinds, "-o", "json"))["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["uid"] for item in found}


def pattern_1_here(bench: Bench, folder: Path) -> None:
    """Pattern 1 in the test's namespace, in place of the sandbox's own, which leaves its GPU."""
    sandbox = bench.sandbox
    token = json.loads(bench.saved("secret", "huggingface-token"))
    token["metadata"] = {"name": "huggingface-token"}
    route = json.loads(bench.saved("httproute", "llm-d-route"))
    route["metadata"] = {"name": "clients"}
    route["spec"]["parentRefs"][0]["name"] = "edge-inference-gateway"
    route["spec"]["rules"][0]["backendRefs"][0]["name"] = "pool-blue"
    bench.kubectl("delete", "httproute", "llm-d-route")
    for release in ("ms-pattern1", "gaie-pattern1"):
        done = sandbox.start("helm", "uninstall", release, "--namespace", "llm-d", "--wait")
        assert done.returncode == 0, done.stderr
    kubectl(sandbox, HERE, "create", "namespace", HERE)
    for number, item in enumerate((token, route)):
        file = folder / f"{number}.json"
        file.write_text(json.dumps(item))
        kubectl(sandbox, HERE, "apply", "-f", file)
    for release, (chart, values) in BLUE.items():
        files = [word for name in values for word in ("--values", str(VALUES / name))]
        done = sandbox.start("helm", "install", release, str(CHARTS / chart), "--namespace", HERE, *files)
        assert done.returncode == 0, done.stderr


def test_the_migration_under_other_names(bench: Bench, tmp_path: Path) -> None:
    """Reviewed, scaled, swapped and verified; nothing of that namespace is looked for under the guide's names, and
    nothing of the namespace that they are in is touched.
    """
    sandbox = bench.sandbox
    pattern_1_here(bench, tmp_path)
    renamed = variant(bench, tmp_path, NAMES)
    for server in ("deployment/servers-blue-llm-d-modelservice-decode", "deployment/pool-blue-epp"):
        kubectl(sandbox, HERE, "rollout", "status", server, "--timeout=90s")
    renamed.answers(renamed.profile.pattern1.model)
    before = uids(sandbox, "llm-d")
    done = sandbox.start("llmd-runbook", "run", renamed.file, "--stages", "01,02,03,04", "--output", tmp_path / "runs")
    assert done.returncode == EXIT_PASS, done.stdout + done.stderr
    (store,) = all_runs(tmp_path / "runs")
    for record in store.read().stages:
        result = record.attempts[-1].result
        assert result is not None
        all_pass({check.id: check for check in result.checks})
    assert uids(sandbox, "llm-d") == before
    deployments = kubectl(sandbox, HERE, "get", "deployments", "-o", "name").split()
    assert deployments == [
        "deployment.apps/pool-green-epp",
        "deployment.apps/servers-green-llm-d-modelservice-decode",
    ]
    route = json.loads(kubectl(sandbox, HERE, "get", "httproute", "clients", "-o", "json"))
    assert [backend["name"] for backend in route["spec"]["rules"][0]["backendRefs"]] == ["pool-green"]
