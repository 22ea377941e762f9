"""`make bench-routing`: how fast the reference model decides, and who passes the affinity test.

Decisions are counted per second of one core's time (CPU, not wall clock, which other processes share): a request
is read, its blocks hashed, the replicas scored, the choice learnt. Exit code 1 where a target is missed.
"""

from __future__ import annotations

import random
import sys
import time
from statistics import median

from rich.console import Console
from rich.table import Table

from llmd_runbook.analysis.affinity_design import guide_rule
from llmd_runbook.analysis.scorers import Endpoint, Generation, Picker
from llmd_runbook.load.prompts import shared_prefix
from tests.llmd_runbook.analysis.routers import CASES, LEAST_RIGHT_PASSES, MOST_BLIND_PASSES, RULES, RUNS, verdicts

LEAST_PER_S = 1_000_000 / 60
PREFIXES_TOKENS = (256, 512, 1024)
GROUPS, PER_GROUP, SUFFIX_TOKENS, PASSES, REPEATS = 20, 20, 16, 5, 7


def main() -> int:
    """Print both tables and one closing line."""
    console = Console(width=120)
    missed = [*_speed(console), *_false_passes(console)]
    if missed:
        console.print(f"[bold red]missed[/]: {'; '.join(missed)}")
        return 1
    console.print(f"[bold green]every target met[/]: {len(RULES)} generations, {len(CASES)} routers")
    return 0


def _speed(console: Console) -> list[str]:
    least = f"{LEAST_PER_S:,.0f}"
    table = Table(title=f"Decisions per second of one core, at least {least}; median of {REPEATS} repeats, and range")
    for column in ("picker", "blocks a prompt", "decisions", "decisions/s", "range", "of the target"):
        table.add_column(column, justify="left" if column == "picker" else "right")
    missed = []
    for generation in Generation:
        rates, blocks, decisions = _rates(generation)
        rate = median(rates)
        table.add_row(
            generation,
            f"{blocks:.0f}",
            f"{decisions:,}",
            f"{rate:,.0f}",
            f"{min(rates):,.0f} to {max(rates):,.0f}",
            f"x{rate / LEAST_PER_S:.2f}",
        )
        if rate < LEAST_PER_S:
            missed.append(f"{generation} decides {rate:,.0f} times a second")
    console.print(table)
    return missed


def _rates(generation: Generation) -> tuple[list[float], float, int]:
    """Decisions per CPU second of each repeat, mean blocks of a prompt, decisions a repeat."""
    rng = random.Random(1)
    prompts = [
        prompt.text
        for prefix in PREFIXES_TOKENS
        for prompt in shared_prefix(GROUPS, PER_GROUP, prefix_tokens=prefix, tokens=prefix + SUFFIX_TOKENS, seed=prefix)
    ] * PASSES
    rng.shuffle(prompts)
    work = [
        (
            {"model": "Qwen/Qwen2.5-3B-Instruct", "prompt": text},
            [Endpoint(name, rng.choice((0, 0, 0, 1)), rng.uniform(0, 0.3), 16, 4000) for name in "abc"],
        )
        for text in prompts
    ]
    rates, blocks = [], 0
    for _ in range(REPEATS):
        picker = Picker(RULES[generation], rng=random.Random(1))
        blocks = 0
        start = time.process_time()
        for body, endpoints in work:
            decision = picker.decide(body, endpoints)
            picker.learn(decision)
            blocks += len(decision.hashes)
        rates.append(len(work) / (time.process_time() - start))
    return rates, blocks / len(work), len(work)


def _false_passes(console: Console) -> list[str]:
    table = Table(
        title=f"Verdicts of the affinity test, {RUNS} seeded runs a router, alpha 0.01, 10 x 5 and a control arm"
    )
    for column in ("router", "pass", "fail", "inconclusive", "target"):
        table.add_column(column, justify="left" if column == "router" else "right")
    missed = []
    for case in CASES:
        found = verdicts(case, RUNS)
        target = f"at least {LEAST_RIGHT_PASSES}" if case.aware else f"at most {MOST_BLIND_PASSES}"
        table.add_row(case.name, *(str(found[verdict]) for verdict in (True, False, None)), target)
        if not case.meets_target(found[True], RUNS):
            missed.append(f"{case.name} passes {found[True]} of {RUNS} times")
    console.print(table)
    rule = guide_rule([60, 25, 15], 5)
    shown = ", ".join(f"{router} {chance:.1%}" for router, chance in rule.items())
    console.print(f"The guide's rule, 5 of 5 on one replica, is passed by blind routers (observed: 60/25/15): {shown}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
