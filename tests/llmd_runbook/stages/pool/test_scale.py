"""The plan of the node pool, and what of it is in the hash, on a cluster in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.clients.gke import Bounds
from llmd_runbook.clients.kubernetes import NODES
from llmd_runbook.errors import UsageError
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.pool import scale
from llmd_runbook.topology import NODE_POOL_LABEL, ZONE_LABEL
from llmd_runbook.verdicts import StageResult, Verdict
from tests.llmd_runbook.conftest import PROFILE, Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import Pool, Releases

Planned = Callable[..., StageResult]
Opened = Callable[..., StageRun]


@pytest.fixture
def opened(bench: Bench, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens stage 02 with a profile's text, on a pool of so many nodes with a GPU each, spread over `zones`."""

    def open_it(text: str = PROFILE, nodes: int = 1, pool: Pool | None = None, zones: tuple[str, ...] = ()) -> StageRun:
        kube, zones = Memory(), zones or (pool or Pool()).zones
        for number in range(nodes):
            labels = {NODE_POOL_LABEL: "pool", ZONE_LABEL: zones[number % len(zones)]}
            status = {"allocatable": {"nvidia.com/gpu": "1"}}
            kube.add(NODES, {"metadata": {"name": f"gpu-{number}", "labels": labels}, "status": status})
        monkeypatch.setattr(site, "kubernetes", lambda _: kube)
        monkeypatch.setattr(site, "gke_pool", lambda _: pool or Pool())
        monkeypatch.setattr(site, "driver", lambda _, pattern: Releases(f"ms-{pattern.model}", present=False))
        bench.profile_file.write_text(text)
        return open_stage("02_scale_pool")

    return open_it


@pytest.fixture
def planned(opened: Opened) -> Planned:
    """Plans stage 02 on such a pool."""

    def plan(*args: Any, **more: Any) -> StageResult:
        stage = opened(*args, **more)
        scale.plan(stage)
        return stage.finish()

    return plan


def rows(result: StageResult, table: int = 0) -> list[list[Any]]:
    return [list(row) for row in result.tables[table].rows]


def test_the_plan_says_nodes_gpus_and_dollars(planned: Planned) -> None:
    result = planned()
    assert rows(result) == [
        ["autoscaling of the pool (nodes)", "2 to 5", "3 to 5", "change"],
        ["nodes of the pool", "1", "3", "change"],
        ["GPUs of the pool", "1", "3", "change"],
    ]
    assert rows(result, 1)[0] == ["GPU nodes", 1, 3, 1.0, 2.0]
    assert rows(result, 1)[-1] == ["in all (USD/h)", 2.0, 4.0, None, 2.0]
    assert {row[2] for row in rows(result, 2)} == {"pool.ready_timeout_s"}
    assert any("The autoscaling minimum holds the 3 nodes that stage 03 needs" in note.text for note in result.notes)
    notes = {note.title for note in result.notes}
    assert notes == {"Before you go on", "What cannot be previewed", "What cannot be undone"}


def test_a_pool_that_is_as_it_should_be_needs_no_approval(planned: Planned) -> None:
    result = planned(nodes=4, pool=Pool(min_nodes=3))
    assert (result.approvals, result.notes, result.data["plan"]["empty"]) == ([], [], True)


TWO = ("a", "b")
IN_ALL = Pool(zones=TWO, bounds=Bounds(0, 6, 2, totals=True))


def test_a_size_that_zones_do_not_divide_is_said_with_nodes_gpus_and_dollars(planned: Planned) -> None:
    """Three needed in two zones: GKE gives two each."""
    result = planned(zones=("a", "b"), nodes=2, pool=Pool(zones=TWO))
    assert rows(result) == [
        ["autoscaling of the pool (nodes)", "2 to 5 in each of 2 zones", "2 to 2 in each of 2 zones", "change"],
        ["nodes of the pool", "2", "4", "change"],
        ["GPUs of the pool", "2", "4", "change"],
    ]
    assert rows(result, 1)[0] == ["GPU nodes", 2, 4, 1.0, 2.0]
    said = (
        "The swap needs 3 nodes, and GKE gives each of the pool's 2 zones the same number: 2 x 2 zones = 4 nodes. "
        "That is 1 more than needed, with 1 GPUs, for 1.00 USD/h."
    )
    assert said in [note.text for note in result.notes]


