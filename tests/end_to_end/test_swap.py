"""Both ways to swap and the way back, judged by a probe, which is compared with Envoy's own access log.

One sandbox serves the whole file in the order of the tests; requests follow a change of routes 2 s after the
conditions that announce it. The pool has four nodes until the surge shrinks it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from llmd_runbook.analysis.cutover import NEW, OLD, Asked, Outcome, outcome
from llmd_runbook.clients.kubernetes import HTTP_ROUTES
from llmd_runbook.clients.releases.helm import HelmDriver
from llmd_runbook.errors import DeadlineExceeded, GateFailed, RollbackFailed, RolledBack, ToolError
from llmd_runbook.profile import PARAMETERS
from llmd_runbook.run import StageRun, begin
from llmd_runbook.stages import verify
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.review import state as review_state
from llmd_runbook.stages.swap import by_hand as swap_by_hand
from llmd_runbook.stages.swap import gates, patterns, plan, steps
from llmd_runbook.stages.swap.probe import KEY, SwapProbe, announced, kept
from llmd_runbook.topology import endpoint, gpu_nodes, route_of
from llmd_runbook.verdicts import Check, StageResult, Verdict
from llmd_sandbox import processes
from tests.end_to_end.bench import QWEN, SERVERS1, SERVERS3, Bench
from tests.end_to_end.cases import fails, saw
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(300)

SANDBOX_OPTIONS = ("--route-lag-s", "100")
STAGE = "03_swap_patterns"
LEAST_REQUESTS = 2000
IMPATIENT_S = 6


class SwapBench(Bench):
    """A bench with a profile for each way to swap."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        super().__init__(sandbox, folder)
        self.folder = folder
        values = yaml.safe_load((PARAMETERS / "helm/ms-pattern3.yaml").read_text())
        values["decode"]["containers"][0]["args"].append("--max-model-len=nonsense")
        (folder / "values-broken.yaml").write_text(yaml.safe_dump(values))
        names = ["--served-model-name", self.profile.pattern3.model, self.profile.pattern1.model]
        values["decode"]["containers"][0]["args"][-1:] = names
        (folder / "values-alias.yaml").write_text(yaml.safe_dump(values))
        (folder / "values-two.yaml").write_text(yaml.safe_dump({"decode": {"replicas": 2}}))

    def write(self, name: str, *, broken: bool = False, alias: bool = False, requests: int = 36, **swap: object) -> str:
        """A profile; a `broken` one has a Pattern 3 that ends with an error when it starts, and little patience; one
        with an `alias` has a Pattern 3 that answers to the old model name too.
        """
        content = yaml.safe_load(self.file.read_text())
        content["load"]["requests"] = requests
        content["swap"] = {"quiet_s": 4, "compare_rounds": 0, **swap}
        if broken:
            content["pattern3"]["ready_timeout_s"] = IMPATIENT_S
            content["pattern3"]["releases"]["releases"][1]["values"].append(str(self.folder / "values-broken.yaml"))
        if alias:
            content["pattern3"]["releases"]["releases"][1]["values"].append(str(self.folder / "values-alias.yaml"))
        return self._written(name, content)

    def two_of_pattern_1(self) -> str:
        """A profile by which Pattern 1 has two replicas, with little patience for those of both patterns."""
        content = yaml.safe_load(Path(self.write("two", strategy="surge")).read_text())
        content["pattern1"]["replicas"] = 2
        content["pattern1"]["releases"]["releases"][1]["values"].append(str(self.folder / "values-two.yaml"))
        for pattern in ("pattern1", "pattern3"):
            content[pattern]["ready_timeout_s"] = IMPATIENT_S
        return self._written("two", content)

    def _written(self, name: str, content: object) -> str:
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content))
        return str(file)

    def open(self, profile: str, stage: str = STAGE, run: str = "new") -> StageRun:
        return begin(stage, profile, run, output=self.output)

    def state(self) -> tuple[str, list[str], str]:
        """Releases, routes, and where the clients' route leads."""
        releases = self.sandbox.start("helm", "list", "--short", "--namespace", "llm-d").stdout
        routes = self.kube.all(HTTP_ROUTES, "llm-d")
        (clients,) = [route_of(route).backends for route in routes if route["metadata"]["name"] == "llm-d-route"]
        names = [name for name in releases.split() if "infra" not in name]
        return " ".join(names), [route["metadata"]["name"] for route in routes], clients[0]

    def log(self, requests: list[Asked]) -> dict[str, dict[str, Any]]:
        """Envoy's access log, by request id, once all these requests that got a status are in it: it is buffered."""
        answered = {one.request_id for one in requests if one.status is not None}
        deadline = time.monotonic() + 30
        found: dict[str, dict[str, Any]] = {}
        while not answered <= found.keys() and time.monotonic() < deadline:
            time.sleep(0.2)
            whole = (self.sandbox.folder / "logs/envoy-access.log").read_text().rpartition("\n")[0]
            found = {entry["request_id"]: entry for entry in map(json.loads, whole.splitlines())}
        return found


