"""The replicas' own metrics, read beside a load: queue, running requests and KV cache over time.

Reading happens in a thread of the process that waits for the load generator, which is another process: it takes
neither its event loop nor its interpreter lock. It leaves pauses of so many times the processor time that it took
that it never has more than a twentieth of a processor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from llmd_runbook.clients.metrics import KV_USAGE, PREFIX_HITS, PREFIX_QUERIES, RUNNING, WAITING, Snapshot
from llmd_runbook.errors import ClusterError

METRICS = (RUNNING, WAITING, KV_USAGE, PREFIX_QUERIES, PREFIX_HITS)
INTERVAL_S = 0.25
_PAUSES = 19
_END_S = 30.0


@dataclass(frozen=True)
class Readings:
    """What the replicas said of themselves during a load.

    Attributes:
        at_s: when each reading was taken, from the start of the run (s).
        running, waiting: requests, by replica, one a reading.
        kv_usage: used part of the KV cache (0 to 1), by replica, one a reading.
        hit_share: part of the prompt tokens that was found in a prefix cache between the first reading and the last;
            0 where nothing was looked up, None where the counters are missing.
        trouble: why there is no more; empty when nothing went wrong.
    """

    at_s: list[float] = field(default_factory=list)
    running: dict[str, list[float]] = field(default_factory=dict)
    waiting: dict[str, list[float]] = field(default_factory=dict)
    kv_usage: dict[str, list[float]] = field(default_factory=dict)
    hit_share: float | None = None
    trouble: str = ""

    def held(self, start_s: float, end_s: float) -> list[float]:
        """Running and waiting requests of all replicas, at the readings between two times (s)."""
        series = [*self.running.values(), *self.waiting.values()]
        totals = [sum(values) for values in zip(*series, strict=True)]
        return [total for at, total in zip(self.at_s, totals, strict=True) if start_s <= at <= end_s]

    def queues(self, start_s: float, end_s: float) -> list[float]:
        """The longest queue of a replica, at the readings between two times (s)."""
        longest = [max(values) for values in zip(*self.waiting.values(), strict=True)]
        return [value for at, value in zip(self.at_s, longest, strict=True) if start_s <= at <= end_s]


class Watch:
    """Reads from `with` to its end, at once and at least once more at the end.

    Args:
        read: one snapshot a replica, by name. What it raises ends the watch, never the load.
    """

    def __init__(self, read: Callable[[], Mapping[str, Snapshot]]) -> None:
        self._read = read
        self._stop = threading.Event()
        self._taken: list[tuple[float, Mapping[str, Snapshot]]] = []
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._once()  # before the load: the counters' beginning
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        if kind is None:
            self._thread.join(_END_S)
            self._once()

    def readings(self, started_s: float) -> Readings:
        """What was read, on the clock of a run that began at `started_s` (since the epoch)."""
        names = sorted(set.intersection(*(set(found) for _, found in self._taken))) if self._taken else []
        if not names:
            return Readings(trouble=self._trouble or "no replica was read")
        wanted: dict[str, dict[str, list[float]]] = {RUNNING: {}, WAITING: {}, KV_USAGE: {}}
        for metric, series in wanted.items():
            for name in names:
                values = [found[name].total(metric) for _, found in self._taken]
                if any(value is None for value in values):
                    return Readings(trouble=f"{name} exposes no {metric}")
                series[name] = [float(value or 0) for value in values]
        at_s = [round(at - started_s, 3) for at, _ in self._taken]
        return Readings(
            at_s=at_s,
            running=wanted[RUNNING],
            waiting=wanted[WAITING],
            kv_usage=wanted[KV_USAGE],
            hit_share=self._hit_share(names),
            trouble=self._trouble,
        )

    def _hit_share(self, names: list[str]) -> float | None:
        def delta(metric: str) -> float | None:
            ends = [[found[name].total(metric) for name in names] for _, found in (self._taken[0], self._taken[-1])]
            if any(value is None for values in ends for value in values):
                return None
            return sum(value or 0 for value in ends[1]) - sum(value or 0 for value in ends[0])

        queries, hits = delta(PREFIX_QUERIES), delta(PREFIX_HITS)
        if queries is None or hits is None or min(queries, hits) < 0:
            return None
        return hits / queries if queries else 0.0

    def _run(self) -> None:
        before_s = time.thread_time()
        while not self._trouble and not self._stop.wait(max(INTERVAL_S, _PAUSES * (time.thread_time() - before_s))):
            before_s = time.thread_time()
            self._once()

    def _once(self) -> None:
        if self._trouble:
            return
        at = time.time()
        try:
            self._taken.append((at, self._read()))
        except ClusterError as error:
            self._trouble = error.in_short
