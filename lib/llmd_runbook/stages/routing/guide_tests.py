"""05: the guide's own Tests 2 and 3, as they are written there, beside what they can show.

A verdict follows from the result, from how often chance gives it, and from how often a picker that works gives it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from llmd_runbook.analysis.affinity_design import all_on_one
from llmd_runbook.analysis.guide import (
    TEST2_PAUSE_S,
    TEST2_PROMPT,
    TEST2_REQUESTS,
    TEST2_TOKENS,
    TEST3_PROMPTS,
    TEST3_TOKENS,
)
from llmd_runbook.analysis.guide_tests import Forecast, Passes, every_replica, forecast, judge, on_every, on_one
from llmd_runbook.analysis.routing_facts import RoutingFacts, Unread
from llmd_runbook.analysis.scorers import Endpoint
from llmd_runbook.clients.inference import Completion, Inference
from llmd_runbook.errors import ClusterError
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines
from llmd_runbook.stages import site
from llmd_runbook.stages.routing.affinity_arm import Arm
from llmd_runbook.stages.routing.counters import Counters
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Table

Row = list[str | int | float | None]


@dataclass(frozen=True)
class _Replayed:
    """What became of a test's requests: answers, failures, and how many each replica counted."""

    answers: list[Completion]
    failures: list[str]
    counts: dict[str, int]

    @property
    def known(self) -> bool:
        """Every request was answered, and the counters account for exactly these."""
        return not self.failures and sum(self.counts.values()) == len(self.answers)

    def __str__(self) -> str:
        if self.failures:
            return f"{len(self.failures)} of {len(self.failures) + len(self.answers)} failed: {self.failures[0]}"
        counted = sum(self.counts.values())
        if not self.known:
            return f"the replicas' counters moved by {counted} for {len(self.answers)} requests"
        return "/".join(map(str, self.counts.values())) + f" of {counted} requests on {len(self.counts)} replicas"


def replay(stage: StageRun) -> Shown:
    """Send both tests; what was observed, what this picker and what chance would give, and what that shows."""
    profile = stage.profile
    model, counters = profile.pattern3.model, Counters.of_pattern3(profile)
    if not counters.pods:
        return lines(["Not replayed: no replica is Ready."])
    target = endpoint(site.kubernetes(profile), profile, profile.pattern3.gateway)
    client = Inference(target, profile.load.request_timeout_s)
    with stage.step("replay the guide's Test 2") as step:
        same = _replayed(counters, lambda: _one_after_another(client, model))
        step.ok(str(same))
    with stage.step("replay the guide's Test 3") as step:
        different = _replayed(counters, lambda: _at_once(client, model))
        step.ok(str(different))
    shares = _shares(stage, len(counters.pods))
    one = max(all_on_one(each, TEST2_REQUESTS) for each in shares)
    every = max(every_replica(each, len(TEST3_PROMPTS)) for each in shares)
    equal = [TEST2_PROMPT] * TEST2_REQUESTS
    rows = [
        _routed(stage, "Test 2: all on the same replica", equal, same, on_one, one, at_once=False),
        _faster(same),
        _routed(stage, "Test 3: on all replicas", TEST3_PROMPTS, different, on_every, every, at_once=True),
    ]
    stage.data["guide_tests"] = {str(row[0]): {"observed": row[1], "verdict": row[4]} for row in rows}
    stage.note(
        "The guide's Tests 2 and 3",
        "The forecast replays the prompts through the reference model of this picker, on idle replicas. Chance is a "
        "router that does not look at the prompt, at random with equal shares or with those of the control arm, "
        "whichever passes more often; a router that always takes the same replica passes Test 2 always, and one that "
        "goes round passes Test 3 always.",
    )
    columns = ["the guide expects", "observed", "this picker would pass", "chance would pass", "verdict", "why"]
    return stage.table(Table(title="The guide's Tests 2 and 3, as written", columns=columns, rows=rows))


