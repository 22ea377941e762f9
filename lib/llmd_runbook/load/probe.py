"""Steady streams from a process of their own, whose schedule nothing in this process can disturb."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Self

from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import Sample
from llmd_runbook.load.steady import rate_per_s

_KEPT_CHARACTERS = 1000


class Probe:
    """Streams that go on from `with` to `stop`, each a plan at equal gaps; times of samples are seconds from `with`.

    It watches what others do, so it never raises because of its own troubles.

    Attributes:
        trouble: why samples are missing: what the process said when it ended by itself; empty when it did not.
    """

    def __init__(self) -> None:
        self.trouble = ""
        self._news = threading.Condition()
        self._samples: list[Sample] = []
        self._ended, self._stopped = False, False
        self._origin = 0.0
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the probe ends
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, name="probe", daemon=True)

    def __enter__(self) -> Self:
        self._origin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llmd_runbook.load.probing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the notebook, which ends this process below
        )
        self._reader.start()
        self._say({"origin": self._origin})
        return self

    def __exit__(self, *_: object) -> None:
        """End at once, if `stop` was not called."""
        assert self._process is not None
        if not self._stopped:
            self._process.kill()
        self._reader.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what was never read
                    pipe.close()
        self._complaints.close()

    def now_s(self) -> float:
        """The present, on the clock of the samples."""
        return time.perf_counter() - self._origin

    def add(self, plan: Plan, phase_s: float = 0.0) -> None:
        """Start one more stream, so many seconds from now.

        Raises:
            ValueError: the plan's arrival is no open loop at equal gaps.
        """
        rate_per_s(plan)
        self._say({"plan": plan.model_dump(mode="json"), "phase_s": phase_s})

    def so_far(self) -> list[Sample]:
        """The samples of requests that have ended."""
        with self._news:
            return list(self._samples)

    def wait(self, done: Callable[[list[Sample]], bool], timeout_s: float) -> bool:
        """Wait until `done(samples so far)`, asked after every answer; False when the time or the probe is over."""

        def satisfied() -> bool:
            return self._ended or done(list(self._samples))

        with self._news:
            return self._news.wait_for(satisfied, timeout_s) and not self._ended

    def stop(self) -> list[Sample]:
        """Send nothing more, wait for what is in flight, and return all samples in the order of sending."""
        self._say({"stop": True})
        self._reader.join()
        self._stopped = True
        return sorted(self._samples, key=lambda sample: sample.sent_s)

    def _say(self, message: dict[str, object]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: the reader says why
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        well = False
        for line in self._process.stdout:
            message = json.loads(line)
            with self._news:
                if "sample" in message:
                    self._samples.append(Sample.model_validate(message["sample"]))
                well = "stopped" in message
                self._news.notify_all()
        with self._news:
            if not well:
                self._complaints.seek(0)
                said = self._complaints.read()[-_KEPT_CHARACTERS:].strip() or "it said nothing"
                self.trouble = f"the probe ended by itself: {said}"
            self._ended = True
            self._news.notify_all()
