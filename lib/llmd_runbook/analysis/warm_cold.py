"""Time to first token with and without the prefix in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from llmd_runbook.analysis.latency import Estimate, Refusal, percentile

_LEAST_CACHED = 0.5
LEAST_GROUPS = 6
"""Fewest pairs whose median has a two-sided 95 % interval: 2 * 0.5**6 <= 0.05."""


@dataclass(frozen=True)
class Timed:
    """One request of a group.

    Attributes:
        order: place among the requests of its group, the first is 0.
        ttft_s: time to first token (s).
        cached_tokens: found in the cache, as the engine says; None when it does not.
    """

    group: str
    order: int
    ttft_s: float
    cached_tokens: int | None
    prompt_tokens: int


@dataclass(frozen=True)
class WarmCold:
    """Cold and warm latency.

    Attributes:
        cold_s, warm_s: median time to first token (s).
        ratio: warm / cold, median over groups.
        by: what told warm from cold.
        cold_repeats: requests after the first of their group that met no cache: sent elsewhere, or evicted.
    """

    cold_s: Estimate | Refusal
    warm_s: Estimate | Refusal
    ratio: Estimate | Refusal
    by: str
    cold_repeats: int


def warm_cold(requests: Iterable[Timed]) -> WarmCold:
    """Compare requests that found most of their prompt cached with those that did not.

    By the engine's own count of cached tokens if every request has one, else by order: the first of a group is
    cold. The ratio is taken within each group, whose requests are of one length, and its median over groups has
    the exact order-statistic interval: no distribution is assumed.
    """
    timed = list(requests)
    counted = bool(timed) and all(request.cached_tokens is not None for request in timed)
    warm = [request for request in timed if _is_warm(request, counted)]
    cold = [request for request in timed if not _is_warm(request, counted)]
    return WarmCold(
        cold_s=percentile([request.ttft_s for request in cold], 0.5),
        warm_s=percentile([request.ttft_s for request in warm], 0.5),
        ratio=_ratio(warm, cold),
        by="cached tokens" if counted else "order in the group",
        cold_repeats=sum(request.order > 0 for request in cold),
    )


def _is_warm(request: Timed, counted: bool) -> bool:
    if counted:
        return (request.cached_tokens or 0) >= _LEAST_CACHED * request.prompt_tokens
    return request.order > 0


def _ratio(warm: Sequence[Timed], cold: Sequence[Timed]) -> Estimate | Refusal:
    both = sorted({request.group for request in warm} & {request.group for request in cold})
    if len(both) < LEAST_GROUPS:
        return Refusal(f"{len(both)} groups have a cold and a warm request, an interval needs {LEAST_GROUPS}")
    return percentile([_median(warm, group) / _median(cold, group) for group in both], 0.5)


def _median(requests: Sequence[Timed], group: str) -> float:
    return median(request.ttft_s for request in requests if request.group == group)
