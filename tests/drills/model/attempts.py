"""Attempts at stages on the model: the notebooks' own cells, and what became of each attempt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llmd_runbook.run as run_module
from llmd_runbook.manifest import Attempt
from llmd_runbook.run import lock
from llmd_runbook.run.stage import StageRun
from llmd_runbook.run.store import RunStore
from tests.drills.model.calls import Call, Killed
from tests.drills.model.world import World
from tests.drills.notebook import execute


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        ended: `finished`, `killed`, or the error's class.
        error: what was raised; None where it finished.
        made: the changing calls that were done.
        gap_s: for how long no model was served meanwhile.
        run: id of the run; empty where none was begun.
        record: the attempt as `run.json` has it; None where none was begun.
    """

    stage: str
    ended: str
    error: BaseException | None
    made: list[Call]
    gap_s: float
    run: str
    record: Attempt | None


def attempt(world: World, stage: str, run: str = "new") -> Outcome:
    """Run a stage's notebook in another life, cell by cell; inside `World.instead`."""
    world.calls.begin()
    run_module._current.clear()
    since_s, before = world.clock.now_s, len(world.calls.made)
    held, lock._held = lock._held, {}
    names: dict[str, Any] = {}
    error: BaseException | None = None
    try:
        error = execute(stage, str(world.profile_file), run, names)
    except Killed as killed:
        error = killed
    finally:
        run_module._current.clear()
        lock._held = held
    begun: StageRun | None = names.get("stage")
    life = world.calls.life
    world.calls.end()
    ended = "finished" if error is None else "killed" if isinstance(error, Killed) else type(error).__name__
    record = RunStore(begun.folder).read().stage(stage).attempts[-1] if begun is not None else None
    made = [call for call in world.calls.made[before:] if call.life == life]
    return Outcome(stage, ended, error, made, world.cluster.gap_s(since_s), begun.run_id if begun else "", record)
