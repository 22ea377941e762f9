"""A spot pool for Pattern 3: planned, refused and judged, on a cluster and a GKE in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from llmd_runbook.clients.gke import SPOT_LABEL, OperationState, PoolState
from llmd_runbook.clients.kubernetes import NODES, Object
from llmd_runbook.errors import ProfileError, RunbookError, UsageError
from llmd_runbook.profile import load
from llmd_runbook.run import StageRun
from llmd_runbook.stages import cleanup_plan, site
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.pool import spot as spot_pool
from llmd_runbook.topology import ACCELERATOR_LABEL, NODE_POOL_LABEL, GpuNode
from llmd_runbook.verdicts import StageResult, Verdict
from tests.llmd_runbook.conftest import PROFILE, Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import Pool, Releases

PRICED = """prices: {file: prices.yaml}
"""
PRICES = """
prices:
  node: {usd_per_hour: 1, region: here, date: "2026-01-01", source: invented, verified: true}
  spot: {usd_per_hour: 0.25, region: here, date: "2026-01-01", source: invented, verified: true}
assemblies:
  gpu_node: {node: 1}
  gpu_node_spot: {spot: 1}
  cpu_node: {node: 1}
  control_plane: {node: 1}
  load_balancer: {node: 1}
"""
BASE = Pool(min_nodes=0).describe()
SPOT = replace(BASE, name="spot", provisioning="spot", ours=True, bounds=None)
TOLERATES = {"key": SPOT_LABEL, "operator": "Equal", "value": "true", "effect": "NoSchedule"}


@dataclass
class Spot:
    """The spot pool of a GKE in memory."""

    state: PoolState | None = None
    running: list[OperationState] = field(default_factory=list)

    def find(self) -> PoolState | None:
        return self.state

    def running_operations(self) -> list[OperationState]:
        return self.running


@dataclass
class Placed(Releases):
    """Releases whose pods go to the spot pool, or where `spec` says."""

    spec: Object | None = None

    def render(self) -> list[Object]:
        (item,) = super().render()
        placed = {"nodeSelector": {NODE_POOL_LABEL: "spot"}, "tolerations": [TOLERATES]}
        item["spec"]["template"]["spec"] |= placed if self.spec is None else self.spec
        return [item]


Opened = Callable[..., StageRun]


@pytest.fixture
def opened(bench: Bench, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens a stage with a spot pool in the profile, which has so many nodes beside one of the pool."""

    def open_it(
        stage: str, *, spot: PoolState | None = None, nodes: int = 0, spec: Object | None = None, priced: bool = True
    ) -> StageRun:
        kube = Memory()
        for number in range(1 + nodes):
            labels = {NODE_POOL_LABEL: "spot" if number else "pool", ACCELERATOR_LABEL: "t4"}
            status = {"allocatable": {"nvidia.com/gpu": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}
            kube.add(NODES, {"metadata": {"name": f"n-{number}", "labels": labels}, "status": status})
        monkeypatch.setattr(site, "kubernetes", lambda _: kube)
        monkeypatch.setattr(site, "gke_pool", lambda _: Pool(min_nodes=0))
        monkeypatch.setattr(site, "spot_pool", lambda _: Spot(spot))
        monkeypatch.setattr(site, "driver", lambda _, pattern: Placed(f"ms-{pattern.model}", present=False, spec=spec))
        text = PROFILE.replace("nodes: 3}", "nodes: 3, spot: spot}")
        if priced:
            before, rest = text.split("prices: ", 1)
            text = before + PRICED + "cleanup:" + rest.split("cleanup:", 1)[1]
        bench.profile_file.write_text(text)
        bench.profile_file.with_name("prices.yaml").write_text(PRICES)
        return open_stage(stage)

    return open_it


def rows(result: StageResult, table: int = 0) -> dict[str, list[Any]]:
    return {str(row[0]): list(row[1:]) for row in result.tables[table].rows}


def test_its_creation_is_planned_with_nodes_gpus_dollars_and_what_spot_means(opened: Opened) -> None:
    """Pattern 3 takes none of the pool's nodes: that keeps the one of Pattern 1."""
    stage = opened("02_scale_pool")
    scale.plan(stage)
    result = stage.finish()
    assert rows(result) == {
        "autoscaling of the pool (nodes)": ["0 to 5", "1 to 5", "change"],
        "nodes of the pool": ["1", "1", "as it is"],
        "GPUs of the pool": ["1", "1", "as it is"],
        "node pool spot": ["absent", "spot, n1-standard-4, 1 x t4", "change"],
        "nodes and GPUs of spot": ["0", "3", "change"],
    }
    assert rows(result, 1)["GPU nodes, spot"] == [0, 3, 0.25, 0.75]
    assert rows(result, 1)["other nodes"][0] == 0
    notes = [note.text for note in result.notes]
    assert any("with 30 s notice" in note for note in notes)
    assert any(note.startswith("New nodes cost money") for note in notes)
    assert '"spot_pool":{"name":"spot","nodes":3}' in result.approvals[0].intent.replace(" ", "")


def test_one_that_is_there_with_its_nodes_is_left(opened: Opened) -> None:
    stage = opened("02_scale_pool", spot=SPOT, nodes=3)
    scale.plan(stage)
    found = rows(stage.finish())
    assert found["node pool spot"][2] == found["nodes and GPUs of spot"][2] == "as it is"


@pytest.mark.parametrize(
    ("spot", "said"),
    [
        (replace(SPOT, ours=False), "that this program did not create"),
        (replace(SPOT, provisioning="standard"), "is not what stage 02 would create"),
        (replace(SPOT, machine_type="n1-standard-8"), "is not what stage 02 would create"),
    ],
)
def test_another_pool_of_that_name_is_refused(opened: Opened, spot: PoolState, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        scale.plan(opened("02_scale_pool", spot=spot))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"nodeSelector": {NODE_POOL_LABEL: "spot"}},
        {"nodeSelector": {NODE_POOL_LABEL: "pool"}, "tolerations": [TOLERATES]},
        {"tolerations": [TOLERATES]},
        {"nodeSelector": {SPOT_LABEL: "true"}, "tolerations": [TOLERATES | {"value": "false"}]},
        {"nodeSelector": {SPOT_LABEL: "true"}, "tolerations": [TOLERATES | {"effect": "NoExecute"}]},
        {"nodeSelector": {SPOT_LABEL: "true"}, "tolerations": [{"key": "other", "operator": "Exists"}]},
    ],
)
def test_pods_that_would_not_come_there_are_refused_with_the_values_to_add(opened: Opened, spec: Object) -> None:
    with pytest.raises(ProfileError, match="its values do not place it there") as refused:
        scale.plan(opened("02_scale_pool", spec=spec))
    assert f"nodeSelector: {{{NODE_POOL_LABEL}: spot}}" in (refused.value.remedy or "")
    assert f"key: {SPOT_LABEL}" in (refused.value.remedy or "")


