"""Two measured loads side by side: whether they may be compared at all, and every figure's ratio with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmd_runbook.analysis.cost import break_even
from llmd_runbook.analysis.latency import (
    Estimate,
    Refusal,
    Throughput,
    least_samples,
    paired_ratio,
    percentile,
    percentile_ratio,
    single_ratio,
)

THROUGHPUT, COST = "throughput", "cost of a request"
PERCENTILES: Mapping[str, tuple[str, float]] = {
    "latency p50": ("latency", 0.5),
    "latency p95": ("latency", 0.95),
    "latency p99": ("latency", 0.99),
    "TTFT p50": ("ttft", 0.5),
    "TTFT p95": ("ttft", 0.95),
}
"""Figures that are percentiles: of which samples, and which quantile."""
_TOKENS_APART = 0.02


@dataclass(frozen=True)
class Conditions:
    """Under what a load was measured; None: not known.

    Attributes:
        prompts: SHA-256 of the prompts in their order.
        recipe: how the prompts were made, in words, without the seed.
        requests: measured ones, without warm-up.
        prompt_tokens, output_tokens: mean of a request, by the server's own count.
        arrival: closed loop, open loop with its rate, burst.
        in_flight: requests at once; of an open loop None.
        replicas: that served it.
        cache: `cold`: the prompts were in no cache before; `warm`: they were.
        client: why the client and not the server was measured; empty: it was the server.
        model, context_tokens: what was served, and prompt and answer together at most.
    """

    prompts: str | None = None
    recipe: str | None = None
    requests: int | None = None
    prompt_tokens: float | None = None
    output_tokens: float | None = None
    arrival: str | None = None
    in_flight: int | None = None
    replicas: int | None = None
    cache: str | None = None
    client: str | None = None
    model: str | None = None
    context_tokens: int | None = None


@dataclass(frozen=True)
class Comparability:
    """What keeps two loads from being compared, or has to be said when they are.

    Attributes:
        different: conditions that differ; there is no ratio.
        client: loads in which the client was measured; there is no ratio either.
        unknown: conditions that one side or both do not state; the ratio holds only if they are equal.
        labels: differences that are part of what is compared.
    """

    different: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def refusal(self) -> Refusal | None:
        """Why there is no ratio; None where there may be one."""
        reasons = [*self.different, *self.client]
        return Refusal("not comparable: " + "; ".join(reasons)) if reasons else None


@dataclass(frozen=True)
class Load:
    """One measured load.

    Attributes:
        conditions: under what.
        failed: requests without a whole answer.
        throughput: of its steady window, or why there is none.
        samples: seconds of every good request, by `latency` and `ttft`.
        stated: figures that a file states without the samples behind them, by the names of this module; seconds, 1/s.
    """

    conditions: Conditions
    failed: int
    throughput: Throughput | Refusal
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)
    stated: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Ratios after / before by figure, and what is to be said of them."""

    gate: Comparability
    ratios: dict[str, Estimate | Refusal]


def comparability(
    before: Conditions, after: Conditions, *, per_replica: bool = False, fresh_prompts: bool = False
) -> Comparability:
    """Whether a ratio of two loads would say something about what served them.

    Args:
        per_replica: compare requests in flight a replica and how prompts were made, instead of their sum and the
            prompts themselves: the question is then what a replica makes of as much work, with several of them.
        fresh_prompts: compare how prompts were made instead of the prompts themselves: each load has its own, for the
            same servers have those of the other in their caches.
    """
    different: list[str] = []
    unknown: list[str] = []
    labels: list[str] = []

    def same(what: str, one: object, other: object) -> bool:
        if one is None or other is None:
            unknown.append(what)
        elif one != other:
            different.append(f"{what} {one} and {other}")
        else:
            return True
        return False

    if per_replica:
        same("prompts made as", before.recipe, after.recipe)
        same("requests in flight a replica", _each(before), _each(after))
        labels.append(f"{before.in_flight} and {after.in_flight} requests in flight, as many a replica")
    else:
        alike = (
            same("prompts made as", before.recipe, after.recipe)
            if fresh_prompts
            else same("prompts", _short(before.prompts), _short(after.prompts))
        )
        same("measured requests", before.requests, after.requests)
        same("requests in flight", before.in_flight, after.in_flight)
        _tokens("prompt", before.prompt_tokens, after.prompt_tokens, unknown, labels if alike else different)
    _tokens("answer", before.output_tokens, after.output_tokens, unknown, different)
    same("arrival", before.arrival, after.arrival)
    same("cache", before.cache, after.cache)
    for what, one, other in (
        ("models", before.model, after.model),
        ("context lengths", before.context_tokens, after.context_tokens),
    ):
        if one is None or other is None:
            unknown.append(what)
        elif one != other:
            labels.append(f"different {what}: {one} and {other}")
    if before.client is None or after.client is None:
        unknown.append("error of the client")
    client = dict.fromkeys(side.client for side in (before, after) if side.client)
    return Comparability(tuple(different), tuple(client), tuple(unknown), tuple(labels))