def _routed(
    stage: StageRun,
    name: str,
    prompts: Sequence[str],
    found: _Replayed,
    passes: Passes,
    chance: float,
    *,
    at_once: bool,
) -> Row:
    facts: RoutingFacts | Unread = stage.kept.get("facts", Unread("the picker's configuration was not read"))
    right = _forecast(facts, prompts, passes, at_once=at_once, seed=stage.data.get("seed", 0))
    known = None if isinstance(right, Unread) else right
    verdict, why = judge(passes(list(found.counts.values())) if found.known else None, chance, known)
    said = f"not known: {right.reason}" if isinstance(right, Unread) else f"{right} of runs; {_hashes(facts, prompts)}"
    return [name, str(found), said, f"{chance:.1%}", str(verdict), why]


def _faster(found: _Replayed) -> Row:
    """The first of equal requests is the slowest of n in one case of n, whatever is cached."""
    times = [answer.elapsed_s for answer in found.answers]
    passed = None if found.failures else times[0] > max(times[1:])
    chance = 1 / TEST2_REQUESTS
    verdict, why = judge(passed, chance, None)
    cached = [answer.cached_tokens for answer in found.answers]
    said = ", ".join("not said" if count is None else str(count) for count in cached)
    observed = ", ".join(f"{1000 * seconds:.0f}" for seconds in times)
    return [
        "Test 2: faster after the first",
        f"{observed} ms; cached tokens {said}" if times else str(found),
        "not known: an answer's time is not the picker's alone",
        f"{chance:.1%}",
        str(verdict),
        why,
    ]


def _forecast(
    facts: RoutingFacts | Unread, prompts: Sequence[str], passes: Passes, *, at_once: bool, seed: int
) -> Forecast | Unread:
    if isinstance(facts, Unread):
        return facts
    rules, caches = facts.rules, facts.caches
    if isinstance(rules, Unread):
        return rules
    if isinstance(caches, Unread):
        return caches
    replicas = [
        Endpoint(replica.name, block_size=size, num_blocks=blocks)
        for replica, (size, blocks) in zip(facts.ready, caches, strict=True)
    ]
    return forecast(rules, facts.model, prompts, replicas, passes, at_once=at_once, seed=seed)


def _hashes(facts: RoutingFacts | Unread, prompts: Sequence[str]) -> str:
    if isinstance(facts, Unread) or isinstance(facts.block_bytes, Unread):
        return "hashes not known"
    counts = sorted({len(facts.hashes(prompt)) for prompt in prompts})
    return f"hashes of a prompt: {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))}"


def _shares(stage: StageRun, replicas: int) -> list[list[float]]:
    """Equal shares, and those of this run's control arm."""
    control = stage.data.get("independent")
    observed = [float(sum(column)) for column in zip(*Arm(**control).counts, strict=True)] if control else []
    return [[1.0] * replicas, *([observed] if sum(observed) else [])]


def _replayed(counters: Counters, send: Callable[[], tuple[list[Completion], list[str]]]) -> _Replayed:
    answers: list[Completion] = []
    failures: list[str] = []

    def counted() -> int:
        done, failed = send()
        answers.extend(done)
        failures.extend(failed)
        return len(done)

    return _Replayed(answers, failures, counters.served_while(counted))


def _one_after_another(client: Inference, model: str) -> tuple[list[Completion], list[str]]:
    asked = []
    for _ in range(TEST2_REQUESTS):
        asked.append(_ask(client, model, TEST2_PROMPT, TEST2_TOKENS))
        time.sleep(TEST2_PAUSE_S)  # the guide's own
    return _sorted(asked)


def _at_once(client: Inference, model: str) -> tuple[list[Completion], list[str]]:
    with ThreadPoolExecutor(len(TEST3_PROMPTS)) as threads:
        return _sorted(threads.map(lambda prompt: _ask(client, model, prompt, TEST3_TOKENS), TEST3_PROMPTS))


def _ask(client: Inference, model: str, prompt: str, tokens: int) -> Completion | str:
    try:
        return client.complete(model, prompt, max_tokens=tokens, temperature=None)
    except ClusterError as error:
        return error.in_short


def _sorted(asked: Iterable[Completion | str]) -> tuple[list[Completion], list[str]]:
    found = list(asked)
    return [one for one in found if isinstance(one, Completion)], [one for one in found if isinstance(one, str)]