def test_a_zone_is_never_given_less_than_it_has(planned: Planned) -> None:
    """Two nodes in one zone and none in the other: GKE's next size is two in each."""
    assert rows(planned(zones=("a",), nodes=2, pool=Pool(zones=TWO)))[1] == ["nodes of the pool", "2", "4", "change"]
    with pytest.raises(UsageError, match="3 nodes in 2 zones are 6, and the pool may have 5") as refused:
        planned(zones=("a",), nodes=3, pool=Pool(zones=TWO))
    assert "3 x 2 zones = 6 > pool.max_nodes 5 (now a 3, b 0)" in (refused.value.reason or "")


@pytest.mark.parametrize("pool", [IN_ALL, Pool(zones=TWO, off=True)])
def test_bounds_of_the_whole_pool_are_exact_in_several_zones(planned: Planned, pool: Pool) -> None:
    """Whatever the zones hold, three are enough: the minimum is of the pool."""
    result = planned(zones=("a",), nodes=3, pool=pool)
    assert rows(result)[0][2:] == ["3 to 5 in all", "change"]
    assert rows(result)[1] == ["nodes of the pool", "3", "3", "as it is"]


def test_four_in_three_zones_are_more_than_five(planned: Planned) -> None:
    with pytest.raises(UsageError, match="no autoscaling bounds give a pool of 3 zones 4 to 5 nodes") as refused:
        planned(PROFILE.replace("nodes: 3}", "nodes: 4}"), pool=Pool(zones=("a", "b", "c")))
    assert "at least 2 x 3 zones = 6 nodes, at most 1 x 3 = 3" in (refused.value.reason or "")
    with pytest.raises(UsageError, match="4 nodes in 3 zones are 6, and the pool may have 5"):
        planned(PROFILE.replace("nodes: 3}", "nodes: 4}"), pool=Pool(zones=("a", "b", "c"), off=True))


def mode(name: str, more: str = "") -> str:
    return PROFILE.replace("nodes: 3}", f"nodes: 3, mode: {name}{more}}}")


def test_an_autoscaled_pool_with_room_is_left_as_it_is(planned: Planned) -> None:
    result = planned(mode("autoscale"))
    assert {row[3] for row in rows(result)} == {"as it is"}
    assert result.data["plan"]["empty"]
    (note,) = [note.text for note in result.notes]
    assert note.startswith("1 of 3 nodes are there. This stage makes none: the autoscaler does, once pods of stage 03")
    assert "2 nodes are 2.00 USD/h more" in note


@pytest.mark.parametrize("pool", [Pool(bounds=Bounds(0, 2)), Pool(off=True)])
def test_an_autoscaled_pool_without_room_gets_other_bounds_and_no_size(planned: Planned, pool: Pool) -> None:
    found = rows(planned(mode("autoscale", ", min_nodes: 1"), pool=pool))
    assert found[0][1:] == [pool.describe().autoscaling, "1 to 5", "change"]
    assert found[1] == ["nodes of the pool", "1", "1", "as it is"]


def test_zones_that_leave_an_autoscaler_too_little_room_are_refused(planned: Planned) -> None:
    text = mode("autoscale").replace("nodes: 3,", "nodes: 4,")
    with pytest.raises(UsageError, match="needs 4 nodes, and the autoscaler may make 3") as refused:
        planned(text, pool=Pool(zones=("a", "b", "c"), bounds=Bounds(0, 1, 3)))
    assert "pool.max_nodes 5 in 3 zones is 1 in each, 1 x 3 = 3 < 4" in (refused.value.reason or "")


def test_an_observed_pool_is_not_changed(planned: Planned) -> None:
    result = planned(mode("observe"))
    assert result.data["plan"]["empty"]
    assert [note.text for note in result.notes] == ["1 of 3 nodes are there, and pool.mode observe makes none."]


