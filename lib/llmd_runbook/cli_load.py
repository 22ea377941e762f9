"""`llmd-runbook load`: measured loads of any of the known tools side by side, and our own for others to read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from llmd_runbook.cli_load_run import run as run_load
from llmd_runbook.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError
from llmd_runbook.records.terminal import console
from llmd_runbook.verdicts import StageResult, Verdict

if TYPE_CHECKING:  # scipy takes a second to load, and other commands do without
    from llmd_runbook.analysis.comparison import Comparison
    from llmd_runbook.analysis.peer_results import Result

_BASELINE, _THROUGHPUT = "01_review_state", "06_throughput_and_cost"
_WHERE = {
    "baseline": (_BASELINE, "baseline"),
    "same-load": (_THROUGHPUT, "same_load"),
    "same-load-a-replica": (_THROUGHPUT, "same_load_per_replica"),
}

load = typer.Typer(
    help="Measured loads: put one on a server, compare results of any known tool, export our own.",
    no_args_is_help=True,
)
load.command("run")(run_load)


@load.command("compare")
def compare(
    before: Annotated[Path, typer.Argument(help="a result file: what the ratios are over")],
    after: Annotated[Path, typer.Argument(help="a result file")],
    usd_per_hour: Annotated[
        tuple[float, float] | None, typer.Option(help="price of each side's nodes, for the cost of a request")
    ] = None,
) -> None:
    """Compare two result files: of `vllm bench serve`, guidellm, inference-perf, aiperf, or of `load export`.

    Exit codes: 0 compared, 1 the loads were not the same, 2 a file or an option cannot be used, 3 inconclusive: a file
    does not state a condition, or the client and not the server was measured.
    """
    from llmd_runbook.analysis.comparison import compare as compare_loads

    if usd_per_hour and min(usd_per_hour) <= 0:
        raise UsageError("a price must be above zero", where="--usd-per-hour", remedy="give USD an hour for each side")
    one, other = _read(before), _read(after)
    found = compare_loads([(one.load, other.load)], usd_per_hour=usd_per_hour)
    gate, names = found.gate, (f"{after.name} ({other.tool})", f"{before.name} ({one.tool})")
    if gate.refusal is None:
        console().print(_ratios(found, " / ".join(names)))
    else:
        console().print("no ratio of {} to {}".format(*names), soft_wrap=True)
    for title, said in (
        ("differs", gate.different),
        ("client", gate.client),
        ("not stated by both", gate.unknown),
        ("differs, and is named only", gate.labels),
    ):
        if said:
            console().print(f"{title}: {'; '.join(said)}", soft_wrap=True)
    doubtful = gate.client or gate.unknown
    raise typer.Exit(EXIT_FAIL if gate.different else EXIT_INCONCLUSIVE if doubtful else EXIT_PASS)


@load.command("export")
def export(
    run: Annotated[Path, typer.Argument(help="a run's folder, or its run.json")],
    file: Annotated[Path, typer.Argument(help="where to write the JSON")],
    which: Annotated[str, typer.Option("--load", help=f"one of {', '.join(_WHERE)}")] = "same-load",
) -> None:
    """Write a measured load in the field names of `vllm bench serve`, for its comparison and for others.

    Exit codes: 0 written, 2 the run has no such load, or the file cannot be written.
    """
    from llmd_runbook.analysis.peer_results import export as written
    from llmd_runbook.run.store import MANIFEST, RunStore
    from llmd_runbook.stages.load import measurement

    if which not in _WHERE:
        raise UsageError(f"there is no load {which!r}", where="--load", remedy=f"name one of: {', '.join(_WHERE)}")
    folder = run.parent if run.name == MANIFEST else run
    if not (folder / MANIFEST).is_file():
        raise UsageError("this is no record of a run", where=str(run), remedy="give a folder below outputs/")
    stage, key = _WHERE[which]
    record = RunStore(folder.absolute()).read()
    attempts = next((item.attempts for item in record.stages if item.stage == stage), [])
    result = attempts[-1].result if attempts else None
    if result is None or key not in result.data:
        raise UsageError(f"the run has no {which}", where=str(folder), remedy=f"run stage {stage[:2]} to its end")
    found = measurement.restored(result.data[key]).compared()
    found = replace(found, conditions=replace(found.conditions, client=_client(result)))
    try:
        content = written(found, label=f"{record.id} {which}", date=record.started.strftime("%Y%m%d-%H%M%S"))
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError("the file cannot be written", where=str(file), reason=str(error.strerror)) from None
    except ValueError as error:
        remedy = "measure more requests"
        raise UsageError("nothing to export", where=str(folder), reason=str(error), remedy=remedy) from None
    console().print(f"written: {file}", soft_wrap=True)


def _ratios(found: Comparison, title: str) -> Table:
    from llmd_runbook.analysis.latency import Estimate

    table = Table("figure", title, "how")
    for name, ratio in found.ratios.items():
        if isinstance(ratio, Estimate):
            low, high = ("?" if end is None else f"{end:.3f}" for end in (ratio.low, ratio.high))
            how = f"{ratio.method}; {ratio.caveat}" if ratio.caveat else ratio.method
            table.add_row(name, f"{ratio.value:.3f} [{low}, {high}]", how)
        else:
            table.add_row(name, "none", ratio.reason)
    return table


def _client(result: StageResult) -> str | None:
    """What the stage proved of the client: empty when it measured the server; None where it did not look."""
    check = next((check for check in result.checks if check.id == "load.client"), None)
    if check is None:
        return None
    return "" if check.verdict is Verdict.PASS else "; ".join(check.evidence) or check.observed


def _read(file: Path) -> Result:
    from llmd_runbook.analysis.peer_results import FormatError, read

    try:
        return read(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError("the file cannot be read", where=str(file), reason=str(error.strerror)) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(
            "this is no result file of a load generator that we know",
            where=str(file),
            reason=str(error) if isinstance(error, FormatError) else f"no JSON: {error}",
            remedy="give the JSON of vllm bench serve --save-result, guidellm, inference-perf (stage_N_lifecycle_"
            "metrics.json), aiperf (profile_export_aiperf.json) or llmd-runbook load export",
        ) from None
