"""`docs/checks.md`, from the registry, the tests that make checks fail, what those observed, and the guide's headings.

`python -m tests.end_to_end.checks_table` writes it. `LLMD_RECORD_FAULTS=1 pytest` records what the tests observed:
those of `tests/end_to_end/test_each_check_fails_*.py`, `test_swap.py` and `test_pool_modes.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

from llmd_runbook.profile import PROJECT_ROOT
from llmd_runbook.stages import all_checks
from llmd_runbook.verdicts import CheckSpec
from tests.end_to_end.cases import Observed, observed
from tests.end_to_end.guide_sections import HEADINGS, SCRIPT, SECTIONS, Section

FILE = PROJECT_ROOT / "docs" / "checks.md"
_HEAD = """# Every check

Written by `make docs` from `llmd-runbook checks`, from the tests that break a sandbox so that a check does not pass,
and from what those tests observed: each run of them is compared with it. *Then* is the verdict of that check. *Beside
it* are other checks that the same fault reached in the steps that the test ran; one that shows `pass` there can be
reached and was not. A check that is at worst inconclusive says why.

| check | a pass proves | the fault | then | beside it | test |
|---|---|---|---|---|---|
"""
_GUIDE = """
## By section of the guide

Every heading of the guide, in its order, with what holds it. The tests are those in which the checks do not pass, and
more that run what the section describes.

| section | stage | checks | tests | the guide differs |
|---|---|---|---|---|
"""
_SCRIPT = """
## The guide's quick verification script

`llmd-runbook run PROFILE --stages 04` is this runbook's form of it. None of the script's four parts is taken over as it
is, for each can pass without proving what it says:

| part | what it asks | what it is content with | check of stage 04 | test in which that does not pass |
|---|---|---|---|---|
"""


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


def headings() -> list[str]:
    """The guide's own, in its order."""
    return HEADINGS.read_text().splitlines()


def exists(node_id: str) -> bool:
    """Whether a test of that node id is there."""
    path, _, name = node_id.partition("::")
    file = PROJECT_ROOT / path
    body = ast.parse(file.read_text()).body if file.is_file() else []
    return name in {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def text() -> str:
    """The whole file.

    Raises:
        KeyError: a check that no test makes fail, or a heading without a row.
    """
    cases, seen = faults(), observed()
    rows = [_row(spec, *cases[spec.id], seen) for spec in all_checks()]
    guide = [_section(heading, SECTIONS[heading], cases) for heading in headings()]
    script = [
        f"| {part.part} | {part.asks} | {part.content_with} | `{part.check}` | {_link(cases[part.check][1])} |"
        for part in SCRIPT
    ]
    return _HEAD + "\n".join(rows) + "\n" + _SCRIPT + "\n".join(script) + "\n" + _GUIDE + "\n".join(guide) + "\n"


def verdicts(check: str, test: str, seen: Observed) -> list[str]:
    """What a check said in the test that is to break it; nothing where no run of it was recorded."""
    return seen.get(test.partition("::")[2], {}).get(check, [])


def _row(spec: CheckSpec, fault: str, test: str, seen: Observed) -> str:
    others = {name: said for name, said in seen.get(test.partition("::")[2], {}).items() if name != spec.id}
    then = " or ".join(verdicts(spec.id, test, seen)) or "not recorded"
    then += f": {spec.never_fails}" if spec.never_fails else ""
    beside = ", ".join(f"`{name}` {' or '.join(said)}" for name, said in sorted(others.items())) or "none"
    return f"| `{spec.id}` | {spec.proves} | {fault} | {then} | {beside} | {_link(test)} |"


def _section(heading: str, section: Section | str, cases: dict[str, tuple[str, str]]) -> str:
    level, _, title = heading.partition(" ")
    shown = title if len(level) > 2 else f"**{title}**"
    if isinstance(section, str):
        return f"| {shown} | | | | nothing to do: {section} |"
    tests = dict.fromkeys([*section.tests, *(cases[name][1] for name in section.checks)])
    names = ", ".join(f"`{name}`" for name in section.checks) or "none: a table"
    return f"| {shown} | {section.stages} | {names} | {', '.join(map(_link, tests))} | {section.differs} |"


def _link(node_id: str) -> str:
    path, _, name = node_id.partition("::")
    return f"[`{name}`](../{path})"


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
