"""A fault: when it is switched on, what shows that it has happened, and how it is mended."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmd_runbook.manifest import Attempt
from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.proxy import ApiProxy
from tests.drills.ground import Ground

Act = Callable[[Ground], None]
APIS = {
    "API 409": Kind.CONFLICT,
    "API 429": Kind.THROTTLE,
    "API 500": Kind.BREAK,
    "answer lost": Kind.CUT,
    "time-out": Kind.STALL,
}


@dataclass(frozen=True)
class Drill:
    """One fault during one step.

    Attributes:
        fault, step: as the table names them.
        api: what goes wrong with requests, each of which must be met.
        before, after: what is done before the stage and after it; `after` mends.
        trigger: as soon as a request was made of which this regular expression is found in "METHOD path" ...
        act: ... this is done.
        helm_hangs: the helm command, as a shell pattern, that hangs the first time.
        shows: regular expression that must be found in the record of the attempt.
        silences: the record cannot be written from the fault on, and stays as it was: true until then.
        harmful: the fault itself takes answers away, so that even a surge loses requests.
    """

    fault: str
    step: str
    api: tuple[Fault, ...] = ()
    before: Act | None = None
    after: Act | None = None
    trigger: str = ""
    act: Act | None = None
    helm_hangs: str = ""
    shows: str = ""
    silences: bool = False
    harmful: bool = False

    @contextmanager
    def on(self, ground: Ground, folder: Path) -> Iterator[tuple[ApiProxy, dict[str, str]]]:
        """Switched on while the block runs: where the APIs are, and what the run's environment has more.

        Raises:
            AssertionError: it did not happen.
        """
        if self.before:
            self.before(ground)
        try:
            with ground.door(*self.api) as door, _acting(self, ground, door):
                yield door, _wrapper(ground, folder, self.helm_hangs) if self.helm_hangs else {}
                missed = [fault for fault in self.api if not any(fault in met for met in _met(self.api, door))]
                assert not missed, f"never met: {missed}"
                assert not self.helm_hangs or (folder / "hung").exists(), "no helm hung"
        finally:
            if self.after:
                self.after(ground)

    def shown(self, attempt: Attempt) -> bool:
        """Whether the record says what it must say."""
        return re.search(self.shows, attempt.model_dump_json()) is not None


def _met(faults: tuple[Fault, ...], door: ApiProxy) -> list[list[Fault]]:
    """For each request that was hit, the faults that it may have been hit by."""
    hit = [seen for seen in door.seen if seen.fault]
    return [[one for one in faults if one.kind is seen.fault and one.hits(seen.method, seen.path)] for seen in hit]


@contextmanager
def _acting(drill: Drill, ground: Ground, door: ApiProxy) -> Iterator[None]:
    """Watch for the trigger beside the run; what is begun is finished before the block ends."""
    act = drill.act
    if act is None:
        yield
        return
    over, done = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def watch() -> None:
        while not over.wait(0.02):
            if any(re.search(drill.trigger, f"{seen.method} {seen.path}") for seen in door.seen):
                try:
                    act(ground)
                    done.set()
                except Exception as error:  # to be raised by the test, not lost in a thread
                    errors.append(error)
                return

    thread = threading.Thread(target=watch, name="trigger")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors, errors
    assert done.is_set(), f"{drill.trigger} never came"


def _wrapper(ground: Ground, folder: Path, command: str) -> dict[str, str]:
    """A PATH whose helm hangs, once, at that command."""
    bin_folder, once = folder / "bin", folder / "hung"
    bin_folder.mkdir(parents=True)
    path = ground.sandbox.environment["PATH"]
    real = next(found for part in path.split(":") if (found := Path(part) / "helm").is_file())
    script = bin_folder / "helm"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in {command})\n'
        f"if [ ! -e {once} ]; then : > {once}; exec sleep 600; fi;; esac\n"
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    return {"PATH": f"{bin_folder}:{path}"}


def api(step: str, path: str, *names: str, method: str = "") -> list[Drill]:
    """A drill for each of these ways in which changing requests to that path go wrong."""
    return [Drill(name, step, (Fault(APIS[name], method, path, changes=True),)) for name in names]


def wait_until(true: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Look again and again.

    Raises:
        AssertionError: it does not come true.
    """
    until_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until_s, what
        time.sleep(0.05)
