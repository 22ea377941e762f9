"""What the model of replicas predicts, for the terminal and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llmd_runbook.analysis.what_if import Outcome, weights_text

_COLUMNS = ("cache blocks", "replicas", "hit rate", "believed", "imbalance", "moves", "queue", "p95", "req/s")


def table(outcomes: Sequence[Outcome]) -> RenderableType:
    """A row a scenario, and how to read it."""
    shown = Table()
    shown.add_column("weights")
    for name in _COLUMNS:
        shown.add_column(name, justify="right")
    for outcome in outcomes:
        scenario = outcome.scenario
        latency = outcome.latency_p95_s
        shown.add_row(
            weights_text(scenario.rules),
            f"{scenario.cache_blocks:,}",
            str(scenario.replicas),
            f"{outcome.hit_rate:.1%}",
            f"{outcome.believed_hit_rate:.1%}",
            f"{outcome.imbalance:.2f} (cv {outcome.variation:.2f})",
            f"{outcome.moves} of {outcome.repeats}",
            f"{outcome.queue_mean:.1f}, p95 {outcome.queue_p95:.0f}",
            "few requests" if latency is None else f"{latency:.2f} s",
            f"{outcome.requests_per_s:.2f}",
        )
    served = ", ".join(str(count) for count in sorted({outcome.requests for outcome in outcomes}))
    lines = [
        Text(f"Predictions of a model, no measurements: {served} requests a scenario on modelled T4s."),
        Text(
            "hit rate: prompt tokens found in the replicas' caches; believed: blocks that the picker took for cached. "
            "imbalance: busiest replica over a fair share. moves: repeated prefixes that changed their replica. "
            "queue: requests waiting at the chosen replica. p95: of the whole answer."
        ),
    ]
    refused = max(outcome.refused for outcome in outcomes)
    if refused:
        lines.append(Text(f"up to {refused} requests are larger than the whole cache and left out", style="yellow"))
    return Group(shown, *lines)


def data(outcome: Outcome) -> dict[str, object]:
    """A scenario and its outcome as JSON values."""
    scenario = outcome.scenario
    figures = {key: value for key, value in asdict(outcome).items() if key != "scenario"}
    return {
        "generation": scenario.rules.generation,
        "weights": dict(scenario.rules.weights),
        "replicas": scenario.replicas,
        "cache_blocks": scenario.cache_blocks,
        **figures,
        "imbalance": outcome.imbalance,
        "variation": outcome.variation,
        "predicted": True,
    }
