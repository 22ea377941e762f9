"""Who sizes the pool: a pool over two zones, observed, sized by an autoscaler, and resized, on one sandbox.

The tests build on each other in their order: Pattern 3 comes by the autoscaler, goes, and the pool is resized by hand.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from llmd_runbook.clients.gke import SPOT_LABEL, Bounds, GkePool
from llmd_runbook.clients.kubernetes import EVENTS, NODES
from llmd_runbook.errors import DeadlineExceeded
from llmd_runbook.run import begin
from llmd_runbook.stages import cleanup, cleanup_plan, site, verify
from llmd_runbook.stages.pool import autoscaler, scale
from llmd_runbook.stages.pool import spot as spot_pool
from llmd_runbook.stages.review import capacity
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.stages.waiting import replicas
from llmd_runbook.topology import NODE_POOL_LABEL, gpu_nodes
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.bench import QWEN, SERVERS3, Bench, all_pass, broken
from tests.end_to_end.callers import variant, with_values
from tests.end_to_end.cases import fails
from tests.guards import anything

IDLE_S = 4
SANDBOX_OPTIONS = ("--gpu-zones", "2", "--autoscaler-idle-s", str(IDLE_S))
pytestmark = pytest.mark.timeout(300)

SCALE = (scale.plan, scale.apply, scale.verify)
BACK = (cleanup_plan.plan, cleanup.apply, cleanup.verify)


def by_mode(bench: Bench, folder: Path, mode: str) -> Bench:
    return variant(bench, folder, {"  nodes: 3\n": f"  nodes: 3\n  mode: {mode}\n"})


def nodes(bench: Bench, count: int) -> None:
    """Wait until the pool has so many."""
    bench.kube.wait(
        NODES,
        lambda items: len(items) == count,
        what=f"{count} nodes",
        timeout_s=60,
        remedy="look",
        selector=f"{NODE_POOL_LABEL}={bench.profile.pool.name}",
    )


def zones(bench: Bench) -> dict[str, int]:
    return dict(Counter(node.zone for node in gpu_nodes(bench.kube, bench.profile.pool.name)))


def test_an_observed_pool_with_a_node_too_few(bench: Bench, tmp_path: Path) -> None:
    found = by_mode(bench, tmp_path, "observe").judge("02_scale_pool", *SCALE)
    said = broken(found, "pool.size")
    assert said.observed == "2 nodes, 1 missing, pool RUNNING"
    assert "max(pool.nodes 3, pattern1.replicas 1, pattern3.replicas 3)" in said.expected
    assert bench.pool.operations() == []


def test_the_autoscaler_gets_room_and_takes_what_is_idle(bench: Bench, tmp_path: Path) -> None:
    """Two nodes, of which Pattern 1 uses one; autoscaling was off."""
    found = by_mode(bench, tmp_path, "autoscale").judge("02_scale_pool", *SCALE)
    assert broken(found, "pool.size", verdict=Verdict.INCONCLUSIVE).observed.startswith("2 nodes, 1 missing")
    assert [item.type for item in bench.pool.operations()] == ["UPDATE_CLUSTER"]
    assert bench.pool.describe().bounds == Bounds(0, 5, 2, totals=True)
    nodes(bench, 1)
    assert "ScaleDown" in {event["reason"] for event in bench.kube.all(EVENTS, "default")}


def test_pods_that_wait_make_the_pool_grow(bench: Bench, tmp_path: Path) -> None:
    found = by_mode(bench, tmp_path, "autoscale").judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify)
    all_pass(found)
    assert "TriggeredScaleUp: pod triggered scale-up:" in str(found["pool.grows"].evidence)
    assert sorted(zones(bench).values()) == [1, 2]
    assert {item.type for item in bench.pool.operations()} == {"UPDATE_CLUSTER"}


@fails("pool.grows")
def test_an_autoscaler_at_its_maximum(bench: Bench, tmp_path: Path) -> None:
    other = by_mode(bench, tmp_path, "autoscale")
    bench.pool.wait(bench.pool.set_autoscaling(Bounds(0, 3, 2, totals=True)), 60)
    bench.scaled(SERVERS3, 4)
    bench.kube.wait(
        EVENTS,
        lambda events: any(event["reason"] == "NotTriggerScaleUp" for event in events),
        what="the autoscaler's refusal",
        timeout_s=30,
        remedy="look",
        namespace="llm-d",
    )
    found = other.judge("03_swap_patterns", autoscaler.verify)
    opened = begin("03_swap_patterns", str(other.file), "new", output=bench.output)
    pattern = opened.profile.pattern3.model_copy(update={"replicas": 4, "ready_timeout_s": 2})
    servers = site.model_servers(site.driver(opened.profile, pattern).render(), opened.profile)
    with pytest.raises(DeadlineExceeded) as waited, opened.step("wait") as step:
        replicas.wait_for(opened, bench.kube, pattern, servers, step)
    opened.abandon("Done", "only waited")
    bench.scaled(SERVERS3, 3)
    bench.pods(QWEN, 3)
    refusal = "NotTriggerScaleUp: pod didn't trigger scale-up: 1 max node group size reached"
    assert refusal in broken(found, "pool.grows").observed
    assert refusal in (waited.value.reason or "")


def test_the_way_back_leaves_idle_nodes_to_the_autoscaler(bench: Bench, tmp_path: Path) -> None:
    all_pass(by_mode(bench, tmp_path, "autoscale").judge("07_cleanup", *BACK))
    assert sum(zones(bench).values()) == 1
    assert {item.type for item in bench.pool.operations()} == {"UPDATE_CLUSTER"}


def test_a_resize_gives_both_zones_the_same_and_holds_idle_nodes(bench: Bench) -> None:
    """Bounds counted a zone: three needed are two in each, for longer than the autoscaler lets nodes be idle."""
    bench.pool.wait(bench.pool.set_autoscaling(Bounds(0, 2, 2)), 60)
    opened = begin("02_scale_pool", str(bench.file), "new", output=bench.output)
    for call in SCALE:
        call(opened)
    result = opened.finish()
    all_pass({check.id: check for check in result.checks})
    assert [row[:3] for row in result.tables[0].rows][1] == ["nodes of the pool", "1", "4"]
    assert any("2 x 2 zones = 4 nodes" in note.text for note in result.notes)
    assert bench.pool.describe().bounds == Bounds(2, 2, 2)
    all_pass(bench.judge("01_review_state", capacity.capacity))
    time.sleep(IDLE_S + 1)  # nothing is to happen meanwhile
    assert set(zones(bench).values()) == {2}
    all_pass(bench.judge("02_scale_pool", scale.verify))


def test_the_way_back_by_a_resize_leaves_what_gke_has_for_one(bench: Bench) -> None:
    found = bench.judge("07_cleanup", *BACK)
    all_pass(found)
    assert found["cleanup.nodes"].expected == "1 to 2 nodes: GKE counts 1 a zone"
    assert bench.pool.describe().bounds == Bounds(0, 2, 2)


PLACED = f"""decode:
  nodeSelector: {{{NODE_POOL_LABEL}: t4-spot}}
  tolerations: [{{key: {SPOT_LABEL}, operator: Equal, value: "true", effect: NoSchedule}}]
  create: true
