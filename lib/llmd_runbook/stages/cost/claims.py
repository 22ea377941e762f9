"""06: every number of the guide, worked out again and beside what this run measured."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import fmean

from llmd_runbook.analysis.claims import Claim, Figure, guide_claims, verdict
from llmd_runbook.analysis.cost import break_even, per_million
from llmd_runbook.analysis.latency import Estimate, Refusal
from llmd_runbook.prices import PriceFile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import throughput_and_cost
from llmd_runbook.stages.cost import tables
from llmd_runbook.stages.load.measurement import Measured, scaled
from llmd_runbook.stages.throughput_and_cost import BASELINE_STAGE, SAME_PER_REPLICA
from llmd_runbook.verdicts import Table, Verdict

Row = list[str | int | float | None]


def claims(stage: StageRun) -> Shown:
    """The claims in the guide's order: stated, recomputed, measured here, and the verdict that follows."""
    known = figures(stage)
    stage.data["claims"] = {}
    rows: list[Row] = []
    for claim in listed(stage):
        figure = known.get(claim.figure)
        answer = str(verdict(claim, figure))
        stage.data["claims"][claim.id] = answer
        texts = (claim.where, claim.says, claim.stated_text, claim.recomputed_text)
        rows.append([*texts, _measured(claim, figure), answer])
    counts = Counter(stage.data["claims"].values())
    stage.note(
        "The guide's numbers",
        f"{len(rows)} numbers: " + ", ".join(f"{number} {answer}" for answer, number in counts.most_common()) + ". "
        "A number that the guide's own figures contradict fails, whatever is measured; one that they support holds as "
        "arithmetic, which proves nothing about a cluster. What a simulated engine measured decides nothing.",
    )
    columns = ["section", "the guide on", "stated", "recomputed", "measured here", "verdict"]
    return stage.table(Table(title="What the guide states", columns=columns, rows=rows))


def listed(stage: StageRun) -> list[Claim]:
    """The guide's claims with the profile's price file, where it has one."""
    prices = stage.profile.prices
    named = prices.listed.prices if isinstance(prices, PriceFile) else {}
    return guide_claims({name: price.value for name, price in named.items()})


def figures(stage: StageRun) -> dict[str, Figure]:
    """What this run measured, by the names that the claims use."""
    before = throughput_and_cost.baseline(stage)
    after = throughput_and_cost.load(stage, SAME_PER_REPLICA)
    one, three = throughput_and_cost.hourly_usd(stage)
    found = _of_load("pattern3", after, three)
    if isinstance(before, Measured):
        found |= _of_load("pattern1", before, one)
    speed_up = throughput_and_cost.speed_up(stage)
    found["speed_up"] = speed_up
    if isinstance(speed_up, Estimate):
        cost_ratio = break_even(one, three, speed_up).cost_ratio
        found |= {"cost_ratio": cost_ratio, "cheaper_percent": _cheaper(cost_ratio)}
    for name, pattern, (earlier, check) in (
        ("pattern1.replicas", stage.profile.pattern1, (BASELINE_STAGE, "pattern1.ready")),
        ("pattern3.replicas", stage.profile.pattern3, ("04_verify", "verify.replicas")),
    ):
        if _passed(stage, earlier, check):
            count = float(pattern.replicas)
            found[name] = Estimate(count, count, count, 1, f"{check} of {earlier}")
    return {name: Figure(value, stage.simulated) for name, value in found.items() if isinstance(value, Estimate)}


def _measured(claim: Claim, figure: Figure | None) -> str:
    if figure is None:
        return ""
    found = figure.value
    low, high = ("?" if end is None else f"{end:.4g}" for end in (found.low, found.high))
    doubts = [*(["simulated"] if figure.simulated else []), *([claim.incomparable] if claim.incomparable else [])]
    interval = "" if found.low == found.high == found.value else f" [{low}, {high}]"
    return f"{found.value:.4g}{interval}" + (f" ({'; '.join(doubts)})" if doubts else "")


def _passed(stage: StageRun, earlier: str, check_id: str) -> bool:
    result = stage.earlier(earlier)
    return result is not None and any(check.id == check_id and check.verdict is Verdict.PASS for check in result.checks)


def _of_load(name: str, load: Measured, usd_per_hour: float) -> dict[str, Estimate | Refusal]:
    requests, tokens = tables.rates(load)
    found: dict[str, Estimate | Refusal] = {
        f"{name}.p{100 * p:g}_ms": scaled(load.quantile("latency", p), 1000) for p in (0.5, 0.95, 0.99)
    }
    found |= {
        f"{name}.requests_per_s": requests,
        f"{name}.requests_per_min": scaled(requests, 60),
        f"{name}.tokens_per_s": tokens,
    }
    if isinstance(requests, Estimate):
        found[f"{name}.usd_per_1m"] = per_million(usd_per_hour, requests)
    if load.ready_s:
        minutes = [seconds / 60 for seconds in load.ready_s.values()]
        found[f"{name}.ready_min"] = Estimate(
            fmean(minutes), min(minutes), max(minutes), len(minutes), "mean, fastest and slowest replica"
        )
    share = load.readings.hit_share
    if share is not None:
        percent = 100 * share
        found[f"{name}.hit_rate_percent"] = Estimate(percent, percent, percent, 1, "counters of all replicas")
    return found


def _cheaper(cost_ratio: Estimate) -> Estimate:
    """By how many percent a request is cheaper; negative is dearer, and the interval turns round."""
    low, high = (None if end is None else 100 * (1 - end) for end in (cost_ratio.high, cost_ratio.low))
    return replace(cost_ratio, value=100 * (1 - cost_ratio.value), low=low, high=high)
