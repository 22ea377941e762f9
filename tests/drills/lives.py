"""A run as a process of its own that can be killed: stages one after another, in a child that starts at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.cloud import container_v1

from llmd_runbook.clients import gke, kubernetes
from llmd_runbook.clients.releases import pending
from llmd_runbook.clients.releases.helm import HelmDriver
from llmd_runbook.manifest import Attempt
from llmd_runbook.run.store import OUTPUT_VARIABLE, RunStore, all_runs
from llmd_runbook.stages import all_checks
from tests.drills.notebook import execute

PRELOADED = (container_v1, all_checks())
"""What takes seconds to load is there when a child begins."""
FINISHED, FAILED = 0, 1

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload([__name__])

HELM_S = 20.0
"""How long a command of helm may take here."""
COMPRESSED: dict[Any, dict[str, float]] = {
    pending: {"ABANDONED_S": 2.0},
    gke: {"_CALL_TIMEOUT_S": 3.0},
    kubernetes: {"_READ_S": 3.0},
}
"""What the product waits for in a real cluster, as the sandbox compresses start-up; those that are there."""


@dataclass(frozen=True)
class Ended:
    """How a life ended: exit status (-9: killed), and the attempts that it made, by stage."""

    status: int
    run: str
    attempts: dict[str, Attempt]


class Life:
    """One process that runs stages; `pid` is its own."""

    def __init__(
        self,
        profile: Path,
        output: Path,
        environment: Mapping[str, str],
        stages: Sequence[str],
        run: str = "new",
    ) -> None:
        self._output, self._stages = output, stages
        self._before = {each.run_id for each in all_runs(output)}
        self._run = run
        arguments = (str(profile), str(output), dict(environment), list(stages), run)
        self._process = _server.Process(target=_live, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, timeout_s: float = 240.0) -> Ended:
        """Until it has ended, by itself or killed."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"{self._stages} did not end within {timeout_s:g} s")
        fresh = [each for each in all_runs(self._output) if each.run_id not in self._before]
        store = (
            RunStore(next(each.folder for each in all_runs(self._output) if each.run_id == self._run))
            if (self._run != "new")
            else (fresh[0] if fresh else None)
        )
        if store is None:
            return Ended(self._process.exitcode, "", {})
        record = store.read()
        attempts = {each.stage: each.attempts[-1] for each in record.stages if each.attempts}
        return Ended(self._process.exitcode, store.run_id, attempts)


def _live(profile: str, output: str, environment: dict[str, str], stages: list[str], run: str) -> None:
    os.environ.clear()
    os.environ.update({**environment, OUTPUT_VARIABLE: output})
    os.setsid()
    defaults: Any = HelmDriver.__init__.__kwdefaults__
    defaults["timeout_s"] = HELM_S
    for module, values in COMPRESSED.items():
        for name, value in values.items():
            if hasattr(module, name):
                setattr(module, name, value)
    for stage in stages:
        names: dict[str, Any] = {}
        error = execute(stage, profile, run, names)
        if error is not None:
            print(json.dumps({"stage": stage, "error": str(error)}), file=sys.stderr)
            sys.exit(FAILED)
        run = names["stage"].run_id
    sys.exit(FINISHED)
