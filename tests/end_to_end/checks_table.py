"""`docs/checks.md`, from the registry and the tests that make checks fail; `python -m tests.end_to_end.checks_table`"""

from __future__ import annotations

import ast
from pathlib import Path

from llmd_runbook.profile import PROJECT_ROOT
from llmd_runbook.stages import all_checks

FILE = PROJECT_ROOT / "docs" / "checks.md"
_HEAD = """# Every check

Written by `make docs` from `llmd-runbook checks` and from the tests that make each check fail on a sandbox.

| check | a pass proves | the fault that fails it | test |
|---|---|---|---|
"""

_SECTIONS = """
## By section of the guide

| section | stage | checks | tests in which they fail |
|---|---|---|---|
"""

GUIDE = [
    ("Prerequisites: existing infrastructure", "01", "pool.present pattern1.releases gateway.programmed token.secret"),
    ("Prerequisites: tools", "01", "tools.versions"),
    ("Pattern 3 vs Pattern 1: configuration differences", "01", "configuration.values configuration.branch"),
    ("Step 1: review current state", "01", "pool.present pool.capacity pattern1.ready pattern1.route baseline.answers"),
    ("Step 2: verify configuration files", "01", "configuration.renders configuration.branch configuration.values"),
    ("Step 3, Option A: three GPUs", "02, 03", "pool.autoscaling pool.size pool.allocatable pool.grows spot.pool"),
    ("Step 3, Option B: four GPUs, Pattern 2 stays", "02", "pool.size pattern2.before pattern2.after"),
    ("Step 4: remove Pattern 1", "03", "pattern1.gone"),
    ("Step 5: deploy Pattern 3", "03", "pattern3.ready pattern3.route gate.readiness"),
    ("Step 6: monitor deployment", "03", "swap.losses swap.gap rollback.serves"),
    ("Step 7: verify all replicas", "04", "verify.replicas verify.gpus"),
    ("Step 8: get gateway endpoint", "03, 04", "pattern3.answers verify.models"),
    ("Test 1: basic inference", "04", "verify.answer"),
    ("Test 2: prefix-cache-aware routing", "05", "affinity.prefix affinity.cache_hits affinity.explained"),
    ("Test 3: load balancing across replicas", "05", "affinity.spread affinity.counters"),
    ("Test 4: throughput comparison", "06", "load.answers load.client throughput.gain"),
    ("Test 5: intelligent routing verification", "04, 05", "verify.weights routing.config routing.config_loaded"),
    ("Success criteria, quick verification", "04", "verify.replicas verify.models verify.answer verify.prefix_caching"),
    ("Issue 1: pods stuck in Pending", "01, 02, 03", "pool.fits pool.capacity pool.allocatable pool.grows"),
    ("Issue 2: model download fails", "01", "token.secret"),
    ("Issue 3: vLLM crashes (OOM)", "03", "gate.readiness pattern3.ready"),
    ("Issue 4: prefix caching not working", "04, 05", "verify.prefix_caching affinity.cache_hits routing.prompts"),
    ("Issue 5: gateway cannot route", "01, 05", "pattern1.route routing.route routing.selector healthcheck.policy"),
    ("Cleanup, Options 1 to 3", "07", "cleanup.pods cleanup.nodes cleanup.serves spot.removed pattern2.after"),
    ("Operational insights: failure handling", "05", "failure.service_continues failure.recovers"),
]
"""Section of the guide, stages, and the checks that hold it; figures that the guide claims stand in the README."""


def faults() -> dict[str, tuple[str, str]]:
    """For each check the fault, in the words of its test's name, and where that test is."""
    found: dict[str, tuple[str, str]] = {}
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                words = node.name.removeprefix("test_").replace("_", " ")
                for name in _named(node):
                    found[name] = (words, f"{file.relative_to(PROJECT_ROOT)}::{node.name}")
    return found


def text() -> str:
    """The whole file.

    Raises:
        KeyError: a check that no test makes fail.
    """
    cases = faults()
    sections = [
        f"| {section} | {stage} | {', '.join(f'`{name}`' for name in names.split())} | "
        f"{', '.join(_tests(cases, names.split()))} |"
        for section, stage, names in GUIDE
    ]
    rows = [f"| `{spec.id}` | {spec.proves} | {cases[spec.id][0]} | `{cases[spec.id][1]}` |" for spec in all_checks()]
    return _HEAD + "\n".join(rows) + "\n" + _SECTIONS + "\n".join(sections) + "\n"


def _tests(cases: dict[str, tuple[str, str]], names: list[str]) -> list[str]:
    return list(dict.fromkeys(f"`{cases[name][1].partition('::')[2]}`" for name in names))


def _named(node: ast.FunctionDef) -> list[str]:
    """The checks that `@fails(...)` names."""
    return [
        argument.value
        for mark in node.decorator_list
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "fails"
        for argument in mark.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
