from __future__ import annotations

from dataclasses import replace

import pytest

from llmd_runbook.clients.gke import Bounds, PoolState
from llmd_runbook.stages.review.capacity import NodeGives, judge_capacity, judge_fit, node_gives
from llmd_runbook.stages.review.settings import server_settings
from llmd_runbook.verdicts import Verdict
from tests.llmd_runbook.stages.rendered import servers

POOL = PoolState(
    name="nvidia-t4-pool",
    status="RUNNING",
    machine_type="n1-standard-4",
    accelerator_type="nvidia-tesla-t4",
    accelerator_count=1,
    bounds=Bounds(0, 5),
    locations=("us-central1-a",),
    conditions=(),
    version="1.34",
    reservation="ANY_RESERVATION",
)
NODE = NodeGives("n", "us-central1-a", 1, 3.9, 12 * 2**30)


def test_a_pool_about_which_gke_reports_nothing() -> None:
    check = judge_capacity(POOL, "", live=1, wanted=3)
    assert check.verdict is Verdict.PASS
    assert "reservations: ANY_RESERVATION" in check.evidence


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (replace(POOL, conditions=("GCE_STOCKOUT: ZONE_RESOURCE_POOL_EXHAUSTED",)), "ZONE_RESOURCE_POOL_EXHAUSTED"),
        (replace(POOL, conditions=("GCE_QUOTA_EXCEEDED: NVIDIA_T4_GPUS",)), "NVIDIA_T4_GPUS"),
        (replace(POOL, provisioning="queued"), "the pool is a queued one"),
        (replace(POOL, provisioning="flex-start"), "the pool is a flex-start one"),
    ],
)
def test_a_pool_that_cannot_grow(state: PoolState, said: str) -> None:
    check = judge_capacity(state, "", live=1, wanted=3)
    assert check.verdict is Verdict.FAIL
    assert said in check.observed


def test_a_pool_whose_zones_do_not_give_the_nodes() -> None:
    check = judge_capacity(POOL, "4 nodes in 3 zones are 6, and the pool may have 5", live=1, wanted=4)
    assert (check.verdict, check.observed) == (Verdict.FAIL, "4 nodes in 3 zones are 6, and the pool may have 5")


def test_another_condition_is_shown_and_does_not_fail() -> None:
    check = judge_capacity(replace(POOL, conditions=("SET_BY_OPERATOR: x",)), "", live=1, wanted=3)
    assert check.verdict is Verdict.PASS
    assert "SET_BY_OPERATOR: x" in check.evidence


def test_without_permission_nothing_is_proved() -> None:
    check = judge_capacity(None, "cannot read node pool: 403", live=1, wanted=3)
    assert (check.verdict, check.observed) == (Verdict.INCONCLUSIVE, "cannot read node pool: 403")


def test_a_replica_fits_on_one_node_or_on_none() -> None:
    found = server_settings(servers("m", "b", {"model": "b"}))
    small = replace(NODE, name="small", cpus=1.9)
    assert judge_fit(found, [small, NODE]).verdict is Verdict.PASS
    check = judge_fit(found, [small])
    assert check.verdict is Verdict.FAIL
    assert check.evidence == ["small: 2 CPUs of 1.9"]


def test_without_a_node_or_servers_nothing_is_compared() -> None:
    found = server_settings(servers("m", "b", {"model": "b"}))
    assert judge_fit(found, []).verdict is Verdict.INCONCLUSIVE
    assert judge_fit(None, [NODE]).verdict is Verdict.INCONCLUSIVE


def test_a_node_gives_what_its_kubelet_offers() -> None:
    labels = {"topology.kubernetes.io/zone": "us-central1-a"}
    offered = {"cpu": "3920m", "memory": "12Gi", "nvidia.com/gpu": "1"}
    node = {"metadata": {"name": "n", "labels": labels}, "status": {"allocatable": offered}}
    assert node_gives(node) == NodeGives("n", "us-central1-a", 1, 3.92, 12 * 2**30)
    assert node_gives({"metadata": {"name": "new"}}) == NodeGives("new", "(no zone)", 0, 0, 0)
