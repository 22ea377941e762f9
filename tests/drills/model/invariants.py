"""What must hold on the model, whatever went wrong: after every attempt, and once everything is mended."""

from __future__ import annotations

from llmd_runbook.manifest import Status
from llmd_runbook.verdicts import StepStatus, Verdict
from tests.drills.model.attempts import Outcome
from tests.drills.model.calls import Call
from tests.drills.model.cluster import GPU_POOL, POOL_LABEL
from tests.drills.model.world import MODELS, REPLICAS, ROUTE, World

RUN_NEEDS = {"old-model": REPLICAS["pattern1"], "new-model": REPLICAS["pattern3"]}

RECOVERY_S = 60.0
"""A replica that crashed is Ready again, a gateway that was down is up again, and the data path follows the routes."""


class Broken(AssertionError):
    """An invariant that does not hold."""


def require(holds: bool, what: str) -> None:
    """Raise `Broken` where something does not hold."""
    if not holds:
        raise Broken(what)


class Watcher:
    """Sees every changing call at the time it is made: who holds the lock then, and what a resize takes away."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._owners: dict[str, int] = {}
        self.foreign: list[Call] = []
        """Changes made while another run held the lock."""
        self.unlocked: list[Call] = []
        """Changes made while nobody held it, on a cluster whose runs take it."""
        self.lease_known = False
        world.calls.watchers.append(self._seen)

    def holder(self) -> str:
        """Who holds the lock now; empty where nobody does."""
        for lease in self._world.api.of("leases"):
            if lease["spec"].get("holderIdentity"):
                return str(lease["spec"]["holderIdentity"])
        return ""

    def _seen(self, call: Call) -> None:
        if "/leases" in call.target:
            self.lease_known = True
            return
        holder = self.holder()
        if not holder:
            if self.lease_known:
                self.unlocked.append(call)
            return
        self._owners.setdefault(holder, call.life)
        if self._owners[holder] != call.life:
            self.foreign.append(call)


def after_attempt(
    world: World, watcher: Watcher, outcome: Outcome, *, disturbed: bool = False, broken: bool = False
) -> None:
    """The record is true, nothing was lost needlessly, and what is called finished serves.

    Args:
        disturbed: the world itself broke something meanwhile (machines, replicas, the gateway).
        broken: that was something which does not come back by itself within `RECOVERY_S`.
    """
    require(not watcher.foreign, f"a change while another run held the lock: {watcher.foreign}")
    require(not watcher.unlocked, f"a change without the lock: {watcher.unlocked}")
    require(not world.gke.evicted, f"a resize took serving replicas: {world.gke.evicted}")
    _true_record(outcome)
    if outcome.ended == "RolledBack" and not broken:
        if disturbed:  # perhaps only after the way back was verified
            world.clock.pass_s(RECOVERY_S)
        serves = world.serves()
        require(MODELS["pattern1"] in serves, f"said to be back on Pattern 1, and the gateway answers for {serves}")
    if not disturbed:
        _announced_outage(world, outcome)
        if outcome.ended == "finished":
            _as_reported(world, outcome)


def at_the_end(world: World, watcher: Watcher) -> None:
    """Everything was mended and the migration done again: Pattern 3 serves, and nothing is orphaned."""
    serves = world.serves()
    require(serves == [MODELS["pattern3"]], f"at the end the gateway answers for {serves or 'nothing'}")
    releases = {name: item.status for name, item in world.helm.stored.items()}
    wanted = {"gaie-pattern3": "deployed", "ms-pattern3": "deployed"}
    require(releases == wanted, f"releases at the end: {releases}")
    routes = [item["metadata"]["name"] for item in world.api.of("httproutes")]
    require(routes == [ROUTE], f"routes at the end: {routes}")
    require(not watcher.holder(), f"at the end the lock is held by {watcher.holder()}")
    pods = {pod["metadata"]["labels"]["app"] for pod in world.api.of("pods")}
    require(pods == {"gaie-pattern3-epp", "ms-pattern3"}, f"pods at the end: {pods}")
    nodes = len(world.api.of("nodes", **{POOL_LABEL: GPU_POOL}))
    require(nodes >= REPLICAS["pattern3"], f"{nodes} GPU nodes at the end")


def _true_record(outcome: Outcome) -> None:
    record = outcome.record
    if outcome.ended == "killed" or record is None:
        return
    if outcome.ended == "finished":
        require(record.status is Status.FINISHED and record.verdict is not None, f"finished, recorded {record.status}")
    else:
        said = record.error.message if record.error else ""
        require(record.status is Status.FAILED and bool(said), f"{outcome.ended}, recorded {record.status}: {said}")
    for step in record.result.steps if record.result else []:
        made = [call for call in outcome.made if call.step == step.name and "/leases" not in call.target]
        if step.status is StepStatus.CHANGED:
            require(bool(made), f"{outcome.stage}: {step.name!r} says changed and changed nothing")
        elif step.status in (StepStatus.OK, StepStatus.SKIPPED):
            require(not made, f"{outcome.stage}: {step.name!r} says {step.status} and did {made}")


def _announced_outage(world: World, outcome: Outcome) -> None:
    """`recreate`, the way back, and a plan that says so announce an outage, once something of theirs was changed."""
    may_interrupt = outcome.stage == "07_cleanup" or (
        outcome.stage == "03_swap_patterns" and world.profile.swap.strategy == "recreate"
    )
    notes = outcome.record.result.notes if outcome.record and outcome.record.result else []
    may_interrupt = may_interrupt or any(note.text.startswith("Outage:") for note in notes)
    harmful = [call for call in outcome.made if call.system != "gke" and "/leases" not in call.target]
    if not (may_interrupt and harmful):
        require(outcome.gap_s == 0, f"{outcome.stage}: {outcome.gap_s:.1f} s without an answer, and none was announced")


def _as_reported(world: World, outcome: Outcome) -> None:
    assert outcome.record is not None
    passed, serves = outcome.record.verdict is not Verdict.FAIL, world.serves()
    if outcome.stage == "02_scale_pool":
        nodes = len(world.api.of("nodes", **{POOL_LABEL: GPU_POOL}))
        require(not passed or nodes >= world.profile.pool.nodes, f"02 passed with {nodes} nodes")
    elif outcome.stage == "03_swap_patterns":
        require(not passed or serves == [MODELS["pattern3"]], f"03 passed, and the gateway answers for {serves}")
    elif world.profile.cleanup.option == "restore_pattern1":
        require(not passed or serves == [MODELS["pattern1"]], f"07 passed, and the gateway answers for {serves}")
