"""`llmd-runbook`: which stages run, in which order, and what records say."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from llmd_runbook import profile as profiles
from llmd_runbook.cli_load import load
from llmd_runbook.cli_prices import prices
from llmd_runbook.cli_routing import routing
from llmd_runbook.errors import EXIT_FAIL, EXIT_INTERRUPTED, EXIT_USAGE, RunbookError, UsageError
from llmd_runbook.manifest import Run
from llmd_runbook.records.resuming import named
from llmd_runbook.records.signals import Interruption
from llmd_runbook.records.terminal import console as _console
from llmd_runbook.records.terminal import json_line as _json_line
from llmd_runbook.run import identify_cluster
from llmd_runbook.run.approvals import given
from llmd_runbook.run.context import alive
from llmd_runbook.run.notebooks import FOLDER, choose, stage_names, with_plan
from llmd_runbook.run.store import MANIFEST, RunStore, all_runs, output_root

app = typer.Typer(
    help="Take llm-d from Pattern 1 to Pattern 3 on GKE, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
records = typer.Typer(help="What earlier runs did and proved.", no_args_is_help=True)
app.add_typer(records, name="records")
app.add_typer(routing, name="routing")
app.add_typer(prices, name="prices")
app.add_typer(load, name="load")


def _complete_profile(incomplete: str) -> list[str]:
    return sorted(path.stem for path in profiles.PARAMETERS.glob("*.yaml") if path.stem.startswith(incomplete))


def _complete_run(incomplete: str) -> list[str]:
    return [store.run_id for store in all_runs(output_root()) if store.run_id.startswith(incomplete)]


def _complete_stages(incomplete: str) -> list[str]:
    return [word for word in ["all", *stage_names()] if word.startswith(incomplete)]


ProfileArgument = Annotated[
    str,
    typer.Argument(
        help="a profile in parameters/, without .yaml, or the path of one", autocompletion=_complete_profile
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option(help="folder of all runs; default LLMD_RUNBOOK_OUTPUT, else outputs/")
]


@app.command()
def run(
    profile: ProfileArgument,
    stages: Annotated[
        str, typer.Option(help="all, or stages such as 01,02_scale_pool", autocompletion=_complete_stages)
    ] = "all",
    approve: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE=HASH|@FILE",
            help="approve a stage's plan by the hash that it shows, or several from a file; repeatable",
        ),
    ] = None,
    plan_only: Annotated[
        bool,
        typer.Option("--plan-only", help="show the plans and stop: exit code 4 when something would change, else 0"),
    ] = False,
    resume: Annotated[
        str,
        typer.Option(
            metavar="RUN", help="take up a run of this profile: its id, or latest", autocompletion=_complete_run
        ),
    ] = "",
    output: OutputOption = None,
    stage_timeout: Annotated[float, typer.Option(help="seconds that one stage may take", min=1)] = 7200,
    as_json: Annotated[bool, typer.Option("--json", help="events and the summary as JSON lines on stdout")] = False,
) -> None:
    """Run stages headless; leave executed notebooks and run.json as the record.

    Exit codes: 0 pass, 1 a check failed or a stage broke, 2 bad usage or profile, 3 inconclusive,
    4 a plan needs approval (--plan-only: something would change), 5 another run changes this cluster and pool,
    130 interrupted.
    """
    try:
        interruption = Interruption()
        with interruption.listening():
            exit_code = _run(
                profile,
                stages,
                approve or [],
                plan_only,
                resume,
                output_root(output),
                stage_timeout,
                as_json,
                interruption,
            )
    except KeyboardInterrupt as signal:
        print(f"ended by {signal}; no run was started", file=sys.stderr)
        exit_code = EXIT_INTERRUPTED
    raise typer.Exit(exit_code)


def _run(
    profile: str,
    stages: str,
    approve: list[str],
    plan_only: bool,
    resume: str,
    root: Path,
    stage_timeout_s: float,
    as_json: bool,
    interruption: Interruption,
) -> int:
    try:
        loaded = profiles.load(profile)
        resumed = named(root, loaded, resume, stages) if resume else None
        chosen = resumed.read().requested if resumed else choose(stages, stage_names())
        if plan_only:
            chosen = with_plan(chosen, FOLDER)
        approvals = given(approve, chosen, stage_names(), FOLDER)
        cluster = identify_cluster(loaded)
    except RunbookError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    from llmd_runbook.records.report import summary, summary_data
    from llmd_runbook.records.runner import Event, Runner  # papermill takes a second or two to load
    from llmd_runbook.records.watching import Lines, Screen

    console = _console(stderr=as_json)

    def listen(event: Event) -> None:
        if as_json:
            _json_line(event.model_dump(mode="json"))
        watch(event)

    runner = Runner(
        loaded,
        cluster,
        [FOLDER / f"{stage}.ipynb" for stage in chosen],
        root=root,
        stage_timeout_s=stage_timeout_s,
        listen=listen,
        interruption=interruption,
        approvals=approvals,
        plan_only=plan_only,
        resume=resumed,
    )
    with Screen(console) if console.is_terminal and not as_json else Lines(console) as watch:
        store = runner.run()
    record = store.read()
    console.print(summary(record, store.folder), crop=False)  # a command is shown whole
    if as_json:
        _json_line(summary_data(record, store.folder))
    return EXIT_FAIL if record.exit_code is None else record.exit_code


@app.command()
def validate(profile: ProfileArgument) -> None:
    """Check a profile; nothing is started and no cluster is asked."""
    loaded = profiles.load(profile)
    kind = "simulated" if loaded.cluster.simulated else "real"
    print(f"ok: {loaded.path}")
    print(f"  profile   {loaded.name}, digest {loaded.digest}")
    print(f"  cluster   {loaded.cluster.named} ({kind})")
    print(f"  pool      {loaded.pool.name}: {loaded.pool.nodes} nodes with {loaded.pool.accelerator}")
    if loaded.pattern2:
        print(f"  pattern 2 {loaded.pattern2.replicas} x {loaded.pattern2.model}, beside, on nodes that come on top")
    for name, pattern in (("pattern 1", loaded.pattern1), ("pattern 3", loaded.pattern3)):
        print(f"  {name} {pattern.replicas} x {pattern.model}, by {pattern.releases.driver}")
    print(f"  prices    as of {loaded.prices.as_of}: {loaded.prices.source}")


@app.command("checks")
def list_checks(as_json: Annotated[bool, typer.Option("--json", help="JSON lines")] = False) -> None:
    """List every check: its id, what a pass proves, and what to do when it fails."""
    from llmd_runbook.records.report import registry
    from llmd_runbook.stages import all_checks

    specs = all_checks()
    if as_json:
        for spec in specs:
            _json_line(asdict(spec))
        return
    _console().print(registry(specs))


@app.command("roles")
def print_roles(
    profile: ProfileArgument,
    operator: Annotated[
        bool,
        typer.Option("--operator/--observer", help="may change what the stages change, or only read (the default)"),
    ] = False,
) -> None:
    """Print the RBAC objects that a run needs as YAML, for `kubectl apply -f -`; no cluster is asked.

    The observer's suffice for stages 01, 04, 05 (without its opt-in changes) and 06, and hold no Secret; the
    operator's are made from what the profile's releases render.
    """
    import yaml

    from llmd_runbook.stages import roles

    found = roles.manifests(profiles.load(profile), "operator" if operator else "observer")
    print(yaml.safe_dump_all(found, sort_keys=False), end="")


@records.command("list")
def list_records(
    output: OutputOption = None, as_json: Annotated[bool, typer.Option("--json", help="JSON lines")] = False
) -> None:
    """List runs, newest first."""
    from llmd_runbook.records.report import listing

    runs = []
    for store in all_runs(output_root(output)):
        try:
            runs.append((store.read().observed(alive), store.folder))
        except UsageError as error:
            print(error, file=sys.stderr)
    if as_json:
        for found, folder in runs:
            _json_line({"folder": str(folder), **_brief(found)})
        return
    if not runs:
        print(f"no runs in {output_root(output)}")
        return
    _console().print(listing(runs))


@records.command("show")
def show_record(
    run: Annotated[
        str,
        typer.Argument(help="a run's id or its beginning, its folder, or latest", autocompletion=_complete_run),
    ],
    output: OutputOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="the whole record as JSON")] = False,
) -> None:
    """Show a run: every check, the stages' verdicts, and what to do about what failed."""
    from llmd_runbook.records.report import evidence, summary

    store = _named(run, output_root(output))
    found = store.read().observed(alive)
    if as_json:
        print(found.model_dump_json(indent=2))
        return
    _console().print(evidence(found), summary(found, store.folder), crop=False)


def _named(reference: str, root: Path) -> RunStore:
    path = Path(reference)
    folder = path.parent if path.name == MANIFEST else path
    if (folder / MANIFEST).is_file():
        return RunStore(folder.absolute())
    runs = all_runs(root)
    matches = runs[:1] if reference == "latest" else [s for s in runs if s.run_id.startswith(reference)]
    if len(matches) == 1:
        return matches[0]
    found = f"{len(matches)} runs begin so" if matches else "no run begins so"
    known = ", ".join(store.run_id for store in (matches or runs)[:3]) or "none yet"
    raise UsageError(
        f"cannot tell which run {reference!r} is",
        where=str(root),
        reason=found,
        remedy=f"give more of the id (newest: {known}), a folder, or: latest",
    )


def _brief(run: Run) -> dict[str, object]:
    return {
        "run": run.id,
        "profile": run.profile.name,
        "simulated": run.simulated,
        "how": run.how,
        "status": run.status,
        "verdict": run.verdict,
        "exit_code": run.exit_code,
        "started": run.started.isoformat(),
        "stages": {record.stage: record.status for record in run.stages},
    }


def main() -> None:
    """The console script: one message for a known error, and its exit code."""
    try:
        app()
    except RunbookError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
