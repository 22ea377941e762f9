"""A cluster on one machine: a real control plane, the real Envoy, stand-ins for what needs a GPU."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from llmd_sandbox import command, given, lifecycle, processes, site
from llmd_sandbox.control_plane import assets, build
from llmd_sandbox.errors import NotToBeHad, SandboxError
from llmd_sandbox.faults import declared as faults
from llmd_sandbox.faults import proxy
from llmd_sandbox.images.vllm_cpu import environment as vllm
from llmd_sandbox.supervisor import environment
from llmd_sandbox.supervisor.state import UP, Order
from llmd_sandbox.terminal import BuildProgress, Phases

FAILED, UNAVAILABLE, INTERRUPTED = 1, os.EX_UNAVAILABLE, 130

app = typer.Typer(no_args_is_help=True, help=__doc__)
console = Console(stderr=True)


class Interrupted(BaseException):
    """The user, or whoever started this program, wants it to end; no handler of errors may swallow it."""


class Engine(StrEnum):
    """What a container of vLLM runs."""

    SIMULATOR = site.SIMULATOR
    VLLM = site.VLLM


Name = Annotated[str, typer.Option(help="Which sandbox; several can run side by side.")]
EngineOption = Annotated[
    Engine, typer.Option(help="What vLLM's containers run: a simulator with a T4's times, or the real vLLM on CPU.")
]
Scale = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Start-up delays of nodes and models as a share of real ones.  [default: "
        + ", ".join(f"{scale:g} with {engine}" for engine, scale in site.STARTUP_SCALE.items())
        + "]",
    ),
]
Values = Annotated[
    Path | None,
    typer.Option(help="Folder with the releases' value files.  [default: parameters/helm]", file_okay=False),
]
Bare = Annotated[bool, typer.Option("--bare", help="The cluster alone, without Pattern 1.")]
NodeGrace = Annotated[
    float, typer.Option(min=2.0, help="Seconds that a node may say nothing and still count as Ready (faults).")
]
RouteLag = Annotated[
    float,
    typer.Option(
        min=0.0, help="Seconds that requests follow a change of routes after its conditions, times the scale (faults)."
    ),
]
Pattern2 = Annotated[
    bool, typer.Option("--pattern2", help="Pattern 2 beside Pattern 1, with a node, a Gateway and a route of its own.")
]
Newest = Annotated[
    bool, typer.Option("--newest", help="Pattern 1 in llm-d's newest layout: the router chart and its picker v0.10.")
]
GpuZones = Annotated[int, typer.Option(min=1, max=4, help="Zones of the GPU pool; GKE counts its sizes a zone.")]
AutoscalerIdle = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="An autoscaler acts on pools that have autoscaling, and removes nodes that are idle for so many seconds "
        "(600 on GKE).  [default: none acts]",
        show_default=False,
    ),
]
ApiFaults = Annotated[
    Path | None,
    typer.Option(help="File of faults that the command meets at the API server (see `faults`).", dir_okay=False),
]


@app.command()
def up(
    name: Name = "default",
    engine: EngineOption = Engine.SIMULATOR,
    startup_scale: Scale = None,
    values: Values = None,
    bare: Bare = False,
    node_grace_s: NodeGrace = 50.0,
    route_lag_s: RouteLag = 0.0,
    pattern2: Pattern2 = False,
    newest: Newest = False,
    gpu_zones: GpuZones = 1,
    autoscaler_idle_s: AutoscalerIdle = None,
) -> None:
    """Bring a sandbox up in the background, with Pattern 1 serving; does nothing when it is up."""
    fresh = _up(
        _order(
            name,
            engine,
            startup_scale,
            values,
            bare,
            node_grace_s,
            route_lag_s,
            pattern2,
            newest,
            gpu_zones,
            autoscaler_idle_s,
        )
    )
    console.print(f"{name} {'is up' if fresh else 'was up already'}.  To use it in a shell:", highlight=False)
    typer.echo(f"source {site.Site.load(name).env_file}")


@app.command()
def down(
    name: Name = "default",
    everything: Annotated[bool, typer.Option("--all", help="Every sandbox of this user.")] = False,
) -> None:
    """End every process of a sandbox and remove its folder, whatever state it is in."""
    for each in lifecycle.names() if everything else [name]:
        gone = lifecycle.down(each)
        console.print(f"{each} {'is down' if gone else 'was not up'}", highlight=False)


@app.command()
def status(
    name: Name = "default",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say how far a sandbox is; exit status 1 unless it is up."""
    state = lifecycle.state(name)
    if as_json:
        typer.echo(json.dumps(asdict(state) if state else {"phase": "down"}))
    elif state is None:
        typer.echo(f"{name} is down")
    else:
        folder = lifecycle.directory(name)
        typer.echo(f"{name}: {state.phase}, {len(processes.find(folder))} processes, {state.elapsed_s:.0f} s old")
        typer.echo(f"  {state.error}" if state.error else f"  {folder}")
    if state is None or state.phase != UP:
        raise typer.Exit(FAILED)


