"""06, what it costs: both patterns, the ways to run Pattern 3, and where each price comes from."""

from __future__ import annotations

from dataclasses import replace

from llmd_runbook.analysis.cost import (
    NodeOption,
    OptionCost,
    break_even,
    break_even_demand,
    option_cost,
    per_month,
    rate_for_cost,
)
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, sustained_rate
from llmd_runbook.prices import PriceFile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import figures, throughput_and_cost
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.throughput_and_cost import SAME_PER_REPLICA
from llmd_runbook.verdicts import Table

Row = list[str | int | float | None]
_TPU_REPLICAS = 3


def cost(stage: StageRun) -> Shown:
    """Dollars an hour, a month, a million requests and output tokens: at the throughput measured, and at the demand."""
    profile = stage.profile
    one, three = throughput_and_cost.hourly_usd(stage)
    demand = profile.demand.requests_per_min
    rows: list[Row] = []
    for name, load in throughput_and_cost.named(stage).items():
        price = one if name.startswith("Pattern 1") else three
        option = NodeOption(name, 0, price, *rates(load))
        rows.append([name, load.concurrency, round(price, 4), *_costs(option_cost(option, _per_s(demand)))])
    _break_even_note(stage)
    _spot_note(stage)
    columns = ["pattern", "in flight", "USD/h", *_cost_columns(demand)]
    return stage.table(Table(title="Cost at the measured throughput", columns=columns, rows=rows))


def options(stage: StageRun) -> Shown:
    """Pattern 3 on demand, on spot, with Pattern 2 beside it and on TPU, beside Pattern 1: all in one table."""
    demand = stage.profile.demand.requests_per_min
    rows: list[Row] = []
    for option in node_options(stage):
        found = option_cost(option, _per_s(demand))
        served = {True: "yes", False: "no", None: "not known"}[found.serves_demand]
        price = option.usd_per_hour
        hourly = None if price is None else round(price, 4)
        rows.append([option.name, option.nodes, hourly, *_costs(found), served, option.note])
    prices = stage.profile.prices
    shared = prices.control_plane_usd_per_hour + prices.load_balancer_usd_per_hour
    stage.note(
        "What every option pays besides",
        f"Control plane and load balancer: {shared:.3f} USD/h, {per_month(shared):.2f} USD/month; other nodes, "
        "data processed and logs come on top. The table has the nodes of the options alone.",
    )
    columns = ["option", "nodes", "USD/h", *_cost_columns(demand), "serves the demand", "rests on"]
    return stage.table(Table(title="Ways to run it", columns=columns, rows=rows))


def plot(stage: StageRun) -> figures.Png:
    """The options of `options` as bars: a month, and a million requests with its interval."""
    demand = stage.profile.demand.requests_per_min
    found = [(option, option_cost(option, _per_s(demand))) for option in node_options(stage)]
    return figures.node_options(found, demand_per_min=demand, stamp=stage.cluster.stamp)


def prices(stage: StageRun) -> Shown:
    """Every price in use with region, date and source, and whether somebody verified it."""
    used = stage.profile.prices
    if isinstance(used, PriceFile):
        rows: list[Row] = [
            [name, price.value, _unit(price.unit), price.region, price.date, _verified(price.verified), price.source]
            for name, price in used.listed.used()
        ]
    else:
        rows = [
            [key.removesuffix("_usd_per_hour"), getattr(used, key), "USD/h", None, used.as_of, "NO", used.source]
            for key in type(used).model_fields
            if key.endswith("_usd_per_hour")
        ]
    if used.unverified:
        stage.note("Prices that nobody verified", f"{', '.join(used.unverified)}: look them up before you decide.")
    columns = ["price", "USD", "unit", "region", "date", "verified", "source"]
    return stage.table(Table(title="Prices", columns=columns, rows=rows))


def rates(load: Measured) -> tuple[Estimate | Refusal, Estimate | Refusal]:
    """Requests and output tokens a second with their interval, which few answers leave open; or why there is none."""
    found = load.throughput
    if isinstance(found, Refusal):
        return found, found
    requests = sustained_rate(found, seed=0)
    if isinstance(requests, Refusal):
        requests = Estimate(found.requests_per_s, None, None, found.completed, "one run", requests.reason)
    return requests, _tokens(requests, found)


def capacities(stage: StageRun) -> tuple[Estimate | Refusal, Estimate | Refusal]:
    """Requests a second that Pattern 1 and Pattern 3 sustained, as many in flight a replica."""
    before = throughput_and_cost.baseline(stage)
    return before if isinstance(before, Refusal) else rates(before)[0], rates(_pattern3(stage))[0]


def node_options(stage: StageRun) -> list[NodeOption]:
    """The ways to run the patterns that the guide compares."""
    profile, used = stage.profile, stage.profile.prices
    before, after = throughput_and_cost.baseline(stage), _pattern3(stage)
    first = (before, before) if isinstance(before, Refusal) else rates(before)
    second = rates(after)
    one, three = (part.replicas * used.gpu_node_usd_per_hour for part in (profile.pattern1, profile.pattern3))
    count, spot, tpu = profile.pattern3.replicas, used.gpu_node_spot_usd_per_hour, used.tpu_node_usd_per_hour
    tpu_usd = None if tpu is None else _TPU_REPLICAS * tpu
    unknown = Refusal("not measured on a TPU")
    return [
        NodeOption("Pattern 1, on demand", profile.pattern1.replicas, one, *first, "measured"),
        NodeOption("Pattern 3, on demand", count, three, *second, "measured on spot" if after.on_spot else "measured"),
        NodeOption(
            "Pattern 3, on spot",
            count,
            None if spot is None else count * spot,
            *second,
            f"measured on {'spot' if after.on_spot else 'demand'}, while no node is taken away",
        ),
        NodeOption(
            "Pattern 3 and Pattern 2",
            count + 1,
            three + used.gpu_node_usd_per_hour,
            *second,
            "Pattern 3 as measured; what Pattern 2 serves comes on top and was not measured",
        ),
        NodeOption("Pattern 3, on TPU", _TPU_REPLICAS, tpu_usd, unknown, unknown, _tpu_note(tpu_usd, three, second[0])),
    ]


