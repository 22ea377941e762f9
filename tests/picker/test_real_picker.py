"""Stages 01 to 05 through a real endpoint picker (`make test-picker`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from llmd_runbook.analysis.picker_config import parse
from llmd_runbook.analysis.picker_loaded import differences, loaded
from llmd_runbook.manifest import Run, Status
from llmd_runbook.run.store import all_runs
from llmd_runbook.verdicts import StageResult, Verdict
from llmd_sandbox.given import EPP_BINARY
from tests.picker.conftest import Picker

pytestmark = [pytest.mark.picker, pytest.mark.timeout(900)]

STAGES = ["01_review_state", "02_scale_pool", "03_swap_patterns", "04_verify", "05_routing_affinity"]


@pytest.fixture(scope="module")
def run(picker: Picker, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The record of the five stages."""
    output = tmp_path_factory.mktemp("runs")
    words = ("llmd-runbook", "run", picker.prepared.profile, "--stages", "01,02,03,04,05", "--output", output)
    done = picker.sandbox.start(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    (store,) = all_runs(output)
    return store.read()


def result(run: Run, stage: str) -> StageResult:
    (attempt,) = run.stage(stage).attempts
    assert attempt.status is Status.FINISHED
    assert attempt.result is not None
    return attempt.result


def test_every_check_passes_through_it(run: Run) -> None:
    for stage in STAGES:
        checks = result(run, stage).checks
        assert checks
        assert [check for check in checks if check.verdict is not Verdict.PASS] == []
    assert {"verify.weights", "verify.answer"} <= {check.id for check in result(run, "04_verify").checks}
    assert {"affinity.prefix", "affinity.cache_hits"} <= {
        check.id for check in result(run, "05_routing_affinity").checks
    }


def test_the_record_says_that_the_picker_is_real(run: Run) -> None:
    assert run.cluster.real["picker"].startswith("real")
    assert run.cluster.real["engine"].startswith("simulated")
    assert run.simulated


def test_it_is_the_real_one_that_decided(run: Run, picker: Picker) -> None:
    """Its own words in its log, of a kind that the sandbox's picker never says."""
    log = picker.sandbox.kubectl("logs", "deployment/gaie-pattern3-epp", "--tail=-1")
    assert "LLM request assembled" in log
    assert "Request handled" in log


def test_the_profile_reaches_it_as_its_generation_needs(run: Run, picker: Picker) -> None:
    config = picker.sandbox.kubectl("get", "configmap", "gaie-pattern3-epp", "-o", "yaml")
    version = "llm-d.ai/v1alpha1" if picker.prepared.newer else "inference.networking.x-k8s.io/v1alpha1"
    assert f"apiVersion: {version}" in config


def test_the_log_of_its_start_shows_the_configuration_that_it_loaded(picker: Picker) -> None:
    """Of a new start, for a busy picker's log is rotated away within minutes; after the tests that read the old log."""
    kubectl = picker.sandbox.kubectl
    names = kubectl("get", "deployments", "-o", "jsonpath={.items[*].metadata.name}").split()
    (name,) = (item for item in names if item.endswith("-epp"))
    kubectl("rollout", "restart", f"deployment/{name}")
    kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s")
    (file,) = json.loads(kubectl("get", "configmap", name, "-o", "jsonpath={.data}")).values()
    found = loaded(kubectl("logs", f"deployment/{name}", "--limit-bytes=262144").splitlines())
    assert found is not None
    assert differences(found, parse(file)) == []


def test_without_a_binary_the_lane_says_what_is_missing() -> None:
    """A lane that cannot run does not pass."""
    words = [sys.executable, "-m", "pytest", "-m", "picker", __file__]
    own = {name: value for name, value in os.environ.items() if name != EPP_BINARY}
    done = subprocess.run(words, env=own, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == os.EX_UNAVAILABLE, done.stdout
    assert "LLMD_SANDBOX_EPP=/path/to/epp make test-picker" in done.stdout
