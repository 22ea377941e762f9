"""`llmd-runbook routing`: the endpoint picker's decisions, and the reference model of them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated

import typer

from llmd_runbook.analysis.replica_model import T4_CACHE_BLOCKS
from llmd_runbook.analysis.scorers import (
    KV_SCORER,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Generation,
    Rules,
)
from llmd_runbook.cli_lines import from_lines, read_trace
from llmd_runbook.errors import EXIT_FAIL, EXIT_PASS, UsageError
from llmd_runbook.records.terminal import console, json_line

_SCORERS = {"prefix": PREFIX_SCORER, "kv": KV_SCORER, "queue": QUEUE_SCORER, "no-hit": NO_HIT_SCORER}
_GUIDE_WEIGHTS = "prefix=3,kv=2,queue=2"
_MOST_REPLICAS = 64

routing = typer.Typer(help="The endpoint picker's decisions, and the reference model of them.", no_args_is_help=True)


@routing.command("replay")
def replay_routing(
    file: Annotated[Path, typer.Argument(help="a recording: JSON lines, also gzipped")],
    show: Annotated[int, typer.Option(help="how many disagreements to explain", min=0)] = 5,
) -> None:
    """Make a picker's recorded decisions again with the reference model.

    Exit codes: 0 all agree, 1 some do not, 2 the file cannot be read.
    """
    from llmd_runbook.analysis.replay import RecordingError, replay
    from llmd_runbook.records.report import agreement

    try:
        found = from_lines(file, replay, "recording")
    except RecordingError as error:
        raise UsageError(
            "this is no recording of a picker's decisions",
            where=f"{file}:{error.line}",
            reason=error.reason,
            remedy="record one JSON object a line: first picker, config and pods, then a decision a line",
        ) from None
    console().print(agreement(found, show))
    raise typer.Exit(EXIT_PASS if found.whole else EXIT_FAIL)


@routing.command("what-if")
def what_if(
    file: Annotated[Path, typer.Argument(help="a prompt file or a Mooncake trace: JSON lines, also gzipped")],
    weights: Annotated[
        list[str] | None, typer.Option(help=f"scorers' weights, repeatable; default {_GUIDE_WEIGHTS}")
    ] = None,
    replicas: Annotated[str, typer.Option(help="such as 3, 1-8 or 2,4,8")] = "1-8",
    cache_blocks: Annotated[
        list[int] | None,
        typer.Option(help=f"cache blocks of 16 tokens a replica, repeatable; default {T4_CACHE_BLOCKS}", min=1),
    ] = None,
    generation: Annotated[Generation, typer.Option(help="which picker")] = Generation.V0_4,
    in_flight: Annotated[
        int | None, typer.Option(help="keep so many requests on their way, instead of the file's times", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="of the picker's choice among equals")] = 0,
    plot: Annotated[Path | None, typer.Option(help="draw the predictions into this PNG")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON line a scenario")] = False,
) -> None:
    """Predict hit rate, imbalance and moves of these requests for other weights, replicas and cache sizes.

    Exit codes: 0 done, 2 the file or an option cannot be used.
    """
    from rich.progress import track

    from llmd_runbook.analysis.what_if import scenarios, simulate
    from llmd_runbook.records.predictions import data, table

    rules = [_rules(generation, text) for text in weights or [_GUIDE_WEIGHTS]]
    wanted = scenarios(rules, _counts(replicas), cache_blocks or [T4_CACHE_BLOCKS])
    requests = read_trace(file)
    screen = console(stderr=True)
    steps = track(wanted, "scenarios", console=screen, disable=not screen.is_terminal, transient=True)
    outcomes = [simulate(requests, scenario, in_flight=in_flight, seed=seed) for scenario in steps]
    if plot is not None:
        from llmd_runbook.stages.figures import what_if as draw  # matplotlib takes a second to load

        try:
            plot.write_bytes(draw(outcomes).data)
        except OSError as error:
            raise UsageError(
                "cannot write the plot", where=str(plot), reason=str(error), remedy="name a file in a folder of yours"
            ) from None
    if as_json:
        for outcome in outcomes:
            json_line(data(outcome))
        return
    console().print(table(outcomes))


def _rules(generation: Generation, text: str) -> Rules:
    """Rules from `prefix=3,kv=2`; a scorer that is not named does not take part."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in _SCORERS:
            raise _bad_weights(text, f"unknown scorer {name!r}; known are {', '.join(_SCORERS)}")
        if _SCORERS[name] in found:
            raise _bad_weights(text, f"{name} stands there twice")
        if _SCORERS[name] == NO_HIT_SCORER and generation is Generation.V0_4:
            raise _bad_weights(text, "the reference model has no-hit for v0.10 only")
        try:
            found[_SCORERS[name]] = float(number)
        except ValueError:
            raise _bad_weights(text, f"{name} needs a number, not {number!r}") from None
        if not 0 <= found[_SCORERS[name]] < math.inf:
            raise _bad_weights(text, f"{name} needs a number of 0 or more, not {number}")
    return Rules.v0_4(found) if generation is Generation.V0_4 else Rules.v0_10(found)


def _bad_weights(text: str, reason: str) -> UsageError:
    return UsageError(
        "cannot use these weights", where=f"--weights {text}", reason=reason, remedy=f"write {_GUIDE_WEIGHTS}"
    )


def _counts(text: str) -> list[int]:
    """Replica counts from `1-8` or `2,4,8`."""
    counts: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,3})(?:-(\d{1,3}))?\s*", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= low <= high <= _MOST_REPLICAS:
            raise UsageError(
                "cannot use this number of replicas",
                where=f"--replicas {text}",
                reason=f"{part!r} is no number or range between 1 and {_MOST_REPLICAS}",
                remedy="write 3, 1-8 or 2,4,8",
            )
        counts.update(range(low, high + 1))
    return sorted(counts)
