"""Pattern 3 on 1 to 3 replicas, on a cluster in memory, with made-up loads: plan, verdicts, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from llmd_runbook.analysis.latency import Refusal, Throughput
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import (
    AUTOSCALERS,
    DEPLOYMENTS,
    INFERENCE_POOLS,
    NAMESPACES,
    NODES,
    PODS,
    Object,
    Resource,
)
from llmd_runbook.errors import ApprovalNeeded, Conflict, DeadlineExceeded
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.load.watch import Readings
from llmd_runbook.run import StageRun, begin, lock
from llmd_runbook.stages import site
from llmd_runbook.stages.load import measurement, replica_scaling, traffic
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.verdicts import Check, StageResult, StepStatus, Verdict
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.loads import load
from tests.llmd_runbook.stages.releases import GPU_LIMIT, Releases

NS, NAME, STAGE = "llm-d", "three", "06_throughput_and_cost"
CELLS = (replica_scaling.plan, replica_scaling.restore, replica_scaling.measure, replica_scaling.judge)
ORDER = [3, 2, 1, 1, 2, 3, 3, 2, 1]


class Cluster(Memory):
    """Three nodes with a GPU each, and a Deployment whose pods are Ready as soon as they are asked for.

    Attributes:
        scaled: what was asked for, in order.
        never_ready: with so many replicas a wait ends at its deadline.
        dies_at: call of `scale`, from 1, at which the process is interrupted: before it, or after it is done.
    """

    def __init__(self, nodes: int = 3) -> None:
        super().__init__()
        self.context = "c"
        self.scaled: list[int] = []
        self.never_ready = 0
        self.dies_at, self.dies_after = 0, False
        self.disowned = 0
        spec = {"selector": {"matchLabels": {"app": NAME}}, "targetPorts": [{"number": 8000}]}
        meta: Object = {"name": NAME, "namespace": NS}
        self.add(INFERENCE_POOLS, {"metadata": meta, "spec": spec | {"endpointPickerRef": {"name": "e"}}})
        self.add(NAMESPACES, {"metadata": {"name": "kube-system", "uid": "uid"}})
        template = {"metadata": {"labels": {"app": NAME}}, "spec": {"containers": [self._container()]}}
        self.add(
            DEPLOYMENTS,
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {**meta, "uid": "u", "generation": 1},
                "spec": {"replicas": 3, "selector": {"matchLabels": {"app": NAME}}, "template": template},
            },
        )
        for number in range(nodes):
            status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": GPU_LIMIT}
            labels = {"cloud.google.com/gke-nodepool": "pool"}
            self.add(NODES, {"metadata": {"name": f"n{number}", "labels": labels}, "status": status})
        self._pods(3)

    @staticmethod
    def _container() -> Object:
        return {"name": "vllm", "resources": {"limits": GPU_LIMIT}}

    def pod(self, name: str, node: str, labels: dict[str, str]) -> None:
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        meta = {"name": name, "namespace": NS, "labels": labels}
        self.add(
            PODS, {"metadata": meta, "spec": {"containers": [self._container()], "nodeName": node}, "status": status}
        )

    def _pods(self, count: int) -> None:
        self.objects = {path: item for path, item in self.objects.items() if f"/pods/{NAME}-" not in path}
        for number in range(count):
            self.pod(f"{NAME}-{number}", f"n{number}", {"app": NAME})

    @property
    def replicas(self) -> int:
        return int(self.get(DEPLOYMENTS, NAME, NS)["spec"]["replicas"])

    def scale(self, deployment: str, namespace: str, replicas: int, **_: Any) -> None:
        self.scaled.append(replicas)
        if len(self.scaled) == self.dies_at and not self.dies_after:
            raise KeyboardInterrupt
        item = self.get(DEPLOYMENTS, deployment, namespace)
        item["spec"]["replicas"] = replicas
        item["metadata"]["generation"] += 1
        self._pods(replicas)
        if len(self.scaled) == self.dies_at:
            raise KeyboardInterrupt

    def disown(self, resource: Resource, item: Object, namespace: str, **_: Any) -> None:
        self.disowned += 1

    def wait(self, resource: Resource, done: Callable[[list[Object]], Any], **named: Any) -> Any:
        found = done(self.all(resource, named.get("namespace"), named.get("selector", "")))
        if self.replicas == self.never_ready or found in (None, False):
            raise DeadlineExceeded(f"waited for {named['what']}", reason="last state: Insufficient nvidia.com/gpu")
        return found


def measured(replicas: int, rate: float, noise: float) -> Measured:
    """60 in flight whatever the replicas; each of them holds its part."""
    found = load(rate * (1 + noise), 60)
    readings = Readings(
        at_s=[0.0, 1.0, 2.0],
        running={f"{NAME}-{number}": [60 / replicas] * 3 for number in range(replicas)},
        waiting={f"{NAME}-{number}": [0.0] * 3 for number in range(replicas)},
        kv_usage={f"{NAME}-{number}": [0.1] * 3 for number in range(replicas)},
        hit_share=0.0,
    )
    return replace(found, readings=readings, conditions=replace(found.conditions, replicas=replicas))


class World:
    """The cluster and what a load on so many replicas gives; stages of one run on it."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.kube = bench, Cluster()
        self.rates = {1: 10.0, 2: 18.0, 3: 24.0}
        self.loads: list[tuple[int, int, int, int]] = []
        self.dies_at_load = 0
        self.change: Callable[[Measured], Measured] = lambda found: found
        self.error: ClientError | Refusal = ClientError(60, 180, 0.001, 0.001, 0.001, 0.001)
        self.asking(3)

    def asking(self, up_to: int, approval: str = "self", pool: str = "") -> None:
        text = self.bench.profile_file.read_text().partition("load:")[0].partition("approval:")[0]
        text = text.replace("nodes: 3}", f"nodes: 3{pool}}}") if pool else text
        wanted = f"load: {{scale_up_to: {up_to}, concurrency: 20, requests: 200}}\n" if up_to else ""
        self.bench.profile_file.write_text(f"{text}approval: {approval}\n{wanted}")

    def open(self, approve: str = "") -> StageRun:
        return begin(
            STAGE,
            str(self.bench.profile_file),
            "new",
            approve,
            identify=lambda _: self.bench.cluster,
            output=self.bench.output,
            notebooks=self.bench.notebooks,
        )

    def load(
        self, _profile: Any, _target: Any, pattern: Any, in_flight: int, _step: Any, *, seed: int, scale: int
    ) -> Measured:
        size = pattern.replicas
        assert size == self.kube.replicas
        self.loads.append((size, in_flight, scale, seed))
        if len(self.loads) == self.dies_at_load:
            raise KeyboardInterrupt
        return self.change(measured(size, self.rates[size], 0.01 * math.sin(len(self.loads))))

    def run(self) -> StageResult:
        stage = self.open()
        for cell in CELLS:
            cell(stage)
        replica_scaling.plot(stage)
        return stage.finish()


