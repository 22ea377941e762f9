"""Made-up loads, with figures that can be worked out by hand."""

from __future__ import annotations

import math

from llmd_runbook.analysis.latency import Refusal, Throughput
from llmd_runbook.stages.measurement import Measured


def load(
    rate: float, concurrency: int = 20, *, failures: dict[str, int] | None = None, refused: str = "", blocks: int = 10
) -> Measured:
    """`rate` requests a second in uneven blocks, 98 tokens each, latencies spread around concurrency / rate."""
    count = blocks * concurrency
    done = tuple((number + 5 * math.sin(number / 10)) / rate for number in range(1, count + 1))
    found = Throughput(rate, 98 * rate, count / rate, count, concurrency, done)
    middle = concurrency / rate
    return Measured(
        concurrency=concurrency,
        requests=count,
        latencies_s=[middle * (0.9 + 0.2 * number / count) for number in range(count)],
        ttfts_s=[0.1 * middle] * count,
        throughput=Refusal(refused) if refused else found,
        failures_by_kind=failures or {},
        client_lag_p99_s=0.001,
    )
