"""06: the loop of the guide's Test 4, as it is written there, beside what it measures."""

from __future__ import annotations

import json
from dataclasses import asdict

from llmd_runbook.analysis.guide import TEST4_EXPECTED_S, TEST4_PROMPT, TEST4_REQUESTS, TEST4_TOKENS
from llmd_runbook.analysis.guide_tests import Outcome
from llmd_runbook.clients import curl
from llmd_runbook.clients.curl import Timed
from llmd_runbook.errors import ToolError, UsageError
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines
from llmd_runbook.stages import site
from llmd_runbook.stages.routing.counters import Counters
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Table

Row = list[str | int | float | None]
_ANSWERS_S = 60.0
"""More time than the load's own time-out, for fifty answers at once."""


def replay(stage: StageRun) -> Shown:
    """Run the loop once; what its `time` says, what it leaves out, and what that shows."""
    profile = stage.profile
    body = json.dumps({"model": profile.pattern3.model, "prompt": TEST4_PROMPT, "max_tokens": TEST4_TOKENS})
    target = endpoint(site.kubernetes(profile), profile, profile.pattern3.gateway)
    counters, timeout_s = Counters.of_pattern3(profile), profile.load.request_timeout_s + _ANSWERS_S
    found: list[Timed] = []

    def send() -> int:
        found.append(curl.loop(target, body, TEST4_REQUESTS, timeout_s))
        return TEST4_REQUESTS

    with stage.step("run the loop of the guide's Test 4") as step:
        try:
            bare = curl.starting(TEST4_REQUESTS, timeout_s)
            answered = sum(counters.served_while(send).values())
        except (ToolError, UsageError) as error:
            why = error.in_short
            step.skipped(why)
            stage.note("The guide's Test 4 was not replayed", why)
            return lines([f"The guide's Test 4 was not replayed: {why}"])
        step.ok(f"{answered} answers in {found[0].ended_s:.2f} s")
    rows = judged(found[0], bare, answered, simulated=stage.simulated)
    stage.data["guide_loop"] = {**asdict(found[0]), "processes_s": bare.ended_s, "answered": answered}
    columns = ["the guide", "observed", "verdict", "why"]
    return stage.table(Table(title="The guide's Test 4, as written", columns=columns, rows=rows))


def judged(found: Timed, bare: Timed, answered: int, *, simulated: bool) -> list[Row]:
    """What the loop's results show.

    Args:
        found: of the loop.
        bare: of as many processes that send nothing.
        answered: requests that the replicas counted meanwhile.
        simulated: whether the engine's times are those of a simulation.
    """
    low, high = TEST4_EXPECTED_S
    within = low <= found.ended_s <= high
    time_shows = Outcome.HOLDS if within else Outcome.FAILS
    why = f"{TEST4_REQUESTS} requests at once, batched by each replica, not {TEST4_REQUESTS} after one another"
    if answered != TEST4_REQUESTS:
        time_shows = Outcome.NOTHING
        why = f"the replicas counted {answered} answers for {TEST4_REQUESTS} requests: the loop throws errors away"
    elif simulated:
        time_shows, why = Outcome.NOTHING, "a simulated engine's times say nothing about a T4's"
    return [
        [
            f"`time` of the loop is the time of {TEST4_REQUESTS} requests",
            f"{found.loop_s:.2f} s, and {found.ended_s:.2f} s until the last request had ended",
            str(Outcome.NOTHING),
            "`time` ends when the last curl is started: `wait` stands behind it, and no answer is in it",
        ],
        [
            f"{low:.0f} to {high:.0f} s on Pattern 3",
            f"{found.ended_s:.2f} s, {bare.ended_s:.2f} s of which starting {TEST4_REQUESTS} processes takes alone",
            str(time_shows),
            why,
        ],
        [
            "2.5 to 3 times as fast as Pattern 1",
            "Pattern 1 does not run any more",
            str(Outcome.NOTHING),
            "the loop measures one pattern; `throughput.gain` compares both under the same load",
        ],
    ]