@pytest.fixture
def world(bench: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(bench)
    monkeypatch.setattr(site, "kubernetes", lambda _: made.kube)
    monkeypatch.setattr(site, "driver", lambda *_, **__: Releases(NAME, present=True, replicas=3))
    monkeypatch.setattr(lock, "holds", lambda _: True)
    monkeypatch.setattr(traffic, "wait_for_answer", lambda *_: None)
    monkeypatch.setattr(replica_scaling, "endpoint", lambda *_: Endpoint("http://gateway"))
    monkeypatch.setattr(measurement, "measure", made.load)
    monkeypatch.setattr(measurement, "client_error", lambda *_: made.error)
    return made


def checks(result: StageResult) -> dict[str, Check]:
    return {check.id.removeprefix("scaling."): check for check in result.checks}


def verdicts(result: StageResult) -> list[Verdict]:
    return [check.verdict for check in result.checks]


def test_each_size_is_measured_thrice_under_the_same_load_and_the_number_is_put_back(world: World) -> None:
    result = world.run()
    assert [size for size, *_ in world.loads] == ORDER
    assert {(in_flight, scale) for _, in_flight, scale, _ in world.loads} == {(60, 3)}
    assert len({seed for *_, seed in world.loads}) == 9  # or the caches would know the prompts
    assert world.kube.scaled == [2, 1, 2, 3, 2, 1, 3]
    assert (world.kube.replicas, world.kube.disowned) == (3, 1)
    assert verdicts(result) == [Verdict.PASS] * 3
    assert checks(result)["gain"].observed.startswith("3 replicas serve 2.4")
    (table,) = [item for item in result.tables if item.title == "The same load on 1 to N replicas"]
    assert [row[:5] for row in table.rows] == [[size, 3, 60, 1800, 0] for size in (1, 2, 3)]
    assert [str(row[7])[:4] for row in table.rows] == ["1", "0.90", "0.80"]
    assert str(table.rows[0][5]).endswith("n=3")
    assert str(table.rows[0][9]).startswith("0.28 [")  # 1 USD/h over 3600 s and 980 tokens/s


def test_the_plan_says_what_when_and_for_how_long(world: World) -> None:
    world.asking(3, approval="hash")
    stage = world.open()
    replica_scaling.plan(stage)
    result = stage.finish()
    (approval,) = result.unapproved
    change, *_ = next(table for table in result.tables if table.title == "Plan").rows
    assert change[:3] == ["replicas of llm-d/three", "3", "3, 2, 1, 1, 2, 3, 3, 2, 1 in turn, then 3"]
    steps = [str(row[0]) for row in next(table for table in result.tables if table.title == "How long").rows]
    assert steps[0] == "run Pattern 3 on 1 replica"
    assert steps[4] == "measure 2 replicas with 60 requests in flight"
    assert steps[-1] == "put the number of replicas back"
    assert "9 measurements of 600 requests, 60 in flight" in str(result.notes)
    assert "3 usable nodes of pool pool offer 3, other pods of namespace llm-d hold 0: 3 are left" in str(result.notes)
    assert world.kube.scaled == []
    world.kube.get(DEPLOYMENTS, NAME, NS)["spec"]["replicas"] = 1
    again = world.open(approval.hash)
    replica_scaling.plan(again)
    found = again.finish()
    assert [item.by for item in found.approvals] == ["hash"]  # the intent does not depend on how far it is
    assert "1, where the release says 3: an earlier attempt may have left it" in str(found.tables)


def test_without_approval_nothing_is_changed_and_nothing_proved(world: World) -> None:
    world.asking(3, approval="hash")
    result = world.run()
    assert (world.kube.scaled, world.loads) == ([], [])
    assert verdicts(result) == [Verdict.INCONCLUSIVE] * 3
    assert {check.remedy for check in result.checks} == {"approve the plan: set its hash"}
    assert [step.status for step in result.steps if "other numbers" in step.name] == [StepStatus.SKIPPED]


def test_what_is_not_asked_for_is_not_planned_and_not_judged(world: World) -> None:
    world.asking(0)
    result = world.run()
    assert (result.checks, result.steps, result.tables, world.loads) == ([], [], [], [])


@pytest.mark.parametrize(
    ("sizes", "others", "pool", "said"),
    [
        (4, 0, "", "4 replicas need 4 nvidia.com/gpu; 3 usable nodes of pool pool offer 3"),
        (
            3,
            1,
            "",
            "3 replicas need 3 nvidia.com/gpu; 3 usable nodes of pool pool offer 3, other pods of namespace llm-d",
        ),
        (6, 0, ", mode: autoscale, max_nodes: 5", "pool pool grows to 5 nodes with one each"),
    ],
)
def test_too_few_gpus_is_inconclusive_with_the_arithmetic(
    world: World, sizes: int, others: int, pool: str, said: str
) -> None:
    world.asking(sizes, pool=pool)
    for number in range(others):
        world.kube.pod(f"other-{number}", "n0", {"app": "phi"})
    result = world.run()
    assert (world.kube.scaled, world.loads, result.approvals) == ([], [], [])
    assert verdicts(result) == [Verdict.INCONCLUSIVE] * 3
    assert said in result.checks[0].observed
    assert result.checks[0].observed.endswith(f"{(5 if pool else 3) - others} are left")
    assert "load.scale_up_to" in str(result.checks[0].remedy)


def test_an_autoscaled_pool_that_may_grow_is_not_refused(world: World) -> None:
    world.asking(5, pool=", mode: autoscale, max_nodes: 5")
    world.rates |= {4: 30.0, 5: 35.0}
    assert verdicts(world.run()) == [Verdict.PASS] * 3


def test_an_autoscaler_of_the_replicas_is_refused_before_anything_is_changed(world: World) -> None:
    target = {"kind": "Deployment", "name": NAME}
    world.kube.add(AUTOSCALERS, {"metadata": {"name": "hpa", "namespace": NS}, "spec": {"scaleTargetRef": target}})
    with pytest.raises(Conflict, match="an autoscaler keeps the number") as refused:
        replica_scaling.plan(world.open())
    assert refused.value.reason == "HorizontalPodAutoscaler hpa"
    assert world.kube.scaled == []


def test_a_gitops_tools_deployment_is_refused_before_anything_is_changed(world: World) -> None:
    meta = world.kube.get(DEPLOYMENTS, NAME, NS)["metadata"]
    meta["annotations"] = {"argocd.argoproj.io/tracking-id": "models:apps/Deployment:llm-d/three"}
    with pytest.raises(Conflict, match="somebody else's care"):
        replica_scaling.plan(world.open())
    assert world.kube.scaled == []


def test_replicas_that_bring_nothing_fail(world: World) -> None:
    world.rates = dict.fromkeys((1, 2, 3), 10.0)
    result = world.run()
    assert verdicts(result) == [Verdict.PASS, Verdict.FAIL, Verdict.PASS]
    assert "of the gain that would be linear" in checks(result)["gain"].observed


def test_failures_are_the_reason_why_no_gain_is_known_also_where_the_client_is_not(world: World) -> None:
    world.error = Refusal("too few answers to calibrate against")
    world.change = lambda found: replace(found, failures_by_kind={"http_500": 2})
    result = world.run()
    assert verdicts(result) == [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    assert checks(result)["gain"].observed.startswith("not comparable: failed requests 2 and 2")


def test_rounds_that_disagree_decide_nothing(world: World) -> None:
    world.change = lambda found: replace(
        found, throughput=replace(rate_of(found), requests_per_s=(8.0, 30.0, 9.0)[len(world.loads) % 3])
    )
    result = world.run()
    assert verdicts(result) == [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.PASS]


def rate_of(found: Measured) -> Throughput:
    assert isinstance(found.throughput, Throughput)
    return found.throughput


def test_a_client_that_is_the_limit_decides_nothing(world: World) -> None:
    world.error = ClientError(60, 180, 0.001, 5.0, 0.001, 0.001)
    result = world.run()
    assert checks(result)["gain"].verdict is Verdict.INCONCLUSIVE
    assert "INVALID (client-bound)" in checks(result)["gain"].observed
    shown = [row[5:] for table in result.tables if table.title.startswith("The same load on") for row in table.rows]
    assert len(shown) == 3
    assert all(str(cell) == "1" or str(cell).startswith("none: ") for row in shown for cell in row)


def test_failed_requests_fail_and_leave_no_ratio(world: World) -> None:
    world.change = lambda found: replace(found, failures_by_kind={"http_503": 2} if len(world.loads) == 2 else {})
    result = world.run()
    assert verdicts(result) == [Verdict.FAIL, Verdict.PASS, Verdict.PASS]
    assert checks(result)["served"].observed == "2 replicas, round 1: http_503: 2"


def idle(found: Measured) -> Measured:
    """Its last replica never had a request."""
    last = max(found.readings.running)
    return replace(found, readings=replace(found.readings, running={**found.readings.running, last: [0.0] * 3}))


def test_a_replica_without_a_request_fails(world: World) -> None:
    world.change = idle
    found = checks(world.run())["served"]
    assert found.verdict is Verdict.FAIL
    assert "3 replicas, round 1: three-2 had no request" in found.observed


def test_a_load_that_nobody_watched_proves_nothing(world: World) -> None:
    world.change = lambda found: replace(found, readings=replace(found.readings, running={}, trouble="403: forbidden"))
    found = checks(world.run())["served"]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "3 replicas, round 1: 0 replicas were watched (403: forbidden)" in found.observed


def test_a_size_that_does_not_get_ready_is_said_and_the_number_put_back(world: World) -> None:
    world.kube.never_ready = 1
    result = world.run()
    assert verdicts(result) == [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    assert "waited for 1 Ready replicas of three: last state: Insufficient" in checks(result)["served"].observed
    assert "3 replicas were not measured beside one" in checks(result)["gain"].observed
    assert world.kube.replicas == 3


def test_a_number_that_does_not_come_back_fails(world: World) -> None:
    def then_broken(found: Measured) -> Measured:
        world.kube.never_ready = 3 if len(world.loads) == 9 else 0
        return found

    world.change = then_broken
    result = world.run()
    assert verdicts(result) == [Verdict.PASS, Verdict.PASS, Verdict.FAIL]
    assert "waited for 3 Ready replicas" in checks(result)["restored"].observed
    assert world.kube.disowned == 1, "the release can be changed afterwards all the same"


def test_somebody_who_scales_meanwhile_is_named(world: World) -> None:
    def scaled(found: Measured) -> Measured:
        if len(world.loads) == 2:
            world.kube.scale(NAME, NS, 5)
        return found

    world.change = scaled
    stage = world.open()
    replica_scaling.plan(stage)
    with pytest.raises(Conflict, match="Deployment three: replicas: 2 became 5"):
        replica_scaling.measure(stage)
    stage.abandon("Conflict", "as a cell that raises does")
    assert world.kube.replicas == 3


DEATHS = [(point, after, 0) for point in range(1, 8) for after in (False, True)] + [
    (0, False, point) for point in range(1, 10)
]


def interrupted(world: World, at_scale: int, after: bool, at_load: int) -> StageRun:
    """An attempt in whose measurement the process is interrupted there."""
    world.kube.dies_at, world.kube.dies_after, world.dies_at_load = at_scale, after, at_load
    stage = world.open()
    replica_scaling.plan(stage)
    with pytest.raises(KeyboardInterrupt):
        replica_scaling.measure(stage)
    return stage


@pytest.mark.parametrize(("at_scale", "after", "at_load"), DEATHS)
def test_an_attempt_that_is_interrupted_anywhere_puts_the_number_back(
    world: World, at_scale: int, after: bool, at_load: int
) -> None:
    stage = interrupted(world, at_scale, after, at_load)
    stage.abandon("KeyboardInterrupt", "as a cell that raises does")
    assert world.kube.replicas == 3


@pytest.mark.parametrize(("at_scale", "after", "at_load"), DEATHS)
def test_after_a_kill_anywhere_the_next_attempt_puts_it_back_and_measures(
    world: World, at_scale: int, after: bool, at_load: int
) -> None:
    stage = interrupted(world, at_scale, after, at_load)
    stage._undo.clear()  # SIGKILL: nothing of this process runs any more
    stage.abandon("Killed", "by SIGKILL")
    left = world.kube.replicas
    world.kube.dies_at = world.dies_at_load = 0
    world.kube.scaled.clear()
    world.loads.clear()
    result = world.run()
    assert verdicts(result) == [Verdict.PASS] * 3
    assert world.kube.scaled == ([] if left == 3 else [3]) + [2, 1, 2, 3, 2, 1, 3]


def left_at(world: World, replicas: int) -> None:
    world.kube.scale(NAME, NS, replicas)
    world.kube.scaled.clear()


def test_what_was_left_is_not_measured_without_approval(world: World) -> None:
    world.asking(3, approval="hash")
    left_at(world, 1)
    stage = world.open()
    replica_scaling.plan(stage)
    with pytest.raises(ApprovalNeeded, match="runs on 1 replicas, and its release says 3") as said:
        replica_scaling.restore(stage)
    assert "kubectl --context c --namespace llm-d scale deployment three --replicas=3" in str(said.value)
    assert world.kube.scaled == []


def test_what_was_left_is_said_where_nothing_is_asked_for_any_more(world: World) -> None:
    world.asking(0)
    left_at(world, 1)
    with pytest.raises(Conflict, match="runs on 1 replicas, and every figure of this stage is for 3") as said:
        replica_scaling.restore(world.open())
    assert "--replicas=3" in str(said.value.remedy)
    assert world.kube.scaled == []