@pytest.mark.parametrize(
    ("how", "pool", "verdict", "expected"),
    [
        ("resize", Pool(bounds=Bounds(3, 5)), Verdict.PASS, "3 to 5"),
        ("resize", Pool(bounds=Bounds(0, 5)), Verdict.FAIL, "3 to 5"),
        ("resize", Pool(off=True), Verdict.FAIL, "3 to 5"),
        ("resize", Pool(zones=TWO, bounds=Bounds(2, 2, 2)), Verdict.PASS, "2 to 2 in each of 2 zones"),
        ("resize", Pool(zones=TWO, bounds=Bounds(3, 5, 2, totals=True)), Verdict.PASS, "3 to 5 in all"),
        ("autoscale", Pool(bounds=Bounds(0, 3)), Verdict.PASS, "on, with room for 3 nodes"),
        ("autoscale", Pool(zones=TWO, bounds=Bounds(0, 1, 2)), Verdict.FAIL, "on, with room for 3 nodes"),
        ("autoscale", Pool(off=True), Verdict.FAIL, "on, with room for 3 nodes"),
        ("observe", Pool(off=True), Verdict.PASS, "off, or at least 3 nodes"),
        ("observe", Pool(bounds=Bounds(3, 5)), Verdict.PASS, "off, or at least 3 nodes"),
        ("observe", Pool(bounds=Bounds(0, 5)), Verdict.INCONCLUSIVE, "off, or at least 3 nodes"),
    ],
)
def test_bounds_are_judged_by_who_sizes_the_pool(
    bench: Bench, how: str, pool: Pool, verdict: Verdict, expected: str
) -> None:
    bench.profile_file.write_text(mode(how))
    check = scale.judge_autoscaling(bench.profile, pool.describe(), 3)
    assert (check.verdict, check.expected) == (verdict, expected)
    assert (check.remedy is None) == (verdict is Verdict.PASS)


@pytest.mark.parametrize(
    ("how", "live", "status", "verdict"),
    [
        ("resize", 3, "RUNNING", Verdict.PASS),
        ("resize", 2, "RUNNING", Verdict.FAIL),
        ("resize", 3, "ERROR", Verdict.FAIL),
        ("autoscale", 3, "RUNNING", Verdict.PASS),
        ("autoscale", 0, "RUNNING", Verdict.INCONCLUSIVE),
        ("autoscale", 0, "ERROR", Verdict.FAIL),
        ("observe", 4, "RUNNING", Verdict.PASS),
        ("observe", 2, "RUNNING", Verdict.FAIL),
    ],
)
def test_nodes_that_an_autoscaler_has_not_made_yet_prove_nothing(
    bench: Bench, how: str, live: int, status: str, verdict: Verdict
) -> None:
    bench.profile_file.write_text(mode(how))
    check = scale.judge_size(bench.profile, Pool(status=status).describe(), live, 3, "max(pool.nodes 3, ...)")
    assert check.verdict is verdict
    assert check.expected == "at least 3 nodes (max(pool.nodes 3, ...)), pool RUNNING"
    assert f"{3 - live} missing" in check.observed or live >= 3


def test_an_observed_pool_is_judged_with_the_arithmetic(opened: Opened) -> None:
    stage = opened(mode("observe"), nodes=2)
    scale.plan(stage)
    scale.apply(stage)
    scale.verify(stage)
    result = stage.finish()
    found = {check.id: check for check in result.checks}
    assert found["pool.size"].verdict is Verdict.FAIL
    assert "max(pool.nodes 3, pattern1.replicas 1, pattern3.replicas 3)" in found["pool.size"].expected
    assert found["pool.size"].observed == "2 nodes, 1 missing, pool RUNNING"
    assert [step.detail for step in result.steps if step.name == "scale the pool"] == [
        "pool.mode is observe: nothing is changed"
    ]


def test_an_autoscaled_pool_without_nodes_waits_for_stage_03(opened: Opened) -> None:
    stage = opened(mode("autoscale"), nodes=0)
    scale.verify(stage)
    found = {check.id: check.verdict for check in stage.finish().checks}
    assert found == {
        "pool.autoscaling": Verdict.PASS,
        "pool.size": Verdict.INCONCLUSIVE,
        "pool.allocatable": Verdict.INCONCLUSIVE,
    }


def test_more_nodes_than_the_pool_may_have_are_refused_before_anything_is_shown(planned: Planned) -> None:
    with pytest.raises(UsageError, match="the swap needs 6 nodes, and the pool may have 5"):
        planned(PROFILE.replace("replicas: 1", "replicas: 6"))


def test_what_was_read_is_not_in_the_hash(planned: Planned) -> None:
    hashes = {
        planned(nodes=nodes, pool=pool).data["plan"]["hash"]
        for nodes, pool in ((1, Pool()), (3, Pool(min_nodes=3)), (2, Pool(min_nodes=1, zones=("a", "b"))))
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nodes: 3}", "nodes: 4}"),
        ("nodes: 3}", "nodes: 3, mode: autoscale}"),
        ("nodes: 3}", "nodes: 3, mode: observe}"),
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
