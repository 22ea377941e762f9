"""The page on a run in which everything was real but the GPU, made from the run's record."""

from __future__ import annotations

import os
from collections.abc import Iterable

from llmd_runbook.manifest import Attempt, Run, StageRecord
from llmd_runbook.verdicts import StageResult, Verdict

PAGE = "LLMD_EVERYTHING_REAL"
"""Environment variable that names the file to write the page to."""

_SHOWN = ("03_swap_patterns", "04_verify", "05_routing_affinity", "06_throughput_and_cost")
_COMPARISON = ("Both patterns", "Between tokens, and in the replicas", "Ratios")
"""Tables of stage 06; without its dollars, for no GPU was measured."""
_READING = "How to read the ratios"


def page(run: Run, *, took_s: float, peak_bytes: int) -> str:
    """Parts, verdicts by stage, what the checks of stages 03 to 06 saw, and the comparison of both patterns.

    Args:
        run: the record.
        took_s: the sandbox's start and end included.
        peak_bytes: of all processes of the sandbox, shared pages counted once.
    """
    lines = [
        "# The seven notebooks with everything real but the GPU",
        "",
        "Written by `LLMD_SANDBOX_EPP=/path/to/epp make test-vllm` from the record of the run that it made.",
        "",
        f"Run {run.id}, profile {run.profile.name}, {run.started:%Y-%m-%d %H:%M} UTC, commit {_commit(run)}, "
        f"{os.cpu_count()} processors: {took_s / 60:.1f} minutes, {peak_bytes / 1e9:.1f} GB of memory at most. "
        f"Verdict: {run.verdict}.",
        "",
        "What every notebook of it says in its header; no number below is a real GPU's:",
        "",
        *_table(("part", "what it was"), run.cluster.real.items()),
        "",
        *_table(("stage", "verdict", "checks passed", "time"), map(_stage, run.stages)),
    ]
    for record in run.stages:
        result = _result(record)
        if record.stage in _SHOWN and result:
            rows = [(check.id, check.verdict, check.observed) for check in result.checks]
            lines += ["", f"## {record.stage}", "", *_table(("check", "verdict", "observed"), rows), *_compared(result)]
    return "\n".join(lines) + "\n"


def _compared(result: StageResult) -> list[str]:
    """The tables of the comparison and how to read it, where a stage has them; no load is left out."""
    lines: list[str] = []
    for table in result.tables:
        if table.title in _COMPARISON:
            rows = [["" if value is None else str(value) for value in row] for row in table.rows]
            lines += ["", f"{table.title}:", "", *_table(tuple(table.columns), rows)]
    return lines + [part for note in result.notes if note.title == _READING for part in ("", note.text)]


def _commit(run: Run) -> str:
    return f"{(run.code.commit or 'unknown')[:12]}{' with changes' if run.code.dirty else ''}"


def _stage(record: StageRecord) -> tuple[str, ...]:
    result = _result(record)
    checks = result.checks if result else []
    passed = sum(check.verdict is Verdict.PASS for check in checks)
    return record.stage, str(record.verdict or record.status), f"{passed} of {len(checks)}", _took(record.attempts)


def _result(record: StageRecord) -> StageResult | None:
    return record.attempts[-1].result if record.attempts else None


def _took(attempts: list[Attempt]) -> str:
    began, ended = (attempts[-1].started, attempts[-1].ended) if attempts else (None, None)
    return f"{(ended - began).total_seconds():.0f} s" if began and ended else "not known"


def _table(columns: tuple[str, ...], rows: Iterable[Iterable[str]]) -> list[str]:
    cells = [columns, ("---",) * len(columns), *rows]
    return ["| " + " | ".join(_cell(text) for text in row) + " |" for row in cells]


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
