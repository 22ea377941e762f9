"""Costs, node options and where prices come from, from made-up loads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.profile import PARAMETERS
from llmd_runbook.run import StageRun
from llmd_runbook.stages import throughput_and_cost as stage_06
from llmd_runbook.stages.cost import tables
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.stages.loads import load
from tests.llmd_runbook.stages.test_throughput_and_cost import note, opened, titled

Open = Callable[[str], StageRun]
PLAIN = """prices: {gpu_node_usd_per_hour: 1, cpu_node_usd_per_hour: 1, control_plane_usd_per_hour: 1,
  load_balancer_usd_per_hour: 1, as_of: "2026-01-01", source: invented}
"""


@pytest.fixture
def filed(bench: Bench) -> Bench:
    """A profile with the shipped price file and a demand of 300 requests a minute."""
    text = bench.profile_file.read_text()
    assert PLAIN in text
    bench.profile_file.write_text(text.replace(PLAIN, "demand: {requests_per_min: 300}\nprices: {file: us-central1}\n"))
    return bench


def figures(cell: Any) -> list[float]:
    """The value of a cell and its interval."""
    return [float(part) for part in str(cell).replace("[", "").replace("]", "").replace(",", "").split()]


def test_costs_follow_from_throughput_and_price(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    tables.cost(stage)
    result = stage.finish()
    one, _, three = titled(result, "Cost at the measured throughput").rows
    assert one[:4] == ["Pattern 1, baseline", 20, 1.0, 730.0]
    value, low, high = figures(one[4])
    assert value == 27.78  # 1 USD / (10 x 3600) x 1e6
    assert low < value < high
    assert figures(one[5])[0] == 0.28
    assert one[6] == "none: no demand stated"
    assert three[:4] == ["Pattern 3, same load a replica", 60, 3.0, 2190.0]
    assert figures(three[4])[0] == 33.33
    assert result.data["cost_ratio"] == pytest.approx(3 / 2.5)
    assert "exceeds 3.00" in note(result, "Is Pattern 3 cheaper by the request?")
    assert "it would take 1800 requests/min, and 1500 are served" in note(result, "From which demand on is it?")


def test_a_break_even_demand_has_its_interval(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(40, 60))
    tables.cost(stage)
    text = note(stage.finish(), "From which demand on is it?")
    assert text.startswith("1800 [")
    assert "Below 600, which Pattern 1 serves, a request on Pattern 3 costs 3.00 times as much" in text


def test_at_a_demand_idle_capacity_is_paid_for(open_stage: Open, filed: Bench) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    tables.cost(stage)
    table = titled(stage.finish(), "Cost at the measured throughput")
    assert table.columns[-1] == "USD per 1M requests at 300/min"
    assert [row[-1] for row in table.rows] == ["30.76", "92.28", "92.28"]  # 0.553698 / (5 x 3600) x 1e6, three times


def test_a_throughput_that_is_refused_has_no_price(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60, refused="too short"))
    tables.cost(stage)
    row = titled(stage.finish(), "Cost at the measured throughput").rows[-1]
    assert row[4:6] == ["none: too short", "none: too short"]


def test_few_answers_leave_the_interval_open(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60, blocks=2))
    tables.cost(stage)
    assert titled(stage.finish(), "Cost at the measured throughput").rows[-1][4] == "33.33 [?, ?]"


def test_every_option_has_a_price_and_what_it_rests_on(open_stage: Open, filed: Bench) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    tables.options(stage)
    result = stage.finish()
    rows = {row[0]: row for row in titled(result, "Ways to run it").rows}
    assert [(row[0], row[1]) for row in rows.values()] == [
        ("Pattern 1, on demand", 1),
        ("Pattern 3, on demand", 3),
        ("Pattern 3, on spot", 3),
        ("Pattern 3 and Pattern 2", 4),
        ("Pattern 3, on TPU", 3),
    ]
    assert [row[2] for row in rows.values()] == [0.5537, 1.6611, 0.8336, 2.2148, 32.4]
    tpu = rows["Pattern 3, on TPU"]
    assert tpu[4:7] == ["none: not measured on a TPU"] * 3
    assert tpu[7] == "not known"
    assert "29258 requests/min" in str(tpu[8])  # 25 x 60 x 32.4 / 1.661094
    assert rows["Pattern 1, on demand"][7] == "yes"
    assert "0.125 USD/h" in note(result, "What every option pays besides")


def test_replicas_on_spot_nodes_are_counted_at_the_price_of_spot(open_stage: Open, filed: Bench) -> None:
    stage = opened(open_stage, load(10), load(25, 60, on_spot=2))
    assert stage_06.hourly_usd(stage) == pytest.approx((0.553698, 0.553698 + 2 * 0.277879), abs=1e-6)
    tables.cost(stage)
    tables.options(stage)
    result = stage.finish()
    assert [row[2] for row in titled(result, "Cost at the measured throughput").rows] == [0.5537, 1.1095, 1.1095]
    assert "2 of Pattern 3's replicas ran on spot: counted at the price of a spot node" in note(result, "Spot nodes")
    rows = {row[0]: row for row in titled(result, "Ways to run it").rows}
    assert [rows[f"Pattern 3, on {what}"][2] for what in ("demand", "spot")] == [1.6611, 0.8336]
    assert rows["Pattern 3, on demand"][8] == "measured on spot"


def test_spot_nodes_without_a_price_are_counted_on_demand_and_that_is_said(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60, on_spot=3))
    assert stage_06.hourly_usd(stage) == (1, 3)
    tables.cost(stage)
    assert "counted on demand" in note(stage.finish(), "Spot nodes")


def test_without_a_price_file_spot_and_tpu_have_no_price(open_stage: Open) -> None:
    stage = opened(open_stage, load(10), load(25, 60))
    tables.options(stage)
    rows = {row[0]: row for row in titled(stage.finish(), "Ways to run it").rows}
    for name in ("Pattern 3, on spot", "Pattern 3, on TPU"):
        assert rows[name][2] is None
        assert rows[name][3] == "none: no price in the price file"


def test_without_a_baseline_pattern_1_has_no_cost_a_request(open_stage: Open) -> None:
    stage = opened(open_stage, None, load(25, 60))
    tables.options(stage)
    assert "no baseline" in str(titled(stage.finish(), "Ways to run it").rows[0][4])


def test_the_figure_says_that_it_is_simulated(open_stage: Open, filed: Bench) -> None:
    for stage in (opened(open_stage, load(10), load(25, 60)), opened(open_stage, None, load(25, 60, refused="short"))):
        made = tables.plot(stage)
        assert made.data.startswith(b"\x89PNG")
        assert repr(made).endswith("[simulated engine]")


def test_an_unverified_price_is_shown_as_one(open_stage: Open, filed: Bench) -> None:
    stage = open_stage("06_throughput_and_cost")
    tables.prices(stage)
    result = stage.finish()
    verified = {row[0]: row[5] for row in titled(result, "Prices").rows}
    assert verified["nvidia-t4"] == "yes"
    assert verified["nvidia-t4-spot"] == "NO"
    assert note(result, "Prices that nobody verified").startswith("nvidia-t4-spot, forwarding-rule")


def test_a_file_with_every_price_verified_has_nothing_to_warn_of(open_stage: Open, filed: Bench) -> None:
    mine = filed.profile_file.parent / "mine.yaml"
    shutil.copy(PARAMETERS / "prices" / "us-central1.yaml", mine)
    mine.write_text(mine.read_text().replace("verified: false", "verified: true"))
    filed.profile_file.write_text(filed.profile_file.read_text().replace("file: us-central1", "file: mine.yaml"))
    stage = open_stage("06_throughput_and_cost")
    tables.prices(stage)
    assert not stage.finish().notes


def test_prices_of_the_profile_itself_are_never_verified(open_stage: Open) -> None:
    stage = open_stage("06_throughput_and_cost")
    tables.prices(stage)
    rows = titled(stage.finish(), "Prices").rows
    assert [row[0] for row in rows] == ["gpu_node", "cpu_node", "control_plane", "load_balancer"]
    assert {row[5] for row in rows} == {"NO"}