ON_PATTERN_1 = ("gaie-pattern1 ms-pattern1", ["llm-d-route"], "InferencePool/gaie-pattern1")
ON_PATTERN_3 = ("gaie-pattern3 ms-pattern3", ["llm-d-route"], "InferencePool/gaie-pattern3")


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwapBench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield SwapBench(sandbox, tmp_path_factory.mktemp("bench"))


def by_id(result: StageResult) -> dict[str, Check]:
    return {check.id: check for check in result.checks}


def agrees_with_envoy(bench: SwapBench, requests: list[Asked]) -> None:
    """Request by request: what the probe says of its status is what Envoy wrote."""
    log = bench.log(requests)
    for one in requests:
        entry = log.get(one.request_id)
        if one.status is None:
            assert entry is None or entry["response_code"] in (0, 200), (one, entry)
        else:
            assert entry is not None, one
            assert entry["response_code"] == one.status, (one, entry)
        if one.ok:
            assert entry is not None
            assert entry["response_flags"] == "-", (one, entry)
            pool = "gaie-pattern1" if one.model == OLD else "gaie-pattern3"
            assert entry["upstream_cluster"] == f"pool/llm-d/{pool}"


def test_a_surge_without_gpus_changes_nothing_and_says_what_is_missing(bench: SwapBench) -> None:
    profile = bench.write("poor", strategy="surge")
    content = yaml.safe_load(Path(profile).read_text())
    content["pool"]["ready_timeout_s"] = 3
    Path(profile).write_text(yaml.safe_dump(content))
    stage = bench.open(profile)
    plan.plan(stage)
    with pytest.raises(DeadlineExceeded, match="surge needs 4 GPU nodes at once") as caught:
        patterns.apply(stage)
    stage.abandon("Done", "it was meant to fail")
    assert "stage 02" in (caught.value.remedy or "")
    assert bench.state() == ON_PATTERN_1


@fails("swap.gap")
def test_a_pattern_that_never_gets_ready_stays_beside_where_rollback_is_never(bench: SwapBench) -> None:
    """Nothing answers under the new name, and no way back gave it up."""
    bench.resized(4)
    stage = bench.open(bench.write("never", broken=True, strategy="surge", rollback="never"))
    plan.plan(stage)
    with pytest.raises(DeadlineExceeded, match="waited 6 s for 3 Ready replicas"):
        patterns.apply(stage)
    result = stage.finish()
    saw(result.checks)
    assert "http_404" in str(by_id(result)["swap.gap"].evidence)
    (note,) = [note.text for note in result.notes if note.title.startswith("Stopped where it failed")]
    assert "0 of 3 pods Ready, 3 wanted" in note
    assert "helm uninstall ms-pattern3 gaie-pattern3" in note
    assert bench.state()[2] == ON_PATTERN_1[2]


