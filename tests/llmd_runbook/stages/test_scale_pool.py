"""The plan of the node pool, and what of it is in the hash, on a cluster in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import NODES
from llmd_runbook.errors import UsageError
from llmd_runbook.run import StageRun
from llmd_runbook.stages import scale_pool, site
from llmd_runbook.topology import NODE_POOL_LABEL
from llmd_runbook.verdicts import StageResult, Verdict
from tests.llmd_runbook.conftest import PROFILE, Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import Pool, Releases


@pytest.fixture
def planned(
    bench: Bench, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., StageResult]:
    """Plans stage 02 with a profile's text, on a pool of so many nodes with a GPU each."""

    def plan(text: str = PROFILE, nodes: int = 1, pool: Pool | None = None) -> StageResult:
        kube = Memory()
        for number in range(nodes):
            meta = {"name": f"gpu-{number}", "labels": {NODE_POOL_LABEL: "pool"}}
            kube.add(NODES, {"metadata": meta, "status": {"allocatable": {"nvidia.com/gpu": "1"}}})
        monkeypatch.setattr(site, "kubernetes", lambda _: kube)
        monkeypatch.setattr(site, "gke_pool", lambda _: pool or Pool())
        monkeypatch.setattr(site, "driver", lambda _, pattern: Releases(f"ms-{pattern.model}", present=False))
        bench.profile_file.write_text(text)
        stage = open_stage("02_scale_pool")
        scale_pool.plan(stage)
        return stage.finish()

    return plan


Planned = Callable[..., StageResult]


def rows(result: StageResult, table: int = 0) -> list[list[Any]]:
    return [list(row) for row in result.tables[table].rows]


def test_the_plan_says_nodes_gpus_and_dollars(planned: Planned) -> None:
    result = planned()
    assert rows(result) == [
        ["autoscaling of the pool (nodes)", "2 to 5", "0 to 5", "change"],
        ["nodes of the pool", "1", "3", "change"],
        ["GPUs of the pool", "1", "3", "change"],
    ]
    assert rows(result, 1)[0] == ["GPU nodes", 1, 3, 1.0, 2.0]
    assert rows(result, 1)[-1] == ["in all (USD/h)", 2.0, 4.0, None, 2.0]
    assert {row[2] for row in rows(result, 2)} == {"pool.ready_timeout_s"}
    notes = {note.title for note in result.notes}
    assert notes == {"Before you go on", "What cannot be previewed", "What cannot be undone"}


def test_a_pool_that_is_as_it_should_be_needs_no_approval(planned: Planned) -> None:
    result = planned(nodes=4, pool=Pool(min_nodes=0))
    assert (result.approvals, result.notes, result.data["plan"]["empty"]) == ([], [], True)


def test_several_zones_are_said(planned: Planned) -> None:
    notes = [note.text for note in planned(pool=Pool(zones=("a", "b"))).notes]
    assert "The pool has 2 zones, and GKE counts sizes and bounds a zone." in notes


def test_more_nodes_than_the_pool_may_have_are_refused_before_anything_is_shown(planned: Planned) -> None:
    with pytest.raises(UsageError, match="the swap needs 6 nodes, and the pool may have 5"):
        planned(PROFILE.replace("replicas: 1", "replicas: 6"))


def test_what_was_read_is_not_in_the_hash(planned: Planned) -> None:
    hashes = {
        planned(nodes=nodes, pool=pool).data["plan"]["hash"]
        for nodes, pool in ((1, Pool()), (3, Pool(min_nodes=0)), (2, Pool(min_nodes=1, zones=("a", "b"))))
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nodes: 3}", "nodes: 4}"),
        ("nodes: 3}", "nodes: 3, min_nodes: 1}"),
        ("nodes: 3}", "nodes: 3, max_nodes: 6}"),
        ("name: pool", "name: other"),
        ("project: p,", "project: q,"),
        ("location: l,", "location: m,"),
        ("location: l, cluster: c", "location: l, cluster: d"),
        ("cleanup:", "swap: {strategy: surge}\ncleanup:"),
        ("replicas: 1", "replicas: 4"),
    ],
)
def test_each_part_of_the_intent_is_in_the_hash(planned: Planned, old: str, new: str) -> None:
    assert old in PROFILE
    assert planned(PROFILE.replace(old, new)).data["plan"]["hash"] != planned().data["plan"]["hash"]


@pytest.mark.parametrize("kind", ["queued", "flex-start"])
def test_a_pool_that_takes_no_size_by_hand_is_refused_before_the_plan(planned: Planned, kind: str) -> None:
    with pytest.raises(UsageError, match=f"is a {kind} one") as refused:
        planned(pool=Pool(provisioning=kind))
    assert "standard or a spot pool" in (refused.value.remedy or "")


@pytest.mark.parametrize("kind", ["spot", "preemptible"])
def test_a_cheaper_pool_is_sized_as_any_other(planned: Planned, kind: str) -> None:
    assert rows(planned(pool=Pool(provisioning=kind)))[1] == ["nodes of the pool", "1", "3", "change"]


def test_pattern_2_holds_a_node_of_its_own(planned: Planned) -> None:
    """It is asked before the plan, and not there: the plan still counts its node."""
    beside = "pattern2: {model: p, inference_pool: two, gateway: g2, route: {name: r2}}\n"
    result = planned(PROFILE + beside, nodes=2)
    assert rows(result)[1] == ["nodes of the pool", "2", "4", "change"]
    assert [(check.id, check.verdict) for check in result.checks] == [("pattern2.before", Verdict.FAIL)]
