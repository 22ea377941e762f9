"""Steps and faults in any order, over the real stages, on the model: what hypothesis draws from."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from llmd_runbook.manifest import Status
from tests.drills.model import invariants
from tests.drills.model.attempts import Outcome, attempt
from tests.drills.model.calls import Trouble
from tests.drills.model.cluster import Start
from tests.drills.model.invariants import Watcher, require
from tests.drills.model.world import MODELS, REPLICAS, World

SCALE, SWAP, CLEANUP = "02_scale_pool", "03_swap_patterns", "07_cleanup"
STRATEGIES = ("recreate", "surge")
STAGES = st.sampled_from([SCALE, SWAP, SWAP, CLEANUP])
AT = st.one_of(st.integers(1, 4), st.integers(1, 24))
"""Which of an attempt's changing calls; the first few are all that stage 02 has."""
READ = st.one_of(st.integers(1, 60), st.integers(60, 240))
"""Which of an attempt's reading calls: a swap has 106 to 253, and moves the route after 84 to 132 of them."""
APPS = st.sampled_from([f"ms-{pattern}" for pattern in REPLICAS])


class Breaks(StrEnum):
    """What the world itself may break."""

    GATEWAY = "the gateway is down for 5 s"
    GATEWAY_LONG = "the gateway is down for 30 s"
    REPLICA = "a replica crashes"
    REPLICAS = "all replicas of a pattern crash"
    MACHINE = "a machine with a GPU is gone"
    SPOT = "a machine with a GPU is taken back in 30 s"


