"""06: the five tests of the guide's benchmark suite with its outputs, from what this run proved.

A line gets its mark from a check of this run, never from having been printed: the guide's script marks every test as
passed, counts error answers as completed, takes P95 and P99 to be the largest of 20, and divides by a constant.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines
from llmd_runbook.stages import site, throughput_and_cost
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import PERCENTILES, Measured
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import StageResult, Verdict

REQUESTS = 50
"""Of test 4, all at once; the guide's script sends ten at a time and calls it 50 concurrent."""
VERIFY, ROUTING = "04_verify", "05_routing_affinity"
_MARKS = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.INCONCLUSIVE: "?"}


@dataclass(frozen=True)
class _Line:
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{_MARKS[self.verdict]} {self.text}"


def suite(stage: StageRun) -> Shown:
    """Run test 4, and show all five; ✓ is proved, ✗ disproved, ? neither."""
    profile, pattern = stage.profile, stage.profile.pattern3
    target = endpoint(site.kubernetes(profile), profile, pattern.gateway)
    with stage.step(f"send {REQUESTS} requests at once") as step:
        found = measurement.burst(profile, target, pattern, REQUESTS, step)
        good = len(found.good)
        step.ok(f"{good} answers, {REQUESTS - good} failures")
    stage.data["burst"] = {"requests": REQUESTS, "answers": good, "duration_s": found.duration_s}
    health = [_of(stage, VERIFY, "verify.replicas"), _of(stage, VERIFY, "verify.answer")]
    prefix = [_of(stage, ROUTING, "affinity.prefix"), _of(stage, ROUTING, "affinity.cache_hits")]
    spread = [_of(stage, ROUTING, "affinity.spread")]
    before, speed_up = throughput_and_cost.baseline(stage), throughput_and_cost.speed_up(stage)
    rate = [_burst(good, found.duration_s), _gain(speed_up, before)]
    latency = _latencies(stage)
    tests = {
        "Basic Health Check": health,
        "Prefix Cache Routing": prefix,
        "Load Distribution Across Replicas": spread,
        "Throughput Benchmark": rate,
        "Latency Profile": latency,
    }
    stage.data["suite"] = {name: [[str(line.verdict), line.text] for line in found] for name, found in tests.items()}
    said = [
        "=== Pattern 3 GPU Comprehensive Benchmark ===",
        f"Namespace: {profile.namespace}",
        f"Model: {pattern.model}",
    ]
    for number, (name, parts) in enumerate(tests.items(), start=1):
        said += ["", f"Test {number}: {name}", *map(str, parts)]
    proved = sum(all(line.verdict is Verdict.PASS for line in parts) for parts in tests.values())
    said += ["", "=== Benchmark Complete ===", f"{proved} of {len(tests)} tests proved"]
    return lines(said + ([f"[{stage.cluster.stamp}]"] if stage.cluster.stamp else []))


def _of(stage: StageRun, earlier: str, check_id: str) -> _Line:
    """A check of an earlier stage of this run, as its line."""
    result: StageResult | None = stage.earlier(earlier)
    found = next((check for check in result.checks if check.id == check_id), None) if result else None
    if found is None:
        return _Line(Verdict.INCONCLUSIVE, f"{check_id}: not judged in this run (stage {earlier[:2]})")
    return _Line(found.verdict, f"{found.proves}: {found.observed}")


def _burst(good: int, duration_s: float) -> _Line:
    """Every one of the requests must have been answered; whatever failed is no throughput."""
    text = f"Requests completed: {good} of {REQUESTS}, total time: {duration_s:.1f} s"
    text += f", throughput: {good / duration_s:.2f} req/s" if good else ""
    return _Line(Verdict.PASS if good == REQUESTS else Verdict.FAIL, text)


def _gain(found: Estimate | Refusal, before: Measured | Refusal) -> _Line:
    """Against the baseline as it was measured, with as many requests in flight a replica."""
    said = f"Improvement factor over the measured baseline: {measurement.shown(found, 2)}"
    if isinstance(before, Measured) and isinstance(before.throughput, Throughput):
        said += f"; Pattern 1 baseline: {before.throughput.requests_per_s:.2f} req/s, {before.concurrency} in flight"
    if isinstance(found, Refusal) or found.low is None or found.high is None:
        return _Line(Verdict.INCONCLUSIVE, said)
    return _Line(Verdict.PASS if found.low > 1 else Verdict.FAIL if found.high < 1 else Verdict.INCONCLUSIVE, said)


def _latencies(stage: StageRun) -> list[_Line]:
    """Percentiles of the load with the most requests; one that its samples cannot bear is not proved."""
    load = throughput_and_cost.load(stage, throughput_and_cost.SAME_PER_REPLICA)
    found = {f"P{100 * p:g}": load.quantile("latency", p) for p in PERCENTILES}
    where = f"{load.concurrency} in flight"
    return [
        _Line(Verdict.INCONCLUSIVE, f"{name}: {value.reason}")
        if isinstance(value, Refusal)
        else _Line(Verdict.PASS, f"{name}: {1000 * value.value:.0f} ms, {where}, n={value.n}")
        for name, value in found.items()
    ]
