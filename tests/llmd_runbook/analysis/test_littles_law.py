from __future__ import annotations

import numpy as np
import pytest

from llmd_runbook.analysis.latency import Throughput, closed_loop_throughput
from llmd_runbook.analysis.littles_law import judge, law


def run(*, rate: float = 10.0, latency_s: float = 2.0, window_s: float = 100.0) -> Throughput:
    return Throughput(rate, 0.0, window_s, int(rate * window_s), 20, (), 0.0, latency_s, 1.2 * latency_s)


def test_the_law_holds_where_it_must() -> None:
    found = law(run(), 20, [19.0, 20.0, 19.5, 20.0])
    assert found.product == 20.0
    assert found.reach == pytest.approx(20 * 2.4 / 100)
    assert judge(found).ok is True


@pytest.mark.parametrize(
    ("measured", "held", "ok", "said"),
    [
        (run(rate=0.5), [20.0] * 4, False, "the client did not keep them in flight"),  # the guide's 35 a minute
        (run(latency_s=0.18), [3.0] * 4, False, "the client did not keep them in flight"),  # its p50 of 180 ms
        (run(), [30.0] * 4, False, "somebody else's requests"),
        (run(), [10.0] * 4, None, "in gateway and network"),
        (run(), [20.0, 20.0], None, "2 readings during the measurement"),
    ],
)
def test_it_fails_where_a_figure_is_not_what_it_is_called(
    measured: Throughput, held: list[float], ok: bool | None, said: str
) -> None:
    found = judge(law(measured, 20, held))
    assert found.ok is ok
    assert said in found.reason


def test_noisy_readings_convict_nobody() -> None:
    assert judge(law(run(), 20, [0.0, 60.0, 5.0, 50.0])).ok is True


@pytest.mark.parametrize("seed", range(20))
def test_no_closed_loop_that_was_full_breaks_it(seed: int) -> None:
    """Latencies of any spread; windows as short as the smallest that has a throughput."""
    rng = np.random.default_rng(seed)
    in_flight, requests = 8, int(rng.integers(30, 200))
    sent: list[float] = []
    done: list[float] = []
    free = [0.0] * in_flight
    for _ in range(requests):
        worker = int(np.argmin(free))
        sent.append(free[worker])
        free[worker] += float(rng.lognormal(0, 1))
        done.append(free[worker])
    found = closed_loop_throughput(sent, done, [1] * requests, warmup=in_flight)
    assert isinstance(found, Throughput)
    assert judge(law(found, in_flight, [8.0] * 5)).ok is True
