"""One load on one pattern, of the shape that the profile fixes for both, and its figures."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any, Literal

import numpy as np

from llmd_runbook.analysis.comparison import Conditions, Load
from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, closed_loop_throughput, percentile
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.load.calibrate import ClientError, calibrate, invalid
from llmd_runbook.load.fleet import Fleet, of_processes
from llmd_runbook.load.measure import measure as run_load
from llmd_runbook.load.mixes import SERVICE, digest, mixed, repeated_share
from llmd_runbook.load.plan import Burst, Closed, Plan, Prompt
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import LoadResult, Progress
from llmd_runbook.load.watch import Readings, Watch
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.run import StepHandle
from llmd_runbook.stages.load.servers import Servers
from llmd_runbook.verdicts import Table

PERCENTILES = (0.5, 0.95, 0.99)
Of = Literal["latency", "ttft", "tpot"]
_WARM = 0.05
"""More hits than the load's own sharing explains, by this part of its tokens, were in the caches before."""


@dataclass(frozen=True)
class Measured:
    """A load and what came of it. Latencies in seconds, of good answers only; failures are counted beside them.

    Attributes:
        throughput: of the steady window, or why there is none.
        conditions: under what it was measured; that of the client is not known before `judged`.
        seed: of its prompts.
        readings: the replicas' own metrics beside it.
        lost_workers: machines that were to send a part of it and brought nothing.
        tpots_s: time per output token after the first, (latency - TTFT) / (tokens - 1), of answers that have one.
        gaps_s: p50, p95 and p99 of the times between successive events of all answers; empty where there are none.
        tokens_per_event: output tokens over events with text; above 1 a gap is not one between tokens.
        ready_s: by replica, from its creation to Ready; without those that were started again.
        on_spot: replicas on spot nodes, by the nodes' labels; None where nobody could say.
    """

    concurrency: int
    requests: int
    latencies_s: list[float]
    ttfts_s: list[float]
    throughput: Throughput | Refusal
    failures_by_kind: dict[str, int]
    client_lag_p99_s: float
    conditions: Conditions = field(default_factory=Conditions)
    seed: int = 0
    readings: Readings = field(default_factory=Readings)
    lost_workers: list[str] = field(default_factory=list)
    tpots_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    tokens_per_event: float | None = None
    ready_s: dict[str, float] = field(default_factory=dict)
    on_spot: int | None = None

    @property
    def succeeded(self) -> int:
        """Whole answers."""
        return len(self.latencies_s)

    @property
    def failed(self) -> int:
        """Requests without a whole answer."""
        return sum(self.failures_by_kind.values())

    def failures(self) -> list[str]:
        """Failures by kind, and machines that brought nothing, as evidence."""
        kinds = [f"{kind}: {count}" for kind, count in self.failures_by_kind.items()]
        return kinds + [f"worker lost: {worker}" for worker in self.lost_workers]

    def __str__(self) -> str:
        lost = f", {len(self.lost_workers)} of its workers lost" if self.lost_workers else ""
        return f"{self.succeeded} answers, {self.failed} failures{lost}"

    @property
    def answered(self) -> bool | None:
        """Whether every request was; None where a machine was lost with its part, which may have been answered."""
        if self.failed or not self.succeeded:
            return False
        return None if self.lost_workers else True

    def data(self) -> dict[str, Any]:
        """All of it as JSON values, which `restored` reads."""
        return asdict(self)

    def quantile(self, of: Of, p: float) -> Estimate | Refusal:
        """A percentile of the answers, with its interval; none where the client was measured and not the server."""
        if self.conditions.client:
            return Refusal(self.conditions.client)
        return percentile({"latency": self.latencies_s, "ttft": self.ttfts_s, "tpot": self.tpots_s}[of], p)

    def judged(self, client: str | None) -> Measured:
        """The same with what is known of the client; where it was measured, it has no figures any more.

        Args:
            client: why the client and not the server was measured; empty: it was the server; None: nobody knows.
        """
        throughput = Refusal(client) if client else self.throughput
        return replace(self, conditions=replace(self.conditions, client=client), throughput=throughput)

    def compared(self) -> Load:
        """What a comparison takes of it."""
        return Load(
            conditions=self.conditions,
            failed=self.failed,
            throughput=self.throughput,
            samples={"latency": self.latencies_s, "ttft": self.ttfts_s},
        )