@pytest.mark.parametrize(
    "toleration",
    [TOLERATES, {"operator": "Exists"}, {"key": SPOT_LABEL, "operator": "Exists"}, {**TOLERATES, "effect": ""}],
)
def test_any_toleration_of_the_taint_will_do(opened: Opened, toleration: Object) -> None:
    spec = {"nodeSelector": {SPOT_LABEL: "true"}, "tolerations": [toleration]}
    scale.plan(opened("02_scale_pool", spec=spec))


def test_a_price_file_without_spot_nodes_is_refused(opened: Opened) -> None:
    with pytest.raises(ProfileError, match="its prices say nothing of spot nodes"):
        scale.plan(opened("02_scale_pool", priced=False))


@pytest.mark.parametrize("option", ["delete", "scale_to_zero", "restore_pattern1"])
def test_its_deletion_is_planned_with_every_option(opened: Opened, bench: Bench, option: str) -> None:
    stage = opened("07_cleanup", spot=SPOT, nodes=3)
    cleaned = stage.profile.cleanup.model_copy(update={"option": option})
    stage.profile = stage.profile.model_copy(update={"cleanup": cleaned})
    cleanup_plan.plan(stage)
    result = stage.finish()
    assert rows(result)["node pool spot"] == ["spot, n1-standard-4, 1 x t4", "absent", "change"]
    assert rows(result)["nodes and GPUs of spot"] == ["3", "0", "change"]
    assert rows(result, 1)["GPU nodes, spot"] == [3, 0, 0.25, -0.75]
    assert "delete the spot pool" in rows(result, 2)
    assert '"delete_pool":"spot"' in result.approvals[0].intent


def test_somebody_elses_pool_is_not_deleted(opened: Opened) -> None:
    with pytest.raises(UsageError, match="that this program did not create"):
        cleanup_plan.plan(opened("07_cleanup", spot=replace(SPOT, ours=False), nodes=3))


@pytest.mark.parametrize(
    ("state", "count", "usable", "verdict"),
    [
        (SPOT, 3, 3, Verdict.PASS),
        (SPOT, 2, 2, Verdict.FAIL),
        (SPOT, 3, 2, Verdict.FAIL),
        (replace(SPOT, status="RUNNING_WITH_ERROR"), 3, 3, Verdict.FAIL),
        (replace(SPOT, provisioning="standard"), 3, 3, Verdict.FAIL),
        (None, 0, 0, Verdict.FAIL),
    ],
)
def test_a_node_for_each_replica(
    bench: Bench, state: PoolState | None, count: int, usable: int, verdict: Verdict
) -> None:
    nodes = [GpuNode(f"n{number}", number < usable, 1, "t4", True) for number in range(count)]
    check = spot_pool.judge(bench.profile, state, nodes)
    assert check.verdict is verdict
    assert f"{usable} of {count} nodes usable" in check.observed


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("nodes: 3}", "nodes: 3, spot: spot, mode: observe}", "created and sized by the stages, and mode is observe"),
        ("nodes: 3}", "nodes: 3, spot: pool}", "spot pool is the pool's own name"),
        ("nodes: 3}", "nodes: 3, spot: Spot_}", "must be a Kubernetes name"),
    ],
)
def test_profiles_that_make_no_sense(bench: Bench, old: str, new: str, said: str) -> None:
    bench.profile_file.write_text(PROFILE.replace(old, new))
    with pytest.raises(RunbookError, match=said):
        load(str(bench.profile_file))
