"""Both patterns side by side under the same load, by turns, so that what changes with time hits both alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.run import StageRun
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured

KEY = "interleaved"
"""Where `stage.data` has the figures: one entry a measurement, in the order in which they were made."""


def measure(stage: StageRun, old: Endpoint, new: Endpoint) -> None:
    """Put the profile's load on both patterns, `swap.compare_rounds` times each, the first one changing (ABBA).

    Raises:
        ToolError: the load generator broke.
    """
    profile = stage.profile
    kept = stage.data.setdefault(KEY, [])
    for number in range(profile.swap.compare_rounds):
        turns = [("pattern1", profile.pattern1, old), ("pattern3", profile.pattern3, new)]
        seed = measurement.fresh_seed()  # the same prompts for both: each has caches of its own
        for name, pattern, target in turns if number % 2 == 0 else reversed(turns):
            with stage.step(f"measure {name} beside the other, round {number + 1}") as step:
                found = measurement.measure(profile, target, pattern, profile.load.concurrency, step, seed=seed)
                step.ok(str(found))
            kept.append({"round": number + 1, "pattern": name, **found.data()})


def pairs(kept: Sequence[Mapping[str, Any]]) -> list[tuple[Measured, Measured]]:
    """Pattern 1 and Pattern 3 of every whole round, from what `measure` left in the record."""
    rounds: dict[int, dict[str, Measured]] = {}
    for entry in kept:
        figures = {key: value for key, value in entry.items() if key not in ("round", "pattern")}
        rounds.setdefault(entry["round"], {})[entry["pattern"]] = measurement.restored(figures)
    whole = [found for _, found in sorted(rounds.items()) if len(found) == 2]
    return [(found["pattern1"], found["pattern3"]) for found in whole]