def restored(data: Mapping[str, Any]) -> Measured:
    """What `Measured.data` wrote."""
    found = data["throughput"]
    throughput = Refusal(**found) if "reason" in found else Throughput(**{**found, "done_s": tuple(found["done_s"])})
    parts = {"conditions": Conditions(**data["conditions"]), "readings": Readings(**data["readings"])}
    return Measured(**{**data, "throughput": throughput, **parts})


def fresh_seed() -> int:
    """A seed that no earlier load had, so that its prompts are in no cache; the record keeps it."""
    return secrets.randbelow(2**31)


def measure(
    profile: Profile,
    target: Endpoint,
    pattern: Pattern,
    concurrency: int,
    step: StepHandle,
    *,
    seed: int,
    scale: int = 1,
) -> Measured:
    """Put the profile's load on a pattern: `scale` times its requests, the first `concurrency` of them warm-up.

    Raises:
        ToolError: the load generator broke.
        UsageError, Unreachable: of the scheduler that the profile names.
    """
    sent = prompts(profile, concurrency, seed=seed, scale=scale)
    plan = _plan(profile, target, pattern, sent, Closed(concurrency=concurrency))
    servers = Servers(profile, pattern)
    lost: list[str] = []
    with Watch(servers.read) as watch:
        if fleet_of_profile := _fleet(profile):
            with fleet_of_profile as fleet:
                split = fleet.measure(plan, step.progress)
            lost = [f"{worker.address} ({worker.requests} requests): {worker.error}" for worker in split.lost]
            result = split.result
        else:
            result = run_load(plan, lambda now: _show(step, now))
    readings = watch.readings(result.started_s)
    conditions = Conditions(
        prompts=digest(sent),
        recipe=recipe(profile),
        requests=len(sent) - concurrency,
        prompt_tokens=mean_count([sample.prompt_tokens for sample in result.good]),
        output_tokens=mean_count([sample.output_tokens for sample in result.good]),
        arrival="closed loop",
        in_flight=concurrency,
        replicas=pattern.replicas,
        cache=cache_state(readings.hit_share, sent),
        model=pattern.model,
        context_tokens=servers.context_tokens,
    )
    found = summarised(result, concurrency)
    return replace(
        found,
        conditions=conditions,
        seed=seed,
        readings=readings,
        lost_workers=lost,
        ready_s=servers.ready_s,
        on_spot=servers.on_spot,
    )


def burst(profile: Profile, target: Endpoint, pattern: Pattern, requests: int, step: StepHandle) -> LoadResult:
    """So many of the load's requests at once, from this machine; every sample, failed ones too.

    Raises:
        ToolError: the load generator broke.
    """
    sent = prompts(profile, 0, seed=fresh_seed(), scale=math.ceil(requests / profile.load.requests))[:requests]
    return run_load(_plan(profile, target, pattern, sent, Burst()), lambda now: _show(step, now))


def prompts(profile: Profile, concurrency: int, *, seed: int, scale: int = 1) -> list[Prompt]:
    """The very prompts that `measure` sends with these arguments, warm-up first."""
    count = profile.load.requests * scale + concurrency
    if profile.load.mix == "service":
        return mixed(count, SERVICE, seed=seed)
    return unique(count, profile.load.prompt_tokens, seed=seed)


def recipe(profile: Profile) -> str:
    """How the load's prompts are made, in words; equal for loads that differ in number and seed only."""
    if profile.load.mix == "unique":
        return f"unique, {profile.load.prompt_tokens} tokens each"
    kinds = [
        f"{part.weight:g} {part.kind}"
        + (f" ({part.shared} shared texts of {part.shared_tokens} tokens" if part.shared else " (")
        + f"{' and ' if part.shared else ''}{part.own_tokens[0]} to {part.own_tokens[1]} of their own)"
        for part in SERVICE
    ]
    return " : ".join(kinds)


def longest_prompt_tokens(profile: Profile) -> int:
    """The longest prompt of the load."""
    if profile.load.mix == "service":
        return max(part.shared_tokens + part.own_tokens[1] for part in SERVICE)
    return profile.load.prompt_tokens


