"""One load on one pattern, of the shape that the profile fixes for both, and its figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from llmd_runbook.analysis.latency import Estimate, Refusal, Throughput, closed_loop_throughput, percentile
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.load.calibrate import ClientError, calibrate, invalid
from llmd_runbook.load.fleet import Fleet
from llmd_runbook.load.measure import measure as run_load
from llmd_runbook.load.plan import Closed, Plan, Prompt
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import LoadResult, Progress
from llmd_runbook.profile import Profile
from llmd_runbook.run import StepHandle
from llmd_runbook.verdicts import Table

PERCENTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Measured:
    """A load and what came of it. Latencies in seconds, of good answers only; failures are counted beside them.

    `lost_workers` are machines that were to send a part of it and brought nothing.
    """

    concurrency: int
    requests: int
    latencies_s: list[float]
    ttfts_s: list[float]
    throughput: Throughput | Refusal
    failures_by_kind: dict[str, int]
    client_lag_p99_s: float
    lost_workers: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> int:
        """Whole answers."""
        return len(self.latencies_s)

    @property
    def failed(self) -> int:
        """Requests without a whole answer."""
        return sum(self.failures_by_kind.values())

    def failures(self) -> list[str]:
        """Failures by kind, as evidence."""
        return [f"{kind}: {count}" for kind, count in self.failures_by_kind.items()]

    def data(self) -> dict[str, Any]:
        """All of it as JSON values, which `restored` reads."""
        return asdict(self)


def restored(data: dict[str, Any]) -> Measured:
    """What `Measured.data` wrote."""
    found = data["throughput"]
    throughput = Refusal(**found) if "reason" in found else Throughput(**{**found, "done_s": tuple(found["done_s"])})
    return Measured(**{**data, "throughput": throughput})


def measure(
    profile: Profile,
    target: Endpoint,
    model: str,
    concurrency: int,
    step: StepHandle,
    *,
    seed: int,
    scale: int = 1,
) -> Measured:
    """Put the profile's load on a model: `scale` times its requests, the first `concurrency` of them warm-up.

    Raises:
        ToolError: the load generator broke.
        UsageError, Unreachable: of the scheduler that the profile names.
    """
    plan = Plan(
        **asdict(target),
        model=model,
        prompts=prompts(profile, concurrency, seed=seed, scale=scale),
        output_tokens=profile.load.output_tokens,
        arrival=Closed(concurrency=concurrency),
        request_timeout_s=profile.load.request_timeout_s,
    )

    if profile.load.scheduler:
        with Fleet(profile.load.scheduler) as fleet:
            found = fleet.measure(plan, step.progress)
        lost = [f"{worker.address} ({worker.requests} requests): {worker.error}" for worker in found.lost]
        return replace(summarised(found.result, concurrency), lost_workers=lost)

    def show(now: Progress) -> None:
        text = f"{now.ended} of {now.total} requests, {now.failed} failed"
        step.progress(text, done=now.ended, total=now.total)

    return summarised(run_load(plan, show), concurrency)


def prompts(profile: Profile, concurrency: int, *, seed: int, scale: int = 1) -> list[Prompt]:
    """The very prompts that `measure` sends with these arguments, warm-up first."""
    return unique(profile.load.requests * scale + concurrency, profile.load.prompt_tokens, seed=seed)


def summarised(result: LoadResult, warmup: int) -> Measured:
    """Latencies, throughput and failures of a load; the first `warmup` requests count for failures only."""
    kept = [sample for sample in result.good if sample.index >= warmup]
    samples = result.samples
    return Measured(
        concurrency=warmup,
        requests=len(samples) - warmup,
        latencies_s=[sample.latency_s for sample in kept],
        ttfts_s=[sample.ttft_s for sample in kept if sample.ttft_s is not None],
        throughput=closed_loop_throughput(
            [sample.sent_s for sample in samples],
            [sample.done_s for sample in samples],
            [sample.output_tokens if sample.ok else None for sample in samples],
            warmup=warmup,
        ),
        failures_by_kind=result.failures(),
        client_lag_p99_s=result.client.lag_p99_s,
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
    if profile.load.scheduler:
        with Fleet(profile.load.scheduler) as fleet:
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


def table(title: str, measured: dict[str, Measured]) -> Table:
    """Throughput and percentiles, each with its sample size, one row a load."""
    columns = ["pattern", "in flight", "answers", "failures", "requests/s", "output tokens/s"]
    columns += [f"p{100 * p:g} latency (s)" for p in PERCENTILES] + ["p50 TTFT (s)", "p95 TTFT (s)"]
    rows: list[list[str | int | float | None]] = []
    for name, load in measured.items():
        rate = load.throughput
        rates = [f"({rate.reason})", None] if isinstance(rate, Refusal) else _rates(rate)
        row: list[str | int | float | None] = [name, load.concurrency, load.succeeded, load.failed, *rates]
        row += [shown(percentile(load.latencies_s, p)) for p in PERCENTILES]
        row += [shown(percentile(load.ttfts_s, p)) for p in (0.5, 0.95)]
        rows.append(row)
    return Table(title=title, columns=columns, rows=rows)


def shown(found: Estimate | Refusal, digits: int = 3) -> str:
    """A figure with its interval and sample size, or why there is none."""
    if isinstance(found, Refusal):
        return f"none: {found.reason}"
    low = "?" if found.low is None else f"{found.low:.{digits}f}"
    high = "?" if found.high is None else f"{found.high:.{digits}f}"
    return f"{found.value:.{digits}f} [{low}, {high}] n={found.n}"


def _rates(rate: Throughput) -> list[str | int | float | None]:
    return [round(rate.requests_per_s, 2), round(rate.output_tokens_per_s, 1)]
