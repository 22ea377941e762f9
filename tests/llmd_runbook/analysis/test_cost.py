"""Costs against the migration guide's own inputs, recomputed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_runbook.analysis.cost import (
    NodeOption,
    at_most,
    break_even,
    break_even_demand,
    option_cost,
    per_million,
    per_million_at_demand,
    per_month,
    rate_for_cost,
)
from llmd_runbook.analysis.latency import Estimate, Refusal


def rate(value: float, low: float | None = None, high: float | None = None) -> Estimate:
    return Estimate(value, low, high, n=2, method="test")


@pytest.mark.parametrize(
    ("usd_per_hour", "per_minute", "usd"),
    [(0.50, 35, 238.10), (1.50, 95, 263.16), (0.35, 35, 166.67), (1.05, 95, 184.21), (15.0, 140, 1785.71)],
)
def test_the_guides_rows(usd_per_hour: float, per_minute: float, usd: float) -> None:
    assert per_million(usd_per_hour, rate(per_minute / 60)).value == pytest.approx(usd, abs=0.005)


def test_a_month_is_730_hours() -> None:
    assert per_month(1.50) == pytest.approx(1095)


def test_the_interval_turns_round() -> None:
    found = per_million(3.6, rate(10, 8, 12.5))
    assert (found.low, found.value, found.high) == pytest.approx((80, 100, 125))
    open_end = per_million(3.6, rate(10, 0.0, None))
    assert (open_end.low, open_end.high) == (None, None)


def test_idle_capacity_is_paid_for() -> None:
    p1 = per_million_at_demand(0.5, rate(35 / 60), 35 / 60)
    p3 = per_million_at_demand(1.5, rate(95 / 60, 90 / 60, 100 / 60), 35 / 60)
    assert p3.value / p1.value == pytest.approx(3)
    assert p3.low == p3.high == p3.value
    assert per_million_at_demand(1.5, rate(1), 5).value == per_million(1.5, rate(1)).value


def test_the_guides_speed_up_makes_a_request_dearer() -> None:
    found = break_even(0.5, 1.5, rate(95 / 35, 2.6, 2.8))
    assert found.needed_speed_up == pytest.approx(3)
    assert found.cost_ratio.value == pytest.approx(1.105, abs=0.0005)
    assert found.verdict == "dearer"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(3.1, 3.5, "cheaper"), (2.5, 3.4, "undecided"), (2.0, 2.9, "dearer"), (None, None, "undecided")],
)
def test_the_verdict_follows_the_interval(low: float | None, high: float | None, verdict: str) -> None:
    assert break_even(0.5, 1.5, rate(3.2, low, high)).verdict == verdict


def test_what_has_no_price() -> None:
    with pytest.raises(ValueError, match="no price"):
        per_million(1, rate(0))
    with pytest.raises(ValueError, match="demand"):
        per_million_at_demand(1, rate(1), 0)
    with pytest.raises(ValueError, match="above zero"):
        break_even(0, 1, rate(1))


PRICE = st.floats(0.01, 100)
RATE = st.floats(0.01, 1000)


@given(before=PRICE, factor=st.floats(1.0, 10), capacity=RATE, headroom=st.floats(1.0, 10))
def test_at_the_break_even_demand_a_request_costs_the_same_on_both(
    before: float, factor: float, capacity: float, headroom: float
) -> None:
    after = before * factor
    three = rate(capacity * factor * headroom * (1 + 1e-9))
    demand = break_even_demand(before, after, rate(capacity), three)
    assert isinstance(demand, Estimate)
    on_three = per_million_at_demand(after, three, demand.value).value
    assert on_three == pytest.approx(per_million(before, rate(capacity)).value)
    assert per_million_at_demand(after, three, demand.value / 2).value > on_three


@given(before=PRICE, factor=st.floats(1.01, 10), capacity=RATE)
def test_without_enough_speed_up_no_demand_makes_a_request_cheaper(
    before: float, factor: float, capacity: float
) -> None:
    found = break_even_demand(before, before * factor, rate(capacity), rate(capacity * factor * 0.999))
    assert isinstance(found, Refusal)
    assert "at no demand" in found.reason


@given(price=PRICE, more=st.floats(1.001, 10), value=RATE, demand=RATE)
def test_cost_rises_with_price_and_falls_with_rate(price: float, more: float, value: float, demand: float) -> None:
    assert per_month(price * more) > per_month(price)
    assert per_million(price * more, rate(value)).value > per_million(price, rate(value)).value
    assert per_million(price, rate(value * more)).value < per_million(price, rate(value)).value
    idle = per_million_at_demand(price, rate(value), demand).value
    assert idle >= per_million(price, rate(value)).value * (1 - 1e-12)
    assert per_million_at_demand(price * more, rate(value), demand).value > idle


@given(price=PRICE, value=RATE)
def test_the_rate_for_a_cost_is_the_inverse_of_the_cost(price: float, value: float) -> None:
    assert rate_for_cost(price, per_million(price, rate(value)).value) == pytest.approx(value)


def test_the_interval_of_the_break_even_demand_is_that_of_the_capacity() -> None:
    found = break_even_demand(0.5, 1.5, rate(10, 9, 11), rate(40))
    assert isinstance(found, Estimate)
    assert (found.value, found.low, found.high) == (30, 27, 33)


@pytest.mark.parametrize(("demand", "expected"), [(8.0, True), (9.0, True), (10.0, None), (11.0, None), (11.1, False)])
def test_whether_a_demand_is_served_is_known_outside_of_the_interval(demand: float, expected: bool | None) -> None:
    assert at_most(demand, rate(10, 9, 11)) is expected
    assert at_most(demand, rate(10)) is None


def test_an_option_costs_what_its_price_and_rates_say_and_refuses_what_is_not_known() -> None:
    option = NodeOption("three", 3, 3.6, rate(10, 8, 12.5), rate(1000))
    found = option_cost(option, 1.0)
    assert found.usd_per_month == pytest.approx(2628)
    assert isinstance(found.usd_per_1m_requests, Estimate)
    assert (found.usd_per_1m_requests.low, found.usd_per_1m_requests.value) == pytest.approx((80, 100))
    assert isinstance(found.at_demand, Estimate)
    assert found.at_demand.value == pytest.approx(1000)
    assert found.serves_demand is True
    assert option_cost(option, None).at_demand == Refusal("no demand stated")
    unknown = option_cost(NodeOption("tpu", 3, 32.4, Refusal("not measured"), Refusal("not measured")), 1.0)
    assert (unknown.usd_per_1m_requests, unknown.at_demand) == (Refusal("not measured"), Refusal("not measured"))
    assert unknown.serves_demand is None
    assert isinstance(option_cost(NodeOption("x", 1, None, rate(1), rate(1)), 1.0).usd_per_month, Refusal)


def test_what_has_no_break_even() -> None:
    with pytest.raises(ValueError, match="above zero"):
        break_even_demand(0, 1, rate(1), rate(1))
    with pytest.raises(ValueError, match="free"):
        rate_for_cost(1, 0)
