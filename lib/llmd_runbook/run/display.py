"""What a stage shows in a notebook: header, progress, tables, verdicts; HTML for eyes, text beside it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from llmd_runbook.analysis.manifest_diff import title as diff_title
from llmd_runbook.manifest import ClusterIdentity
from llmd_runbook.plans import Plan
from llmd_runbook.profile import PROJECT_ROOT
from llmd_runbook.run.context import in_kernel
from llmd_runbook.verdicts import Check, StageResult, Step, StepStatus, Table, Verdict

PROGRESS_MIME = "application/vnd.llmd-runbook.progress+json"

_MARKS = {
    Verdict.PASS: ("✔", "#1a7f37"),
    Verdict.FAIL: ("✘", "#cf222e"),
    Verdict.INCONCLUSIVE: ("?", "#9a6700"),
    StepStatus.OK: ("✔", "#1a7f37"),
    StepStatus.CHANGED: ("✔", "#0969da"),
    StepStatus.SKIPPED: ("–", "#656d76"),
    StepStatus.FAILED: ("✘", "#cf222e"),
}
_DIFF_COLORS = {"+": "#1a7f37", "-": "#cf222e", "@": "#656d76"}
_DIFF_LINES = 60
"""Lines of a plan's diffs that are shown as text."""
_BANNER = "border-left:4px solid #9a6700;padding:.4em .8em;margin:.4em 0"


class Shown:
    """Something to see: HTML where there is a browser, text elsewhere."""

    def __init__(self, html: str, text: str) -> None:
        self._html = html
        self._text = text

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return self._text


class LiveDisplay:
    """One output of a cell that is replaced as work goes on; nothing outside a kernel."""

    def __init__(self, display_id: str) -> None:
        self._display_id = display_id
        self._shown = False

    def show(self, html: str, text: str, payload: dict[str, Any]) -> None:
        """Show, or replace what is shown."""
        if in_kernel():
            data = {"text/html": html, "text/plain": text, PROGRESS_MIME: payload}
            _publish(data, display_id=self._display_id, update=self._shown)
            self._shown = True


def show(shown: Shown) -> None:
    """Show once; nothing outside a kernel."""
    if in_kernel():
        _publish({"text/html": shown._repr_html_(), "text/plain": repr(shown)})


def _publish(data: dict[str, Any], **options: Any) -> None:
    from IPython.display import publish_display_data  # only a kernel has it loaded

    display_id = options.pop("display_id", None)
    if display_id:
        options["transient"] = {"display_id": display_id}
    publish_display_data(data, **options)


def header(stage: str, run_id: str, profile: str, cluster: ClusterIdentity, folder: Path) -> Shown:
    """Which run this is, on which cluster, and, when simulated, what was real in it."""
    rows = [
        ("run", run_id),
        ("profile", profile),
        ("cluster", f"{cluster.context} ({cluster.server}, Kubernetes {cluster.kubernetes_version})"),
        ("record", _within_project(folder)),
    ]
    html = f"<b>{escape(stage)}</b>" + _table([], rows)
    text = [stage, *(f"  {name}: {value}" for name, value in rows)]
    if cluster.simulated:
        parts = [f"{part}: {what}" for part, what in cluster.real.items()]
        listed = "".join(f"<li>{escape(part)}</li>" for part in parts)
        warning = "SIMULATED: no number below is a real GPU's"
        html += f'<div style="{_BANNER}"><b>{warning}</b><ul>{listed}</ul></div>'
        text += [f"  {warning}", *(f"    {part}" for part in parts)]
    return Shown(html, "\n".join(text))


def table(content: Table) -> Shown:
    """A titled table; numbers are aligned right."""
    rows = [["" if value is None else str(value) for value in row] for row in content.rows]
    numeric = {index for row in content.rows for index, value in enumerate(row) if isinstance(value, int | float)}
    html = f"<b>{escape(content.title)}</b>" + _table(content.columns, rows, numeric)
    return Shown(html, f"{content.title}\n" + text_table([content.columns, *rows]))


def together(*parts: Shown) -> Shown:
    """Several things below one another, as one."""
    return Shown("".join(part._repr_html_() for part in parts), "\n\n".join(map(repr, parts)))


def plan(content: Plan) -> Shown:
    """What will change, and what to know before: the whole diff folded in HTML, its beginning in text."""
    tables = [table(item) for item in content.tables()]
    html = "".join(shown._repr_html_() for shown in tables)
    text = [repr(shown) for shown in tables]
    for title, texts in notes(content):
        html += f"<p>⚠ <b>{escape(title)}</b></p><ul>" + "".join(f"<li>{escape(item)}</li>" for item in texts) + "</ul>"
        text += [f"! {title}: {item}" for item in texts]
    if content.diffs:
        html += _diff_html(content.diffs)
        text.append(_diff_text(content.diffs))
    if content.intent:
        html += f"<p>hash of what is approved: <code>{content.intent.hash}</code></p>"
        text.append(f"hash of what is approved: {content.intent.hash}")
    return Shown(html, "\n".join(text))


def notes(content: Plan) -> list[tuple[str, list[str]]]:
    """What to know before a plan is carried out: title and sentences."""
    found = [
        ("Before you go on", content.warnings),
        ("What cannot be previewed", content.not_previewed),
        ("What cannot be undone", content.not_undone),
    ]
    return [(title, texts) for title, texts in found if texts]