def summarised(result: LoadResult, warmup: int) -> Measured:
    """Latencies, throughput and failures of a load; the first `warmup` requests count for failures only."""
    kept = [sample for sample in result.good if sample.index >= warmup]
    gaps_s = [gap for sample in kept for gap in sample.gaps_s]
    events, tokens = sum(sample.events for sample in kept), [sample.output_tokens for sample in kept]
    return Measured(
        concurrency=warmup,
        requests=len(result.samples) - warmup,
        latencies_s=[sample.latency_s for sample in kept],
        ttfts_s=[sample.ttft_s for sample in kept if sample.ttft_s is not None],
        throughput=_throughput(result, warmup),
        failures_by_kind=result.failures(),
        client_lag_p99_s=result.client.lag_p99_s,
        tpots_s=[sample.tpot_s for sample in kept if sample.tpot_s is not None],
        gaps_s=np.quantile(gaps_s, PERCENTILES).tolist() if gaps_s else [],
        tokens_per_event=sum(filter(None, tokens)) / events if events and None not in tokens else None,
    )


def _throughput(result: LoadResult, warmup: int) -> Throughput | Refusal:
    """Of whole answers; none where the server did not count the tokens of every one."""
    samples = result.samples
    if uncounted := sum(sample.output_tokens is None for sample in result.good):
        return Refusal(f"the server counted no tokens in {uncounted} of {len(result.good)} answers (no usage in them)")
    return closed_loop_throughput(
        [sample.sent_s for sample in samples],
        [sample.done_s for sample in samples],
        [sample.output_tokens if sample.ok else None for sample in samples],
        warmup=warmup,
    )


def client_error(profile: Profile, load: Measured, step: StepHandle) -> ClientError | Refusal:
    """What client and machine add to the latencies of a load, from a run against a server whose times are known.

    Raises:
        ToolError: the calibration broke.
    """
    latency, ttft = percentile(load.latencies_s, 0.5), percentile(load.ttfts_s, 0.5)
    if isinstance(latency, Refusal) or isinstance(ttft, Refusal):
        return Refusal("too few answers to calibrate against")
    tokens = profile.load.output_tokens
    gap_s = max(0.0, latency.value - ttft.value) / max(1, tokens - 1)
    step.progress(f"{load.concurrency} requests in flight against a known server")
    shape = {"concurrency": load.concurrency, "output_tokens": tokens}
    if fleet_of_profile := _fleet(profile):
        with fleet_of_profile as fleet:
            return fleet.calibrate(**shape, first_s=ttft.value, gap_s=gap_s)
    return calibrate(**shape, first_s=ttft.value, gap_s=gap_s)


def client_bound(profile: Profile, load: Measured, error: ClientError | Refusal) -> str | None:
    """Why a load shows the client and not the server, or another load; None when it does not."""
    if load.lost_workers:
        return f"INVALID (workers lost): the load was not the one that was asked for; {'; '.join(load.lost_workers)}"
    latency, tail = percentile(load.latencies_s, 0.5), percentile(load.latencies_s, 0.95)
    for found in (error, latency, tail):
        if isinstance(found, Refusal):
            return found.reason
    assert isinstance(error, ClientError)
    assert isinstance(latency, Estimate)
    assert isinstance(tail, Estimate)
    return invalid(
        error,
        lag_p99_s=load.client_lag_p99_s,
        p50_s=latency.value,
        p95_s=tail.value,
        tolerance=profile.load.client_tolerance,
    )


def client_condition(profile: Profile, load: Measured, error: ClientError | Refusal) -> str | None:
    """For a comparison: why the client was measured, empty when it was not, None when nobody knows."""
    bound = client_bound(profile, load, error)
    if bound is None:
        return ""
    needed = (error, percentile(load.latencies_s, 0.5), percentile(load.latencies_s, 0.95))
    unknown = not load.lost_workers and any(isinstance(found, Refusal) for found in needed)
    return None if unknown else bound


