"""What a pattern costs: a month, a million requests or output tokens; and when a dearer one is cheaper.

Intervals are those of the throughput, carried over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from llmd_runbook.analysis.latency import Estimate, Refusal
from llmd_runbook.prices import HOURS_PER_MONTH as HOURS_PER_MONTH


@dataclass(frozen=True)
class BreakEven:
    """Whether the dearer pattern is cheaper by the request.

    Attributes:
        needed_speed_up: the ratio of hourly prices; only a higher throughput ratio makes a request cheaper.
        cost_ratio: cost of a request after over before, with the interval of the throughput ratio inverted.
        verdict: `undecided` when the interval holds 1.
    """

    needed_speed_up: float
    cost_ratio: Estimate
    verdict: Literal["cheaper", "dearer", "undecided"]


def per_month(usd_per_hour: float) -> float:
    """Price of 730 hours."""
    return usd_per_hour * HOURS_PER_MONTH


def per_million(usd_per_hour: float, rate: Estimate) -> Estimate:
    """Price of a million requests or tokens at a sustained rate (1/s): hourly / (3600 X) x 1e6.

    Raises:
        ValueError: a rate of zero or below, which has no price.
    """
    if rate.value <= 0:
        raise ValueError(f"a rate of {rate.value} per second has no price per million")
    return _inverted(rate, usd_per_hour / 3600 * 1e6)


def per_million_at_demand(usd_per_hour: float, capacity: Estimate, demand_per_s: float) -> Estimate:
    """The same at a demand D: idle capacity is paid for, hourly / (3600 min(D, X)) x 1e6.

    Raises:
        ValueError: no demand.
    """
    if demand_per_s <= 0:
        raise ValueError("without demand nothing is served, whatever it costs")
    served = replace(
        capacity,
        value=min(capacity.value, demand_per_s),
        low=None if capacity.low is None else min(capacity.low, demand_per_s),
        high=demand_per_s if capacity.high is None else min(capacity.high, demand_per_s),
    )
    return per_million(usd_per_hour, served)


def break_even(usd_per_hour_before: float, usd_per_hour_after: float, speed_up: Estimate) -> BreakEven:
    """Cost ratio of a request, (h_after/h_before) / speed-up: below 1 only if speed-up > h_after/h_before.

    Raises:
        ValueError: a price or a speed-up of zero or below.
    """
    if min(usd_per_hour_before, usd_per_hour_after, speed_up.value) <= 0:
        raise ValueError("prices and speed-up must be above zero")
    needed = usd_per_hour_after / usd_per_hour_before
    ratio = _inverted(speed_up, needed)
    verdict: Literal["cheaper", "dearer", "undecided"] = "undecided"
    if ratio.high is not None and ratio.high < 1:
        verdict = "cheaper"
    elif ratio.low is not None and ratio.low > 1:
        verdict = "dearer"
    return BreakEven(needed_speed_up=needed, cost_ratio=ratio, verdict=verdict)


def break_even_demand(
    usd_per_hour_before: float, usd_per_hour_after: float, capacity_before: Estimate, capacity_after: Estimate
) -> Estimate | Refusal:
    """Demand (1/s) from which the dearer pattern is cheaper a request: D* = X_before h_after / h_before.

    Below X_before the dearer one costs h_after/h_before times as much, whatever it could serve. Above, a request costs
    h_before / X_before on the one and h_after / D on the other: equal at D*. Where D* exceeds X_after there is none,
    and a request is never cheaper. The interval is that of `capacity_before`.

    Raises:
        ValueError: a price or a capacity of zero or below.
    """
    if min(usd_per_hour_before, usd_per_hour_after, capacity_before.value, capacity_after.value) <= 0:
        raise ValueError("prices and capacities must be above zero")
    factor = usd_per_hour_after / usd_per_hour_before
    low, high = (None if end is None else end * factor for end in (capacity_before.low, capacity_before.high))
    demand = replace(capacity_before, value=capacity_before.value * factor, low=low, high=high)
    if demand.value > capacity_after.value:
        return Refusal(
            f"it would take {60 * demand.value:.0f} requests/min, and {60 * capacity_after.value:.0f} are served: "
            "at no demand is a request cheaper"
        )
    return demand


def rate_for_cost(usd_per_hour: float, usd_per_million: float) -> float:
    """Requests a second that make a million cost so much: the inverse of `per_million`.

    Raises:
        ValueError: a cost of zero or below.
    """
    if usd_per_million <= 0:
        raise ValueError("no rate makes requests free")
    return usd_per_hour / 3600 * 1e6 / usd_per_million


@dataclass(frozen=True)
class NodeOption:
    """A way to run a pattern.

    Attributes:
        usd_per_hour: its nodes; None where there is no price.
        requests_per_s, output_tokens_per_s: what they sustain, or why that is not known.
        note: what the figures rest on.
    """

    name: str
    nodes: int
    usd_per_hour: float | None
    requests_per_s: Estimate | Refusal
    output_tokens_per_s: Estimate | Refusal
    note: str = ""


@dataclass(frozen=True)
class OptionCost:
    """What an option costs; a figure that cannot be had is a refusal with its reason.

    Attributes:
        at_demand: of a million requests at the stated demand.
        serves_demand: None where that is not certain.
    """

    usd_per_month: float | Refusal
    usd_per_1m_requests: Estimate | Refusal
    usd_per_1m_tokens: Estimate | Refusal
    at_demand: Estimate | Refusal
    serves_demand: bool | None


def option_cost(option: NodeOption, demand_per_s: float | None) -> OptionCost:
    """Cost of an option a month, a million requests and tokens at capacity, and a million requests at a demand."""
    price = option.usd_per_hour
    if price is None:
        none = Refusal("no price in the price file")
        return OptionCost(none, none, none, none, serves_demand=None)
    rate, tokens = option.requests_per_s, option.output_tokens_per_s
    at_demand: Estimate | Refusal = Refusal("no demand stated")
    serves = None
    if isinstance(rate, Refusal):
        at_demand = rate if demand_per_s is not None else at_demand
    elif demand_per_s is not None:
        at_demand = per_million_at_demand(price, rate, demand_per_s)
        serves = at_most(demand_per_s, rate)
    return OptionCost(
        usd_per_month=per_month(price),
        usd_per_1m_requests=rate if isinstance(rate, Refusal) else per_million(price, rate),
        usd_per_1m_tokens=tokens if isinstance(tokens, Refusal) else per_million(price, tokens),
        at_demand=at_demand,
        serves_demand=serves,
    )


def at_most(value: float, limit: Estimate) -> bool | None:
    """Whether a value is at most an estimated limit; None where the limit's interval does not decide."""
    if limit.low is not None and value <= limit.low:
        return True
    if limit.high is not None and value > limit.high:
        return False
    return None


def _inverted(rate: Estimate, numerator: float) -> Estimate:
    """numerator / rate; the ends of the interval change places, and an end at zero bounds nothing."""
    return replace(
        rate,
        value=numerator / rate.value,
        low=None if rate.high is None else numerator / rate.high,
        high=None if not rate.low or rate.low < 0 else numerator / rate.low,
    )
