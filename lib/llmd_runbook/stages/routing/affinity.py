"""05: requests that share a prefix go where it is cached, others spread; who served each is known by evidence.

The picker's log or a response header names the replica of each request, under background load; where neither is to
be had the requests go one at a time, and the one counter that moves names it. The replicas' counters must add up to
what was sent in either case: what does not is said and never guessed away.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

from llmd_runbook.analysis.affinity import Judgement
from llmd_runbook.analysis.affinity import judge as judge_affinity
from llmd_runbook.analysis.distribution import judge_spread, spread
from llmd_runbook.clients.metrics import PREFIX_HITS, PREFIX_QUERIES
from llmd_runbook.load.plan import Prompt
from llmd_runbook.load.prompts import SUFFIX_TOKENS, shared_prefix, unique
from llmd_runbook.run import StageRun, display
from llmd_runbook.run.display import Shown
from llmd_runbook.stages.routing.affinity_arm import Arm
from llmd_runbook.stages.routing.affinity_traffic import Traffic
from llmd_runbook.verdicts import Table, declare

COUNTERS = declare(
    "affinity.counters",
    "one replica is known to have served each request, and the replicas' counters add up to what was sent",
    "stop other traffic to this model while the stage runs, and run it again",
)
_ELSEWHERE = (
    "others than the pool's replicas answer a part: see the HTTPRoute's backendRefs and their weights, and other "
    "routes to this host and path"
)
PREFIX = declare(
    "affinity.prefix",
    "requests that share a prefix share a replica beyond what routing blind to prefixes gives (permutation test)",
    "see the picker's configuration (stage 04): prefix-cache-scorer, its weight, its block size",
)
SPREAD = declare(
    "affinity.spread",
    "requests that share nothing reach every replica",
    "a replica that serves nothing is not in the pool, never Ready, or always scored last: see the picker's log",
)
HITS = declare(
    "affinity.cache_hits",
    "a prefix that a replica has served before is found in its cache, and unrelated prompts are not",
    "prefix caching may be off (stage 04), or the cache too small for the working set",
)


def measure_groups(stage: StageRun) -> None:
    """Prompts of several groups in random order; a group shares its first blocks."""
    wanted = stage.profile.affinity
    prompts = shared_prefix(
        wanted.groups,
        wanted.requests_per_group,
        prefix_tokens=wanted.prefix_tokens,
        tokens=wanted.prefix_tokens + SUFFIX_TOKENS,
        seed=_seed(stage),
    )
    arm = _send(stage, "send groups of shared prefixes", prompts, lambda prompt, _: prompt.group)
    stage.data["groups"] = vars(arm)
    rows: list[list[str | int | float | None]] = [
        [group, *counts] for group, counts in zip(arm.groups, arm.counts, strict=True)
    ]
    stage.table(Table(title="Who served which prefix", columns=["prefix", *arm.replicas], rows=rows))


def measure_independent(stage: StageRun) -> None:
    """Prompts that share nothing, under labels that mean nothing: the control arm, and the test of the spread."""
    wanted = stage.profile.affinity
    prompts = unique(wanted.independent, wanted.prefix_tokens + SUFFIX_TOKENS, seed=_seed(stage) + 1)
    different = max(4, wanted.independent // wanted.requests_per_group)
    labels = [f"label {index % different}" for index in range(len(prompts))]
    random.Random(_seed(stage)).shuffle(labels)  # in turn they would be in step with a router that goes round
    arm = _send(stage, "send requests that share nothing", prompts, lambda _, index: labels[index])
    stage.data["independent"] = vars(arm)
    totals = [sum(column) for column in zip(*arm.counts, strict=True)]
    rows: list[list[str | int | float | None]] = [
        [name, total] for name, total in zip(arm.replicas, totals, strict=True)
    ]
    stage.table(Table(title="Who served the independent requests", columns=["replica", "requests"], rows=rows))


def judge(stage: StageRun) -> Shown:
    """The verdicts, from what the two arms left in `stage.data`."""
    groups, control = (Arm(**stage.data[name]) for name in ("groups", "independent"))
    seed = _seed(stage)
    unclear = [*groups.unclear, *control.unclear]
    arms = {"groups": groups, "control": control}
    asked = sum(len(arm.requests) for arm in arms.values())
    known = sum(map(sum, [*groups.counts, *control.counts]))
    elsewhere = any(arm.elsewhere for arm in arms.values())
    stage.check(
        COUNTERS.judge(
            False if elsewhere else None if unclear else True,
            expected=f"{asked} requests, each served by one replica; counters that add up",
            observed=f"{known} of {asked}; " + "; ".join(f"{name}: {arm.reconciled}" for name, arm in arms.items()),
            evidence=[*unclear, *(f"{name}: {_by_evidence(arm)}" for name, arm in arms.items())],
            remedy=_ELSEWHERE if elsewhere else "",
        )
    )
    found = Judgement(None, f"it is not known who served what: {unclear[0]}") if unclear else None
    verdict = found or judge_affinity(groups.counts, control.counts, seed=seed)
    stage.check(
        PREFIX.judge(
            verdict.ok,
            expected="p at most 0.01 for groups, more for the control arm, at least 2 homes",
            observed=verdict.reason,
            evidence=[f"{name}: {row}" for name, row in zip(groups.groups, groups.counts, strict=True)],
        )
    )
    totals = [sum(column) for column in zip(*control.counts, strict=True)]
    spread_verdict = found or judge_spread(spread(totals))
    stage.check(
        SPREAD.judge(
            spread_verdict.ok,
            expected=f"every one of {len(totals)} replicas serves",
            observed=spread_verdict.reason,
            evidence=[f"{name}: {total}" for name, total in zip(control.replicas, totals, strict=True)],
        )
    )
    possible = groups.repeats
    found_again = groups.hit_ratio >= possible / 2 and control.hit_ratio < groups.hit_ratio / 2
    stage.check(
        HITS.judge(
            None if unclear or not possible else found_again,
            expected=f"groups at least {possible / 2:.0%} of tokens (at best {possible:.0%}, where the replica "
            "had served their prefix before), control below half of it",
            observed=f"groups {groups.hit_ratio:.1%}, control {control.hit_ratio:.1%}",
            evidence=[f"{PREFIX_HITS} and {PREFIX_QUERIES}, differences over all replicas; background left out"],
        )
    )
    for name, arm in arms.items():
        beside = f"{arm.background} unrelated requests ran beside" if arm.background else "nothing else ran"
        stage.note(f"How sure the {name} are", f"{arm.claim}. {beside[0].upper()}{beside[1:]}.")
    return display.verdicts(stage.checks(spec.id for spec in (COUNTERS, PREFIX, SPREAD, HITS)))


def _send(stage: StageRun, name: str, prompts: list[Prompt], label: Callable[[Prompt, int], str]) -> Arm:
    with stage.step(name) as step, closing(Traffic(stage)) as traffic:
        arm, trail = traffic.send(prompts, label, step)
        stage.kept.setdefault("trails", []).append(trail)
        step.ok(f"{len(prompts)} requests over {len(arm.replicas)} replicas; {_by_evidence(arm)}")
    return arm


def _by_evidence(arm: Arm) -> str:
    known = ", ".join(f"{count} by {kind}" for kind, count in arm.evidence.items())
    return f"{known or 'none attributed'}; {arm.background} background requests beside"


def _seed(stage: StageRun) -> int:
    """Another one each time, or the prompts would be cached already; it is in the record."""
    seed: int = stage.data.setdefault("seed", random.SystemRandom().randrange(2**31))
    return seed
