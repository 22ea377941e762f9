"""`make bench-load`: our load generator against its peers, each beside the log of the server that it measured.

Runs are interleaved (ours, a peer, ours, the next peer, ...), each against a fresh null server on the same cores; a
figure is the median of a client's runs, with their range; ratios are between neighbours. The server's own log is the
truth. Exit code 1 where a target is missed; a peer that could not be had is a target missed.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.clients import PEERS, Client, Ours, Quantiles, Report, Scenario, write_tokenizer
from benchmarks.environments import NotCompared, obtain
from llmd_runbook.load.calibrate import known_server

RUNS = 3
LATENCY = Scenario(in_flight=50, requests=1500, tokens=1, first_s=0.05, gap_s=0.0)
STREAMS = Scenario(in_flight=50, requests=150, tokens=64, first_s=0.1, gap_s=0.01)
AT_ONCE = Scenario(in_flight=50, requests=2000, tokens=1, first_s=0.0, gap_s=0.0)
AT_ONCE_OURS = Scenario(in_flight=50, requests=12_000, tokens=1, first_s=0.0, gap_s=0.0)
"""More, so that both take seconds."""
FEW = Scenario(in_flight=50, requests=20_000, tokens=1, first_s=0.025, gap_s=0.0)
MANY = Scenario(in_flight=1000, requests=20_000, tokens=1, first_s=0.5, gap_s=0.0)
"""Both 2,000 requests a second, so that only the number in flight differs; so many that opening 1,000 connections,
which is in it too, is no large part."""

PRIZE, LATENCY_ERROR, TTFT_ERROR, ITL_ERROR = 0.03, 0.05, 0.05, 0.10
LEAST_RATIO = {"inference-perf": 8.0, "guidellm": 8.0}
MOST_CPU_RATIO = 1.25


@dataclass(frozen=True)
class Observation:
    """A run: what the client reported, what the server's log says of the same requests, and at what rate."""

    report: Report
    truth: Report
    per_s: float

    def error(self, pick: Callable[[Report], float | None]) -> float:
        """Relative error of a figure; NaN where the client reports none."""
        said, true = pick(self.report), pick(self.truth)
        return said / true - 1 if said is not None and true else math.nan


@dataclass(frozen=True)
class Figure:
    """One of a report's figures, and the error allowed to ours; without one it is shown alone."""

    title: str
    pick: Callable[[Report], float | None]
    allowed: float


