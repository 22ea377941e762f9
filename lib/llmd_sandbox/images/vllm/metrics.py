"""The `/metrics` page: vLLM's families in the Prometheus text format.

Each family keeps its rendered text until a value in it changes, for a picker scrapes this page twenty times
a second and `prometheus_client` renders every line anew. `_created` series are left out, as it does with
PROMETHEUS_DISABLE_CREATED_SERIES.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Family(ABC):
    """One metric family. Values of `labels` are given in their order; `fixed` labels are on all series."""

    kind = ""

    def __init__(self, name: str, help_text: str, fixed: Mapping[str, str], labels: Sequence[str] = ()) -> None:
        self.name = name
        self._fixed = dict(fixed)
        self._labels = tuple(labels)
        self._head = f"# HELP {name} {help_text}\n# TYPE {name} {self.kind}\n"
        self._text: str | None = None

    def render(self) -> str:
        """HELP, TYPE and all series."""
        if self._text is None:
            self._text = self._head + "".join(f"{line}\n" for line in self._lines())
        return self._text

    @abstractmethod
    def _lines(self) -> list[str]: ...

    def _series(self, name: str, values: tuple[str, ...], **extra: str) -> str:
        labels = self._fixed | dict(zip(self._labels, values, strict=True)) | extra
        inner = ",".join(f'{key}="{_escaped(value)}"' for key, value in sorted(labels.items()))
        return f"{name}{{{inner}}}" if inner else name


class Gauge(Family):
    """A value that goes up and down."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        help_text: str,
        fixed: Mapping[str, str],
        labels: Sequence[str] = (),
        series: Sequence[tuple[str, ...]] = ((),),
    ) -> None:
        super().__init__(name, help_text, fixed, labels)
        self._values = dict.fromkeys(series, 0.0)
        self._names = {values: self._series(name, values) for values in series}

    def set(self, value: float, *labels: str) -> None:
        """Set one series."""
        if self._values.get(labels) != value:
            if labels not in self._names:
                self._names[labels] = self._series(self.name, labels)
            self._values[labels] = float(value)
            self._text = None

    def value(self, *labels: str) -> float:
        """One series' value."""
        return self._values.get(labels, 0.0)

    def _lines(self) -> list[str]:
        return [f"{self._names[labels]} {value!r}" for labels, value in self._values.items()]


class Counter(Gauge):
    """A value that only grows; its name ends in `_total`."""

    kind = "counter"

    def add(self, amount: float, *labels: str) -> None:
        """Count."""
        if amount:
            self.set(self.value(*labels) + amount, *labels)


class Histogram(Family):
    """Cumulative buckets, sum and count. With `labels`, series appear with their first observation."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        help_text: str,
        fixed: Mapping[str, str],
        buckets: Sequence[float],
        labels: Sequence[str] = (),
    ) -> None:
        super().__init__(name, help_text, fixed, labels)
        self._buckets = tuple(buckets)
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._sums: dict[tuple[str, ...], float] = {}
        self._names: dict[tuple[str, ...], list[str]] = {}
        if not labels:
            self._start(())

    def observe(self, value: float, *labels: str, times: int = 1) -> None:
        """Count `value`, `times` over."""
        if labels not in self._counts:
            self._start(labels)
        self._counts[labels][bisect_left(self._buckets, value)] += times
        self._sums[labels] += value * times
        self._text = None

    def _start(self, labels: tuple[str, ...]) -> None:
        bounds = [*(repr(float(bound)) for bound in self._buckets), "+Inf"]
        self._counts[labels] = [0] * len(bounds)
        self._sums[labels] = 0.0
        self._names[labels] = [self._series(f"{self.name}_bucket", labels, le=bound) for bound in bounds]

    def _lines(self) -> list[str]:
        lines = []
        for labels, counts in self._counts.items():
            total = 0
            for name, count in zip(self._names[labels], counts, strict=True):
                total += count
                lines.append(f"{name} {total}.0")
            lines.append(f"{self._series(f'{self.name}_count', labels)} {total}.0")
            lines.append(f"{self._series(f'{self.name}_sum', labels)} {self._sums[labels]!r}")
        return lines


class Process:
    """The process's own figures, read again once a second."""

    def __init__(self) -> None:
        self._memory = Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", {})
        self._cpu = Counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", {})
        self._start = Gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", {})
        self._start.set(time.time())
        self._next_s = 0.0

    def families(self) -> list[Family]:
        """Up to date."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + 1.0
            self._cpu.set(time.process_time())
            with open("/proc/self/statm") as statm:
                self._memory.set(int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        return [self._memory, self._cpu, self._start]


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