def _tpu_note(tpu_usd_per_hour: float | None, usd_per_hour: float, rate: Estimate | Refusal) -> str:
    if tpu_usd_per_hour is None or isinstance(rate, Refusal):
        return "nothing"
    needed = rate_for_cost(tpu_usd_per_hour, usd_per_hour / 3600 * 1e6 / rate.value)
    return f"to cost as much a request as on GPUs it would have to serve {60 * needed:.0f} requests/min"


def _spot_note(stage: StageRun) -> None:
    """Which nodes are counted at the price of spot ones, where there are any."""
    before = throughput_and_cost.baseline(stage)
    patterns = {"Pattern 1": before, "Pattern 3": _pattern3(stage)}
    found = {name: load.on_spot for name, load in patterns.items() if isinstance(load, Measured) and load.on_spot}
    if not found:
        return
    counted = "counted at the price of a spot node; Google takes such nodes back, and their price moves"
    if stage.profile.prices.gpu_node_spot_usd_per_hour is None:
        counted = "counted on demand, for the prices say nothing of spot nodes"
    said = ", ".join(f"{count} of {name}'s replicas" for name, count in found.items())
    stage.note("Spot nodes", f"By the labels of their nodes {said} ran on spot: {counted}.")


def _break_even_note(stage: StageRun) -> None:
    one, three = throughput_and_cost.hourly_usd(stage)
    speed_up = throughput_and_cost.speed_up(stage)
    title = "Is Pattern 3 cheaper by the request?"
    if isinstance(speed_up, Refusal):
        stage.note(title, f"No cost ratio: {speed_up.reason}.")
        return
    found = break_even(one, three, speed_up)
    stage.data["cost_ratio"] = found.cost_ratio.value
    stage.note(
        title,
        f"A request on Pattern 3 is cheaper only if the speed-up exceeds {found.needed_speed_up:.2f}. Measured: "
        f"{measurement.shown(speed_up, 2)}, so a request costs {measurement.shown(found.cost_ratio, 2)} times as "
        f"much at capacity: {found.verdict}.",
    )
    capacity1, capacity3 = capacities(stage)
    assert isinstance(capacity1, Estimate)
    assert isinstance(capacity3, Estimate)
    demand = break_even_demand(one, three, capacity1, capacity3)
    text = (
        f"None: {demand.reason}."
        if isinstance(demand, Refusal)
        else f"{_per_min(demand)} requests/min. Below {60 * capacity1.value:.0f}, which Pattern 1 serves, a request on "
        f"Pattern 3 costs {three / one:.2f} times as much, whatever it could serve."
    )
    stage.note("From which demand on is it?", text)


def _cost_columns(demand: float | None) -> list[str]:
    at = "USD per 1M requests at a demand" if demand is None else f"USD per 1M requests at {demand:g}/min"
    return ["USD/month", "USD per 1M requests", "USD per 1M output tokens", at]


def _costs(found: OptionCost) -> Row:
    month = found.usd_per_month
    return [
        f"none: {month.reason}" if isinstance(month, Refusal) else round(month, 2),
        *(money(part) for part in (found.usd_per_1m_requests, found.usd_per_1m_tokens, found.at_demand)),
    ]


def money(found: Estimate | Refusal) -> str:
    """Dollars with their interval, or why there are none."""
    if isinstance(found, Refusal):
        return f"none: {found.reason}"
    low, high = ("?" if end is None else f"{end:.2f}" for end in (found.low, found.high))
    return f"{found.value:.2f}" if low == high == f"{found.value:.2f}" else f"{found.value:.2f} [{low}, {high}]"


def _tokens(requests: Estimate, found: Throughput) -> Estimate:
    """Every answer has as many tokens as was asked for: the interval is that of the requests."""
    each = found.output_tokens_per_s / found.requests_per_s
    low, high = (None if end is None else end * each for end in (requests.low, requests.high))
    return replace(requests, value=found.output_tokens_per_s, low=low, high=high)


def _per_min(rate: Estimate) -> str:
    low, high = ("?" if end is None else f"{60 * end:.0f}" for end in (rate.low, rate.high))
    return f"{60 * rate.value:.0f} [{low}, {high}]"


def _per_s(per_min: float | None) -> float | None:
    return None if per_min is None else per_min / 60


def _pattern3(stage: StageRun) -> Measured:
    return throughput_and_cost.load(stage, SAME_PER_REPLICA)


def _unit(unit: str) -> str:
    return {"usd_per_hour": "USD/h", "usd_per_gib_month": "USD/GiB/month"}[unit]


def _verified(yes: bool) -> str:
    return "yes" if yes else "NO"
