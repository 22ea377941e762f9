"""06: what Pattern 3 serves and how fast, beside Pattern 1; what that costs is in the modules cost_*."""

from __future__ import annotations

from dataclasses import asdict

from llmd_runbook.analysis import littles_law
from llmd_runbook.analysis.comparison import Comparison
from llmd_runbook.analysis.comparison import compare as compare_loads
from llmd_runbook.analysis.judgement import Judgement
from llmd_runbook.analysis.latency import Estimate, Refusal
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, together
from llmd_runbook.stages import figures, site
from llmd_runbook.stages.load import figures as load_figures
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.swap import compare as swap_compare
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Check, Table, declare

BASELINE_STAGE, SWAP_STAGE = "01_review_state", "03_swap_patterns"
SAME_LOAD, SAME_PER_REPLICA = "same_load", "same_load_per_replica"

FAILURES = declare(
    "load.answers",
    "Pattern 3 answered every request of both loads",
    "see the failures by kind; throughput counts whole answers only",
)
CLIENT = declare(
    "load.client",
    "the client was fast enough that the server's latency was measured and not the client's own",
    "run it on a machine with idle processors, or lower the concurrency",
    never_fails="a slow client says nothing against the server: what was measured is no result then",
)
LAW = declare(
    "load.littles_law",
    "requests in flight, throughput times latency and what the replicas hold are the same number",
    "see who else sends requests to the replicas, and whether every replica's metrics are read",
)
COMPARABLE = declare(
    "comparison.same_load",
    "both patterns were measured under the same load: prompts, tokens, requests in flight, arrival, caches, client",
    "run stages 01 to 06 in one run with one profile; where prompts were in the caches, restart the replicas first",
)
GAIN = declare(
    "throughput.gain",
    "with as many requests in flight a replica, Pattern 3 serves more requests a second than Pattern 1 did",
    "see that all replicas serve (stage 05), and that their queues and caches are not the limit",
)

_CLIENT_ERROR = "client_error"
_GUIDE = {"throughput": "2.5 to 3", "latency p95": "0.71", "cost of a request": "0.35"}
"""What the guide says of each ratio: 850 over 1200 ms, and 65 % cheaper."""
_UNPAIRED = (
    "The patterns serve different models at different times: this is before and after, unpaired, not cause and effect. "
)
_PAIRED = (
    "Both patterns were measured by turns while the swap had both of them running, so that what changes with time hits "
    "both alike. They serve different models. "
)


def measure(stage: StageRun) -> Shown:
    """The baseline's load on Pattern 3; then as many requests in flight a replica as Pattern 1 had."""
    profile = stage.profile
    pattern = profile.pattern3
    target = endpoint(site.kubernetes(profile), profile, pattern.gateway)
    before = baseline(stage)
    same_prompts = measurement.fresh_seed() if isinstance(before, Refusal) else before.seed
    loads: dict[str, Measured] = {}
    for name, scale, seed in (
        (SAME_LOAD, 1, same_prompts),
        (SAME_PER_REPLICA, pattern.replicas, measurement.fresh_seed()),
    ):
        in_flight = profile.load.concurrency * scale
        with stage.step(f"measure Pattern 3 with {in_flight} requests in flight") as step:
            found = measurement.measure(profile, target, pattern, in_flight, step, seed=seed, scale=scale)
            loads[name] = found
            step.ok(str(found))
    answered = [load.answered for load in loads.values()]
    stage.check(
        FAILURES.judge(
            False if False in answered else None if None in answered else True,
            expected="answers only",
            observed=", ".join(map(str, loads.values())),
            evidence=[line for load in loads.values() for line in load.failures()],
        )
    )
    with stage.step("calibrate the client") as step:
        error = measurement.client_error(profile, loads[SAME_PER_REPLICA], step)
        bound = [reason for load in loads.values() if (reason := measurement.client_bound(profile, load, error))]
        step.ok("client-bound" if bound else "the server was measured")
    added = error.reason if isinstance(error, Refusal) else f"{1000 * error.latency_p95_s:.1f} ms added at p95"
    stage.check(
        CLIENT.judge(
            None if bound else True,
            expected=f"at most {profile.load.client_tolerance:.0%} of the measured latencies",
            observed=added + "".join(f"; timers {1000 * load.client_lag_p99_s:.1f} ms late" for load in loads.values()),
            evidence=bound,
        )
    )
    stage.data[_CLIENT_ERROR] = asdict(error)
    for name, load in loads.items():
        stage.data[name] = load.data()
    return stage.table(measurement.table("Pattern 3", _pattern3(stage)))


