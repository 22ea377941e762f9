"""What follows a swap: to zero and back, more replicas in place, the end; beside a Pattern 2 that goes on answering."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_runbook.errors import EXIT_PASS
from llmd_runbook.manifest import Run
from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT
from llmd_runbook.run.store import all_runs
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.bench import QWEN
from tests.end_to_end.conftest import Sandbox

SANDBOX_OPTIONS = ("--pattern2",)
pytestmark = pytest.mark.timeout(600)

SERVERS = "ms-pattern3-llm-d-modelservice-decode"
GPU_NODES = "cloud.google.com/gke-nodepool=nvidia-t4-pool"


class Bench:
    """The sandbox, and profiles with other replicas and other ends, all of one name and so one lock."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder = sandbox, folder

    def profile(self, replicas: int, option: str, base: str = "sandbox-with-pattern2") -> Path:
        text = (PARAMETERS / f"{base}.yaml").read_text()
        values = self.folder / f"ms-pattern3-{replicas}.yaml"
        values.write_text(
            (PARAMETERS / "helm/ms-pattern3.yaml").read_text().replace("replicas: 3", f"replicas: {replicas}")
        )
        for old, new in {
            "  nodes: 3": f"  nodes: {replicas}",
            "  replicas: 3": f"  replicas: {replicas}",
            "option: restore_pattern1": f"option: {option}",
            "[helm/ms-pattern3.yaml]": f"[{values}]",
            "../lib/": f"{PROJECT_ROOT}/lib/",
            "[helm/": f"[{PARAMETERS}/helm/",
        }.items():
            assert old in text, f"{old!r} is not in the profile any more"
            text = text.replace(old, new)
        file = self.folder / f"{base}-{replicas}-{option}.yaml"
        file.write_text(text)
        return file

    def run(self, stages: str, profile: Path, *words: str) -> Run:
        """A run that passes; its record."""
        output = self.folder / "runs"
        done = self.sandbox.start("llmd-runbook", "run", profile, "--stages", stages, "--output", output, *words)
        assert done.returncode == EXIT_PASS, done.stdout + done.stderr
        return all_runs(output)[0].read()

    def names(self, kind: str, selector: str) -> list[str]:
        return self.sandbox.kubectl("get", kind, "-l", selector, "-o", "jsonpath={.items[*].metadata.name}").split()


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    made = Bench(sandbox, tmp_path_factory.mktemp("bench"))
    made.run("02,03", made.profile(3, "scale_to_zero"))
    return made


def beside(run: Run) -> set[Verdict]:
    """What every stage of a run says of Pattern 2."""
    results = [attempt.result for record in run.stages for attempt in record.attempts if attempt.result]
    return {check.verdict for result in results for check in result.checks if check.id.startswith("pattern2.")}


def test_to_zero_pattern_2_keeps_its_node(bench: Bench) -> None:
    run = bench.run("07", bench.profile(3, "scale_to_zero"))
    assert beside(run) == {Verdict.PASS}
    assert bench.names("pods", QWEN) == []
    assert len(bench.names("nodes", GPU_NODES)) == 1
    assert bench.sandbox.kubectl("get", "deployment", SERVERS, "-o", "jsonpath={.spec.replicas}") == "0"


def test_from_zero_it_comes_back_by_running_02_to_04_again(bench: Bench) -> None:
    run = bench.run("02,03,04", bench.profile(3, "scale_to_zero"))
    assert beside(run) == {Verdict.PASS}
    assert len(bench.names("pods", QWEN)) == 3


def test_a_fourth_replica_comes_in_place(bench: Bench) -> None:
    """Four and Pattern 2 are five, the pool's maximum; the three that serve go on serving."""
    before = bench.names("pods", QWEN)
    run = bench.run("02,03,04", bench.profile(4, "delete"))
    assert beside(run) == {Verdict.PASS}
    after = bench.names("pods", QWEN)
    assert len(after) == 4
    assert set(before) < set(after)
    assert len(bench.names("nodes", GPU_NODES)) == 5
    swap = run.stage("03_swap_patterns").attempts[-1].result
    assert swap is not None
    assert not [check for check in swap.checks if check.verdict is not Verdict.PASS]


def test_a_fifth_beside_pattern_2_is_refused_before_anything_is_asked(bench: Bench) -> None:
    done = bench.sandbox.start("llmd-runbook", "validate", bench.profile(5, "delete"))
    assert done.returncode == 2
    assert "pool.nodes 5 + pattern2.replicas 1 = 6 > pool.max_nodes 5" in " ".join((done.stdout + done.stderr).split())


def test_deleted_pattern_2_keeps_its_node(bench: Bench) -> None:
    run = bench.run("07", bench.profile(4, "delete"))
    assert beside(run) == {Verdict.PASS}
    assert bench.names("pods", QWEN) == []
    assert len(bench.names("nodes", GPU_NODES)) == 1
    listed = json.loads(bench.sandbox.start("helm", "list", "--namespace", "llm-d", "-o", "json").stdout)
    assert {"gaie-pattern2", "ms-pattern2"} <= {item["name"] for item in listed}
    assert not {"gaie-pattern3", "ms-pattern3"} & {item["name"] for item in listed}


def test_without_pattern_2_a_fifth_comes_in_place(bench: Bench) -> None:
    for release in ("ms-pattern2", "gaie-pattern2", "infra-pattern2"):
        done = bench.sandbox.start("helm", "uninstall", release, "--namespace", "llm-d", "--wait")
        assert done.returncode == 0, done.stderr
    bench.run("02,03,04", bench.profile(4, "delete", "sandbox"))
    before = bench.names("pods", QWEN)
    bench.run("02,03,04", bench.profile(5, "delete", "sandbox"))
    after = bench.names("pods", QWEN)
    assert len(after) == 5
    assert set(before) < set(after)


def test_without_pattern_2_nothing_of_the_pool_is_left_at_zero(bench: Bench) -> None:
    bench.run("07", bench.profile(5, "scale_to_zero", "sandbox"))
    assert bench.names("pods", QWEN) == []
    assert bench.names("nodes", GPU_NODES) == []
    assert bench.sandbox.kubectl("get", "deployment", SERVERS, "-o", "jsonpath={.spec.replicas}") == "0"


def test_without_pattern_2_it_comes_back_from_no_node_and_is_deleted(bench: Bench) -> None:
    """Stage 04 sees three replicas that answer before stage 07 takes them and their nodes away."""
    bench.run("02,03,04,07", bench.profile(3, "delete", "sandbox"))
    assert bench.names("pods", QWEN) == []
    assert bench.names("nodes", GPU_NODES) == []
    listed = json.loads(bench.sandbox.start("helm", "list", "--namespace", "llm-d", "-o", "json").stdout)
    assert not {"gaie-pattern3", "ms-pattern3"} & {item["name"] for item in listed}