@app.command()
def run(
    words: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="Behind `--`: the command.")],
    name: Name = "default",
    engine: EngineOption = Engine.SIMULATOR,
    startup_scale: Scale = None,
    values: Values = None,
    bare: Bare = False,
    node_grace_s: NodeGrace = 50.0,
    route_lag_s: RouteLag = 0.0,
    api_faults: ApiFaults = None,
    pattern2: Pattern2 = False,
    newest: Newest = False,
    gpu_zones: GpuZones = 1,
    autoscaler_idle_s: AutoscalerIdle = None,
) -> None:
    """Run a command with the sandbox's environment; a sandbox started for it is taken down after it."""
    wanted = faults.load(api_faults) if api_faults else []
    fresh = _up(
        _order(
            name,
            engine,
            startup_scale,
            values,
            bare,
            node_grace_s,
            route_lag_s,
            pattern2,
            newest,
            gpu_zones,
            autoscaler_idle_s,
        )
    )
    try:
        variables = environment.merged(site.Site.load(name), assets.find(), os.environ)
        with ExitStack() as stack:
            if wanted:
                door = stack.enter_context(proxy.before_api_server(site.Site.load(name), wanted))
                variables["KUBECONFIG"] = str(door.kubeconfig)
            code = command.run(words, variables)
    finally:
        if fresh:
            lifecycle.down(name)
    raise typer.Exit(code)


@app.command("build")
def build_command(
    engine: EngineOption = Engine.SIMULATOR,
    tools: Annotated[
        bool, typer.Option("--tools", help="Also helm 3, helm 4 and helmfile, for make test-cli.")
    ] = False,
    picker: Annotated[
        bool, typer.Option("--picker", help=f"Also see that {given.EPP_BINARY} names a real endpoint picker.")
    ] = False,
    helm_diff: Annotated[
        bool, typer.Option("--helm-diff", help=f"Also see that {given.HELM_DIFF_BINARY} or helm has the plug-in.")
    ] = False,
) -> None:
    """Obtain everything that a sandbox needs, once: servers, kinds, kubectl, helm; the real vLLM if asked for."""
    if picker:
        given.picker()
    if helm_diff:
        given.helm_diff()
    _build(engine, tools)
    console.print(f"everything is there: {assets.cache()}", highlight=False, soft_wrap=True)


@app.command()
def env(name: Name = "default") -> None:
    """Print the path of the file to source."""
    state = lifecycle.state(name)
    if state is None or state.phase != UP:
        raise SandboxError(f"{name} is not up.", remedy=f"llmd-sandbox up --name {name}")
    typer.echo(site.Site.load(name).env_file)


@app.command("faults")
def faults_command() -> None:
    """Say what can be broken here on purpose, and how it is mended."""
    for fault, to_have, to_end in faults.DOORS:
        typer.echo(f"{fault}\n  to have it: {to_have}\n  to end it:  {to_end}")


def main() -> None:
    """0 done, 1 failed, 2 wrong usage, 69 not to be had here, 130 interrupted; one message an error, no traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except SandboxError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(UNAVAILABLE if isinstance(error, NotToBeHad) else FAILED)
    except Interrupted:
        console.print("interrupted")
        sys.exit(INTERRUPTED)


def _interrupt(_: int, __: FrameType | None) -> None:
    """The first interrupt begins the clean-up; a second one must not cut it short."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted


def _order(
    name: str,
    engine: Engine,
    startup_scale: float | None,
    values: Path | None,
    bare: bool,
    node_grace_s: float,
    route_lag_s: float,
    pattern2: bool,
    newest: bool,
    gpu_zones: int,
    autoscaler_idle_s: float | None,
) -> Order:
    folder = values or Path(__file__).parents[2] / "parameters" / "helm"
    scale = site.STARTUP_SCALE[engine] if startup_scale is None else startup_scale
    return Order(
        name=name,
        engine=engine.value,
        startup_scale=scale,
        values=str(folder.absolute()),
        bare=bare,
        node_grace_s=node_grace_s,
        route_lag_s=route_lag_s,
        pattern2=pattern2,
        newest=newest,
        gpu_zones=gpu_zones,
        autoscaler_idle_s=autoscaler_idle_s,
    )


def _up(order: Order) -> bool:
    lifecycle.directory(order.name)
    _build(order.engine)
    with Phases(console) as phases:
        return lifecycle.up(order, phases.watch)


def _build(engine: str, tools: bool = False) -> None:
    with BuildProgress(console) as progress:
        build.ensure(progress)
        if tools:
            build.ensure(progress, assets.TOOLS)
        if engine == Engine.VLLM:
            vllm.ensure(progress)


if __name__ == "__main__":
    main()
