"""What a load served within its objectives, and where more requests in flight stop paying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from llmd_runbook.analysis.latency import CONFIDENCE, Estimate, Refusal, Throughput, sustained_rate


@dataclass(frozen=True)
class Objectives:
    """Service level objectives of one request (s); None: none."""

    ttft_s: float | None = None
    latency_s: float | None = None

    def __str__(self) -> str:
        parts = (("TTFT", self.ttft_s), ("latency", self.latency_s))
        return " and ".join(f"{name} at most {limit:g} s" for name, limit in parts if limit is not None)

    @property
    def stated(self) -> bool:
        """Whether there is any."""
        return self.ttft_s is not None or self.latency_s is not None


def goodput(
    run: Throughput | Refusal, latencies_s: Sequence[float], ttfts_s: Sequence[float], wanted: Objectives
) -> Estimate | Refusal:
    """Requests a second that met every objective (DistServe, Zhong et al. 2024): throughput x their share.

    The share has the exact interval of Clopper and Pearson, the throughput that of `sustained_rate`; their ends are
    multiplied, which is wider than 95 %.

    Args:
        run: of the same requests.
        latencies_s, ttfts_s: of every good answer, in the same order.
    """
    if not wanted.stated:
        return Refusal("no objective stated")
    if isinstance(run, Refusal):
        return run
    if wanted.ttft_s is not None and len(ttfts_s) != len(latencies_s):
        return Refusal("not every answer has a time to first token")
    if not latencies_s:
        return Refusal("no answers")
    firsts = ttfts_s if wanted.ttft_s is not None else latencies_s
    met = sum(
        (wanted.ttft_s is None or first <= wanted.ttft_s) and (wanted.latency_s is None or total <= wanted.latency_s)
        for first, total in zip(firsts, latencies_s, strict=True)
    )
    rate = sustained_rate(run, seed=0)
    if isinstance(rate, Refusal):
        return rate
    share = stats.binomtest(met, len(latencies_s)).proportion_ci(CONFIDENCE, "exact")
    return Estimate(
        value=run.requests_per_s * met / len(latencies_s),
        low=None if rate.low is None else rate.low * float(share.low),
        high=None if rate.high is None else rate.high * float(share.high),
        n=len(latencies_s),
        method=f"{met} of {len(latencies_s)} met {wanted}; {rate.method}",
        caveat=rate.caveat,
    )


def knee(runs: Mapping[int, Throughput | Refusal]) -> int | Refusal:
    """The requests in flight with the most power, throughput / mean latency (Kleinrock 1979).

    Below it throughput grows faster than latency, above it latency grows faster. At an end of the range it says that
    the knee lies beyond it, or before.
    """
    powers = {
        count: run.requests_per_s / run.latency_mean_s for count, run in runs.items() if isinstance(run, Throughput)
    }
    if len(powers) < 3:
        return Refusal(f"{len(powers)} levels with a throughput, 3 needed")
    best = max(powers, key=lambda count: powers[count])
    if best in (min(powers), max(powers)):
        side = "below" if best == min(powers) else "above"
        return Refusal(f"most power at {best} in flight, an end of the range: the knee may lie {side}")
    return best