def watched(stage: StageRun) -> figures.Png:
    """Queue and KV cache of each replica over time; and whether throughput, latency and requests in flight agree."""
    measured = {name: measurement.restored(stage.data[name]) for name in (SAME_LOAD, SAME_PER_REPLICA)}
    found = {name: little(one) for name, one in measured.items()}  # of a client that was too slow too: it may tell
    verdicts = [one.ok for one in found.values()]
    stage.check(
        LAW.judge(
            False if False in verdicts else None if None in verdicts else True,
            expected="throughput x mean latency = requests in flight = running and waiting in the replicas",
            observed="; ".join(one.reason for one in found.values()),
        )
    )
    return load_figures.queue_and_cache(
        dict(zip(_pattern3(stage), measured.values(), strict=True)), stamp=stage.cluster.stamp
    )


def little(found: Measured) -> Judgement:
    """Little's law on one load, and on what the replicas said beside it."""
    run = found.throughput
    if isinstance(run, Refusal):
        return Judgement(None, run.reason)
    if found.failed:
        return Judgement(None, f"{found.failed} requests failed: their latencies are not known")
    held = found.readings.held(run.start_s, run.start_s + run.window_s)
    judged = littles_law.judge(littles_law.law(run, found.concurrency, held))
    trouble = found.readings.trouble
    return Judgement(judged.ok, f"{judged.reason} ({trouble})" if trouble else judged.reason)


def compare(stage: StageRun) -> Shown:
    """Pattern 3 over Pattern 1, every ratio with its interval or with the reason why there is none."""
    identical, replicates = same_load(stage)
    each = per_replica(stage)
    stage.check(_comparable(identical))
    gain = each if isinstance(each, Refusal) else each.ratios["throughput"]
    verdict = None
    if isinstance(gain, Estimate) and gain.low is not None and gain.high is not None:
        verdict = True if gain.low > 1 else False if gain.high < 1 else None
    stage.check(
        GAIN.judge(
            verdict,
            expected="the whole interval of the ratio above 1",
            observed=measurement.shown(gain, 2),
            evidence=[gain.method, gain.caveat] if isinstance(gain, Estimate) else [],
        )
    )
    stage.note("How to read the ratios", _reading(identical, each, replicates))
    stage.table(measurement.table("Both patterns", named(stage)))
    inside = stage.table(measurement.more("Between tokens, and in the replicas", named(stage)))
    stage.data["comparison"] = {
        name: {figure: asdict(ratio) for figure, ratio in found.ratios.items()}
        for name, found in ((SAME_LOAD, identical), (SAME_PER_REPLICA, each))
        if isinstance(found, Comparison)
    }
    source = f"same load, {replicates} by turns" if replicates else "same load, before and after"
    columns = ["Pattern 3 / Pattern 1", source, "same load a replica", "the guide says"]
    ratios = stage.table(Table(title="Ratios", columns=columns, rows=_rows(identical, each)))
    return together(ratios, inside)


def plot(stage: StageRun) -> figures.Png:
    """Latency distributions and throughput of all loads of this run."""
    return figures.latency_and_throughput(named(stage), stamp=stage.cluster.stamp)


def load(stage: StageRun, name: str) -> Measured:
    """One of the two loads of this stage; without figures where the client was measured."""
    return _judged(stage, measurement.restored(stage.data[name]))


def baseline(stage: StageRun) -> Measured | Refusal:
    """Pattern 1's load of this run, or why there is none to compare with."""
    earlier = stage.earlier(BASELINE_STAGE)
    if earlier is None or "baseline" not in earlier.data:
        return Refusal(f"no baseline of Pattern 1 in this run: run {BASELINE_STAGE} before the swap")
    return _judged(stage, measurement.restored(earlier.data["baseline"]))


def same_load(stage: StageRun) -> tuple[Comparison | Refusal, int]:
    """The identical load on both: the rounds that a surge took by turns, else the baseline; and how many rounds."""
    swap = stage.earlier(SWAP_STAGE)
    rounds = swap_compare.pairs(swap.data.get(swap_compare.KEY, [])) if swap else []
    if rounds:
        judged = [(_judged(stage, one), _judged(stage, three)) for one, three in rounds]
        return _compared(stage, judged), len(rounds)
    before = baseline(stage)
    return before if isinstance(before, Refusal) else _compared(stage, [(before, load(stage, SAME_LOAD))]), 0