def table(title: str, measured: dict[str, Measured]) -> Table:
    """Throughput and percentiles, each with its sample size, one row a load."""
    columns = ["pattern", "in flight", "answers", "failures", "requests/s", "output tokens/s"]
    columns += [f"p{100 * p:g} latency (s)" for p in PERCENTILES] + ["p50 TTFT (s)", "p95 TTFT (s)"]
    rows: list[list[str | int | float | None]] = []
    for name, load in measured.items():
        rate = load.throughput
        rates = [f"({rate.reason})", None] if isinstance(rate, Refusal) else _rates(rate)
        row: list[str | int | float | None] = [name, load.concurrency, load.succeeded, load.failed, *rates]
        row += [shown(load.quantile("latency", p)) for p in PERCENTILES]
        row += [shown(load.quantile("ttft", p)) for p in (0.5, 0.95)]
        rows.append(row)
    return Table(title=title, columns=columns, rows=rows)


def more(title: str, measured: Mapping[str, Measured]) -> Table:
    """Times between tokens, what the prefix caches found, and how long the replicas took to get ready."""
    columns = ["pattern", "p50 TPOT (ms)", "p95 TPOT (ms)", "ITL p50, p95, p99 (ms)", "tokens an event"]
    columns += ["prefix hit rate", "replicas Ready after (s)"]
    rows: list[list[str | int | float | None]] = []
    for name, load in measured.items():
        tpots = [shown(scaled(load.quantile("tpot", p), 1000), 1) for p in (0.5, 0.95)]
        gaps = ", ".join(f"{1000 * gap:.1f}" for gap in load.gaps_s) if load.gaps_s else "none: no gaps"
        each = load.tokens_per_event
        rows.append(
            [
                name,
                *tpots,
                f"none: {load.conditions.client}" if load.conditions.client else gaps,
                None if each is None else round(each, 2),
                _hit_rate(load.readings),
                _ready(load.ready_s),
            ]
        )
    return Table(title=title, columns=columns, rows=rows)


def scaled(found: Estimate | Refusal, factor: float) -> Estimate | Refusal:
    """A figure in another unit, with its interval."""
    if isinstance(found, Refusal):
        return found
    low, high = (None if end is None else end * factor for end in (found.low, found.high))
    return replace(found, value=found.value * factor, low=low, high=high)


def _hit_rate(readings: Readings) -> str:
    """Of prompt tokens looked up, by the replicas' counters from before the load to its end, warm-up included."""
    if readings.hit_share is None:
        return f"not known: {readings.trouble or 'no counters of it, or one went back'}"
    return f"{readings.hit_share:.1%}"


def _ready(ready_s: Mapping[str, float]) -> str:
    if not ready_s:
        return "not known"
    return ", ".join(f"{seconds:.0f}" for seconds in sorted(ready_s.values()))


def shown(found: Estimate | Refusal, digits: int = 3) -> str:
    """A figure with its interval and sample size, or why there is none."""
    if isinstance(found, Refusal):
        return f"none: {found.reason}"
    low = "?" if found.low is None else f"{found.low:.{digits}f}"
    high = "?" if found.high is None else f"{found.high:.{digits}f}"
    return f"{found.value:.{digits}f} [{low}, {high}] n={found.n}"


def _fleet(profile: Profile) -> AbstractContextManager[Fleet] | None:
    """Who shares the load; None where this process alone sends it."""
    if profile.load.scheduler:
        return Fleet(profile.load.scheduler)
    return of_processes(profile.load.processes) if profile.load.processes > 1 else None


def _rates(rate: Throughput) -> list[str | int | float | None]:
    return [round(rate.requests_per_s, 2), round(rate.output_tokens_per_s, 1)]


def _plan(profile: Profile, target: Endpoint, pattern: Pattern, sent: list[Prompt], arrival: Closed | Burst) -> Plan:
    return Plan(
        **asdict(target),
        model=pattern.model,
        prompts=sent,
        output_tokens=profile.load.output_tokens,
        arrival=arrival,
        request_timeout_s=profile.load.request_timeout_s,
    )


def _show(step: StepHandle, now: Progress) -> None:
    step.progress(f"{now.ended} of {now.total} requests, {now.failed} failed", done=now.ended, total=now.total)


def mean_count(counts: Sequence[int | None]) -> float | None:
    """The mean of the server's counts; None where it gave none for some."""
    known = [count for count in counts if count is not None]
    return fmean(known) if known and len(known) == len(counts) else None


def cache_state(hit_share: float | None, sent: Sequence[Prompt]) -> str | None:
    """Whether more was found in the caches than the load itself put there."""
    if hit_share is None:
        return None
    return "cold" if hit_share <= repeated_share(sent, SERVICE) + _WARM else "warm"
