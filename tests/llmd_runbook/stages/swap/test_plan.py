"""The plan of the swap, its intent and its guards, on a cluster in memory."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.clients.gke import Bounds, OperationState
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, NAMESPACES, NODES, PODS
from llmd_runbook.errors import ApprovalNeeded, Conflict, Forbidden, ProfileError, UsageError
from llmd_runbook.plans import Intent
from llmd_runbook.run import StageRun, begin
from llmd_runbook.run.context import PLAN_ONLY_VARIABLE
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.planning import gate
from llmd_runbook.stages.planning.facts import POOL_CHANGE, ROUTE_CHANGE, release_change, target_nodes
from llmd_runbook.stages.pool.shrink import bounds_left
from llmd_runbook.stages.pool.target import bounds_held
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.topology import NODE_POOL_LABEL
from llmd_runbook.verdicts import StageResult, StepStatus
from tests.llmd_runbook.conftest import PROFILE, Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import GPU_LIMIT, Pool, Releases

NS = "llm-d"


class World:
    """Pattern 1 runs, Pattern 3 is absent; and a stage 03 on it."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bench, self.kube, self.pool = bench, Memory(), Pool()
        self.one, self.three = Releases("ms-one", present=True), Releases("ms-three", present=False, replicas=3)
        self.kube.add(NAMESPACES, {"metadata": {"name": "kube-system", "uid": "uid"}})
        self.kube.add(NODES, {"metadata": {"name": "gpu-0", "labels": {NODE_POOL_LABEL: "pool"}}})
        self.deployment = {"metadata": {"name": "ms-one", "namespace": NS, "uid": "d1", "generation": 1}}
        self.kube.add(DEPLOYMENTS, self.deployment | {"spec": {"replicas": 1}})
        self.pod("ms-one")
        self.profile = bench.profile
        route = copy.deepcopy(traffic.manifest(self.profile, self.profile.pattern1))
        route["metadata"] |= {"uid": "r1", "generation": 4}
        self.kube.add(HTTP_ROUTES, route)
        monkeypatch.setattr(site, "kubernetes", lambda _: self.kube)
        monkeypatch.setattr(site, "gke_pool", lambda _: self.pool)
        monkeypatch.setattr(site, "driver", lambda _, pattern: self.one if pattern.model == "a" else self.three)

    def pod(self, app: str) -> None:
        meta = {"name": f"{app}-0", "namespace": NS, "labels": {"app": app}}
        self.kube.add(PODS, {"metadata": meta, "spec": {"containers": [{"resources": {"limits": GPU_LIMIT}}]}})

    def profile_with(self, old: str = "", new: str = "") -> None:
        """Change the profile's text."""
        assert old in PROFILE
        self.bench.profile_file.write_text(PROFILE.replace(old, new) if old else PROFILE + new)
        self.profile = self.bench.profile

    def open(self, approve: str = "") -> StageRun:
        return begin(
            "03_swap_patterns",
            str(self.bench.profile_file),
            "new",
            approve,
            identify=lambda _: self.bench.cluster,
            output=self.bench.output,
            notebooks=self.bench.notebooks,
        )

    def hash(self) -> str:
        """The hash that the stage shows."""
        return str(self.planned().data["plan"]["hash"])

    def planned(self) -> StageResult:
        stage = self.open()
        plan.plan(stage)
        return stage.finish()


