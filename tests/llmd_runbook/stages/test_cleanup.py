"""What each way to end leaves: planned and judged, in a cluster in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.clients.gke import Bounds
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import GATEWAYS, NODES, PODS
from llmd_runbook.profile import load
from llmd_runbook.run import StageRun
from llmd_runbook.stages import cleanup, cleanup_plan, site
from llmd_runbook.stages.cleanup_plan import nodes_after
from llmd_runbook.topology import NODE_POOL_LABEL
from llmd_runbook.verdicts import StageResult, Verdict
from tests.llmd_runbook.clients.server import Reply, serving
from tests.llmd_runbook.conftest import PROFILE, Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import Pool, Releases

NS = "llm-d"


def cluster(*, pattern1: int, pattern3: int, nodes: int) -> Memory:
    kube = Memory()
    for app, count in (("ms-one", pattern1), ("ms-three", pattern3)):
        for number in range(count):
            meta = {"name": f"{app}-{number}", "namespace": NS, "labels": {"app": app}}
            status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            kube.add(PODS, {"metadata": meta, "spec": {"containers": []}, "status": status})
    for number in range(nodes):
        kube.add(NODES, {"metadata": {"name": f"gpu-{number}", "labels": {NODE_POOL_LABEL: "pool"}}})
    kube.add(NODES, {"metadata": {"name": "cpu-0", "labels": {NODE_POOL_LABEL: "default-pool"}}})
    return kube


@pytest.fixture
def stage_of(bench: Bench, open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Opens stage 07 with an option, on a cluster in memory with Pattern 3's release installed."""

    def opened(option: str, kube: Memory, mode: str = "resize", pool: Pool | None = None) -> StageRun:
        text = PROFILE.replace("option: delete", f"option: {option}").replace("nodes: 3}", f"nodes: 3, mode: {mode}}}")
        bench.profile_file.write_text(text)
        stage = open_stage("07_cleanup")

        def driver(_: Any, pattern: Any) -> Releases:
            first = pattern.model == stage.profile.pattern1.model
            return Releases("ms-one" if first else "ms-three", present=not first)

        monkeypatch.setattr(site, "kubernetes", lambda _: kube)
        monkeypatch.setattr(site, "driver", driver)
        monkeypatch.setattr(site, "gke_pool", lambda _: pool or Pool())
        return stage

    return opened


Stage = Callable[..., StageRun]


def verdicts(result: StageResult) -> dict[str, Verdict]:
    return {check.id.removeprefix("cleanup."): check.verdict for check in result.checks}


@pytest.mark.parametrize(
    ("option", "releases", "pods", "cost", "clients"),
    [
        (
            "scale_to_zero",
            ("absent", "installed"),
            "0",
            -3.0,
            ["absent", "none: nothing serves", "none: nothing serves"],
        ),
        ("delete", ("absent", "absent"), "0", -3.0, ["absent", "none: nothing serves", "none: nothing serves"]),
        ("restore_pattern1", ("installed", "absent"), "1", -2.0, ["InferencePool/one", "b", "a"]),
    ],
)
def test_the_plan_counts_what_the_option_leaves(
    stage_of: Stage, option: str, releases: tuple[str, str], pods: str, cost: float, clients: list[str]
) -> None:
    stage = stage_of(option, cluster(pattern1=0, pattern3=3, nodes=3))
    cleanup_plan.plan(stage)
    result = stage.finish()
    rows = [row[:3] for row in result.tables[0].rows]
    gateway = "Gateway g, whose address is known once it has one"
    assert rows == [
        ["release ms-one", "absent", releases[0]],
        ["pods serving a", "0", pods],
        ["release ms-three", "installed", releases[1]],
        ["pods serving b", "3", "0"],
        ["GPUs of the model servers", "0", pods],
        ["nodes of the pool", "3", pods],
        ["autoscaling of the pool (nodes)", "2 to 5", "0 to 5"],
        ["HTTPRoute r", "absent", clients[0]],
        ["clients' address", gateway, gateway],
        ["clients' model name", clients[1], clients[2]],
    ]
    assert result.tables[1].rows[-1] == ["in all (USD/h)", 5.0, 5.0 + cost, None, cost]
    assert {note.title for note in result.notes} >= {"Before you go on", "What cannot be undone"}
    assert [approval.by for approval in result.approvals] == [None]


def test_the_plan_says_that_a_pattern_1_that_still_runs_loses_its_node(stage_of: Stage) -> None:
    stage = stage_of("delete", cluster(pattern1=1, pattern3=3, nodes=4))
    cleanup_plan.plan(stage)
    notes = [note.text for note in stage.finish().notes]
    assert "Pattern 1 still runs (1 pods) and is not removed: its pods lose their nodes." in notes