class RandomMachine(RuleBasedStateMachine):
    """One cluster, one operator, and everything that goes wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self.disturbed = self._broken = self._sick = False
        self.last: Outcome | None = None

    @initialize(
        strategy=st.sampled_from(STRATEGIES),
        rollback=st.sampled_from(["auto", "never", "auto"]),
        lag_s=st.sampled_from([0.0, 8.0]),
        done=st.sampled_from([(), (SCALE,), (SCALE, SWAP)]),
    )
    def begin(self, strategy: str, rollback: str, lag_s: float, done: tuple[str, ...]) -> None:
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        self.world = World(folder, strategy=strategy, rollback=rollback, lag_s=lag_s)
        self.watcher = Watcher(self.world)
        self._open.enter_context(self.world.instead())
        for stage in done:
            self._attempt(stage)

    # --- what goes wrong, and what the operator does meanwhile

    @rule(stage=STAGES, at=AT, trouble=st.sampled_from(list(Trouble)))
    def a_call_in_trouble(self, stage: str, at: int, trouble: Trouble) -> None:
        self.world.calls.plan[at] = trouble
        self._attempt(stage)

    @rule(stage=STAGES, at=AT, trouble=st.sampled_from([Trouble.KILLED_AFTER, Trouble.KILLED_BEFORE, Trouble.LOST]))
    def and_run_again_at_once(self, stage: str, at: int, trouble: Trouble) -> None:
        self.world.calls.plan[at] = trouble
        if self._attempt(stage).ended != "finished":
            self._attempt(stage)

    @rule(app=APPS, how=st.sampled_from([Start.NEVER, Start.OOM]))
    def replicas_that_do_not_start(self, app: str, how: Start) -> None:
        self.world.cluster.start[app], self._sick = how, True
        self._attempt(SWAP)

    @rule(stock=st.integers(1, 3), quota=st.integers(1, 8))
    def no_more_machines(self, stock: int, quota: int) -> None:
        self._sick = True
        self.world.gke.stock, self.world.gke.quota = stock, quota
        self._attempt(SCALE)

    @rule(stage=st.sampled_from([SWAP, CLEANUP]), waits=st.booleans())
    def a_helm_that_hangs(self, stage: str, waits: bool) -> None:
        """Before it has made anything, or while it waits for pods that it has made."""
        self.world.helm.hang, self.world.helm.waits = not waits, waits
        self._attempt(stage)

    @rule(stage=st.sampled_from([SCALE, CLEANUP]))
    def an_operation_of_somebody_else(self, stage: str) -> None:
        self.world.gke.begin_elsewhere()
        self._attempt(stage)

    @rule(stage=STAGES, at=READ, what=st.sampled_from(Breaks), app=APPS)
    def something_breaks_meanwhile(self, stage: str, at: int, what: Breaks, app: str) -> None:
        self.world.calls.on_read[at] = partial(self._break, what, app)
        self._attempt(stage)

    @rule(
        stage=st.sampled_from([SWAP, SWAP, SWAP, CLEANUP]),
        after_s=st.sampled_from([10.0, 0.0, 20.0]),
        what=st.sampled_from([Breaks.REPLICA, Breaks.REPLICAS, Breaks.GATEWAY_LONG, *Breaks]),
    )
    def something_breaks_once_the_route_moves(self, stage: str, after_s: float, what: Breaks) -> None:
        """A replica is one of the pattern that gets the traffic; what the stages before are for has been tried."""
        pattern, other = ("pattern3", CLEANUP) if stage == SWAP else ("pattern1", SWAP)
        self._attempt(SCALE)
        if MODELS[pattern] in self.world.serves():
            self._attempt(other)
        self.world.once_moving = partial(self._break_in, after_s, what, f"ms-{pattern}")
        self._attempt(stage)

    @rule(stage=STAGES, at=st.integers(8, 120), other=STAGES, pause_s=st.sampled_from([0.0, 400.0, 400.0]))
    def another_run_meanwhile(self, stage: str, at: int, other: str, pause_s: float) -> None:
        self.world.calls.on_read[at] = partial(self._another, other, pause_s)
        self._attempt(stage)

    @rule(stage=STAGES)
    def run_a_stage(self, stage: str) -> None:
        self._attempt(stage)

    @rule(seconds=st.sampled_from([10.0, 600.0]), stage=STAGES)
    def wait(self, seconds: float, stage: str) -> None:
        self.world.clock.pass_s(seconds)
        self._attempt(stage)

    def _break(self, what: Breaks, app: str) -> None:
        self.disturbed = True
        cluster = self.world.cluster
        nodes = cluster.gpu_nodes()
        match what:
            case Breaks.GATEWAY | Breaks.GATEWAY_LONG:
                cluster.gateway_down(5.0 if what is Breaks.GATEWAY else 30.0)
            case Breaks.REPLICA | Breaks.REPLICAS:
                self._broken = self._broken or app in cluster.start  # it does not come back
                cluster.crash(app, 1 if what is Breaks.REPLICA else max(REPLICAS.values()))
            case Breaks.MACHINE | Breaks.SPOT if nodes:
                self._broken = True
                cluster.lose_node(nodes[-1], notice_s=30.0 if what is Breaks.SPOT else 0.0)

    def _break_in(self, delay_s: float, what: Breaks, app: str) -> None:
        self.disturbed = True
        self.world.clock.after(delay_s, partial(self._break, what, app))

    def _another(self, stage: str, pause_s: float) -> None:
        """The present run stands still (a suspended machine), and another one begins."""
        self.disturbed = self._broken = True
        with self.world.calls.aside(suspended=pause_s > 0):
            self.world.clock.pass_s(pause_s)
            self._judge(attempt(self.world, stage))

    def _attempt(self, stage: str) -> Outcome:
        must = self._nothing_is_wrong(stage)
        self.last = attempt(self.world, stage)
        self.world.calls.plan.clear()
        self.world.calls.on_read.clear()
        self.world.once_moving = None
        self._judge(self.last)
        said = f"{self.last.ended}: {self.last.error}"
        require(not must or self.last.ended == "finished", f"{stage} with nothing wrong ends with {said}")
        return self.last

    def _nothing_is_wrong(self, stage: str) -> bool:
        """Whether the next attempt must finish, whatever earlier ones left behind and whatever operation runs."""
        world = self.world
        to_come = world.calls.plan or world.calls.on_read or world.once_moving
        if self.disturbed or self._sick or world.helm.hang or world.helm.waits or to_come:
            return False
        needed = world.profile.pool.nodes
        if world.profile.swap.strategy == "surge":
            needed += len(world.api.of("pods", app="ms-pattern1"))
        return stage != SWAP or len(world.cluster.gpu_nodes()) >= needed

    def _judge(self, outcome: Outcome) -> None:
        invariants.after_attempt(self.world, self.watcher, outcome, disturbed=self.disturbed, broken=self._broken)

    # --- and in the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self._mend()
        finally:
            self._open.close()

    def _mend(self) -> None:
        """Everything is mended; the migration is run until it is done, which must be soon."""
        self.world.calls.plan.clear()
        self.world.calls.on_read.clear()
        self.world.cluster.mend()
        self.world.gke.stock = self.world.gke.quota = 8
        self.world.helm.hang = self.world.helm.waits = False
        self.world.clock.pass_s(900.0)
        self.disturbed = self._broken = self._sick = False
        for stage in (SCALE, SWAP):
            outcome = self._attempt(stage)
        record = outcome.record
        require(record is not None and record.status is Status.FINISHED, "no record of the last run")
        self.world.settle()
        invariants.at_the_end(self.world, self.watcher)


def machine(**replaced: Any) -> type[RandomMachine]:
    """The machine with other attributes, for tests of it."""
    return type("Machine", (RandomMachine,), replaced)
