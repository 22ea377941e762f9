"""06: what Pattern 3 serves and how fast, beside Pattern 1; what that costs is in the modules cost_*."""

from __future__ import annotations

from llmd_runbook.analysis.latency import Estimate, Refusal, single_ratio
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import figures, measurement, site
from llmd_runbook.stages.measurement import Measured
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Table, declare

BASELINE_STAGE = "01_review_state"
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
)
GAIN = declare(
    "throughput.gain",
    "with as many requests in flight a replica, Pattern 3 serves more requests a second than Pattern 1 did",
    "see that all replicas serve (stage 05), and that their queues and caches are not the limit",
)


def measure(stage: StageRun) -> Shown:
    """The baseline's load on Pattern 3; then as many requests in flight a replica as Pattern 1 had."""
    profile = stage.profile
    pattern = profile.pattern3
    target = endpoint(site.kubernetes(profile), profile, pattern.gateway)
    loads: dict[str, Measured] = {}
    for name, scale in ((SAME_LOAD, 1), (SAME_PER_REPLICA, pattern.replicas)):
        in_flight = profile.load.concurrency * scale
        with stage.step(f"measure Pattern 3 with {in_flight} requests in flight") as step:
            found = measurement.measure(
                profile, target, pattern.model, in_flight, step, seed=load_seed(scale), scale=scale
            )
            loads[name] = found
            step.ok(f"{found.succeeded} answers, {found.failed} failures")
    failed = [line for load in loads.values() for line in load.failures()]
    stage.check(
        FAILURES.judge(
            not failed and all(load.succeeded for load in loads.values()),
            expected="answers only",
            observed=", ".join(f"{load.succeeded} answers, {load.failed} failures" for load in loads.values()),
            evidence=failed,
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
    for name, load in loads.items():
        stage.data[name] = load.data()
    return stage.table(measurement.table("Pattern 3", _pattern3(stage)))


def load_seed(scale: int) -> int:
    """Of the prompts of the load that is `scale` times the baseline's; another than the baseline's own."""
    return 1 + scale


def compare(stage: StageRun) -> Shown:
    """Ratios of throughput to the baseline of this run, each with its interval or with the reason why there is none."""
    before = baseline(stage)
    ratios = {name: ratio(before, load(stage, name)) for name in (SAME_LOAD, SAME_PER_REPLICA)}
    gain = ratios[SAME_PER_REPLICA]
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
    stage.note(
        "How to read the ratio",
        "The patterns serve different models at different times: this is before and after, not cause and effect. "
        "Batching lets one replica serve many requests at once, so the same load gains little from three; "
        "the gain shows when each replica is as busy as the one was.",
    )
    names = {SAME_LOAD: "same requests in flight", SAME_PER_REPLICA: "same requests in flight a replica"}
    rows: list[list[str | int | float | None]] = [
        [names[name], measurement.shown(found, 2), "2.5 to 3"] for name, found in ratios.items()
    ]
    stage.table(measurement.table("Both patterns", named(stage)))
    columns = ["comparison", "throughput, Pattern 3 / Pattern 1", "the guide says"]
    return stage.table(Table(title="Speed-up", columns=columns, rows=rows))


def plot(stage: StageRun) -> figures.Png:
    """Latency distributions and throughput of all loads of this run."""
    return figures.latency_and_throughput(named(stage), stamp=stage.cluster.stamp)


def load(stage: StageRun, name: str) -> Measured:
    """One of the two loads of this stage, as measured."""
    return measurement.restored(stage.data[name])


def baseline(stage: StageRun) -> Measured | Refusal:
    """Pattern 1's load of this run, or why there is none to compare with."""
    earlier = stage.earlier(BASELINE_STAGE)
    if earlier is None or "baseline" not in earlier.data:
        return Refusal(f"no baseline of Pattern 1 in this run: run {BASELINE_STAGE} before the swap")
    found = measurement.restored(earlier.data["baseline"])
    if found.concurrency != stage.profile.load.concurrency:
        return Refusal("the baseline was measured at another concurrency")
    return found


def ratio(before: Measured | Refusal, after: Measured) -> Estimate | Refusal:
    """Throughput after / before, or why there is no ratio."""
    if isinstance(before, Refusal):
        return before
    for side in (before, after):
        if isinstance(side.throughput, Refusal):
            return side.throughput
        if side.failed:
            return Refusal("failed requests on one side: the two loads are not the same")
    assert not isinstance(before.throughput, Refusal)
    assert not isinstance(after.throughput, Refusal)
    return single_ratio(before.throughput, after.throughput, seed=0)


def named(stage: StageRun) -> dict[str, Measured]:
    """All loads of this run by the name that tables show, Pattern 1 first."""
    before = baseline(stage)
    return ({"Pattern 1, baseline": before} if isinstance(before, Measured) else {}) | _pattern3(stage)


def _pattern3(stage: StageRun) -> dict[str, Measured]:
    return {
        "Pattern 3, same load": load(stage, SAME_LOAD),
        "Pattern 3, same load a replica": load(stage, SAME_PER_REPLICA),
    }