"""


def on_spot(bench: Bench, folder: Path) -> Bench:
    """Pattern 3 on a spot pool, as profile and values say."""
    placed = with_values(bench, folder, "ms-pattern3.yaml", "decode:\n  create: true\n", PLACED)
    return variant(placed, folder, {"  nodes: 3\n": "  nodes: 3\n  spot: t4-spot\n"})


def begun(bench: Bench, kind: str) -> int:
    return sum(item.type == kind for item in bench.pool.operations())


def test_a_spot_pool_comes_for_pattern_3(bench: Bench, tmp_path: Path) -> None:
    other = on_spot(bench, tmp_path)
    found = other.judge("02_scale_pool", *SCALE)
    all_pass(found)
    assert found["spot.pool"].observed == "spot, n1-standard-4, 1 x nvidia-tesla-t4, 3 of 3 nodes usable"
    all_pass(other.judge("02_scale_pool", *SCALE))
    assert begun(bench, "CREATE_NODE_POOL") == 1


@fails("spot.pool")
def test_a_spot_node_that_takes_no_pods(bench: Bench, tmp_path: Path) -> None:
    node = gpu_nodes(bench.kube, "t4-spot")[0].name
    bench.kubectl("cordon", node)
    found = on_spot(bench, tmp_path).judge("02_scale_pool", scale.verify)
    bench.kubectl("uncordon", node)
    assert broken(found, "spot.pool").observed.endswith("2 of 3 nodes usable")


def test_pattern_3_runs_on_the_spot_pool(bench: Bench, tmp_path: Path) -> None:
    other = on_spot(bench, tmp_path)
    all_pass(other.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify))
    found = other.judge("04_verify", verify.replicas_and_gpus)
    all_pass(found)
    assert found["verify.gpus"].expected == "3 replicas with 1 GPU each, on nodes of t4-spot"


@fails("spot.removed")
def test_a_spot_pool_that_is_left(bench: Bench, tmp_path: Path) -> None:
    other = on_spot(bench, tmp_path)
    found = other.judge("07_cleanup", lambda stage: spot_pool.verify_removed(stage, bench.kube))
    assert broken(found, "spot.removed").observed.endswith("3 nodes")


def test_the_spot_pool_goes_with_pattern_3(bench: Bench, tmp_path: Path) -> None:
    other = on_spot(bench, tmp_path)
    all_pass(other.judge("07_cleanup", *BACK))
    assert gpu_nodes(bench.kube, "t4-spot") == []
    all_pass(other.judge("07_cleanup", *BACK))
    assert begun(bench, "DELETE_NODE_POOL") == 1


def test_what_a_killed_attempt_began_is_waited_for_and_not_repeated(bench: Bench, tmp_path: Path) -> None:
    other = on_spot(bench, tmp_path)
    place = bench.profile.pool
    spot = GkePool(place.project, place.location, place.cluster, "t4-spot", before_change=anything)
    before = begun(bench, "CREATE_NODE_POOL"), begun(bench, "DELETE_NODE_POOL")
    spot.create_spot(place.name, "us-central1-a", 3)
    all_pass(other.judge("02_scale_pool", *SCALE))
    spot.delete()
    all_pass(other.judge("07_cleanup", *BACK))
    assert (begun(bench, "CREATE_NODE_POOL"), begun(bench, "DELETE_NODE_POOL")) == (before[0] + 1, before[1] + 1)