def test_a_pattern_that_never_gets_ready_goes_and_no_client_has_met_it(bench: SwapBench) -> None:
    """From the state that the attempt before left."""
    stage = bench.open(bench.write("broken", broken=True, strategy="surge"))
    plan.plan(stage)
    with pytest.raises(RolledBack) as caught:
        patterns.apply(stage)
    found = by_id(stage.finish())
    assert "CrashLoopBackOff" in (caught.value.reason or "") or "exit code 1" in (caught.value.reason or "")
    assert bench.state() == ON_PATTERN_1
    assert found["rollback.serves"].verdict is Verdict.PASS
    assert found["swap.gap"].verdict is Verdict.PASS
    requests = kept(stage)
    assert all(one.ok for one in requests if one.model == OLD)
    assert {one.error for one in requests if one.model == NEW} == {"http_404"}


@fails("swap.losses")
def test_a_gateway_that_is_down_for_a_moment(bench: SwapBench) -> None:
    """In a swap that goes back, as the one before, which lost nothing: Pattern 1 serves and shall serve throughout."""
    stage = bench.open(bench.write("broken", broken=True, strategy="surge"))
    plan.plan(stage)
    with ThreadPoolExecutor() as others:
        down = others.submit(down_for_a_moment, bench)
        with pytest.raises(RolledBack):
            patterns.apply(stage)
        down.result()
    found = by_id(stage.finish())
    saw(found.values())
    requests, said = kept(stage), announced(stage.profile, stage.data[KEY])
    lost = [one for one in requests if outcome(one, said) is Outcome.LOST]
    assert f"{len(lost)} of {len(requests)} lost" in found["swap.losses"].observed
    assert OLD in {one.model for one in lost}  # the new one is given up once the way back begins
    assert {one.error for one in lost} <= {"connect", "disconnected"}
    assert found["rollback.serves"].verdict is Verdict.PASS
    assert found["swap.gap"].verdict is Verdict.PASS
    agrees_with_envoy(bench, requests)


def down_for_a_moment(bench: SwapBench) -> None:
    """The gateway, from when Pattern 3 is being installed until a request is refused for it."""
    bench.pods(QWEN, 3)
    name = bench.profile.pattern1.gateway
    bench.kubectl("annotate", "gateway", name, "llmd-sandbox/gateway=down")
    bench.refuses(bench.profile.pattern1.model)
    bench.kubectl("annotate", "gateway", name, "llmd-sandbox/gateway-")


@fails("rollback.serves")
def test_a_way_back_on_which_a_second_replica_of_pattern_1_finds_no_memory(bench: SwapBench) -> None:
    """Pattern 1 is one replica short, and nothing that starts gets Ready; the replica that runs answers throughout."""
    bench.kubectl("annotate", "node", "--all", "llmd-sandbox/start=oom")
    stage = bench.open(bench.two_of_pattern_1())
    plan.plan(stage)
    with pytest.raises(RollbackFailed) as caught:
        patterns.apply(stage)
    found = by_id(stage.finish())
    saw(found.values())
    assert "google/gemma-2b-it: releases gaie-pattern1 deployed, ms-pattern1 deployed; 1 of 2 pods Ready, 2 wanted" in (
        found["rollback.serves"].observed
    )
    assert "waited 6 s for 2 Ready replicas" in (caught.value.reason or "")
    assert found["swap.gap"].verdict is Verdict.PASS
    assert all(one.ok for one in kept(stage) if one.model == OLD)
    bench.kubectl("annotate", "node", "--all", "llmd-sandbox/start-")
    undone = bench.sandbox.start("helm", "rollback", "ms-pattern1", "--namespace", "llm-d")
    assert undone.returncode == 0, undone.stderr
    bench.settled(SERVERS1)
    assert bench.state() == ON_PATTERN_1


