"""The guide's numbers: every verdict is worked out a second time here, from figures written down by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from llmd_runbook.analysis import claims as module
from llmd_runbook.analysis.claims import Claim, ClaimVerdict, Figure, evaluate, guide_claims, verdict
from llmd_runbook.analysis.latency import Estimate

HOLDS, FAILS, UNTESTED = ClaimVerdict.HOLDS, ClaimVerdict.FAILS, ClaimVerdict.UNTESTED
PRICES = {
    "nvidia-t4": 0.35,
    "nvidia-t4-spot": 0.175,
    "n1-standard-4": 0.189999,
    "ct6e-standard-4t": 10.8,
    "gke-cluster": 0.1,
    "forwarding-rule": 0.025,
}
BY_ID = {claim.id: claim for claim in guide_claims(PRICES)}

SECOND_TIME = {
    # cost and throughput: hourly / (requests/min x 60) x 1e6, ratios, months of 730 h
    "roi.per_million1": (166.67, FAILS),
    "roi.per_million3": (184.21, FAILS),
    "cost.per_million1": (238.10, FAILS),
    "cost.per_million3": (263.16, FAILS),
    "tpu.per_million": (1785.71, FAILS),
    "tpu.per_million_gpu": (263.16, FAILS),
    "cost.request_ratio": (1.105, FAILS),
    "cost.cheaper": (-10.53, FAILS),
    "roi.cheaper": (-10.53, FAILS),
    "learned.cheaper": (-11.11, FAILS),
    "tpu.request_ratio": (6.79, FAILS),
    "overview.tpu": (10, FAILS),
    "tpu.cheaper": (10, FAILS),
    "tpu.hourly_ratio": (10, HOLDS),
    "tpu.monthly_ratio": (10, HOLDS),
    "learned.tpu": (10, HOLDS),
    "beyond.tpu_cost": (10, HOLDS),
    "comparison.hourly1": (0.50, FAILS),
    "comparison.hourly3": (1.50, FAILS),
    "comparison.monthly1": (255.5, HOLDS),
    "comparison.monthly3": (766.5, HOLDS),
    "tpu.gpu_month": (1095, FAILS),
    "tpu.month": (10950, HOLDS),
    "tpu.monthly_gpu": (1095, HOLDS),
    "tpu.hourly": (32.4, FAILS),
    "price.t4": (0.35, HOLDS),
    "price.t4_spot": (0.175, FAILS),
    "price.machine": (0.19, FAILS),
    "price.node": (0.50, HOLDS),
    "price.node_listed": (0.54, FAILS),
    "price.hourly3": (1.50, HOLDS),
    "price.monthly3": (1095, HOLDS),
    "price.hourly4": (2.00, HOLDS),
    "price.monthly4": (1460, HOLDS),
    "spot.hourly": (0.78, HOLDS),
    "spot.monthly": (569.4, HOLDS),
    "spot.saving": (48, HOLDS),
    "cleanup.control_plane": (0.10, HOLDS),
    "cleanup.zero": (0.025, FAILS),
    "cleanup.restored_hourly": (0.50, HOLDS),
    "cleanup.restored": (365, HOLDS),
    "cost.hourly1": (0.50, HOLDS),
    "cost.monthly1": (365, HOLDS),
    "cost.hourly3": (1.50, HOLDS),
    "cost.monthly3": (1095, HOLDS),
    "cost.ratio": (3, HOLDS),
    "why.cost": (3, HOLDS),
    "roi.cost": (2.996, HOLDS),
    "cost.speed_up": (2.714, HOLDS),
    "roi.speed_up": (2.714, HOLDS),
    "tpu.slower": (1.474, HOLDS),
    "learned.slower": (1.474, HOLDS),
    "beyond.tpu": (1.474, HOLDS),
    # the guide beside itself
    "roi.throughput1": (54.55, FAILS),
    "roi.throughput3": (150, FAILS),
    "cost.throughput1": (54.55, FAILS),
    "cost.throughput3": (999.6, FAILS),
    "roi.scenario": (95, FAILS),
    "why.switch_from": (35, FAILS),
    "beyond.traffic": (95, FAILS),
    "beyond.p95": (850, FAILS),
    "test4.pattern3": (31.58, FAILS),
    "test4.pattern1": (85.71, FAILS),
    "test4.speed_up": (2.75, HOLDS),
    "test4.per_replica": (16.67, HOLDS),
    "test4.printed": (0, FAILS),
    "test3.replicas": (2.11, FAILS),
    "step3.gpus": (4, HOLDS),
    "bench.rate": (15.625, FAILS),
    "bench.total": (3.0, FAILS),
    "bench.range": (15.625, HOLDS),
    "bench.agrees": (1.583, FAILS),
    "bench.baseline": (0.583, FAILS),
    "bench.improvement": (2.714, FAILS),
    "bench.concurrent": (3.0, FAILS),
    "bench.p99": (420, FAILS),
    # queues: 17.5 waiting at 35 a minute take 30 s, 3.5 at 95 take 2.2 s
    "roi.p50_1": (30_000, FAILS),
    "roi.p95_1": (30_000, FAILS),
    "roi.p50_3": (2210.5, FAILS),
    "roi.p95_3": (2210.5, FAILS),
    "roi.queue1": (65, FAILS),
    "roi.queue3": (300, FAILS),
    "roi.queue_gain": (80, FAILS),
    "roi.p50_gain": (6.67, HOLDS),
    "roi.p95_gain": (29.17, HOLDS),
    "roi.hit_rate1": (0, HOLDS),
    "learned.startup": (33.3, FAILS),
    "learned.memory": (0, FAILS),
    "example.score": (0, FAILS),
    # hardware and models: the T4's data sheet; config.json of both models; 6.17 GB / 320 GB/s a token
    "t4.memory": (16, HOLDS),
    "t4.cuda_cores": (2560, HOLDS),
    "t4.tensor_cores": (320, HOLDS),
    "t4.generation": (2, FAILS),
    "t4.bandwidth": (320, HOLDS),
    "t4.fp16": (65.1, HOLDS),
    "bench.p50": (193, FAILS),
    "comparison.gemma": (2.506, FAILS),
    "comparison.qwen": (3.086, HOLDS),
    "qwen.parameters": (3.086, HOLDS),
    "qwen.disk": (6.17, HOLDS),
    "qwen.gpu_memory": (10.92, FAILS),
    "beyond.mistral": (14.5, FAILS),
    # configuration that the guide repeats
    "comparison.gpus1": (1, HOLDS),
    "comparison.gpus3": (3, HOLDS),
    "comparison.memory_utilization1": (85, HOLDS),
    "comparison.memory_utilization": (75, FAILS),
    "comparison.context1": (4096, HOLDS),
    "comparison.context": (2048, HOLDS),
    "tpu.memory_utilization": (0.75, HOLDS),
    "tpu.chips": (4, HOLDS),
    "step6.memory": (0.75, FAILS),
    "learned.utilization": (0.75, HOLDS),
    "test5.prefix": (3, HOLDS),
    "test5.kv": (2, HOLDS),
    "test5.queue": (2, HOLDS),
    "issue3.dummy_requests": (256, HOLDS),
}
ONLY_A_MEASUREMENT = {
    *("overview.speed_up", "comparison.throughput", "comparison.replicas1", "comparison.replicas3"),
    *("why.keep_below", "roi.hit_rate3", "t4.power", "tpu.startup_gpu", "tpu.startup_tpu", "qwen.context"),
    *("qwen.tokens_per_s", "step6.ready", "test2.same_replica", "success.replicas", "spot.notice"),
    *("tpu.throughput", "tpu.p50_gpu", "tpu.p50", "bench.p95", "learned.hit_rate", "learned.latency"),
    *("learned.sweet_spot", "beyond.queue", "beyond.replicas"),
}


def test_no_claim_is_left_out_of_the_second_calculation() -> None:
    assert set(BY_ID) == set(SECOND_TIME) | ONLY_A_MEASUREMENT
    assert not set(SECOND_TIME) & ONLY_A_MEASUREMENT
    assert len(BY_ID) == len(guide_claims(PRICES))


@pytest.mark.parametrize("claim_id", SECOND_TIME)
def test_each_number_and_its_verdict_a_second_time(claim_id: str) -> None:
    expected, answer = SECOND_TIME[claim_id]
    claim = BY_ID[claim_id]
    assert claim.recomputed == pytest.approx(expected, rel=2e-3, abs=1e-9)
    assert verdict(claim) is answer
    assert claim.recomputed_text.startswith("at least " if claim.at_least else claim.recomputed_text[0])


@pytest.mark.parametrize("claim_id", sorted(ONLY_A_MEASUREMENT))
def test_what_only_a_measurement_decides_is_untested_without_one(claim_id: str) -> None:
    assert BY_ID[claim_id].recomputed is None
    assert BY_ID[claim_id].recomputed_text == ""
    assert verdict(BY_ID[claim_id]) is UNTESTED


@pytest.mark.parametrize("claim_id", SECOND_TIME)
def test_an_altered_formula_alters_the_verdict_or_is_seen(claim_id: str) -> None:
    """No verdict is written: a claim that holds fails with other figures, one that fails holds with those stated."""
    claim = BY_ID[claim_id]
    low, high = claim.ends
    other = 2 * abs(high) + 1 if verdict(claim) is HOLDS else (low + high) / 2
    assert verdict(replace(claim, recomputed=other)) is not verdict(claim)


def test_no_verdict_stands_in_the_data() -> None:
    content = yaml.safe_load(Path(module.__file__).with_name("guide_claims.yaml").read_text())
    fields = {key for listed in content["claims"].values() for claim in listed for key in claim}
    assert fields == {
        *("id", "says", "stated", "unit", "formula", "because", "at_least", "figure", "incomparable"),
    }


def test_a_price_that_is_not_given_leaves_the_claim_untested() -> None:
    by_id = {claim.id: claim for claim in guide_claims({})}
    assert verdict(by_id["price.machine"]) is UNTESTED
    assert by_id["cost.per_million1"].recomputed == pytest.approx(238.1, abs=0.01)


@pytest.mark.parametrize(
    ("stated", "ends"),
    [
        ("$12.50", (12.495, 12.505)),
        ("2.5-3", (2.45, 3.05)),
        ("$10,950", (10949.5, 10950.5)),
        ("~$570", (565, 575)),
        ("35", (34.5, 35.5)),
        ("~6", (5.5, 6.5)),
    ],
)
def test_a_stated_number_is_as_exact_as_it_is_written(stated: str, ends: tuple[float, float]) -> None:
    assert Claim("x", "", "", stated, "").ends == pytest.approx(ends)


SPEED_UP = Claim("x", "Key Benefits", "", "2.5-3", "x", figure="speed_up")


@pytest.mark.parametrize(
    ("low", "high", "simulated", "incomparable", "expected"),
    [
        (2.6, 2.9, False, "", HOLDS),
        (1.5, 2.2, False, "", FAILS),
        (3.5, 4.0, False, "", FAILS),
        (2.2, 2.8, False, "", UNTESTED),
        (None, 2.8, False, "", UNTESTED),
        (2.6, 2.9, True, "", UNTESTED),
        (1.5, 2.2, True, "", UNTESTED),
        (1.5, 2.2, False, "another load", UNTESTED),
    ],
)
def test_only_a_whole_interval_on_a_real_engine_decides(
    low: float | None, high: float | None, simulated: bool, incomparable: str, expected: ClaimVerdict
) -> None:
    figure = Figure(Estimate(2.5, low, high, 2, "test"), simulated)
    assert verdict(replace(SPEED_UP, incomparable=incomparable), figure) is expected


def test_a_contradiction_of_its_own_fails_whatever_is_measured() -> None:
    claim = replace(SPEED_UP, recomputed=10.0)
    assert verdict(claim, Figure(Estimate(2.7, 2.6, 2.8, 2, "test"), simulated=False)) is FAILS
    supported = replace(SPEED_UP, recomputed=2.7)
    assert verdict(supported, Figure(Estimate(2, 1.5, 2.2, 2, "test"), simulated=False)) is FAILS


def test_a_lower_bound_refutes_only_from_above() -> None:
    claim = Claim("x", "", "", "180", "ms", recomputed=193.0, at_least=True)
    assert verdict(claim) is FAILS
    assert verdict(replace(claim, recomputed=100.0)) is HOLDS


@pytest.mark.parametrize("formula", ["__import__('os')", "x.y", "'a' * 3", "True + 1", "[1][0]", "1 if 1 else 2"])
def test_a_formula_is_arithmetic_and_nothing_else(formula: str) -> None:
    with pytest.raises(ValueError, match="no arithmetic"):
        evaluate(formula, {"x": 1.0})
    assert evaluate("-2 * (x + 1) ** 2 // 3", {"x": 1.0}) == -3
