"""One load from several machines, or several processes: a dask scheduler's workers, which start at the same second.

Every worker runs its part as `measure` does, in a process of its own, after it has calibrated itself at its part of
the load, all at the same time. A worker that is lost takes its samples with it: the result says so.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmd_runbook.errors import RunbookError, ToolError, Unreachable, UsageError
from llmd_runbook.load.calibrate import ClientError, calibrate
from llmd_runbook.load.measure import measure
from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import LoadResult
from llmd_runbook.load.split import merge, split

if TYPE_CHECKING:
    from distributed import Client, Future

_CONNECT_S = 10.0
_LEAD_S = 3.0
"""From handing out the parts to the common start, at least: their texts must have arrived."""
_STARTS = 3
"""And so many times as long as the slowest worker took just before to start a load process: it must be there too."""
_LOOK_S = 0.5
_ROUND_TRIPS = 5


@dataclass(frozen=True)
class Worker:
    """One machine's part.

    Attributes:
        requests: that it was to send.
        ahead_s, uncertain_s: its clock against the caller's, and half the round trip that this is uncertain by.
        error: why it brought no samples; empty when it did.
    """

    address: str
    requests: int
    ahead_s: float
    uncertain_s: float
    error: str = ""


@dataclass(frozen=True)
class FleetResult:
    """The samples that came, on one clock, and what became of each worker."""

    result: LoadResult
    workers: list[Worker] = field(default_factory=list)

    @property
    def lost(self) -> list[Worker]:
        """Workers without samples: with one, the load was not the one that was asked for."""
        return [worker for worker in self.workers if worker.error]


class Fleet:
    """The workers that a scheduler has when this is opened; use it with `with`.

    Raises:
        UsageError: the package for it is not installed, or the scheduler has no worker.
        Unreachable: no scheduler there.
    """

    def __init__(self, scheduler: str) -> None:
        _need_distributed(f"load.scheduler {scheduler}")
        from distributed import Client  # a second to load, and only where there is a fleet

        try:
            self._client: Client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise Unreachable(
                "the scheduler of the load's workers does not answer",
                where=scheduler,
                reason=str(error) or type(error).__name__,
                remedy="start it (dask scheduler), or correct load.scheduler in the profile",
            ) from None
        self._scheduler = scheduler
        self.addresses = sorted(self._workers())
        if not self.addresses:
            self._client.close()
            raise UsageError(
                "the scheduler has no worker to send from",
                where=scheduler,
                remedy=f"start some: dask worker {scheduler} --nthreads 2",
            )

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def calibrate(self, *, concurrency: int, output_tokens: int, first_s: float, gap_s: float) -> ClientError:
        """The worst of all workers, each at its part of the concurrency, all at once.

        Raises:
            ToolError: a worker did not finish.
        """
        each = math.ceil(concurrency / len(self.addresses))
        words = {"concurrency": each, "output_tokens": output_tokens, "first_s": first_s, "gap_s": gap_s}
        futures = {address: self._submit(address, _calibrate, words) for address in self.addresses}
        found, errors = self._gather(futures)
        if errors:
            address, error = next(iter(errors.items()))
            raise ToolError("a worker's calibration failed", where=address, reason=error)
        return max((ClientError(**one) for one in found.values()), key=lambda error: error.latency_p95_s)

    def measure(self, plan: Plan, on_progress: Callable[[str], None] | None = None) -> FleetResult:
        """Split the plan over the workers, start them together, and merge what they bring.

        Raises:
            UsageError: too few requests, or too few in flight, for so many workers.
            ToolError: no worker brought anything.
        """
        try:
            parts = split(plan, len(self.addresses))
        except ValueError as error:
            raise UsageError("the load cannot be split", where=self._scheduler, reason=str(error)) from None
        clocks = [self._clock(address) for address in self.addresses]
        start_s = time.time() + self._lead_s()
        futures = {}
        for part, address, (ahead_s, _) in zip(parts, self.addresses, clocks, strict=True):
            told = part.model_copy(update={"start_s": start_s + ahead_s})
            futures[address] = self._submit(address, _measure, told.model_dump_json())
        found, errors = self._gather(futures, on_progress)
        results = {
            part: LoadResult.model_validate_json(found[address])
            for part, address in enumerate(self.addresses)
            if address in found
        }
        if not results:
            reasons = "; ".join(f"{address}: {error}" for address, error in errors.items())
            raise ToolError("no worker brought a sample", where=self._scheduler, reason=reasons)
        ahead = [ahead_s for ahead_s, _ in clocks]
        workers = [
            Worker(address, len(part.prompts), ahead_s, uncertain_s, errors.get(address, ""))
            for part, address, (ahead_s, uncertain_s) in zip(parts, self.addresses, clocks, strict=True)
        ]
        return FleetResult(merge(results, len(parts), start_s=start_s, ahead_s=ahead), workers)

    def _lead_s(self) -> float:
        """How long before the common start the parts are handed out (s)."""
        starts, _ = self._gather({address: self._submit(address, _starting_s, None) for address in self.addresses})
        return _LEAD_S + _STARTS * max(starts.values(), default=0.0)

    def _workers(self) -> dict[str, Any]:
        return dict(self._client.scheduler_info(n_workers=-1)["workers"])

    def _submit(self, address: str, function: Callable[..., Any], argument: Any) -> Future:
        """Run it there and nowhere else, once: a part that began again would be another load."""
        return self._client.submit(
            function, argument, workers=[address], allow_other_workers=False, pure=False, retries=0
        )

    def _clock(self, address: str) -> tuple[float, float]:
        """How far that clock is ahead of this one (s), by the shortest of some round trips, and half of that."""
        best = (0.0, math.inf)
        for _ in range(_ROUND_TRIPS):
            before = time.time()
            there = float(self._submit(address, _now, None).result(timeout=_CONNECT_S))
            after = time.time()
            if (after - before) / 2 < best[1]:
                best = (there - (before + after) / 2, (after - before) / 2)
        return best

    def _gather(
        self, futures: dict[str, Future], on_progress: Callable[[str], None] | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """What each worker returned, and why the others did not; a lost worker is not waited for."""
        found: dict[str, Any] = {}
        errors: dict[str, str] = {}
        news = threading.Event()
        for future in futures.values():
            future.add_done_callback(lambda _: news.set())
        while waiting := {name: future for name, future in futures.items() if name not in found | errors}:
            news.wait(_LOOK_S)
            news.clear()
            alive = self._workers()
            for address, future in waiting.items():
                if future.status == "finished":
                    found[address] = future.result()
                elif future.status in {"error", "cancelled", "lost"}:
                    errors[address] = _why(future)
                elif address not in alive:
                    errors[address] = "the scheduler has lost it"
                    future.cancel()
            if on_progress:
                lost = f", {len(errors)} lost" if errors else ""
                on_progress(f"{len(found)} of {len(futures)} workers have ended{lost}")
        return found, errors


@contextmanager
def of_processes(count: int) -> Iterator[Fleet]:
    """A fleet of so many processes of this machine, with a scheduler of their own; all end with it.

    Raises:
        UsageError: the package for it is not installed.
    """
    _need_distributed(f"load.processes {count}")
    from distributed import LocalCluster

    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port: its own may be taken
            local_directory=folder,
            silence_logs=logging.CRITICAL,  # what goes wrong comes back with the part
        ) as cluster,
        Fleet(cluster.scheduler_address) as fleet,
    ):
        yield fleet


def _need_distributed(where: str) -> None:
    if importlib.util.find_spec("distributed") is None:
        raise UsageError(
            "a load that is split needs the package distributed",
            where=where,
            remedy='pip install "llmd-runbook[fleet]", here and on every worker',
        )


def _why(future: Future) -> str:
    error = future.exception()
    if isinstance(error, RunbookError):
        return str(error)
    return f"{type(error).__name__}: {error}" if error else str(future.status)


def _now(_: None) -> float:
    return time.time()


def _starting_s(_: None) -> float:
    """How long the load process takes on this machine until it could read its plan (s)."""
    before = time.monotonic()
    subprocess.run([sys.executable, "-c", "import llmd_runbook.load.__main__"], check=False)
    return time.monotonic() - before


def _measure(plan: str) -> str:
    return measure(Plan.model_validate_json(plan)).model_dump_json()


def _calibrate(words: dict[str, Any]) -> dict[str, Any]:
    return dict(vars(calibrate(**words)))