def _diff_html(diffs: Sequence[str]) -> str:
    def line(text: str) -> str:
        color = _DIFF_COLORS.get(text[:1], "")
        return f'<span style="color:{color}">{escape(text)}</span>' if color else escape(text)

    folded = "".join(
        f"<details><summary><code>{escape(diff_title(text))}</code></summary>"
        f"<pre>{chr(10).join(map(line, text.splitlines()))}</pre></details>"
        for text in diffs
    )
    return f"<details><summary>Objects before and after ({len(diffs)})</summary>{folded}</details>"


def _diff_text(diffs: Sequence[str]) -> str:
    every = [line for text in diffs for line in text.splitlines()]
    kept = every[:_DIFF_LINES]
    left = len(every) - len(kept)
    titles = [f"  {diff_title(text)}" for text in diffs]
    more = [f"... {left} lines more: see the notebook"] if left else []
    return "\n".join([f"Objects before and after ({len(diffs)}):", *titles, *kept, *more])


def lines(texts: Sequence[str]) -> Shown:
    """Lines of text, as they are."""
    return Shown("<pre>" + "\n".join(map(escape, texts)) + "</pre>", "\n".join(texts))


def steps(done: Sequence[Step], running: str | None) -> tuple[str, str]:
    """Steps of one cell, and the one under way: HTML and text."""
    lines = [(_MARKS[step.status], step.name, f"{step.status}{_detail(step)}") for step in done]
    html = [
        f'<div><span style="color:{color}">{mark}</span> {escape(name)}: {escape(rest)}</div>'
        for (mark, color), name, rest in lines
    ]
    text = [f"{mark} {name}: {rest}" for (mark, _), name, rest in lines]
    if running:
        html.append(f"<div>… {escape(running)}</div>")
        text.append(f"… {running}")
    return "".join(html), "\n".join(text)


def _detail(step: Step) -> str:
    return f" ({step.detail}), {step.duration_s:.1f} s" if step.detail else f", {step.duration_s:.1f} s"


def judged(result: StageResult) -> Shown:
    """All checks with what was expected and observed; the text holds identifiers and verdicts only."""
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td style="text-align:left;vertical-align:top">{cell}</td>'
            for cell in (
                _badge(check.verdict),
                f"<code>{escape(check.id)}</code><br>{escape(check.proves)}",
                escape(check.expected),
                escape(check.observed) + _lines(check.evidence),
                escape(check.remedy or ""),
            )
        )
        + "</tr>"
        for check in result.checks
    )
    head = "".join(
        f'<th style="text-align:left">{name}</th>' for name in ("verdict", "check", "expected", "observed", "to do")
    )
    stamp = " (simulated)" if result.simulated else ""
    notes = "".join(f"<li><b>{escape(note.title)}</b>: {escape(note.text)}</li>" for note in result.notes)
    html = (
        f"<p><b>{escape(result.stage)}</b>{stamp}: {_badge(result.verdict)}</p>"
        + (f'<div style="{_BANNER}"><b>{escape(undone(result))}</b></div>' if result.unapproved else "")
        + f"<table><tr>{head}</tr>{rows}</table>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )
    return Shown(html, verdict_text(result))


def verdicts(checks: Sequence[Check]) -> Shown:
    """Verdicts before anything else: what each check proves, and what was seen."""
    rows = "".join(
        f'<tr><td style="text-align:left;vertical-align:top">{_badge(check.verdict)}</td>'
        f'<td style="text-align:left">{escape(check.proves)}<br><small>{escape(check.observed)}</small></td></tr>'
        for check in checks
    )
    text = [f"{_MARKS[check.verdict][0]} {check.verdict}: {check.proves}: {check.observed}" for check in checks]
    return Shown(f"<table>{rows}</table>", "\n".join(text))


def verdict_text(result: StageResult) -> str:
    """Identifiers and verdicts only: the same text whenever the same things were proved."""
    checks = [f"  {check.id}: {check.verdict}" for check in result.checks]
    return "\n".join(
        [f"{result.stage}: {result.verdict}", *checks, *(f"  {undone(result)}" for _ in result.unapproved)]
    )


def undone(result: StageResult) -> str:
    """What to say of a stage whose plan nobody approved."""
    return f"needs approval: what its plan asks for was not done (hash {result.unapproved[0].hash})"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by spaces."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _badge(verdict: Verdict) -> str:
    mark, color = _MARKS[verdict]
    return f'<span style="color:{color};white-space:nowrap"><b>{mark} {verdict}</b></span>'


def _lines(evidence: Iterable[str]) -> str:
    return "".join(f"<br><small>{escape(line)}</small>" for line in evidence)


def _within_project(folder: Path) -> str:
    return str(folder.relative_to(PROJECT_ROOT) if folder.is_relative_to(PROJECT_ROOT) else folder)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], numeric: Container[int] = ()) -> str:
    def cell(kind: str, index: int, text: str) -> str:
        side = "right" if index in numeric else "left"
        return f'<{kind} style="text-align:{side}">{escape(text)}</{kind}>'

    def line(kind: str, texts: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(kind, index, text) for index, text in enumerate(texts)) + "</tr>"

    head = line("th", columns) if columns else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{head}{body}</table>"
