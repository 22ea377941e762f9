"""Both patterns side by side under the same load, by turns, so that what changes with time hits both alike."""

from __future__ import annotations

from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.run import StageRun
from llmd_runbook.stages import measurement

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
        for place, (name, pattern, target) in enumerate(turns if number % 2 == 0 else reversed(turns)):
            with stage.step(f"measure {name} beside the other, round {number + 1}") as step:
                seed = 100 + 2 * number + place  # prompts that no cache has yet
                found = measurement.measure(profile, target, pattern.model, profile.load.concurrency, step, seed=seed)
                step.ok(f"{found.succeeded} answers, {found.failed} failures")
            kept.append({"round": number + 1, "pattern": name, "seed": seed, **found.data()})
