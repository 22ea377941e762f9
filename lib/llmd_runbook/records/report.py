"""A run in the terminal: its stages and verdicts, what failed and what to do, and where the record lies."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from llmd_runbook.analysis.replay import Agreement
from llmd_runbook.manifest import ErrorRecord, How, Run, StageRecord, Status
from llmd_runbook.profile import reference
from llmd_runbook.run.approvals import how_to
from llmd_runbook.verdicts import Check, CheckSpec, StepStatus, Verdict

_STYLES = {
    "pass": "green",
    "finished": "green",
    "fail": "bold red",
    "failed": "bold red",
    "inconclusive": "yellow",
    "interrupted": "yellow",
    "lost": "bold red",
    "needs approval": "yellow",
    "would change": "yellow",
    "nothing to change": "green",
    "not run": "dim",
    "planned": "dim",
}
_MARKS = {
    "pass": "✔",
    "fail": "✘",
    "failed": "✘",
    "inconclusive": "?",
    "interrupted": "!",
    "lost": "!",
    "needs approval": "!",
}


_RESUMABLE = (Status.LOST, Status.FAILED, Status.INTERRUPTED)


def styled(word: str | None) -> Text:
    """A verdict or status with its mark and colour."""
    if word is None:
        return Text("")
    mark = _MARKS.get(word, "")
    return Text(f"{mark} {word}".strip(), style=_STYLES.get(word, ""))


def summary(run: Run, folder: Path) -> RenderableType:
    """The table of verdicts, all that was not passed with its remedy, and where the record lies."""
    parts: list[RenderableType] = [_stages(run)]
    if run.resumed:
        parts.append(recap(run))
    for record in run.stages:
        parts += _complaints(record, Path(run.profile.path))
    if run.error:
        parts.append(Text(f"{run.error.kind}: {run.error.message}", style="bold red"))
    line = Text.assemble("run ", (run.id, "bold"), ": ", styled(run.status))
    if run.verdict:
        line.append_text(Text.assemble(", verdict ", styled(run.verdict)))
    if run.exit_code is not None:
        line.append(f", exit code {run.exit_code}")
    parts.append(line)
    if run.simulated:
        parts.append(Text("simulated: no number of this run is a real GPU's", style="yellow"))
    parts.append(Text(f"record: {folder}", overflow="fold"))
    if run.how is How.CLI and run.status in _RESUMABLE:
        named = shlex.quote(reference(Path(run.profile.path)))
        parts.append(Text(f"to go on: llmd-runbook run {named} --resume {run.id}", no_wrap=True, overflow="ignore"))
    return Group(*parts)


def registry(specs: Sequence[CheckSpec]) -> Table:
    """Every check with what a pass proves and the remedy; and why one never fails, where that is so."""
    table = Table(show_lines=True)
    table.add_column("check", no_wrap=True)
    table.add_column("a pass proves", ratio=1)
    table.add_column("when it does not pass", ratio=1)
    for spec in specs:
        never = f"\n\nAt worst inconclusive: {spec.never_fails}" if spec.never_fails else ""
        table.add_row(spec.id, Text(spec.proves + never), Text(spec.remedy))
    return table


def agreement(found: Agreement, shown: int) -> RenderableType:
    """How far the reference model agrees with a recording, and the first disagreements."""
    head = Text(f"{found.header.picker}: {found.decisions} decisions")
    table = Table()
    for name in ("part", "agree", "of"):
        table.add_column(name, justify="left" if name == "part" else "right")
    for part, count in found.compared.items():
        table.add_row(part, str(found.agreed.get(part, 0)), str(count))
    lines = [
        Text(f"line {item.line}, request {item.request}, {item.part}: {item.detail}")
        for item in found.disagreements[:shown]
    ]
    left = len(found.disagreements) - len(lines)
    verdict = "all agree" if found.whole else f"{len(found.disagreements)} disagreements"
    end = verdict if found.decisions else "no decisions: nothing is proved"
    more = [Text(f"and {left} more")] if left > 0 and lines else []
    return Group(head, table, *lines, *more, Text(end, style="green" if found.whole else "bold red"))


def evidence(run: Run) -> Table:
    """Every check of every stage with what was observed."""
    table = Table(title="checks", title_justify="left")
    for name in ("stage", "check", "verdict"):
        table.add_column(name, no_wrap=True)
    table.add_column("observed")
    for record in run.stages:
        for check in checks(record):
            table.add_row(record.stage[:2], check.id, styled(check.verdict), Text(check.observed))
    return table


def _stages(run: Run) -> Table:
    table = Table(title=f"profile {escape(run.profile.name)}", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("passed", "failed", "inconclusive", "duration"):
        table.add_column(name, justify="right")
    table.add_column("verdict", no_wrap=True)
    for record in run.stages:
        counts = count_checks(record)
        table.add_row(
            record.stage,
            *(str(counts[verdict] or "") for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)),
            duration(record),
            styled(outcome(record)),
        )
    return table


def recap(run: Run) -> Table:
    """How the steps of each stage's latest attempt ended, and which stages were kept when the run was taken up."""
    last = run.resumed[-1]
    table = Table(title=f"recap, resumed {last.at:%Y-%m-%d %H:%M:%S} UTC", title_justify="left")
    table.add_column("stage", no_wrap=True)
    for name in ("attempt", *StepStatus):
        table.add_column(str(name), justify="right")
    table.add_column("kept")
    for record in run.stages:
        counts = count_steps(record)
        numbers = [str(counts[status] or "") for status in StepStatus]
        table.add_row(record.stage, str(len(record.attempts) or ""), *numbers, last.kept.get(record.stage, ""))
    return table


