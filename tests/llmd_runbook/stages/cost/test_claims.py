"""The guide's numbers beside what a run measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmd_runbook.analysis.claims import ClaimVerdict, guide_claims
from llmd_runbook.run import StageRun
from llmd_runbook.stages import throughput_and_cost as stage_06
from llmd_runbook.stages.cost import claims as cost_claims
from llmd_runbook.stages.review.state import READY
from llmd_runbook.stages.verify import REPLICAS
from tests.llmd_runbook.stages.loads import load
from tests.llmd_runbook.stages.test_throughput_and_cost import note, opened, titled

Open = Callable[[str], StageRun]


def test_every_claim_stands_with_its_measurement_and_verdict(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    cost_claims.claims(stage)
    result = stage.finish()
    rows = titled(result, "What the guide states").rows
    claims = guide_claims({})
    assert len(rows) == len(claims)
    by_id = dict(zip([claim.id for claim in claims], rows, strict=True))
    assert by_id["overview.speed_up"][2:4] == ["2.5-3 x", ""]
    assert str(by_id["overview.speed_up"][4]).startswith("2.5 [")
    assert str(by_id["overview.speed_up"][4]).endswith("(simulated)")
    assert by_id["overview.speed_up"][5] == "cannot be tested here"
    assert by_id["cost.per_million1"][3] == "238.1 = 0.50 / (35 * 60) * 1e6"
    assert by_id["cost.per_million1"][5] == "fails"
    assert "the guide does not say under which load" in str(by_id["roi.p50_3"][4])
    assert by_id["price.machine"][3:] == ["", "", "cannot be tested here"]  # this profile has no price file
    assert result.data["claims"] == {name: row[5] for name, row in by_id.items()}
    assert f"{len(claims)} numbers: " in note(result, "The guide's numbers")


@pytest.mark.parametrize(
    ("rate", "expected"), [(27.5, ClaimVerdict.HOLDS), (15, ClaimVerdict.FAILS), (25, ClaimVerdict.UNTESTED)]
)
def test_on_a_real_engine_the_speed_up_decides(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, rate: float, expected: ClaimVerdict
) -> None:
    stage = opened(open_stage, load(10, blocks=200), load(rate, 60, blocks=200))
    monkeypatch.setattr(StageRun, "simulated", False)
    cost_claims.claims(stage)
    assert stage.data["claims"]["overview.speed_up"] == expected
    assert stage.data["claims"]["bench.improvement"] == ClaimVerdict.FAILS


def test_every_figure_that_a_claim_names_is_one_that_a_run_can_measure(open_stage: Open) -> None:
    for earlier, spec in ((stage_06.BASELINE_STAGE, READY), ("04_verify", REPLICAS)):
        stage = open_stage(earlier)
        stage.data["baseline"] = load(10, blocks=20).data()
        stage.check(spec.judge(True, expected="so", observed="so"))
        stage.finish()
    known = cost_claims.figures(opened(open_stage, None, load(25, 60)))
    assert {claim.figure for claim in guide_claims({}) if claim.figure} <= set(known)
    ready, hits = known["pattern3.ready_min"].value, known["pattern3.hit_rate_percent"].value
    assert (ready.value, ready.low, ready.high, hits.value) == (4, 4, 4, 0)


def test_replicas_count_only_after_stage_04_proved_them(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    assert "pattern3.replicas" not in cost_claims.figures(stage)
    for ok in (None, True):
        verified = open_stage("04_verify")
        verified.check(REPLICAS.judge(ok, expected="3", observed="3"))
        verified.finish()
        assert ("pattern3.replicas" in cost_claims.figures(stage)) is bool(ok)


def test_without_a_baseline_only_pattern_3_has_figures(open_stage: Open) -> None:
    found = cost_claims.figures(opened(open_stage, None, load(25, 60)))
    assert "speed_up" not in found
    assert not [name for name in found if name.startswith("pattern1")]
    assert found["pattern3.requests_per_min"].value.value == 1500
