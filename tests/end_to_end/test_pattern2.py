"""The guide's Option B: Pattern 2 answers before and after everything that is done beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmd_runbook.clients import cluster
from llmd_runbook.clients.gke import Bounds, GkePool
from llmd_runbook.errors import EXIT_PASS
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT, load
from llmd_runbook.run import StageRun
from llmd_runbook.run.notebooks import stage_names
from llmd_runbook.run.store import all_runs
from llmd_runbook.stages.pool import scale
from llmd_runbook.topology import gpu_nodes
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.bench import Bench, broken
from tests.end_to_end.callers import variant
from tests.end_to_end.cases import fails
from tests.end_to_end.conftest import Sandbox

SANDBOX_OPTIONS = ("--pattern2",)
pytestmark = pytest.mark.timeout(900)

SERVERS2 = "ms-pattern2-llm-d-modelservice-decode"
ANSWERS = {
    "02_scale_pool": ["pattern2.before", "pattern2.after"],
    "03_swap_patterns": ["pattern2.before", "pattern2.after"],
    "04_verify": ["pattern2.after"],
    "07_cleanup": ["pattern2.before", "pattern2.after"],
}


def test_pattern_2_stays_through_swap_and_cleanup(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verdict of every stage passes beside it; those that change something ask it for an answer."""
    text = (PARAMETERS / "sandbox-with-pattern2.yaml").read_text()
    text = text.replace("../lib/", f"{PROJECT_ROOT}/lib/").replace("[helm/", f"[{PARAMETERS}/helm/")
    file = tmp_path / "beside.yaml"
    file.write_text(text)
    done = sandbox.start("llmd-runbook", "run", file, "--output", tmp_path / "runs")
    assert done.returncode == EXIT_PASS, done.stdout + done.stderr
    (store,) = all_runs(tmp_path / "runs")
    run = store.read()
    assert [(each.stage, each.verdict) for each in run.stages] == [(name, Verdict.PASS) for name in stage_names()]
    for each in run.stages:
        result = each.attempts[-1].result
        assert result is not None
        found = [check for check in result.checks if check.id.startswith("pattern2.")]
        assert [check.id for check in found] == ANSWERS.get(each.stage, []), each.stage
        assert {check.verdict for check in found} <= {Verdict.PASS}
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    profile = load(str(file))
    pool = profile.pool
    assert GkePool(pool.project, pool.location, pool.cluster, pool.name).describe().bounds == Bounds(0, 5)
    assert len(gpu_nodes(cluster.of(profile), pool.name)) == 2  # one for Pattern 1, one for Pattern 2


@fails("pattern2.after")
def test_a_pattern_2_that_goes_while_the_pool_grows(bench: Bench, tmp_path: Path) -> None:
    route = "{name: llm-d-route-pattern2, ready_timeout_s: 1}"
    model, gateway = "microsoft/Phi-3-mini-4k-instruct", "infra-pattern2-inference-gateway"
    there = f"{{model: {model}, inference_pool: gaie-pattern2, gateway: {gateway}, route: {route}}}"
    other = variant(bench, tmp_path, {"pattern3:\n": f"pattern2: {there}\npattern3:\n"})

    def gone(_: StageRun) -> None:
        other.scaled(SERVERS2, 0)
        other.pods("llm-d.ai/model=Phi-3-mini-4k-instruct", 0)

    found = other.judge("02_scale_pool", scale.plan, scale.apply, gone, scale.verify)
    other.scaled(SERVERS2, 1)
    assert broken(found, "pattern2.after").observed.startswith("0 of 0 Ready; ")
    assert found["pattern2.before"].verdict is Verdict.PASS