def test_a_replica_that_crashes_after_the_route_moved(bench: SwapBench) -> None:
    """The route goes back first; requests were lost only after it had moved, and each of them is counted."""
    profile = bench.write("crash", strategy="surge")
    stage = bench.open(profile)
    crash = threading.Thread(target=crash_after_the_move, args=(bench,))
    crash.start()
    plan.plan(stage)
    with pytest.raises(RolledBack, match="Pattern 1 serves again") as caught:
        patterns.apply(stage)
    crash.join()
    found = by_id(stage.finish())
    assert "gate.readiness" in (caught.value.reason or "")
    assert found["gate.readiness"].verdict is Verdict.FAIL
    assert "1 restarted" in found["gate.readiness"].observed
    assert found["rollback.serves"].verdict is Verdict.PASS
    assert found["swap.gap"].verdict is Verdict.PASS
    assert bench.state() == ON_PATTERN_1
    requests, said = kept(stage), announced(stage.profile, stage.data[KEY])
    lost = [one for one in requests if outcome(one, said) is Outcome.LOST]
    assert found["swap.losses"].verdict is Verdict.FAIL
    assert f"{len(lost)} of {len(requests)} lost" in found["swap.losses"].observed
    assert NEW in {one.model for one in lost}
    assert all(one.done_s > stage.data[KEY]["marks"]["moved"] for one in lost)
    agrees_with_envoy(bench, requests)


def crash_after_the_move(bench: SwapBench) -> None:
    """Kill the server process of one replica of Pattern 3 as soon as the clients' route leads there."""
    pool = bench.profile.pattern3.inference_pool
    bench.kube.wait(
        HTTP_ROUTES,
        lambda items: any(
            item["metadata"]["name"] == "llm-d-route" and route_of(item).backends == [f"InferencePool/{pool}"]
            for item in items
        ),
        what="the move",
        timeout_s=120,
        remedy="look",
        namespace="llm-d",
    )
    target = endpoint(bench.kube, bench.profile, bench.profile.pattern3.gateway)
    opened = begin("04_verify", str(bench.file), "new", output=bench.output)
    with opened.step("wait") as step:
        traffic.wait_for_answer(target, bench.profile, bench.profile.pattern3.model, step)
    opened.abandon("Done", "only waited")
    servers = [
        found.pid
        for found in map(psutil.Process, processes.find(bench.sandbox.folder))
        if bench.profile.pattern3.model in found.cmdline()
    ]
    os.kill(servers[0], signal.SIGKILL)


def test_an_old_name_that_lives_on_as_an_alias_is_answered_throughout(bench: SwapBench) -> None:
    """And the commands that are told for a failed way back lead back from a Pattern 3 that serves, too."""
    bench.resized(4)
    stage = bench.open(bench.write("alias", alias=True, strategy="surge", old_name="alias"))
    plan.plan(stage)
    patterns.apply(stage)
    verify.answers(stage)
    result, names = stage.finish(), [bench.profile.pattern3.model, bench.profile.pattern1.model]
    assert [(check.observed, check.evidence) for check in result.checks if check.verdict is not Verdict.PASS] == []
    assert f"are answered by {names[0]}" in "\n".join(note.text for note in result.notes)
    assert by_id(result)["verify.models"].expected == ", ".join(names)
    requests = kept(stage)
    assert {(one.model, one.error) for one in requests} == {(OLD, None), (NEW, None), (NEW, "http_404")}
    log = bench.log(requests)
    by_new = {one.model for one in requests if one.ok and log[one.request_id]["upstream_cluster"].endswith("pattern3")}
    assert by_new == {OLD, NEW}
    assert bench.state() == ON_PATTERN_3
    by_hand(bench, swap_by_hand.commands(stage.profile, bench.kube.context))
    assert bench.state() == ON_PATTERN_1
    bench.resized(4)


def by_hand(bench: SwapBench, commands: list[str]) -> None:
    """What an operator types to have Pattern 1 back."""
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command], env=bench.sandbox.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
    bench.answers(bench.profile.pattern1.model)


