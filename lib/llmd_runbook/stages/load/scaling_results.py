"""What the measurements on 1 to N replicas say: ratios through the comparison's gate, what is missing, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmd_runbook.analysis.comparison import THROUGHPUT, compare
from llmd_runbook.analysis.cost import per_million
from llmd_runbook.analysis.judgement import Judgement
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, percentile
from llmd_runbook.analysis.scale_out import efficiency, rate
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.run import StageRun
from llmd_runbook.stages.cost.tables import money
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.verdicts import Table

KEY = "replica_scaling"
"""Where `stage.data` has the figures."""
_LEAST_READINGS = 3

Runs = Mapping[int, Mapping[int, Measured]]
"""What was measured, by replicas and round."""


def runs_by_size(stage: StageRun) -> dict[int, dict[int, Measured]]:
    """What was measured, sizes and rounds rising; once the client is calibrated a load that shows it has no figures."""
    kept = stage.data.get(KEY, {})
    said = kept.get("client")
    error = None if said is None else Refusal(**said) if "reason" in said else ClientError(**said)
    found: dict[int, dict[int, Measured]] = {}
    for entry in sorted(kept.get("runs", []), key=lambda item: (item["replicas"], item["round"])):
        load = measurement.restored({key: value for key, value in entry.items() if key not in ("replicas", "round")})
        if error is not None:
            load = load.judged(measurement.client_condition(stage.profile, load, error))
        found.setdefault(entry["replicas"], {})[entry["round"]] = load
    return found


def served(runs: Runs, sizes: Sequence[int], rounds: int, trouble: str) -> Judgement:
    """Whether each size was measured in each round with all of its replicas; what nobody watched proves nothing."""
    wrong = [f"not all was measured: {trouble}"] if trouble else []
    unknown: list[str] = []
    for size in sizes:
        found = runs.get(size, {})
        if len(found) != rounds and not trouble:
            unknown.append(f"{size} replicas: measured {len(found)} times of {rounds}")
        for turn, load in found.items():
            where, readings = f"{size} replicas, round {turn}", load.readings
            if load.failed:
                wrong.append(f"{where}: {', '.join(load.failures())}")
            if len(readings.running) != size or len(readings.at_s) < _LEAST_READINGS:
                why = readings.trouble or f"{len(readings.at_s)} readings"
                unknown.append(f"{where}: {len(readings.running)} replicas were watched ({why})")
                continue
            held = {name: [*series, *readings.waiting[name]] for name, series in readings.running.items()}
            wrong += [f"{where}: {name} had no request" for name, series in held.items() if not any(series)]
    answers = [f"{size}: {sum(load.succeeded for load in found.values())} answers" for size, found in runs.items()]
    return Judgement(False if wrong else None if unknown else True, "; ".join([*wrong, *unknown] or answers))


def gains(stage: StageRun) -> dict[int, Estimate | Refusal]:
    """Throughput over that of one replica, by size: rounds as pairs, and the gate that every comparison has."""
    runs = runs_by_size(stage)
    ratios: dict[int, Estimate | Refusal] = {}
    for size, found in runs.items():
        one = runs.get(1, {})
        pairs = [(one[turn].compared(), load.compared()) for turn, load in found.items() if turn in one]
        if size > 1 and pairs:
            comparison = compare(pairs, fresh_prompts=True)
            gate, ratio = comparison.gate, comparison.ratios[THROUGHPUT]
            undecided = gate.unknown and gate.refusal is None  # what is known to differ is the better reason
            ratios[size] = Refusal(f"not known: {', '.join(gate.unknown)}") if undecided else ratio
    return ratios


def costs(stage: StageRun) -> dict[int, Estimate | Refusal]:
    """Dollars for a million output tokens, by size; the nodes of that many replicas alone."""
    price = stage.profile.prices.gpu_node_usd_per_hour
    found: dict[int, Estimate | Refusal] = {}
    for size, runs in runs_by_size(stage).items():
        tokens = _tokens(list(runs.values()))
        found[size] = tokens if isinstance(tokens, Refusal) else per_million(size * price, tokens)
    return found


def table(stage: StageRun) -> Table:
    """One row a size."""
    ratios, usd = gains(stage), costs(stage)
    rows: list[list[str | int | float | None]] = []
    for size, runs in runs_by_size(stage).items():
        loads = list(runs.values())
        ratio = ratios.get(size, Refusal("not measured beside one replica"))
        rows.append(
            [
                size,
                len(loads),
                loads[0].concurrency,
                sum(load.succeeded for load in loads),
                sum(load.failed for load in loads),
                measurement.shown(rate([load.throughput for load in loads]), 2),
                "1" if size == 1 else measurement.shown(ratio, 2),
                "1" if size == 1 else measurement.shown(efficiency(ratio, size), 2),
                measurement.shown(_p95(loads)),
                money(usd[size]),
            ]
        )
    columns = ["replicas", "runs", "in flight", "answers", "failures", "requests/s", "over one replica"]
    columns += ["efficiency", "p95 latency (s)", "USD per 1M output tokens"]
    return Table(title="The same load on 1 to N replicas", columns=columns, rows=rows)


def _p95(loads: Sequence[Measured]) -> Estimate | Refusal:
    """Of the latencies of all rounds together; none where a round shows the client."""
    doubt = next((load.conditions.client for load in loads if load.conditions.client), None)
    return Refusal(doubt) if doubt else percentile([latency for load in loads for latency in load.latencies_s], 0.95)


def _tokens(loads: Sequence[Measured]) -> Estimate | Refusal:
    """Output tokens a second: every answer has as many as was asked for, so the interval is that of the requests."""
    requests = rate([load.throughput for load in loads])
    if isinstance(requests, Refusal):
        return requests
    found = [load.throughput for load in loads if isinstance(load.throughput, Throughput)]
    each = sum(run.output_tokens_per_s for run in found) / sum(run.requests_per_s for run in found)
    low, high = (None if end is None else end * each for end in (requests.low, requests.high))
    return Estimate(requests.value * each, low, high, requests.n, requests.method)
