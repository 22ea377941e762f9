"""Quota that was not read is no pass; what is short is named with the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llmd_runbook.clients.compute import ENDPOINT_VARIABLE, Quota, Reservation
from llmd_runbook.run import StageRun
from llmd_runbook.stages.review import quota
from llmd_runbook.stages.review.quota import Machines, judge, machines
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.clients.server import Reply, serving
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.stages.review.test_capacity import POOL

T4 = Machines("n1-standard-4", "nvidia-tesla-t4", 1, ("us-central1-a",), "standard", "ANY_RESERVATION")
QUOTAS = {"NVIDIA_T4_GPUS": Quota(4, 1), "GPUS_ALL_REGIONS": Quota(4, 1), "CPUS": Quota(72, 8)}
HELD = Reservation("held", "n1-standard-4", ("nvidia-tesla-t4",), free=2, by_name=False)
GPU = "nvidia-tesla-a100"
A100 = replace(T4, machine_type="a2-highgpu-1g", accelerator=GPU)
A100_QUOTAS = {name: Quota(8, 0) for name in ("NVIDIA_A100_GPUS", "PREEMPTIBLE_NVIDIA_A100_GPUS", "GPUS_ALL_REGIONS")}
"""Those that its GPUs count in."""


def test_what_nodes_take_of_each_quota() -> None:
    assert T4.region == "us-central1"
    assert T4.needs(3) == {"NVIDIA_T4_GPUS": 3, "GPUS_ALL_REGIONS": 3, "CPUS": 12}
    assert replace(T4, provisioning="spot").needs(3) == {"PREEMPTIBLE_NVIDIA_T4_GPUS": 3, "GPUS_ALL_REGIONS": 3}
    l4 = replace(T4, machine_type="g2-standard-8", accelerator="nvidia-l4")
    assert l4.needs(1) == {"NVIDIA_L4_GPUS": 1, "GPUS_ALL_REGIONS": 1, "G2_CPUS": 8}
    custom = replace(T4, machine_type="n1-custom-6-23040")
    assert custom.needs(1)["CPUS"] == 6


def test_machines_are_those_of_the_pool_or_spot_ones_like_them() -> None:
    assert machines(POOL) == T4
    assert machines(POOL, spot=True) == replace(T4, provisioning="spot", affinity="NO_RESERVATION")


def test_room_for_every_node() -> None:
    check = judge([(T4, 3)], QUOTAS, [])
    assert check.verdict is Verdict.PASS
    assert "NVIDIA_T4_GPUS: 3 to come, 1 of 4 in use" in check.observed
    assert "no reservation of such machines" in check.evidence


@pytest.mark.parametrize("metric", list(QUOTAS))
def test_a_quota_that_is_short_is_named_with_its_figures(metric: str) -> None:
    limit = 15.0 if metric == "CPUS" else 3.0
    check = judge([(T4, 3)], {**QUOTAS, metric: Quota(limit, QUOTAS[metric].usage)}, [])
    assert check.verdict is Verdict.FAIL
    assert check.observed.startswith(f"short: {metric}: ")
    assert f"of {limit:g} in use" in check.observed


def test_a_quota_that_was_lowered_below_its_use_is_not_short_of_nothing() -> None:
    check = judge([(T4, 0)], {**QUOTAS, "NVIDIA_T4_GPUS": Quota(2, 3)}, [])
    assert check.verdict is Verdict.PASS
    assert "NVIDIA_T4_GPUS: 0 to come, 3 of 2 in use" in check.observed


def test_a_metric_that_is_not_said_is_not_read() -> None:
    check = judge([(T4, 3)], {"CPUS": Quota(72, 8), "GPUS_ALL_REGIONS": Quota(4, 1)}, [])
    assert check.verdict is Verdict.INCONCLUSIVE
    assert check.observed == "quota not read: NVIDIA_T4_GPUS is not said"


def test_a_machine_type_whose_cpus_are_not_said_leaves_that_quota_open() -> None:
    assert A100.needs(2) == {"NVIDIA_A100_GPUS": 2, "GPUS_ALL_REGIONS": 2}
    check = judge([(replace(A100, unread="refused"), 2)], A100_QUOTAS, [])
    assert check.verdict is Verdict.INCONCLUSIVE
    assert check.observed == "quota not read: CPUs of a2-highgpu-1g: refused"
    assert judge([(A100, 0)], A100_QUOTAS, []).verdict is Verdict.PASS


@pytest.mark.parametrize(("limit", "verdict"), [(24, Verdict.PASS), (23, Verdict.FAIL)])
def test_cpus_that_compute_engine_said_count_in_their_quota(limit: float, verdict: Verdict) -> None:
    told = replace(A100, guest_cpus=12)
    assert told.needs(2)["A2_CPUS"] == 24
    check = judge([(told, 2)], {**A100_QUOTAS, "A2_CPUS": Quota(limit, 0)}, [])
    assert check.verdict is verdict
    assert "a2-highgpu-1g: 12 CPUs" in check.evidence


def test_what_takes_no_cpus_of_a_quota_needs_none_said() -> None:
    """Spot machines, whose CPUs may count in two quotas, and reserved ones, which were counted before."""
    spot = judge([(replace(A100, provisioning="spot"), 2)], A100_QUOTAS, [])
    held = judge([(A100, 2)], A100_QUOTAS, [replace(HELD, machine_type=A100.machine_type, accelerators=(GPU,))])
    assert (spot.verdict, held.verdict) == (Verdict.PASS, Verdict.PASS)


@pytest.mark.parametrize(
    ("kind", "held", "verdict"),
    [
        (T4, HELD, Verdict.PASS),
        (T4, replace(HELD, by_name=True), Verdict.FAIL),
        (T4, replace(HELD, machine_type="n1-standard-8"), Verdict.FAIL),
        (T4, replace(HELD, accelerators=()), Verdict.FAIL),
        (T4, replace(HELD, free=0), Verdict.FAIL),
        (replace(T4, affinity="held"), replace(HELD, by_name=True), Verdict.PASS),
        (replace(T4, affinity="NO_RESERVATION"), HELD, Verdict.FAIL),
        (replace(T4, affinity=""), HELD, Verdict.FAIL),
    ],
)
def test_reserved_machines_take_nothing_more_of_the_quota(kind: Machines, held: Reservation, verdict: Verdict) -> None:
    assert judge([(kind, 3)], {**QUOTAS, "NVIDIA_T4_GPUS": Quota(2, 1)}, [held]).verdict is verdict


def test_a_pool_and_its_spot_pool_share_the_quota_of_all_regions() -> None:
    spot = {**QUOTAS, "PREEMPTIBLE_NVIDIA_T4_GPUS": Quota(8, 0)}
    check = judge([(T4, 2), (replace(T4, provisioning="spot"), 2)], spot, [])
    assert check.verdict is Verdict.FAIL
    assert check.observed == "short: GPUS_ALL_REGIONS: 4 to come, 1 of 4 in use"


def checked(open_stage: Callable[[str], StageRun], bench: Bench, **more: int) -> Check:
    stage = open_stage("01_review_state")
    quota.check(stage, bench.profile.pool, POOL, **{"live": 1, "wanted": 3, "spot": 0, **more})
    (found,) = stage.finish().checks
    return found


def test_what_may_not_be_read_is_inconclusive(
    open_stage: Callable[[str], StageRun], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.notebook("01_review_state")
    with serving() as api:
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"{api.url}/")
        api.on("/projects/p", Reply(403, {"error": {"message": "Required 'compute.projects.get'"}}))
        check = checked(open_stage, bench)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert check.observed.startswith("quota not read: cannot read the Compute Engine API")
    assert "compute.projects.get" in check.observed
    assert "roles/compute.viewer" in str(check.remedy)


def test_a_pool_that_could_not_be_read(open_stage: Callable[[str], StageRun], bench: Bench) -> None:
    bench.notebook("01_review_state")
    stage = open_stage("01_review_state")
    quota.check(stage, bench.profile.pool, None, live=1, wanted=3, spot=0)
    (check,) = stage.finish().checks
    assert (check.verdict, check.observed) == (Verdict.INCONCLUSIVE, "quota not read: the pool could not be read")


def test_what_is_read_decides(
    open_stage: Callable[[str], StageRun], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.notebook("01_review_state")
    with serving() as api:
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"{api.url}/")
        api.on("/projects/p", Reply(body={"quotas": [{"metric": "GPUS_ALL_REGIONS", "limit": 9, "usage": 1}]}))
        region = [{"metric": "NVIDIA_T4_GPUS", "limit": 2, "usage": 1}, {"metric": "CPUS", "limit": 72, "usage": 8}]
        api.on("/projects/p/regions/us-central1", Reply(body={"quotas": region}))
        api.on("/projects/p/zones/us-central1-a/reservations", Reply(body={}))
        short = checked(open_stage, bench)
    assert (short.verdict, short.observed) == (Verdict.FAIL, "short: NVIDIA_T4_GPUS: 2 to come, 1 of 2 in use")


@pytest.mark.parametrize(
    ("reply", "verdict", "said"),
    [
        (Reply(body={"guestCpus": 12}), Verdict.FAIL, "short: A2_CPUS: 24 to come, 0 of 12 in use"),
        (Reply(body={"guestCpus": 6}), Verdict.PASS, "A2_CPUS: 12 to come, 0 of 12 in use"),
        (
            Reply(403, {"error": {"message": "Required 'compute.machineTypes.get' permission for 'a2-highgpu-1g'"}}),
            Verdict.INCONCLUSIVE,
            "quota not read: CPUs of a2-highgpu-1g: cannot read the Compute Engine API: "
            "Required 'compute.machineTypes.get' permission for 'a2-highgpu-1g'",
        ),
    ],
)
def test_a_name_without_cpus_is_looked_up(
    open_stage: Callable[[str], StageRun],
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    reply: Reply,
    verdict: Verdict,
    said: str,
) -> None:
    bench.notebook("01_review_state")
    stage = open_stage("01_review_state")
    zone = "/projects/p/zones/us-central1-a"
    everywhere = [{"metric": "GPUS_ALL_REGIONS", "limit": 9, "usage": 0}]
    region = [{"metric": metric, "limit": 12, "usage": 0} for metric in ("NVIDIA_A100_GPUS", "A2_CPUS")]
    with serving() as api:
        monkeypatch.setenv(ENDPOINT_VARIABLE, f"{api.url}/")
        api.on("/projects/p", Reply(body={"quotas": everywhere}))
        api.on("/projects/p/regions/us-central1", Reply(body={"quotas": region}))
        api.on(f"{zone}/reservations", Reply(body={}))
        api.on(f"{zone}/machineTypes/a2-highgpu-1g", reply)
        pool = replace(POOL, machine_type="a2-highgpu-1g", accelerator_type=GPU)
        quota.check(stage, bench.profile.pool, pool, live=1, wanted=3, spot=0)
    (check,) = stage.finish().checks
    assert check.verdict is verdict
    assert said in check.observed
    if verdict is Verdict.INCONCLUSIVE:
        assert "roles/compute.viewer" in str(check.remedy)