def test_a_surge_loses_no_request_that_was_not_announced(bench: SwapBench) -> None:
    stage = bench.open(bench.write("surge", strategy="surge", probe_requests_per_s=40, quiet_s=36, compare_rounds=1))
    plan.plan(stage)
    patterns.apply(stage)
    patterns.verify(stage)
    result = stage.finish()
    assert [(check.observed, check.evidence) for check in result.checks if check.verdict is not Verdict.PASS] == []
    assert bench.state() == ON_PATTERN_3
    assert len(gpu_nodes(bench.kube, bench.profile.pool.name)) == 3
    requests = kept(stage)
    assert len(requests) >= LEAST_REQUESTS
    assert result.data[KEY]["requests"] == len(requests)
    kinds = {(one.model, one.error) for one in requests}
    assert kinds == {(OLD, None), (OLD, "http_404"), (NEW, None), (NEW, "http_404")}
    by_turns = [(entry["pattern"], entry["failures_by_kind"]) for entry in result.data["interleaved"]]
    assert by_turns == [("pattern1", {}), ("pattern3", {})]
    assert "0 streams open" not in by_id(result)["swap.losses"].observed
    agrees_with_envoy(bench, requests)
    log = bench.log(requests)
    refused = sum(log[one.request_id]["response_code"] == 404 for one in requests)
    by_name = result.data[KEY]["by_name"]
    assert refused == sum(by_name[name]["refused as announced"] for name in (OLD, NEW))


@pytest.fixture(scope="module")
def reviewed(bench: SwapBench) -> Callable[[float], StageRun]:
    """Opens stage 03 with a bound of the p95, in a run whose stage 01 measured the same Pattern 3."""
    profile = bench.write("reviewed", requests=90)
    review = bench.open(profile, "01_review_state")
    review.profile = review.profile.model_copy(update={"pattern1": review.profile.pattern3})
    review_state.baseline(review)
    review.finish()

    def opened(max_p95_ratio: float) -> StageRun:
        stage = bench.open(profile, run=review.run_id)
        swap = stage.profile.swap.model_copy(update={"max_p95_ratio": max_p95_ratio})
        stage.profile = stage.profile.model_copy(update={"swap": swap})
        return stage

    return opened


@fails("gate.p95")
def test_a_bound_that_no_latency_holds(bench: SwapBench, reviewed: Callable[[float], StageRun]) -> None:
    assert held(bench, reviewed(0.01)) == ["gate.p95"]


@fails("gate.affinity")
def test_a_picker_that_gives_prefixes_no_weight(
    bench: SwapBench, reviewed: Callable[[float], StageRun], tmp_path: Path
) -> None:
    with bench.blind_picker(tmp_path):
        stage = reviewed(100)
        assert held(bench, stage) == ["gate.affinity"]
    assert [check.verdict for check in stage.checks(["gate.p95"])] == [Verdict.PASS]


@fails("gate.errors")
def test_a_pattern_3_whose_picker_is_gone(bench: SwapBench) -> None:
    with bench.without_picker("pattern3"):
        stage = bench.open(bench.write("plain"))
        assert held(bench, stage) == ["gate.errors"]
    assert "http_500" in str(stage.checks(["gate.errors"])[0].evidence)


@fails("gate.readiness")
def test_a_replica_that_goes_once_pattern_3_is_ready(bench: SwapBench) -> None:
    """Without a request lost: it had none, and the others answer."""

    def scaled_down() -> None:
        bench.scaled(SERVERS3, 2)
        bench.pods(QWEN, 2)

    stage = bench.open(bench.write("plain"))
    assert held(bench, stage, scaled_down) == ["gate.readiness"]
    assert stage.checks(["gate.readiness"])[0].observed == "2 of 2 Ready, 0 restarted, 0 replaced"
    bench.scaled(SERVERS3, 3)
    bench.settled(SERVERS3)


