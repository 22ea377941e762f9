"""Made-up loads, with figures that can be worked out by hand."""

from __future__ import annotations

import math

from llmd_runbook.analysis.comparison import Conditions
from llmd_runbook.analysis.latency import Refusal, Throughput
from llmd_runbook.load.watch import Readings
from llmd_runbook.stages.load.measurement import Measured


def load(
    rate: float,
    concurrency: int = 20,
    *,
    failures: dict[str, int] | None = None,
    refused: str = "",
    blocks: int = 10,
    held: float | None = None,
    on_spot: int = 0,
) -> Measured:
    """`rate` requests a second in uneven blocks, 98 tokens each, latencies spread around concurrency / rate.

    Twenty in flight a replica, and the replicas hold as many or `held` of them; fewer in flight are one replica's.
    """
    count = blocks * concurrency
    done = tuple((number + 5 * math.sin(number / 10)) / rate for number in range(1, count + 1))
    middle, window_s = concurrency / rate, count / rate
    found = Throughput(rate, 98 * rate, window_s, count, concurrency, done, 0.0, middle, 1.1 * middle)
    running = [concurrency - 1 if held is None else held] * 20
    return Measured(
        concurrency=concurrency,
        requests=count,
        latencies_s=[middle * (0.9 + 0.2 * number / count) for number in range(count)],
        ttfts_s=[0.1 * middle] * count,
        throughput=Refusal(refused) if refused else found,
        failures_by_kind=failures or {},
        client_lag_p99_s=0.001,
        conditions=Conditions(
            prompts=64 * "a",
            recipe="unique, 70 tokens each",
            requests=200,
            prompt_tokens=70.0,
            output_tokens=98.0,
            arrival="closed loop",
            in_flight=concurrency,
            replicas=max(1, concurrency // 20),
            cache="cold",
            model="m",
            context_tokens=2048,
        ),
        seed=7,
        tpots_s=[0.9 * middle / 97] * count,
        gaps_s=[0.01, 0.02, 0.03],
        tokens_per_event=1.0,
        ready_s={"one-abc": 240.0},
        on_spot=on_spot,
        readings=Readings(
            at_s=[window_s * number / 20 for number in range(20)],
            running={"one-abc": running},
            waiting={"one-abc": [0.0] * 20},
            kv_usage={"one-abc": [0.25] * 20},
            hit_share=0.0,
        ),
    )