def compare(
    pairs: Sequence[tuple[Load, Load]],
    *,
    usd_per_hour: tuple[float, float] | None = None,
    per_replica: bool = False,
    fresh_prompts: bool = False,
) -> Comparison:
    """Ratios after / before of throughput, percentiles and, with prices, of the cost of a request.

    Several pairs are interleaved runs: the unit of replication is the run, and the interval is a t interval on the
    logarithms of their ratios. One pair has the intervals of its own samples.

    Raises:
        ValueError: no pair, or a price of zero or below.
    """
    if not pairs:
        raise ValueError("nothing to compare")
    gates = [
        comparability(one.conditions, other.conditions, per_replica=per_replica, fresh_prompts=fresh_prompts)
        for one, other in pairs
    ]
    gate = Comparability(
        *(
            tuple(dict.fromkeys(said for found in gates for said in getattr(found, name)))
            for name in ("different", "client", "unknown", "labels")
        )
    )
    lost = [str(load.failed) for pair in pairs for load in pair]
    if any(load.failed for pair in pairs for load in pair):
        gate = replace(gate, different=(*gate.different, f"failed requests {' and '.join(lost)}"))
    names = [THROUGHPUT, *PERCENTILES, *([COST] if usd_per_hour else [])]
    if gate.refusal is not None:
        return Comparison(gate, dict.fromkeys(names, gate.refusal))
    ratios: dict[str, Estimate | Refusal] = {THROUGHPUT: _throughput(pairs)}
    ratios |= {name: _percentile(pairs, name) for name in PERCENTILES}
    if usd_per_hour:
        speed_up = ratios[THROUGHPUT]
        ratios[COST] = speed_up if isinstance(speed_up, Refusal) else break_even(*usd_per_hour, speed_up).cost_ratio
    return Comparison(gate, ratios)


def _throughput(pairs: Sequence[tuple[Load, Load]]) -> Estimate | Refusal:
    before, after = pairs[0]
    runs = [load.throughput for pair in pairs for load in pair]
    if all(isinstance(run, Throughput) for run in runs):
        rates = [run.requests_per_s for run in runs if isinstance(run, Throughput)]
        if len(pairs) > 1:
            return paired_ratio(rates[::2], rates[1::2])
        assert isinstance(before.throughput, Throughput)
        assert isinstance(after.throughput, Throughput)
        return single_ratio(before.throughput, after.throughput, seed=0)
    if len(pairs) == 1 and THROUGHPUT in before.stated and THROUGHPUT in after.stated:
        return _stated(before.stated[THROUGHPUT], after.stated[THROUGHPUT])  # both with ramp-up and drain, or neither
    return next(run for run in runs if isinstance(run, Refusal))


def _percentile(pairs: Sequence[tuple[Load, Load]], name: str) -> Estimate | Refusal:
    of, p = PERCENTILES[name]
    found = []
    for pair in pairs:
        for load in pair:
            value = percentile(load.samples[of], p) if of in load.samples else _of_file(load, name, p)
            if isinstance(value, Refusal):
                return value
            found.append(value.value if isinstance(value, Estimate) else value)
    before, after = pairs[0]
    if len(pairs) > 1:
        return paired_ratio(found[::2], found[1::2])
    if of in before.samples and of in after.samples:
        return percentile_ratio(before.samples[of], after.samples[of], p)
    return _stated(found[0], found[1])


def _of_file(load: Load, name: str, p: float) -> float | Refusal:
    """A percentile that a file states, where it states it of enough requests."""
    if name not in load.stated:
        return Refusal(f"{name} is not stated on both sides")
    count, needed = load.conditions.requests, least_samples(p)
    if count is not None and count < needed:
        return Refusal(f"p{100 * p:g} needs {needed} samples, the file states it of {count}")
    return load.stated[name]


def _stated(before: float, after: float) -> Estimate | Refusal:
    if min(before, after) <= 0:
        return Refusal("a figure of zero has no ratio")
    why = "a file states the figure without the samples behind it, so that nothing bounds it"
    return Estimate(after / before, None, None, 1, "two stated figures", why)


def _tokens(what: str, one: float | None, other: float | None, unknown: list[str], said: list[str]) -> None:
    if one is None or other is None:
        unknown.append(f"tokens of a {what}" if what == "prompt" else "tokens of an answer")
    elif abs(one - other) > _TOKENS_APART * max(one, other):
        said.append(f"tokens of {'a prompt' if what == 'prompt' else 'an answer'} {one:.1f} and {other:.1f}")


def _each(found: Conditions) -> float | None:
    return found.in_flight / found.replicas if found.in_flight and found.replicas else None


def _short(digest: str | None) -> str | None:
    return None if digest is None else digest[:12]
