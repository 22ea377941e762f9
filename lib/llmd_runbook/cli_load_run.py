"""`llmd-runbook load run`: one measured load on any OpenAI-compatible server, and what the client itself adds to it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from llmd_runbook.cli_lines import read_trace
from llmd_runbook.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError
from llmd_runbook.records.terminal import console

if TYPE_CHECKING:  # scipy and aiohttp take a second to load, and other commands do without
    from llmd_runbook.analysis.comparison import Conditions
    from llmd_runbook.load.plan import Arrival, Plan, Prompt
    from llmd_runbook.load.samples import LoadResult
    from llmd_runbook.stages.load.measurement import Measured, Of

PERCENTILES = (0.5, 0.95, 0.99)


class Shape(StrEnum):
    """When requests are sent."""

    CLOSED, CONSTANT, POISSON, BURST = "closed", "constant", "poisson", "burst"


class Mix(StrEnum):
    """What prompts share."""

    UNIQUE, SERVICE = "unique", "service"


@dataclass(frozen=True)
class _Sent:
    """A load as it was sent: its first `warmup` requests do not count."""

    plan: Plan
    warmup: int
    arrival: str
    rate_per_s: float | None


def run(
    url: Annotated[str, typer.Argument(help="the server, without /v1")],
    model: Annotated[str, typer.Option(help="name of the model that it serves")],
    arrival: Annotated[
        Shape, typer.Option(help="closed: --concurrency at any time; constant, poisson: --rate; burst: all at once")
    ] = Shape.CLOSED,
    requests: Annotated[int, typer.Option(help="that count, warm-up excluded", min=1)] = 200,
    concurrency: Annotated[int, typer.Option(help="requests in flight, with --arrival closed", min=1)] = 20,
    rate: Annotated[float | None, typer.Option(help="requests a second, with constant and poisson", min=0.001)] = None,
    trace: Annotated[
        Path | None, typer.Option(help="requests and their times from a prompt file or a Mooncake trace, instead")
    ] = None,
    mix: Annotated[Mix, typer.Option(help="prompts that share nothing, or a service's")] = Mix.UNIQUE,
    prompt_tokens: Annotated[int, typer.Option(help="of a unique prompt, about", min=1)] = 70,
    output_tokens: Annotated[int, typer.Option(help="of an answer, exactly", min=1)] = 98,
    seed: Annotated[int | None, typer.Option(help="of prompts and Poisson gaps; a new one if not given")] = None,
    host: Annotated[str, typer.Option(help="Host of the requests, and the name in the certificate")] = "",
    ca_file: Annotated[Path | None, typer.Option(help="authorities for https, else the system's")] = None,
    bearer_variable: Annotated[str, typer.Option(help="environment variable with a bearer token")] = "",
    timeout: Annotated[float, typer.Option(help="seconds after which a request has failed", min=0.1)] = 120,
    tolerance: Annotated[float, typer.Option(help="part of a latency that the client may add", min=0.001)] = 0.02,
    export: Annotated[Path | None, typer.Option(help="write it in the field names of vllm bench serve")] = None,
) -> None:
    """Put a load on a server; then measure the client itself against a server whose times are known.

    Exit codes: 0 measured, 1 requests failed, 2 bad usage, 3 inconclusive: the client was measured, or too little.
    """
    from llmd_runbook.load.measure import measure
    from llmd_runbook.load.plan import Plan
    from llmd_runbook.stages.load.measurement import fresh_seed

    seed = fresh_seed() if seed is None else seed
    prompts, when, warmup, words = _load(arrival, requests, concurrency, rate, trace, mix, prompt_tokens, seed)
    plan = Plan(
        url=url,
        model=model,
        prompts=prompts,
        output_tokens=output_tokens,
        arrival=when,
        headers={"Host": host} if host else {},
        server_name=host,
        ca_file=None if ca_file is None else str(ca_file),
        bearer_variable=bearer_variable,
        request_timeout_s=timeout,
    )
    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=screen, disable=not screen.is_terminal, transient=True) as progress:
        bar = progress.add_task("requests", total=len(prompts))
        result = measure(plan, lambda now: progress.update(bar, completed=now.ended))
    raise typer.Exit(_report(_Sent(plan, warmup, words, rate), result, seed, tolerance, export))


def _load(
    arrival: Shape,
    requests: int,
    concurrency: int,
    rate: float | None,
    trace: Path | None,
    mix: Mix,
    prompt_tokens: int,
    seed: int,
) -> tuple[list[Prompt], Arrival, int, str]:
    """Prompts, when each is due, how many of them are warm-up, and the arrival in words."""
    from llmd_runbook.load.mixes import SERVICE, mixed
    from llmd_runbook.load.plan import Burst, Closed, Open
    from llmd_runbook.load.prompts import unique
    from llmd_runbook.load.replayed import replayed

    if trace is not None:
        try:
            return *replayed(read_trace(trace), seed=seed), 0, f"trace {trace.name}"
        except ValueError as error:
            raise UsageError("the trace cannot be sent", where=str(trace), reason=str(error)) from None
    open_loop = arrival in (Shape.CONSTANT, Shape.POISSON)
    if open_loop is (rate is None):
        raise UsageError(
            f"--arrival {arrival} {'needs' if open_loop else 'has no'} --rate",
            where="llmd-runbook load run",
            remedy="give --rate with constant and poisson, --concurrency with closed",
        )
    warmup = {Shape.CLOSED: concurrency, Shape.BURST: 0}.get(arrival, math.ceil(rate or 0))
    count = requests + warmup
    prompts = mixed(count, SERVICE, seed=seed) if mix is Mix.SERVICE else unique(count, prompt_tokens, seed=seed)
    if arrival is Shape.CLOSED:
        return prompts, Closed(concurrency=concurrency), warmup, "closed loop"
    if rate is None:
        return prompts, Burst(), warmup, "burst"
    if arrival is Shape.CONSTANT:
        return prompts, Open(rate_per_s=rate, gaps="constant"), warmup, f"open loop, {rate:g}/s, equal gaps"
    return prompts, Open(rate_per_s=rate, seed=seed), warmup, f"open loop, {rate:g}/s, burstiness 1"


def _report(sent: _Sent, result: LoadResult, seed: int, tolerance: float, export: Path | None) -> int:
    """Print what was measured, and write it where that is asked for; the exit code."""
    from llmd_runbook.load.mixes import digest
    from llmd_runbook.stages.load.measurement import mean_count, summarised

    found = summarised(result, sent.warmup)
    tokens = mean_count([sample.output_tokens for sample in result.good])
    bound, client = _client(found, result, round(tokens or sent.plan.output_tokens), tolerance)
    kinds = ", ".join(found.failures()) or "no failures"
    for line in (
        f"{sent.arrival}; {len(result.samples)} sent, {sent.warmup} of them warm-up; {kinds}",
        f"prompts {digest(sent.plan.prompts)[:12]}, seed {seed}",
        client,
    ):
        console().print(line, highlight=False, soft_wrap=True)
    measured = replace(found, conditions=_conditions(sent, found, result, bound))
    if not bound:
        _print_figures(measured, result, sent)
    if export is not None:
        _write(export, measured, sent)
    return EXIT_FAIL if result.failures() else EXIT_INCONCLUSIVE if bound else EXIT_PASS


def _client(found: Measured, result: LoadResult, output_tokens: int, tolerance: float) -> tuple[str, str]:
    """Why the client was measured, or not the server; empty when it was the server. And what is said of the client."""
    from llmd_runbook.analysis.latency import Refusal, most_in_flight
    from llmd_runbook.load.calibrate import calibrate, invalid

    first, middle, tail = found.quantile("ttft", 0.5), found.quantile("latency", 0.5), found.quantile("latency", 0.95)
    if isinstance(first, Refusal) or isinstance(middle, Refusal) or isinstance(tail, Refusal):
        reason = next(one.reason for one in (tail, middle, first) if isinstance(one, Refusal))
        return reason, f"the client was not judged: {reason}"
    in_flight = most_in_flight([sample.sent_s for sample in result.samples], [s.done_s for s in result.samples])
    gap_s = max(0.0, middle.value - first.value) / max(1, output_tokens - 1)
    error = calibrate(concurrency=in_flight, output_tokens=output_tokens, first_s=first.value, gap_s=gap_s)
    bound = invalid(error, lag_p99_s=found.client_lag_p99_s, p50_s=middle.value, p95_s=tail.value, tolerance=tolerance)
    added, late = 1000 * error.latency_p95_s, 1000 * found.client_lag_p99_s
    said = f"client: {added:.1f} ms added at p95 with {in_flight} in flight, its timers {late:.1f} ms late at p99"
    return bound or "", f"{said}; {bound}" if bound else said


def _conditions(sent: _Sent, found: Measured, result: LoadResult, bound: str) -> Conditions:
    """What a comparison may know of it; caches, context length and replicas are not seen from here."""
    from llmd_runbook.analysis.comparison import Conditions
    from llmd_runbook.load.mixes import digest
    from llmd_runbook.load.plan import Closed
    from llmd_runbook.stages.load.measurement import mean_count

    when = sent.plan.arrival
    return Conditions(
        prompts=digest(sent.plan.prompts),
        requests=found.requests,
        prompt_tokens=mean_count([sample.prompt_tokens for sample in result.good]),
        output_tokens=mean_count([sample.output_tokens for sample in result.good]),
        arrival=sent.arrival,
        in_flight=when.concurrency if isinstance(when, Closed) else None,
        client=bound,
        model=sent.plan.model,
    )


def _print_figures(found: Measured, result: LoadResult, sent: _Sent) -> None:
    """Latencies from the due time and from sending, times to and between tokens, lateness, and the rate."""
    from llmd_runbook.analysis.latency import Refusal, percentile
    from llmd_runbook.load.plan import Closed
    from llmd_runbook.stages.load.measurement import scaled, shown

    names: dict[str, Of] = {"latency from sending": "latency", "TTFT": "ttft", "TPOT": "tpot"}
    rows = {name: [found.quantile(of, p) for p in PERCENTILES] for name, of in names.items()}
    kept = [sample for sample in result.good if sample.index >= sent.warmup]
    if not isinstance(sent.plan.arrival, Closed):  # where the next request waits for an answer nothing is due before
        waited = [sample.waited_s for sample in kept]
        rows = {"latency from the due time": [percentile(waited, p) for p in PERCENTILES], **rows}
    table = Table("ms", *(f"p{100 * p:g}" for p in PERCENTILES))
    for name, values in rows.items():
        table.add_row(name, *(shown(scaled(value, 1000), 1) for value in values))
    if found.gaps_s:
        each = "" if found.tokens_per_event is None else f", {found.tokens_per_event:.2f} tokens an event"
        table.add_row(f"ITL{each}", *(f"{1000 * gap:.1f}" for gap in found.gaps_s))
    if not isinstance(sent.plan.arrival, Closed):
        late = sorted(sample.sent_s - sample.due_s for sample in result.samples)
        at = (late[math.ceil(p * len(late)) - 1] for p in PERCENTILES)
        table.add_row(f"sent late, at most {1000 * late[-1]:.1f}", *(f"{1000 * value:.1f}" for value in at))
    console().print(table)
    rate = found.throughput
    said = (
        f"no throughput: {rate.reason}"
        if isinstance(rate, Refusal)
        else (
            f"{rate.requests_per_s:.2f} requests/s, {rate.output_tokens_per_s:.1f} output tokens/s: "
            f"{rate.completed} answers in {rate.window_s:.1f} s, without warm-up and drain"
        )
    )
    console().print(said, highlight=False, soft_wrap=True)


def _write(file: Path, found: Measured, sent: _Sent) -> None:
    from llmd_runbook.analysis.peer_results import export

    now = datetime.now(UTC)
    try:
        content = export(found.compared(), label=sent.arrival, date=f"{now:%Y%m%d-%H%M%S}", rate_per_s=sent.rate_per_s)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError("the file cannot be written", where=str(file), reason=str(error.strerror)) from None
    except ValueError as error:
        raise UsageError(
            "nothing to export", where=str(file), reason=str(error), remedy="measure more requests"
        ) from None
    console().print(f"written: {file}", soft_wrap=True)
