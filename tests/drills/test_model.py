"""The model and the sandbox, by turns: the same stages in the same order, and after each the same to be seen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.manifest import Attempt, Status
from llmd_runbook.profile import Profile
from llmd_runbook.verdicts import Verdict
from tests.drills.ground import RECREATE, SURGE, Ground
from tests.drills.matrix import REPLICA_CRASHES
from tests.drills.model.attempts import attempt
from tests.drills.model.world import World
from tests.drills.random_machine import CLEANUP, SCALE, SWAP

pytestmark = [pytest.mark.drills, pytest.mark.timeout(600)]

CRASH = f"{SWAP}, where a replica crashes once the route moves"
BY_CHANCE = {CRASH: {"swap.losses"}}
"""Checks that may fail or not: whether a request was under way in the replica. Those of the model take no time."""

SEQUENCES = [
    (RECREATE, (SCALE, CLEANUP)),
    (RECREATE, (CLEANUP, SCALE, SCALE, CLEANUP)),
    (RECREATE, (SCALE, SWAP, CLEANUP)),
    (RECREATE, (SCALE, SWAP, SCALE, SWAP, CLEANUP, CLEANUP)),
    (RECREATE, (SWAP, SCALE, SWAP, CLEANUP)),
    (RECREATE, (SCALE, CRASH, SWAP, CLEANUP)),
    (SURGE, (SCALE, CRASH, SWAP, CLEANUP)),
]
"""Each begins and ends with Pattern 1 on one node; one asks for Pattern 3 where there are too few nodes."""


@dataclass(frozen=True)
class Seen:
    """What can be seen after a stage, in names that both have.

    Attributes:
        ended: the record's status, and the kind of the error that ended it.
        steps: their names and how they ended, in order.
        failed: checks that failed, but for `BY_CHANCE`.
        releases, route: what is installed, and where the HTTPRoute leads.
        nodes: of the GPU pool.
        held: whether somebody holds the Lease.
    """

    stage: str
    ended: tuple[Status, str]
    steps: list[tuple[str, str]]
    failed: list[str]
    releases: list[str]
    route: str
    nodes: int
    held: bool


def named(strategy: str, sequence: tuple[str, ...]) -> str:
    return "-".join(stage[:2] + " crash" * (stage is CRASH) for stage in sequence) + " surge" * (strategy == SURGE)


@pytest.mark.parametrize(("strategy", "sequence"), SEQUENCES, ids=[named(*each) for each in SEQUENCES])
def test_the_model_does_as_the_sandbox_does(
    ground: Ground, tmp_path: Path, strategy: str, sequence: tuple[str, ...]
) -> None:
    ground.strategy = strategy
    ground.as_before_02()
    expected = [on_the_sandbox(ground, stage, tmp_path) for stage in sequence]
    world = World(tmp_path, strategy=strategy)
    with world.instead():
        found = [on_the_model(world, stage) for stage in sequence]
    assert found == expected


def on_the_sandbox(ground: Ground, stage: str, folder: Path) -> Seen:
    if stage is CRASH:
        with REPLICA_CRASHES.on(ground, folder) as (door, environment):
            attempts = ground.begin([SWAP], "new", door, **environment).wait().attempts
    else:
        attempts = ground.live([stage]).attempts
    listed = json.loads(ground.sandbox.start("helm", "list", "--namespace", "llm-d", "-o", "json").stdout)
    releases = sorted(item["name"] for item in listed if item["name"] != "infra")
    route = json.loads(ground.sandbox.kubectl("get", "httproute", ground.profile.route.name, "-o", "json"))
    selector = f"cloud.google.com/gke-nodepool={ground.profile.pool.name}"
    nodes = ground.sandbox.kubectl("get", "nodes", "-l", selector, "-o", "name").split()
    leases = json.loads(ground.sandbox.kubectl("get", "leases", "-o", "json"))["items"]
    held = any(item["spec"].get("holderIdentity") for item in leases)
    (record,) = attempts.values()
    return seen(stage, record, ground.profile, releases, route, len(nodes), held)


def on_the_model(world: World, stage: str) -> Seen:
    if stage is CRASH:
        world.once_moving = lambda: world.clock.after(0.0, lambda: world.cluster.crash("ms-pattern3"))
    record = attempt(world, SWAP if stage is CRASH else stage).record
    assert record is not None
    world.settle()
    releases = sorted(name for name, item in world.helm.stored.items() if item.status == "deployed")
    held = any(item["spec"].get("holderIdentity") for item in world.api.of("leases"))
    (route,) = world.api.of("httproutes")
    return seen(stage, record, world.profile, releases, route, len(world.cluster.gpu_nodes()), held)


def seen(
    stage: str, record: Attempt, profile: Profile, releases: list[str], route: Object, nodes: int, held: bool
) -> Seen:
    assert record.result is not None
    by_chance = BY_CHANCE.get(stage, set())
    names = {profile.pattern1.model: "OLD", profile.pattern3.model: "NEW"}
    steps = []
    for step in record.result.steps:
        name = step.name
        for model, own in names.items():
            name = name.replace(model, own)
        steps.append((name, step.status.value))
    (backend,) = route["spec"]["rules"][0]["backendRefs"]
    return Seen(
        stage=stage,
        ended=(record.status, record.error.kind if record.error else ""),
        steps=steps,
        failed=sorted({check.id for check in record.result.checks if check.verdict is Verdict.FAIL} - by_chance),
        releases=releases,
        route=backend["name"],
        nodes=nodes,
        held=held,
    )