def held(bench: SwapBench, stage: StageRun, after_ready: Callable[[], None] = lambda: None) -> list[str]:
    """Which gates fail on Pattern 3 as it is after that; every other one passes."""
    target = endpoint(bench.kube, stage.profile, stage.profile.pattern3.gateway)
    before = gates.restarts(steps.pods_of(stage, bench.kube, stage.profile.pattern3))
    after_ready()
    with SwapProbe(stage, bench.kube) as probe:
        probe.mark("serving")
        with pytest.raises(GateFailed) as caught:
            gates.hold(stage, bench.kube, probe, target, before)
    found = by_id(stage.finish())
    saw(found.values())
    failed = [name for name, check in found.items() if check.verdict is Verdict.FAIL]
    assert caught.value.what == f"Pattern 3 did not hold {', '.join(failed)}"
    assert {check.verdict for name, check in found.items() if name not in failed} == {Verdict.PASS}
    return failed


def test_a_way_back_that_fails_says_how_to_finish_by_hand_and_that_works(
    bench: SwapBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a half-done swap: the route is on Pattern 1's pool, nothing of Pattern 1 runs, Pattern 3 cannot start."""
    bench.kube.apply(HTTP_ROUTES, traffic.manifest(bench.profile, bench.profile.pattern1), "llm-d")
    stage = bench.open(bench.write("stuck", broken=True, strategy="recreate"))
    apply = HelmDriver.apply

    def no_pattern_1(self: HelmDriver, on_line: Any) -> Any:
        if "ms-pattern1" in self.names():
            raise ToolError("helm failed", reason="planted")
        return apply(self, on_line)

    monkeypatch.setattr(HelmDriver, "apply", no_pattern_1)
    plan.plan(stage)
    with pytest.raises(RollbackFailed) as caught:
        patterns.apply(stage)
    found = by_id(stage.finish())
    assert found["rollback.serves"].verdict is Verdict.FAIL
    assert found["swap.gap"].verdict is Verdict.FAIL
    assert "ms-pattern1 absent" in (caught.value.where or "")
    assert "planted" in (caught.value.reason or "")
    by_hand(bench, (caught.value.remedy or "").splitlines()[1:])
    assert bench.state() == ON_PATTERN_1


def test_recreate_reports_its_gap_as_envoy_saw_it(bench: SwapBench) -> None:
    stage = bench.open(bench.write("recreate", strategy="recreate"))
    plan.plan(stage)
    patterns.apply(stage)
    patterns.verify(stage)
    result = stage.finish()
    assert [(check.observed, check.evidence) for check in result.checks if check.verdict is not Verdict.PASS] == []
    assert bench.state() == ON_PATTERN_3
    requests, data = kept(stage), result.data[KEY]
    agrees_with_envoy(bench, requests)
    assert min(data["lost_in_outage"].values()) > 0
    log = bench.log(requests)
    mine = [log[one.request_id] for one in requests if one.request_id in log]
    at = {
        pool: [moment(entry) for entry in mine if entry["upstream_cluster"] == pool and entry["response_code"] == 200]
        for pool in ("pool/llm-d/gaie-pattern1", "pool/llm-d/gaie-pattern3")
    }
    cut_off = {one.request_id for one in requests if one.status == 200 and not one.ok}
    last_old = max(
        moment(log[one.request_id]) for one in requests if one.ok and one.model == OLD and one.request_id not in cut_off
    )
    gap_s = min(at["pool/llm-d/gaie-pattern3"]) - last_old
    assert data["gap_at_least_s"] - 1 <= gap_s <= data["gap_at_most_s"] + 1
    failed = sum(entry["response_code"] != 200 or entry["request_id"] in cut_off for entry in mine)
    by_name = data["by_name"]
    assert failed + len(requests) - len(mine) == sum(
        count for name in (OLD, NEW) for kind, count in by_name[name].items() if kind != "answered"
    )


def moment(entry: dict[str, Any]) -> float:
    return datetime.fromisoformat(entry["start_time"]).timestamp()