@pytest.mark.parametrize("option", ["scale_to_zero", "delete"])
def test_nothing_left_is_right_where_nothing_should_be(stage_of: Stage, option: str) -> None:
    stage = stage_of(option, cluster(pattern1=0, pattern3=0, nodes=0))
    cleanup.verify(stage)
    assert verdicts(stage.finish()) == {"pods": Verdict.PASS, "nodes": Verdict.PASS, "serves": Verdict.PASS}


def test_a_gateway_that_keeps_us_out_does_not_show_that_nothing_serves(
    stage_of: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as gateway:
        gateway.on("/v1/completions", Reply(401, "Jwt is expired"))
        monkeypatch.setattr(cleanup, "endpoint", lambda *_: Endpoint(gateway.url))
        stage = stage_of("delete", cluster(pattern1=0, pattern3=0, nodes=0))
        cleanup.verify(stage)
    result = stage.finish()
    assert verdicts(result)["serves"] is Verdict.INCONCLUSIVE
    assert "401: Jwt is expired" in next(check.observed for check in result.checks if check.id == "cleanup.serves")


@pytest.mark.parametrize(
    ("pattern1", "pattern3", "nodes", "wrong"),
    [(0, 1, 0, "pods"), (1, 0, 0, "pods"), (0, 0, 1, "nodes")],
)
def test_what_should_not_be_there_fails(stage_of: Stage, pattern1: int, pattern3: int, nodes: int, wrong: str) -> None:
    stage = stage_of("delete", cluster(pattern1=pattern1, pattern3=pattern3, nodes=nodes))
    cleanup.verify(stage)
    found = verdicts(stage.finish())
    assert {name for name, verdict in found.items() if verdict is Verdict.FAIL} == {wrong}


def test_going_back_needs_pattern_1s_pods_node_and_route(stage_of: Stage) -> None:
    stage = stage_of("restore_pattern1", cluster(pattern1=1, pattern3=0, nodes=1))
    cleanup.verify(stage)
    result = stage.finish()
    assert verdicts(result) == {"pods": Verdict.PASS, "nodes": Verdict.PASS, "serves": Verdict.FAIL}
    assert result.checks[-1].observed == "no such HTTPRoute"
    assert result.checks[0].observed == "a: 1 Ready of 1, b: 0 Ready of 0"


def test_what_still_costs_money(stage_of: Stage) -> None:
    kube = cluster(pattern1=0, pattern3=0, nodes=2)
    spec = {"gatewayClassName": "c", "listeners": []}
    for name, addresses in (("with", [{"value": "192.0.2.1"}]), ("without", [])):
        meta = {"name": name, "namespace": NS}
        kube.add(GATEWAYS, {"metadata": meta, "spec": spec, "status": {"addresses": addresses}})
    stage = stage_of("delete", kube)
    cleanup.verify(stage)
    result = stage.finish()
    assert [row[1:4] for row in result.tables[0].rows] == [
        [2, 1.0, 2.0],
        [1, 1.0, 1.0],
        [1, 1.0, 1.0],
        [1, 1.0, 1.0],
        [None, None, 5.0],
    ]
    assert result.data["usd_per_hour_after"] == 5
    assert result.tables[0].rows[-1][-1] == 5 * 730


@pytest.mark.parametrize(
    ("option", "old", "new"),
    [
        ("delete", "option: delete", "option: scale_to_zero"),
        ("delete", "option: delete", "option: restore_pattern1"),
        ("delete", "namespace: llm-d", "namespace: other"),
        ("delete", "name: pool", "name: other"),
        ("restore_pattern1", "replicas: 1", "replicas: 2"),
        ("restore_pattern1", "route: {name: r}", "route: {name: s}"),
        ("restore_pattern1", "inference_pool: one", "inference_pool: two"),
    ],
)
def test_each_part_of_the_intent_is_in_the_hash(bench: Bench, stage_of: Stage, option: str, old: str, new: str) -> None:
    stage = stage_of(option, cluster(pattern1=0, pattern3=3, nodes=3))
    before = cleanup_plan.target(stage.profile)
    text = bench.profile_file.read_text()
    assert old in text
    bench.profile_file.write_text(text.replace(old, new))
    assert cleanup_plan.target(bench.profile) != before


@pytest.mark.parametrize("option", ["scale_to_zero", "delete", "restore_pattern1"])
def test_the_hash_does_not_depend_on_how_far_the_migration_is(stage_of: Stage, option: str) -> None:
    hashes = set()
    for one, three, nodes in ((1, 0, 1), (1, 0, 3), (0, 3, 3)):
        stage = stage_of(option, cluster(pattern1=one, pattern3=three, nodes=nodes))
        cleanup_plan.plan(stage)
        hashes.add(stage.finish().data["plan"]["hash"])
    assert len(hashes) == 1


def test_without_approval_nothing_is_done_and_nothing_judged(stage_of: Stage) -> None:
    stage = stage_of("delete", cluster(pattern1=0, pattern3=3, nodes=3))
    cleanup_plan.plan(stage)
    cleanup.apply(stage)
    assert "not approved" in repr(cleanup.verify(stage))
    result = stage.finish()
    assert (result.checks, result.steps[-1].status) == ([], "skipped")


@pytest.mark.parametrize(("option", "left"), [("scale_to_zero", 1), ("delete", 1), ("restore_pattern1", 2)])
def test_the_node_of_pattern_2_stays_with_every_option(option: str, left: int) -> None:
    profile = load("sandbox-with-pattern2")
    chosen = profile.model_copy(update={"cleanup": profile.cleanup.model_copy(update={"option": option})})
    assert nodes_after(chosen) == left


TWO = Pool(zones=("a", "b"), bounds=Bounds(2, 2, 2))


def pool_rows(result: StageResult) -> list[list[Any]]:
    subjects = ("nodes of the pool", "autoscaling of the pool (nodes)")
    return [list(row[1:]) for row in result.tables[0].rows if row[0] in subjects]


def test_one_needed_node_in_two_zones_is_planned_and_priced_as_gke_has_it(stage_of: Stage) -> None:
    stage = stage_of("restore_pattern1", cluster(pattern1=0, pattern3=3, nodes=4), pool=TWO)
    cleanup_plan.plan(stage)
    result = stage.finish()
    assert pool_rows(result) == [
        ["4", "2", "change"],
        ["2 to 2 in each of 2 zones", "0 to 2 in each of 2 zones", "change"],
    ]
    assert result.tables[1].rows[0] == ["GPU nodes", 4, 2, 1.0, -2.0]
    said = "1 nodes are needed, and GKE gives each of the pool's 2 zones the same number: 1 x 2 = 2 nodes may be left"
    assert any(note.text.startswith(said) for note in result.notes)


@pytest.mark.parametrize(
    ("mode", "planned", "said"),
    [
        ("autoscale", [["3", "1", "change"], ["2 to 5", "1 to 5", "change"]], "The autoscaler takes the 2 nodes"),
        ("observe", [["3", "3", "as it is"], ["2 to 5", "2 to 5", "as it is"]], "pool.mode observe leaves the pool"),
    ],
)
def test_nodes_that_others_take_are_planned_as_such(
    stage_of: Stage, mode: str, planned: list[list[str]], said: str
) -> None:
    stage = stage_of("restore_pattern1", cluster(pattern1=0, pattern3=3, nodes=3), mode=mode)
    cleanup_plan.plan(stage)
    result = stage.finish()
    assert pool_rows(result) == planned
    assert any(note.text.startswith(said) for note in result.notes)


@pytest.mark.parametrize(
    ("mode", "pool", "nodes", "verdict"),
    [
        ("resize", Pool(), 1, Verdict.PASS),
        ("resize", Pool(), 2, Verdict.FAIL),
        ("resize", Pool(), 0, Verdict.FAIL),
        ("resize", TWO, 1, Verdict.PASS),
        ("resize", TWO, 2, Verdict.PASS),
        ("resize", TWO, 3, Verdict.FAIL),
        ("autoscale", Pool(), 1, Verdict.PASS),
        ("autoscale", Pool(), 3, Verdict.INCONCLUSIVE),
        ("autoscale", Pool(), 0, Verdict.FAIL),
        ("observe", Pool(), 3, Verdict.INCONCLUSIVE),
    ],
)
def test_nodes_left_are_judged_by_who_takes_them(
    stage_of: Stage, mode: str, pool: Pool, nodes: int, verdict: Verdict
) -> None:
    stage = stage_of("restore_pattern1", cluster(pattern1=1, pattern3=0, nodes=nodes), mode=mode, pool=pool)
    check = cleanup.judge_nodes(stage.profile, pool.describe(), ["node"] * nodes)
    assert check.verdict is verdict
    assert (check.remedy is None) == (verdict is Verdict.PASS)
    assert "USD/h" in (check.remedy or "") or verdict is not Verdict.INCONCLUSIVE
