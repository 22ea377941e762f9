"""How wrong the client itself is, at the load that it measured: a run against a server whose times are known."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llmd_runbook.errors import ToolError
from llmd_runbook.load.measure import measure
from llmd_runbook.load.null_server import Served
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import LoadResult

_WAVES = 3
_LONGEST_ANSWER_S = 2.0
_END_S = 30.0


@dataclass(frozen=True)
class ClientError:
    """What the client adds to a latency (s), and to a time to first token, at `concurrency` in flight.

    The difference is that to the known server's own log, request by request: its timers are up to a millisecond off.
    """

    concurrency: int
    requests: int
    latency_p50_s: float
    latency_p95_s: float
    ttft_p95_s: float
    lag_p99_s: float


def calibrate(*, concurrency: int, output_tokens: int, first_s: float, gap_s: float) -> ClientError:
    """Measure a known server of the same shape: TTFT `first_s`, tokens `gap_s` apart; takes some seconds.

    Answers are cut to two seconds; the first wave, which opens connections, does not count.

    Raises:
        ToolError: the known server or the load generator broke.
    """
    tokens = max(1, min(output_tokens, math.ceil((_LONGEST_ANSWER_S - first_s) / gap_s) if gap_s else output_tokens))
    with known_server(first_s, gap_s) as (url, served):
        plan = Plan(
            url=url,
            model="null",
            prompts=unique(concurrency * _WAVES, 8, seed=0),
            output_tokens=tokens,
            arrival=Closed(concurrency=concurrency),
        )
        result = measure(plan)
    if failures := result.failures():
        raise ToolError("the calibration of the load generator failed", where=url, reason=str(failures))
    return added(result, served, concurrency=concurrency)


def added(result: LoadResult, served: Served, *, concurrency: int) -> ClientError:
    """What each request took beyond the same request in the server's log; the first `concurrency` do not count.

    Raises:
        KeyError: a request that is not in the log.
    """
    first_s = dict(zip(served.request_ids, served.first_s, strict=True))
    done_s = dict(zip(served.request_ids, served.done_s, strict=True))
    counted = [sample for sample in result.samples if sample.index >= concurrency]
    latencies = sorted(sample.latency_s - done_s[sample.request_id] for sample in counted)
    ttfts = sorted(sample.ttft_s - first_s[sample.request_id] for sample in counted if sample.ttft_s is not None)
    return ClientError(
        concurrency=concurrency,
        requests=len(latencies),
        latency_p50_s=_quantile(latencies, 0.5),
        latency_p95_s=_quantile(latencies, 0.95),
        ttft_p95_s=_quantile(ttfts, 0.95),
        lag_p99_s=result.client.lag_p99_s,
    )


def invalid(error: ClientError, *, lag_p99_s: float, p50_s: float, p95_s: float, tolerance: float) -> str | None:
    """Why a measurement shows the client and not the server; None when it does not.

    Args:
        error: calibration at the same load.
        lag_p99_s: lateness of the client's timers during the measurement itself.
        p50_s, p95_s: the latencies that were measured.
        tolerance: part of a measured latency that the client may have added to it.
    """
    if error.latency_p95_s > tolerance * p95_s:
        return (
            f"INVALID (client-bound): the client adds {error.latency_p95_s * 1e3:.1f} ms at p95, more than "
            f"{tolerance:.0%} of the {p95_s * 1e3:.1f} ms measured"
        )
    if lag_p99_s > tolerance * p50_s:
        return (
            f"INVALID (client-bound): the client's timers were {lag_p99_s * 1e3:.1f} ms late at p99, more than "
            f"{tolerance:.0%} of the {p50_s * 1e3:.1f} ms measured at p50"
        )
    return None


@contextmanager
def known_server(first_s: float, gap_s: float) -> Iterator[tuple[str, Served]]:
    """A null server in a process of its own: its address, and its log, which is filled when it has ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "llmd_runbook.load.null_server", str(first_s), str(gap_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    served, log = Served(), ""
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise ToolError("the server to calibrate against did not start", remedy="see the lines above")
        yield f"http://127.0.0.1:{port}", served
    finally:
        try:
            log, _ = process.communicate(timeout=_END_S)  # the end of its input ends it
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    if not log:
        raise ToolError("the server to calibrate against ended without its log", remedy="see the lines above")
    found = Served.model_validate_json(log)
    served.request_ids, served.first_s, served.done_s = found.request_ids, found.first_s, found.done_s
    served.gaps_s, served.ended_s = found.gaps_s, found.ended_s


def _quantile(ascending: list[float], p: float) -> float:
    """The smallest value that at least a part p of them does not exceed."""
    return ascending[math.ceil(p * len(ascending)) - 1]