@pytest.fixture
def world(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(bench, monkeypatch)


def rows(result: StageResult) -> dict[Any, list[Any]]:
    return {row[0]: row[1:] for row in result.tables[0].rows}


def test_the_plan_says_what_is_and_what_shall_be(world: World) -> None:
    result = world.planned()
    assert rows(result) == {
        "release ms-one": ["installed", "absent", "change"],
        "pods serving a": ["1", "0", "change"],
        "release ms-three": ["absent", "installed", "change"],
        "pods serving b": ["0", "3", "change"],
        "GPUs of the model servers": ["1", "3", "change"],
        "nodes of the pool": ["1", "1", "as it is"],
        "HTTPRoute r": ["InferencePool/one", "InferencePool/three", "change"],
        "clients' address": [*["Gateway g, whose address is known once it has one"] * 2, "as it is"],
        "clients' model name": ["a", "b", "change"],
    }
    notes = "\n".join(note.text for note in result.notes)
    assert "Outage: from the end of Pattern 1's pods until Pattern 3 answers" in notes
    assert "Clients that ask for a are refused with 404" in notes
    assert "Nodes of the pool: 1, needed: 3. Run stage 02 first" in notes
    assert [table.title.split(" (")[0] for table in result.tables] == ["Plan", "Dollars per hour", "How long"]
    assert {row[3] for row in result.tables[2].rows} == {"not yet"}
    assert [row[2] for row in result.tables[2].rows][:2] == ["pattern1.ready_timeout_s", "pattern3.ready_timeout_s"]


def test_the_plan_shows_every_object_before_and_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(gate, "show", shown.append)
    stage = world.open()
    plan.plan(stage)
    text, html = repr(shown[0]), shown[0]._repr_html_()
    for line in ("- apps/v1 Deployment llm-d/ms-one", "+ apps/v1 Deployment llm-d/ms-three", "~ gateway.networking"):
        assert line in text
        assert line in html
    assert "<details><summary>Objects before and after (3)" in html
    assert re.search(r">\+ +name: three</span>", html)
    assert re.search(r">- +name: one</span>", html)


def test_an_old_name_that_is_an_alias_is_no_refusal(world: World) -> None:
    world.three.args = ["--served-model-name", "b", "a"]
    world.profile_with(new="swap: {old_name: alias}\n")
    result = world.planned()
    assert "Clients that ask for a are answered by b" in "\n".join(note.text for note in result.notes)
    assert rows(result)["clients' model name"] == ["a", "b, a", "change"]


@pytest.mark.parametrize(
    ("args", "swap"),
    [(["--served-model-name", "b", "a"], "refused"), (["--served-model-name", "b"], "alias"), ([], "alias")],
)
def test_an_alias_that_is_announced_and_not_rendered_or_the_other_way_round_is_refused(
    world: World, args: list[str], swap: str
) -> None:
    world.three.args = args
    world.profile_with(new=f"swap: {{old_name: {swap}}}\n")
    with pytest.raises(ProfileError, match="say different things of the old model name") as caught:
        plan.plan(world.open())
    assert f"swap.old_name: {swap}" in (caught.value.where or "")
    assert "--served-model-name b a" in (caught.value.remedy or "")


def test_a_surge_says_how_many_gpus_more_and_for_how_long(world: World) -> None:
    world.profile_with(new="swap: {strategy: surge}\n")
    notes = "\n".join(note.text for note in world.planned().notes)
    assert "For a while 4 GPUs are needed, 1 more than Pattern 3 alone" in notes
    assert "Outage" not in notes


@pytest.mark.parametrize("status", ["uninstalling", "pending-install"])
def test_a_removal_that_was_broken_off_costs_an_outage_though_pods_may_still_answer(world: World, status: str) -> None:
    world.profile_with(new="swap: {strategy: surge}\n")
    world.three.present, world.three.status = True, status
    notes = "\n".join(note.text for note in world.planned().notes)
    assert f"was left {status}; helm can only finish that, and nothing answers for b until it is back" in notes


def test_what_this_run_measured_stands_beside_the_deadlines(world: World) -> None:
    first = world.open()
    with first.step("wait for 3 replicas"):
        pass
    with pytest.raises(OSError, match="cut"), first.step("wait until requests arrive"):
        raise OSError("cut")
    first.finish()
    again = begin(
        "03_swap_patterns",
        str(world.bench.profile_file),
        first.run_id,
        identify=lambda _: world.bench.cluster,
        output=world.bench.output,
        notebooks=world.bench.notebooks,
    )
    plan.plan(again)
    measured = {row[0]: row[3] for row in again.finish().tables[2].rows}
    assert measured["wait for 3 replicas"] == "0.0 s"
    assert set(measured.values()) == {"0.0 s", "not yet"}


def test_a_surge_that_the_pool_cannot_hold_is_refused(world: World) -> None:
    world.profile_with(new="swap: {strategy: surge}\n")
    world.bench.profile_file.write_text(
        world.bench.profile_file.read_text().replace("nodes: 3}", "nodes: 3, max_nodes: 3}")
    )
    with pytest.raises(UsageError, match="needs 4 nodes, and the pool may have 3"):
        plan.plan(world.open())


def test_the_hash_is_the_same_for_two_plans_of_one_cluster(world: World) -> None:
    assert world.hash() == world.hash()


def test_what_was_read_is_not_in_the_hash(world: World) -> None:
    """Also not what an earlier attempt has done: the one approval serves until the stage is through."""
    before = world.hash()
    world.one.present, world.three.present, world.three.revision = False, True, 7
    world.kube.objects[DEPLOYMENTS.path(NS, "ms-one")]["metadata"] |= {"generation": 9, "uid": "d2"}
    world.kube.objects[HTTP_ROUTES.path(NS, "r")]["metadata"]["generation"] = 12
    world.pod("ms-three")
    world.kube.add(NODES, {"metadata": {"name": "gpu-1", "labels": {NODE_POOL_LABEL: "pool"}}})
    assert world.hash() == before


CHANGED: dict[str, Callable[[World], None]] = {
    "chart of Pattern 3": lambda world: setattr(world.three, "chart", "sha256:1"),
    "chart of Pattern 1, which a rollback installs": lambda world: setattr(world.one, "chart", "sha256:1"),
    "an object of Pattern 3": lambda world: world.three.args.append("--dtype"),
    "an object of Pattern 1": lambda world: world.one.args.append("--dtype"),
    "name of what is installed": lambda world: setattr(world.three, "name", "other"),
    "name of what is removed": lambda world: setattr(world.one, "name", "other"),
    "strategy": lambda world: world.profile_with(new="swap: {strategy: surge}\n"),
    "rollback": lambda world: world.profile_with(new="swap: {rollback: never}\n"),
    "replicas": lambda world: world.profile_with("replicas: 3", "replicas: 2"),
    "namespace": lambda world: world.profile_with("namespace: llm-d", "namespace: other"),
    "route": lambda world: world.profile_with("route: {name: r}", "route: {name: s}"),
    "InferencePool": lambda world: world.profile_with("inference_pool: three", "inference_pool: four"),
    "model": lambda world: world.profile_with("model: b", "model: c"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_each_part_of_the_intent_is_in_the_hash(world: World, what: str) -> None:
    before = plan.target(world.profile)
    CHANGED[what](world)
    after = plan.target(world.profile)
    assert Intent("03", "uid", before).hash != Intent("03", "uid", after).hash


def test_the_size_that_a_surge_leaves_is_in_the_hash(world: World) -> None:
    world.profile_with(new="swap: {strategy: surge}\n")
    before = plan.target(world.profile)
    world.bench.profile_file.write_text(world.bench.profile_file.read_text().replace("nodes: 3}", "nodes: 4}"))
    assert plan.target(world.bench.profile) == before | {"nodes_afterwards": 4}


def test_a_swap_that_is_done_needs_no_approval(world: World) -> None:
    world.one.present, world.three.present = False, True
    del world.kube.objects[PODS.path(NS, "ms-one-0")]
    for number in range(3):
        meta = {"name": f"ms-three-{number}", "namespace": NS, "labels": {"app": "ms-three"}}
        world.kube.add(PODS, {"metadata": meta, "spec": {"containers": [{"resources": {"limits": GPU_LIMIT}}]}})
    world.kube.add(HTTP_ROUTES, traffic.manifest(world.profile, world.profile.pattern3))
    world.kube.add(
        DEPLOYMENTS, world.three.render()[0] | {"metadata": {"name": "ms-three", "namespace": NS, "uid": "d"}}
    )
    result = world.planned()
    assert [row for row in result.tables[0].rows if row[-1] == "change"] == []
    assert (result.approvals, result.data["plan"]["empty"]) == ([], True)
    world.three.differs = True
    assert rows(world.planned())["release ms-three"] == ["installed, with other content", "installed", "change"]


def test_what_somebody_changed_behind_helms_back_is_said(world: World) -> None:
    world.three.present = True
    live = copy.deepcopy(world.three.render()[0])
    live["metadata"] |= {"namespace": NS, "uid": "d3"}
    live["spec"]["template"]["spec"]["containers"][0]["args"] = ["--other"]
    world.kube.add(DEPLOYMENTS, live)
    notes = "\n".join(note.text for note in world.planned().notes)
    assert "Changed behind helm's back, and left so" in notes
    assert "~ apps/v1 Deployment llm-d/ms-three" in notes


def test_an_object_that_may_not_be_read_is_said_and_is_no_obstacle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Forbidden("no", reason="cannot get resource deployments")

    monkeypatch.setattr("llmd_runbook.clients.live.LiveObjects.find", refuse)
    notes = [note.text for note in world.planned().notes if note.title == "What cannot be previewed"]
    assert notes[-1] == "apps/v1 Deployment llm-d/ms-three, which may not be read: cannot get resource deployments"


@pytest.mark.parametrize("approve", ["", "0" * 64])
def test_without_its_hash_nothing_is_done_and_nothing_judged(world: World, approve: str) -> None:
    stage = world.open(approve)
    plan.plan(stage)
    patterns.apply(stage)  # the driver in memory has nothing that could change anything
    with pytest.raises(ApprovalNeeded), gate.guarded(stage, ROUTE_CHANGE):
        pytest.fail("reached")
    assert "not approved" in repr(patterns.verify(stage))
    result = stage.finish()
    assert (result.checks, result.steps[-1].status) == ([], StepStatus.SKIPPED)
    assert len(result.unapproved) == 1


def test_with_plan_only_nothing_is_done_even_where_the_notebook_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain papermill does not stop after the plan."""
    monkeypatch.setenv(PLAN_ONLY_VARIABLE, "1")
    stage = world.open(world.hash())
    plan.plan(stage)
    patterns.apply(stage)
    with pytest.raises(ApprovalNeeded), gate.guarded(stage, ROUTE_CHANGE):
        pytest.fail("reached")
    result = stage.finish()
    assert ([approval.by for approval in result.approvals], result.plan_only) == (["hash"], True)


def test_without_a_plan_nothing_is_done(world: World) -> None:
    stage = world.open()
    with pytest.raises(UsageError, match="no plan was made"):
        patterns.apply(stage)
    with pytest.raises(UsageError, match="no plan was made"), gate.guarded(stage, ROUTE_CHANGE):
        pytest.fail("reached")


def test_a_chart_that_changed_after_the_approval_is_named(world: World) -> None:
    stage = world.open(world.hash())
    plan.plan(stage)
    assert gate.permitted(stage, "swap")
    world.three.chart = "sha256:other"
    with pytest.raises(Conflict) as refused:
        gate.permitted(stage, "swap")
    assert refused.value.reason == "install: charts: ms-three: sha256:0 became sha256:other"


def approved(world: World) -> StageRun:
    stage = world.open(world.hash())
    plan.plan(stage)
    return stage


MOVED: dict[str, tuple[str, Callable[[World], object], str]] = {
    "revision": ("one", lambda world: setattr(world.one, "revision", 2), "release ms-one: deployed, revision 1 became"),
    "generation": ("one", lambda world: moved(world, DEPLOYMENTS, "ms-one", generation=2), "generation: 1 became 2"),
    "UID": ("one", lambda world: moved(world, DEPLOYMENTS, "ms-one", uid="d2"), "Deployment ms-one: UID: d1 became d2"),
    "installed": ("three", lambda world: setattr(world.three, "present", True), "release ms-three: absent became"),
    "route": ("route", lambda world: moved(world, HTTP_ROUTES, "r", generation=5), "HTTPRoute r: generation: 4 became"),
    "cluster": ("route", lambda world: moved(world, NAMESPACES, "kube-system", uid="x"), "cluster: UID: uid became x"),
}


def moved(world: World, resource: Any, name: str, **meta: Any) -> None:
    namespace = None if resource == NAMESPACES else NS
    world.kube.objects[resource.path(namespace, name)]["metadata"] |= meta


@pytest.mark.parametrize("what", MOVED)
def test_what_moved_is_named_and_the_change_is_not_made(world: World, what: str) -> None:
    which, move, said = MOVED[what]
    stage = approved(world)
    names = {"route": ROUTE_CHANGE, "one": release_change(world.profile.pattern1)}
    move(world)
    with (
        pytest.raises(Conflict) as refused,
        gate.guarded(stage, names.get(which, release_change(world.profile.pattern3))),
    ):
        pytest.fail("reached")
    assert said in (refused.value.reason or "")
    assert "nothing was changed" in refused.value.what


def test_our_own_change_is_no_obstacle_to_the_next_one(world: World) -> None:
    stage, name = approved(world), release_change(world.profile.pattern1)
    with gate.guarded(stage, name):
        world.one.present = False
    with gate.guarded(stage, name):
        world.one.present, world.one.revision = True, 2
    world.one.revision = 3  # and this was somebody else
    with pytest.raises(Conflict, match="revision 2 became deployed, revision 3"), gate.guarded(stage, name):
        pytest.fail("reached")


def test_a_change_that_broke_half_way_may_be_tried_again(world: World) -> None:
    stage, name = approved(world), release_change(world.profile.pattern1)

    def half_done() -> None:
        with gate.guarded(stage, name):
            world.one.present = False
            raise OSError("the network")

    with pytest.raises(OSError, match="the network"):
        half_done()
    with gate.guarded(stage, name):
        world.one.revision = 2
    assert gate.permitted(stage, "swap")


def test_what_a_killed_attempt_began_may_end_between_plan_and_change(world: World) -> None:
    """Its helm lives on without it: a release that was half done when the plan was made moves by itself."""
    world.three.present, world.three.status = True, "pending-install"
    stage, name = approved(world), release_change(world.profile.pattern3)
    world.three.status = "deployed"
    with gate.guarded(stage, name):
        world.three.revision = 2
    world.three.revision = 3
    with pytest.raises(Conflict, match="revision 2 became deployed, revision 3"), gate.guarded(stage, name):
        pytest.fail("reached")


def test_an_operation_under_way_may_end_between_plan_and_change(world: World) -> None:
    world.profile_with(new="swap: {strategy: surge}\n")
    world.pool.running = [OperationState("op-1", "SET_NODE_POOL_SIZE", "RUNNING", "", "", "")]
    stage = approved(world)
    world.pool.running, world.pool.min_nodes = [], 0
    with gate.guarded(stage, POOL_CHANGE):
        pass
    world.pool.min_nodes = 1
    with pytest.raises(Conflict, match="autoscaling: 0 to 5 became 1 to 5"), gate.guarded(stage, POOL_CHANGE):
        pytest.fail("reached")


def test_the_pool_is_sized_for_what_runs(world: World) -> None:
    assert target_nodes(world.profile, world.kube) == 3
    world.profile_with(new="swap: {strategy: surge}\n")
    assert target_nodes(world.profile, world.kube) == 4
    world.kube.objects[DEPLOYMENTS.path(NS, "ms-one")]["spec"]["replicas"] = 0
    assert target_nodes(world.profile, world.kube) == 3
    del world.kube.objects[DEPLOYMENTS.path(NS, "ms-one")]
    assert target_nodes(world.profile, world.kube) == 3


def test_a_surge_leaves_the_bounds_that_stage_02_holds_to_afterwards(world: World) -> None:
    """Looking again at what 02 left, once Pattern 1 is gone, finds nothing to do."""
    world.profile_with(new="swap: {strategy: surge}\n")
    world.pool.bounds = Bounds(4, 5)
    assert rows(world.planned())["autoscaling of the pool (nodes)"] == ["4 to 5", "3 to 5", "change"]
    state = world.pool.describe()
    del world.kube.objects[DEPLOYMENTS.path(NS, "ms-one")]
    after = bounds_left(world.profile, state, plan.nodes_afterwards(world.profile))
    assert after == bounds_held(world.profile, state, target_nodes(world.profile, world.kube)) == Bounds(3, 5)


@pytest.mark.parametrize(
    ("mode", "nodes", "said"),
    [
        ("autoscale", "3", "The autoscaler makes them once pods wait for a GPU."),
        ("observe", "1", "Run stage 02 first, or pods will wait for a node."),
    ],
)
def test_who_makes_the_nodes_that_are_missing_is_said(world: World, mode: str, nodes: str, said: str) -> None:
    world.profile_with("nodes: 3}", f"nodes: 3, mode: {mode}}}")
    result = world.planned()
    assert rows(result)["nodes of the pool"][:2] == ["1", nodes]
    assert f"Nodes of the pool: 1, needed: 3. {said}" in [note.text for note in result.notes]


def test_a_surge_beside_a_spot_pool_keeps_pattern_1s_node(world: World) -> None:
    """The way back needs it, and stage 02 holds to it."""
    world.profile_with("nodes: 3}", "nodes: 3, spot: spot}\nswap: {strategy: surge}")
    assert plan.nodes_afterwards(world.profile) == 1
    del world.kube.objects[DEPLOYMENTS.path(NS, "ms-one")]
    assert target_nodes(world.profile, world.kube) == 1
