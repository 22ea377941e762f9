"""The newest layout of llm-d: the router chart and its picker, from Pattern 1 to Pattern 3 and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_runbook.errors import EXIT_PASS
from llmd_runbook.manifest import Run
from llmd_runbook.run.notebooks import stage_names
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.conftest import Sandbox

SANDBOX_OPTIONS = ("--newest",)
pytestmark = pytest.mark.timeout(900)


def test_all_stages_pass(sandbox: Sandbox, tmp_path: Path) -> None:
    done = sandbox.start("llmd-runbook", "run", "sandbox-newest", "--json", "--output", tmp_path)
    assert done.returncode == EXIT_PASS, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])["record"]
    run = Run.model_validate_json((Path(record) / "run.json").read_text())
    assert [(each.stage, each.verdict) for each in run.stages] == [(name, Verdict.PASS) for name in stage_names()]
    routing = run.stage("05_routing_affinity").attempts[-1].result
    assert routing is not None
    (explained,) = (check for check in routing.checks if check.id == "affinity.explained")
    assert "no-hit-lru-scorer" in explained.observed  # the reference model knows the newest scorer, and agrees
    assert sandbox.kubectl("get", "deployments", "-o", "name").split() == [
        "deployment.apps/pattern1-epp",
        "deployment.apps/pattern1-nvidia-gpu-vllm-decode",
    ]
