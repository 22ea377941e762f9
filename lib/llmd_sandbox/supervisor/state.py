"""What is asked of a sandbox (order.json) and how far it is (state.json): files that are replaced whole."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llmd_sandbox.site import SIMULATOR, STARTUP_SCALE

UP, FAILED = "up", "failed"


@dataclass(frozen=True)
class Order:
    """What `up` asks for, and when (Unix time); `values` is the folder of the releases' value files."""

    name: str
    engine: str = SIMULATOR
    startup_scale: float = STARTUP_SCALE[SIMULATOR]
    values: str = ""
    bare: bool = False
    node_grace_s: float = 50.0
    route_lag_s: float = 0.0
    pattern2: bool = False
    newest: bool = False
    gpu_zones: int = 1
    autoscaler_idle_s: float | None = None
    asked: float = field(default_factory=time.time)

    def save(self, directory: Path) -> None:
        """Write it into the sandbox's folder."""
        _replace(directory / "order.json", asdict(self))

    @staticmethod
    def load(directory: Path) -> Order:
        """Read it from the sandbox's folder."""
        return Order(**json.loads((directory / "order.json").read_text()))


@dataclass
class State:
    """How far a sandbox is: the phase now, the seconds each earlier one took, and the error that ended it."""

    pid: int
    started: float
    phase: str = "start"
    ready_after_s: float | None = None
    timings_s: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds since somebody asked for it."""
        return time.time() - self.started

    def save(self, directory: Path) -> None:
        """Write it into the sandbox's folder."""
        _replace(directory / "state.json", asdict(self))

    @staticmethod
    def load(directory: Path) -> State | None:
        """Read it; None before the supervisor wrote its first."""
        try:
            return State(**json.loads((directory / "state.json").read_text()))
        except FileNotFoundError:
            return None


class Progress:
    """The supervisor's pen: enters phases, keeps their times, writes every change."""

    def __init__(self, directory: Path, asked: float) -> None:
        self.directory = directory
        self.state = State(pid=os.getpid(), started=asked)
        self._entered = self.state.started
        self.state.save(directory)

    def enter(self, phase: str) -> None:
        """The phase before this one is done."""
        now = time.time()
        self.state.timings_s[self.state.phase] = round(now - self._entered, 2)
        self.state.phase, self._entered = phase, now
        if phase == UP:
            self.state.ready_after_s = round(now - self.state.started, 2)
        self.state.save(self.directory)

    def fail(self, error: str) -> None:
        """It cannot go on."""
        self.state.error = error
        self.enter(FAILED)


def _replace(file: Path, content: dict[str, object]) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1))
    os.replace(fresh, file)