def per_replica(stage: StageRun) -> Comparison | Refusal:
    """The baseline beside the load with as many requests in flight a replica."""
    before = baseline(stage)
    if isinstance(before, Refusal):
        return before
    return _compared(stage, [(before, load(stage, SAME_PER_REPLICA))], per_replica=True)


def speed_up(stage: StageRun) -> Estimate | Refusal:
    """Throughput of Pattern 3 over Pattern 1's, with as many requests in flight a replica, or why there is no ratio."""
    found = per_replica(stage)
    return found if isinstance(found, Refusal) else found.ratios["throughput"]


def named(stage: StageRun) -> dict[str, Measured]:
    """All loads of this run by the name that tables show, Pattern 1 first."""
    before = baseline(stage)
    return ({"Pattern 1, baseline": before} if isinstance(before, Measured) else {}) | _pattern3(stage)


def hourly_usd(stage: StageRun) -> tuple[float, float]:
    """Dollars an hour for the GPU nodes of Pattern 1 and of Pattern 3, one a replica, as their nodes are labelled."""
    before, after = baseline(stage), load(stage, SAME_PER_REPLICA)
    one = 0 if isinstance(before, Refusal) else before.on_spot or 0
    profile = stage.profile
    return nodes_usd(stage, profile.pattern1.replicas, one), nodes_usd(stage, profile.pattern3.replicas, after.on_spot)


def nodes_usd(stage: StageRun, count: int, on_spot: int | None) -> float:
    """Dollars an hour for GPU nodes, some of them on spot; on demand where there is no price of a spot node."""
    prices = stage.profile.prices
    spot = prices.gpu_node_spot_usd_per_hour
    on_spot = 0 if spot is None else min(on_spot or 0, count)
    return (count - on_spot) * prices.gpu_node_usd_per_hour + on_spot * (spot or 0)


def _pattern3(stage: StageRun) -> dict[str, Measured]:
    return {
        "Pattern 3, same load": load(stage, SAME_LOAD),
        "Pattern 3, same load a replica": load(stage, SAME_PER_REPLICA),
    }


def _judged(stage: StageRun, found: Measured) -> Measured:
    """With what the calibration says of the client; it was made with the most requests in flight."""
    known = stage.data.get(_CLIENT_ERROR)
    if known is None:
        return found
    error = Refusal(**known) if "reason" in known else ClientError(**known)
    return found.judged(measurement.client_condition(stage.profile, found, error))


def _compared(stage: StageRun, pairs: list[tuple[Measured, Measured]], *, per_replica: bool = False) -> Comparison:
    loads = [(one.compared(), other.compared()) for one, other in pairs]
    one, three = hourly_usd(stage)
    return compare_loads(loads, usd_per_hour=(one, three), per_replica=per_replica)


def _comparable(found: Comparison | Refusal) -> Check:
    expected = "the same prompts, tokens, requests in flight, arrival, cache state; the server measured on both sides"
    if isinstance(found, Refusal):
        return COMPARABLE.judge(None, expected=expected, observed=found.reason)
    gate = found.gate
    doubts = [*gate.client, *(f"not known: {what}" for what in gate.unknown)]
    return COMPARABLE.judge(
        False if gate.different else None if doubts else True,
        expected=expected,
        observed="; ".join([*gate.different, *doubts]) or "the same",
        evidence=gate.labels,
    )


def _reading(identical: Comparison | Refusal, each: Comparison | Refusal, replicates: int) -> str:
    found = [item.gate.labels for item in (identical, each) if isinstance(item, Comparison)]
    labels = "; ".join(dict.fromkeys(label for labels in found for label in labels))
    few = (
        "One pair of runs has no interval over runs: the intervals are those of its samples. "
        if replicates == 1
        else ""
    )
    return (
        (_PAIRED + few if replicates else _UNPAIRED)
        + "Batching lets one replica serve many requests at once, so the same load gains little from three; "
        "the gain shows when each replica is as busy as the one was, which was measured after the swap."
        + (f" What differs by intent: {labels}." if labels else "")
    )


def _rows(identical: Comparison | Refusal, each: Comparison | Refusal) -> list[list[str | int | float | None]]:
    found = [item.ratios for item in (identical, each) if isinstance(item, Comparison)]
    names = list(found[0]) if found else ["throughput"]

    def cell(item: Comparison | Refusal, name: str) -> str:
        return measurement.shown(item if isinstance(item, Refusal) else item.ratios[name], 2)

    return [[name, cell(identical, name), cell(each, name), _GUIDE.get(name)] for name in names]