class Bench:
    """The clients that there are, and which targets were missed."""

    def __init__(self, console: Console, folder: Path) -> None:
        self.missed: list[str] = []
        self._console, self._folder, self._ours = console, folder, Ours()
        self._peers: list[Client] = []
        write_tokenizer(folder / "tokenizer")
        for kind in PEERS:
            try:
                self._peers.append(kind(obtain(kind.package, console), folder / "tokenizer"))
            except NotCompared as reason:
                self._lose(kind.package.name, reason)

    def errors(self, title: str, scenario: Scenario, figures: list[Figure], rounds: int) -> None:
        """Each client's figures beside their error against the server's log of the same run."""
        runs = self._interleaved(scenario, scenario, rounds)
        table = _table(title, "client", "runs x requests", *(f"{figure.title}, ms" for figure in figures))
        for name, pairs in runs.items():
            seen = [own for own, _ in pairs] if name == self._ours.name else [peer for _, peer in pairs]
            cells = [_error_cell(seen, figure) for figure in figures]
            table.add_row(name, f"{len(seen)} x {scenario.requests:,}", *cells)
        self._console.print(table)
        own = [own for own, _ in runs[self._ours.name]]
        worst = 0.0
        for figure in figures:
            error = abs(median(run.error(figure.pick) for run in own))
            worst = max(worst, error)
            if not error <= figure.allowed:
                self.missed.append(f"{title}: {figure.title} off by {error:.1%}, not {figure.allowed:.0%}")
        prize = "within" if worst <= PRIZE else "not within"
        self._console.print(f"ours: largest error {worst:.1%}, {prize} the prize of {PRIZE:.0%}", highlight=False)

    def rates(self) -> None:
        """Requests per second as the server counted them, and ours over each peer's."""
        runs = self._interleaved(AT_ONCE_OURS, AT_ONCE, RUNS)
        table = _table(
            f"Requests per second as the server saw them, {AT_ONCE.in_flight} in flight, answered at once",
            *("client", "runs x requests", "requests/s", "range", "ours over it", "range", "target"),
        )
        for name, pairs in runs.items():
            mine = name == self._ours.name
            rates = [(own if mine else peer).per_s for own, peer in pairs]
            ratios = [] if mine else [own.per_s / peer.per_s for own, peer in pairs]
            least = LEAST_RATIO.get(name.split()[0])
            table.add_row(
                name,
                f"{len(rates)} x {(AT_ONCE_OURS if mine else AT_ONCE).requests:,}",
                f"{median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"x{median(ratios):.1f}" if ratios else "",
                f"{min(ratios):.1f} to {max(ratios):.1f}" if ratios else "",
                f"at least x{least:.0f}" if least else "",
            )
            if least and median(ratios) < least:
                self.missed.append(f"x{median(ratios):.1f} the requests per second of {name}, not x{least:.0f}")
        self._console.print(table)

    def cpu(self) -> None:
        """Our processor time a request with few and with many in flight, at the same rate."""
        few: list[float] = []
        many: list[float] = []
        for turn in range(RUNS):
            sides = [(FEW, few), (MANY, many)]
            for scenario, found in sides if turn % 2 else reversed(sides):
                found.append(self._observe(self._ours, scenario).report.cpu_us or math.nan)
        ratios = [more / less for less, more in zip(few, many, strict=True)]
        table = _table("Our processor time a request, at 2,000 a second", "in flight", "us a request", "range")
        for scenario, found in ((FEW, few), (MANY, many)):
            row = (f"{scenario.in_flight:,}", f"{median(found):.0f}", f"{min(found):.0f} to {max(found):.0f}")
            table.add_row(*row)
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        table.add_row("ratio", f"x{median(ratios):.2f}", f"{spread}; at most x{MOST_CPU_RATIO}")
        self._console.print(table)
        if not median(ratios) <= MOST_CPU_RATIO:
            self.missed.append(f"x{median(ratios):.2f} the processor time with {MANY.in_flight:,} in flight")

    def _interleaved(
        self, ours: Scenario, theirs: Scenario, rounds: int
    ) -> dict[str, list[tuple[Observation, Observation]]]:
        """Of each peer its runs with ours before them, and all of ours under our name (as pairs of the same run)."""
        runs: dict[str, list[tuple[Observation, Observation]]] = {self._ours.name: []}
        for _ in range(max(rounds, math.ceil(RUNS / max(1, len(self._peers))))):  # ours at least RUNS times
            own = self._observe(self._ours, ours)
            runs[self._ours.name].append((own, own))
            for number, peer in enumerate(list(self._peers)):
                if number:
                    own = self._observe(self._ours, ours)
                    runs[self._ours.name].append((own, own))
                try:
                    runs.setdefault(peer.name, []).append((own, self._observe(peer, theirs)))
                except NotCompared as reason:
                    del runs[peer.name]
                    self._peers.remove(peer)
                    self._lose(peer.name, reason)
        return runs

    def _observe(self, client: Client, scenario: Scenario) -> Observation:
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as folder,
            self._console.status(f"{client.name}: {scenario.requests:,} requests, {scenario.in_flight:,} in flight"),
            known_server(scenario.first_s, scenario.gap_s) as (url, served),
        ):
            report = client.run(scenario, url, Path(folder))
        ended_s = served.ended_s[-scenario.requests :]
        if len(ended_s) < scenario.requests:
            raise NotCompared(f"the server answered {len(ended_s)} of {scenario.requests} requests")
        gaps_s = served.gaps_s[-scenario.requests * (scenario.tokens - 1) :] if scenario.tokens > 1 else []
        truth = Report(
            latency=Quantiles.of(served.done_s[-scenario.requests :]),
            ttft=Quantiles.of(served.first_s[-scenario.requests :]),
            itl=Quantiles.of(gaps_s) if gaps_s else None,
        )
        return Observation(report, truth, (len(ended_s) - 1) / (ended_s[-1] - ended_s[0]))

    def _lose(self, name: str, reason: NotCompared) -> None:
        self._console.print(f"[yellow]{name}: not compared:[/] {reason}", highlight=False)
        self.missed.append(f"{name} not compared")


def main() -> int:
    """Print the tables and one closing line."""
    console, cores, before = Console(width=140), len(os.sched_getaffinity(0)), os.getloadavg()[0]
    console.print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {cores} cores, load average {before:.1f}", highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(console, Path(folder))
        try:
            _measure(bench)
        except NotCompared as reason:
            bench.missed.append(f"our own run broke: {reason}")
    if bench.missed:
        busy = f" (the load average was {before:.1f} on {cores} cores: try a quiet machine)" if before > cores else ""
        console.print(f"[bold red]missed[/]: {'; '.join(bench.missed)}{busy}", highlight=False)
        return 1
    console.print("[bold green]every target met[/]", highlight=False)
    return 0


def _measure(bench: Bench) -> None:
    bench.errors(
        "Latency, 50 in flight, 50 ms",
        LATENCY,
        [Figure(name, _latency(name), LATENCY_ERROR) for name in ("p50", "p95", "p99")],
        RUNS,
    )
    bench.errors(
        "50 streams of 64 tokens",
        STREAMS,
        [
            Figure("TTFT p95", lambda report: report.ttft.p95 if report.ttft else None, TTFT_ERROR),
            Figure("ITL p99", lambda report: report.itl.p99 if report.itl else None, ITL_ERROR),
        ],
        1,
    )
    bench.rates()
    bench.cpu()


def _latency(name: str) -> Callable[[Report], float | None]:
    return lambda report: float(getattr(report.latency, name))


def _error_cell(seen: list[Observation], figure: Figure) -> str:
    said = [value for run in seen if (value := figure.pick(run.report)) is not None]
    if len(said) < len(seen):
        return "not reported"
    errors = [run.error(figure.pick) for run in seen]
    return f"{median(said):.2f} {median(errors):+.1%} ({min(errors):+.1%} to {max(errors):+.1%})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


if __name__ == "__main__":
    sys.exit(main())