def count_steps(record: StageRecord) -> dict[StepStatus, int]:
    """How many steps of the latest attempt ended in each way."""
    result = record.attempts[-1].result if record.attempts else None
    found = [step.status for step in result.steps] if result else []
    return {status: found.count(status) for status in StepStatus}


def outcome(record: StageRecord) -> str:
    """The verdict of a stage that finished, else how far it got; never a verdict alone where a plan waits."""
    if record.status is Status.FINISHED and record.plan_only:
        return "would change" if record.would_change else "nothing to change"
    if record.status is Status.FINISHED and record.unapproved and record.verdict is not Verdict.FAIL:
        return Status.NEEDS_APPROVAL
    finished = record.status is Status.FINISHED and record.verdict is not None
    return str(record.verdict if finished else record.status)


def _complaints(record: StageRecord, profile: Path) -> list[RenderableType]:
    lines: list[RenderableType] = _planned(record)
    for approval in record.unapproved:
        head = Text.assemble(styled(Status.NEEDS_APPROVAL), f"  {record.stage}  what its plan asks for was not done")
        lines.append(head)
        lines += [
            Text(f"    {line}", no_wrap=True, overflow="ignore") for line in how_to(approval, record.stage, profile)
        ]
    for check in checks(record):
        if check.verdict is not Verdict.PASS:
            head = Text.assemble(styled(check.verdict), f"  {record.stage}  ", (check.id, "bold"))
            lines.append(head.append(f"  {check.proves}"))
            lines.append(Text(f"    expected: {check.expected}\n    observed: {check.observed}"))
            lines += [Text(f"    evidence: {line}") for line in check.evidence]
            if check.remedy:
                lines.append(Text(f"    to do:    {check.remedy}"))
    error = record.attempts[-1].error if record.attempts else None
    if error and record.status is not Status.FINISHED:
        lines += _error(record.stage, error)
    return lines


def _planned(record: StageRecord) -> list[RenderableType]:
    """What a stage that ended with its plan, or whose plan waits for approval, would do."""
    result = record.attempts[-1].result if record.attempts else None
    if result is None or not (result.plan_only or result.unapproved):
        return []
    tables = result.tables if result.plan_only else [item for item in result.tables if item.title == "Plan"]
    lines: list[RenderableType] = [Text(record.stage, style="bold")]
    for item in tables:
        table = Table(*item.columns, title=Text(item.title), title_justify="left")
        for row in item.rows:
            table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        lines.append(table)
    if result.plan_only:
        lines += [Text(f"{note.title}: {note.text}") for note in result.notes]
        if "plan" in result.data:
            lines.append(Text(f"hash: {result.data['plan']['hash']}"))
    return lines


def _error(stage: str, error: ErrorRecord) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text.assemble(styled("failed"), f"  {stage}  ", (error.kind, "bold"), f": {error.message}")
    ]
    if error.cell:
        lines.append(Text(f"    cell:     {error.cell}"))
    return lines


def checks(record: StageRecord) -> list[Check]:
    """The latest attempt's checks."""
    result = record.attempts[-1].result if record.attempts else None
    return result.checks if result else []


def count_checks(record: StageRecord) -> dict[Verdict, int]:
    """How many of each verdict."""
    found = [check.verdict for check in checks(record)]
    return {verdict: found.count(verdict) for verdict in Verdict}


def duration_s(record: StageRecord) -> float | None:
    """The latest attempt's duration (s); None while it has no end."""
    last = record.attempts[-1] if record.attempts else None
    if last is None or last.started is None or last.ended is None:
        return None
    return (last.ended - last.started).total_seconds()


def duration(record: StageRecord) -> str:
    """The latest attempt's duration as minutes and seconds."""
    seconds = duration_s(record)
    return "" if seconds is None else clock(seconds)


def clock(seconds: float) -> str:
    """`m:ss`, with hours where there are any."""
    whole = str(timedelta(seconds=round(seconds)))
    return whole.removeprefix("0:")


def summary_data(run: Run, folder: Path) -> dict[str, Any]:
    """The summary as data: the last line of `--json`."""
    return {
        "event": "summary",
        "run": run.id,
        "profile": run.profile.name,
        "simulated": run.simulated,
        "status": run.status,
        "verdict": run.verdict,
        "exit_code": run.exit_code,
        "record": str(folder),
        "error": run.error.model_dump(mode="json") if run.error else None,
        "kept": run.resumed[-1].kept if run.resumed else {},
        "stages": [_stage_data(record) for record in run.stages],
    }


def _stage_data(record: StageRecord) -> dict[str, Any]:
    last = record.attempts[-1] if record.attempts else None
    return {
        "stage": record.stage,
        "status": record.status,
        "verdict": record.verdict,
        "duration_s": duration_s(record),
        "attempts": len(record.attempts),
        "checks": count_checks(record),
        "steps": count_steps(record),
        "not_passed": [check.model_dump(mode="json") for check in checks(record) if check.verdict is not Verdict.PASS],
        "error": last.error.model_dump(mode="json") if last and last.error else None,
        "needs_approval": [approval.hash for approval in record.unapproved],
        "would_change": record.would_change,
        "not_run": record.not_run,
    }


def listing(runs: list[tuple[Run, Path]]) -> Table:
    """Runs, newest first."""
    table = Table()
    for name in ("run", "profile", "by", "stages", "status", "verdict"):
        table.add_column(name, no_wrap=True)
    for run, _ in runs:
        done = sum(record.status is Status.FINISHED for record in run.stages)
        table.add_row(
            run.id,
            run.profile.name + (" (simulated)" if run.simulated else ""),
            f"{run.who.user}@{run.who.host}, {run.how}",
            f"{done}/{len(run.stages)}",
            styled(run.status),
            styled(run.verdict),
        )
    return table
