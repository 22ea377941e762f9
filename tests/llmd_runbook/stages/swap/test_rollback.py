"""Each gate of a swap in the case in which it fails, and what follows: the way back, its failure, or neither of them.

The steps on the cluster are replaced by ones that note that they were asked for; gates, strategies and the way back
are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmd_runbook.analysis.cutover import NEW, OLD, Asked
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.errors import (
    ApiError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    GateFailed,
    Locked,
    LockLost,
    NotFound,
    RollbackFailed,
    RolledBack,
    RunbookError,
    ToolError,
    Unreachable,
    UsageError,
)
from llmd_runbook.profile import Pattern
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import measurement, traffic
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.swap import by_hand, compare, drain, gates, patterns, steps, surge
from llmd_runbook.stages.swap.probe import SwapProbe
from llmd_runbook.topology import Replica
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.clients.server import Reply, serving
from tests.llmd_runbook.stages.loads import load

Open = Callable[[str], StageRun]

WEIGHTS = {"prefix-cache-scorer": 3.0, "queue-scorer": 2.0}
BY_HAND = ["kubectl apply ROUTE", "helm uninstall THREE", "helm upgrade --install ONE"]
TARGET = Endpoint("http://gateway")
TO_THE_OLD_ROUTE = ["route to a", "own route closed", "remove b"]
"""The way back while Pattern 1 still runs: the clients first, then what is left of Pattern 3."""


def replica(name: str, *, ready: bool = True, restarts: int = 0, terminating: bool = False) -> Replica:
    status = {"containerStatuses": [{"restartCount": restarts, "ready": ready}]}
    return Replica(name, "node", "Running", ready, restarts, 1, terminating, {"status": status})


def answers(failed: int = 0, of: int = 60) -> list[Asked]:
    """The probe's requests under the new name since it is served, the first of them failed."""
    errors = ["http_500" if number < failed else None for number in range(of)]
    return [
        Asked(NEW, False, 2 + at / 20, 2 + at / 20, 2.5 + at / 20, 500 if error else 200, error, f"{at}", 0, 0)
        for at, error in enumerate(errors)
    ]


class Probe:
    """What the stage sees of a probe."""

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}
        self.trouble = ""
        self.sent = answers()
        self.waits: list[tuple[str, str]] = []
        """What was waited for: requests under this name, since this moment."""

    def mark(self, name: str, *, ago_s: float = 0.0) -> None:
        self.marks.setdefault(name, 1.0)

    def ask(self, name: str, target: Endpoint) -> None:
        assert name == NEW

    def wait_for(self, name: str, answers: int, *, since: str = "") -> bool:
        self.waits.append((name, since))
        return True

    def requests(self) -> list[Asked]:
        return self.sent


class Swap:
    """A stage 03 whose steps only note what they would do; by default everything holds."""

    def __init__(self, stage: StageRun, patch: pytest.MonkeyPatch) -> None:
        self.stage, self.probe = stage, Probe()
        self.done: list[str] = []
        self.pods = {"a": [replica("one")], "b": [replica(f"three-{n}") for n in range(3)]}
        self.later: dict[str, list[Replica]] = {}
        """Pods by pattern from the moment on that the route has moved."""
        self.loaded = load(20.0)
        self.weights = dict(WEIGHTS)
        self.broken: dict[str, RunbookError] = {}
        """What a step raises in place of being done."""
        self.use(strategy="surge")
        patch.setattr(site, "kubernetes", lambda _: SimpleNamespace(context="c"))
        patch.setattr(site, "driver", lambda *_: SimpleNamespace(render=list))
        patch.setattr(site, "model_servers", lambda *_: None)
        for name, does in {
            "pods_of": lambda _, __, pattern: self.pods[pattern.model],
            "releases_of": lambda _, pattern: [f"ms-{pattern.model}"],
            "serves": lambda *_: False,
            "install_servers": self.install_servers,
            "switch": self.switch,
            "remove": lambda _, pattern: self.note(f"remove {pattern.model}"),
        }.items():
            patch.setattr(steps, name, does)
        patch.setattr(traffic, "open_own", lambda *_: self.note("own route opened"))
        patch.setattr(traffic, "close_own", lambda *_: self.note("own route closed"))
        patch.setattr(surge, "_prove", lambda *_: TARGET)
        patch.setattr(surge, "_old_address", lambda *_: TARGET)
        patch.setattr(surge, "shrink", lambda _: self.note("shrink"))
        patch.setattr(compare, "measure", lambda *_: None)
        patch.setattr(drain, "read", lambda *_: {})
        patch.setattr(drain, "live", lambda *_: [])
        patch.setattr(gates, "picker_weights", lambda *_: (self.weights, "ConfigMap c, key k", ""))
        patch.setattr(measurement, "measure", self.measure)
        patch.setattr(by_hand, "commands", lambda *_: BY_HAND)
        patch.setattr(by_hand, "state", lambda *_: "a: 0 of 1 pods Ready")
        review = SimpleNamespace(data={"baseline": load(20.0).data()})
        patch.setattr(stage, "earlier", lambda _: review)

    def use(self, **swap: Any) -> None:
        profile = self.stage.profile
        self.stage.profile = profile.model_copy(update={"swap": profile.swap.model_copy(update=swap)})

    def note(self, what: str) -> None:
        self.done.append(what)
        if what in self.broken:
            raise self.broken[what]

    def install_servers(self, _: StageRun, pattern: Pattern) -> Endpoint:
        self.note(f"install {pattern.model}")
        return TARGET

    def switch(self, _: StageRun, pattern: Pattern, target: Endpoint) -> None:
        self.note(f"route to {pattern.model}")
        self.pods |= self.later

    def measure(self, *_: Any, **__: Any) -> Measured:
        return self.loaded

    def run(self) -> None:
        patterns._swap(self.stage, cast(SwapProbe, self.probe))

    def rolled_back(self) -> RolledBack:
        with pytest.raises(RolledBack) as caught:
            self.run()
        return caught.value

    def checks(self) -> dict[str, Check]:
        return {check.id: check for check in self.stage.finish().checks}


@pytest.fixture
def swap(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> Swap:
    made = Swap(open_stage("03_swap_patterns"), monkeypatch)
    # with the real `switch`, `install` would wait for the replicas: here it is these two notes
    monkeypatch.setattr(steps, "install", lambda stage, pattern: made.switch(stage, pattern, TARGET))
    return made


def test_when_everything_holds_pattern_1_goes_and_the_pool_shrinks(swap: Swap) -> None:
    swap.run()
    assert swap.done == ["install b", "route to b", "own route closed", "remove a", "shrink"]
    found = swap.checks()
    assert {name for name in found if name.startswith("gate.")} == {
        *("gate.readiness", "gate.errors", "gate.p95", "gate.affinity")
    }
    assert {check.verdict for check in found.values()} == {Verdict.PASS}


BREAK: dict[str, tuple[str, Callable[[Swap], object], str]] = {
    "a replica restarted": (
        "gate.readiness",
        lambda swap: swap.later.update(b=[replica("three-0", restarts=1), replica("three-1"), replica("three-2")]),
        "3 of 3 Ready, 1 restarted",
    ),
    "a replica is not Ready": (
        "gate.readiness",
        lambda swap: swap.later.update(b=[replica("three-0", ready=False), replica("three-1"), replica("three-2")]),
        "2 of 3 Ready",
    ),
    "a replica was replaced": (
        "gate.readiness",
        lambda swap: swap.later.update(b=[replica("new"), replica("three-1"), replica("three-2")]),
        "1 replaced",
    ),
    "a replica ends": (
        "gate.readiness",
        lambda swap: swap.later.update(b=[replica("three-0", terminating=True), *swap.pods["b"][1:]]),
        "2 of 3 Ready",
    ),
    "requests fail": ("gate.errors", lambda swap: setattr(swap.probe, "sent", answers(failed=5)), "5 of 60 failed"),
    "p95": ("gate.p95", lambda swap: setattr(swap, "loaded", load(9.0)), "2.22 times"),
    "affinity": ("gate.affinity", lambda swap: swap.weights.update({"prefix-cache-scorer": 0.0}), "queue-scorer 2"),
    "affinity, no configuration": ("gate.affinity", lambda swap: swap.weights.clear(), "no scorers"),
}


@pytest.mark.parametrize("what", BREAK)
@pytest.mark.parametrize("strategy", ["surge", "recreate"])
def test_a_gate_that_fails_leads_back_to_pattern_1(swap: Swap, what: str, strategy: str) -> None:
    gate, broken, observed = BREAK[what]
    broken(swap)
    if strategy == "recreate":
        swap.use(strategy=strategy)
        swap.pods["a"] = []
    error = swap.rolled_back()
    assert error.what == "Pattern 3 did not hold; Pattern 1 serves again"
    assert gate in (error.reason or "")
    assert "run stages 02 and 03 again" in (error.remedy or "")
    if strategy == "surge":
        assert swap.done == ["install b", "route to b", *TO_THE_OLD_ROUTE]
    else:  # nothing of Pattern 1 runs: what is there goes first, for its GPUs
        assert swap.done == ["remove a", "install b", "route to b", "own route closed", "remove b", "route to a"]
    assert {"rolling back", "restored"} <= swap.probe.marks.keys()
    assert swap.probe.waits[-1] == (OLD, "restored")  # so that the end of its record says whether Pattern 1 serves
    found = swap.checks()
    assert [name for name, check in found.items() if check.verdict is not Verdict.PASS] == [gate]
    assert observed in found[gate].observed
    assert found[gate].remedy
    assert found["rollback.serves"].verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("reply", "done"),
    [
        (Reply(401, "Jwt is expired"), []),
        (Reply(403, "RBAC: access denied"), []),
        (Reply(503, "no healthy upstream"), ["remove a", "install b", "route to b"]),
    ],
)
def test_a_gateway_that_keeps_us_out_costs_no_outage(
    swap: Swap, monkeypatch: pytest.MonkeyPatch, reply: Reply, done: list[str]
) -> None:
    """Without a token that it takes nothing could be proved of Pattern 3; one that Pattern 1 lacks stops no swap."""
    swap.use(strategy="recreate")
    monkeypatch.setattr(steps, "serves", lambda *_: True)
    with serving() as gateway:
        gateway.on("/v1/completions", reply)
        monkeypatch.setattr(steps, "endpoint", lambda *_: Endpoint(gateway.url))
        if done:
            swap.run()
        else:
            with pytest.raises(Forbidden, match=f"the gateway answered {reply.status}") as caught:
                swap.run()
            assert "route.bearer_variable" in str(caught.value.remedy)
        assert len(gateway.asked("/v1/completions")) == 1
    assert swap.done == done


def test_a_token_that_is_not_there_costs_no_outage(swap: Swap, monkeypatch: pytest.MonkeyPatch) -> None:
    swap.use(strategy="recreate")
    monkeypatch.setattr(steps, "serves", lambda *_: True)
    monkeypatch.setattr(steps, "endpoint", lambda *_: Endpoint("http://127.0.0.1:1", bearer_variable="NOT_SET"))
    with pytest.raises(UsageError, match="no token for the gateway"):
        swap.run()
    assert swap.done == []


def test_few_requests_prove_no_error_rate_and_are_no_reason_to_go_back(swap: Swap) -> None:
    swap.probe.sent = answers(failed=1, of=39)
    swap.run()
    found = swap.checks()["gate.errors"]
    assert (found.verdict, found.observed) == (Verdict.INCONCLUSIVE, "1 of 39 failed")


def test_errors_before_pattern_1_was_drained_and_of_the_old_name_do_not_count(swap: Swap) -> None:
    swap.probe.marks["drained"] = 3.0
    early = [one for one in answers(failed=20, of=20) if one.sent_s < 3.0]
    old = Asked(OLD, False, 4.0, 4.0, 4.1, 404, "http_404", "old", 0, 0)
    swap.probe.sent = [*early, old, *(one for one in answers(of=100) if one.sent_s >= 3.0)]
    swap.run()
    assert swap.checks()["gate.errors"].verdict is Verdict.PASS


def test_a_p95_of_too_few_answers_proves_nothing(swap: Swap) -> None:
    swap.loaded = load(20.0, concurrency=1)
    swap.run()
    found = swap.checks()["gate.p95"]
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "more answers a side would" in (found.remedy or "")
    assert "remove a" in swap.done


def test_without_a_baseline_there_is_no_p95_gate_and_that_is_said(swap: Swap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap.stage, "earlier", lambda _: None)
    swap.run()
    result = swap.stage.finish()
    assert "gate.p95" not in {check.id for check in result.checks}
    assert [note.title for note in result.notes] == ["No p95 gate"]


def test_a_lost_answer_once_all_gates_have_held_is_no_reason_to_go_back(swap: Swap) -> None:
    swap.broken["own route closed"] = Unreachable("the answer was lost", reason="planted")
    with pytest.raises(Unreachable, match="the answer was lost"):
        swap.run()
    assert swap.done == ["install b", "route to b", "own route closed"]
    assert "removed" not in swap.probe.marks


@pytest.mark.parametrize("kind", [DeadlineExceeded, ToolError, ApiError, NotFound, Unreachable])
def test_whatever_says_that_pattern_3_does_not_hold_leads_back(swap: Swap, kind: type[RunbookError]) -> None:
    swap.broken["install b"] = kind("it is not there", reason="planted")
    assert "it is not there: planted" in (swap.rolled_back().reason or "")
    assert swap.done == ["install b", *TO_THE_OLD_ROUTE]


@pytest.mark.parametrize("kind", [Conflict, Forbidden, Locked, LockLost, KeyboardInterrupt])
def test_what_says_nothing_of_pattern_3_changes_nothing_more(swap: Swap, kind: type[Any]) -> None:
    swap.broken["install b"] = kind("planted")
    with pytest.raises(kind, match="planted"):
        swap.run()
    assert swap.done == ["install b"]
    assert swap.checks() == {}


def test_with_rollback_never_it_stops_where_it_failed_and_says_how_to_go_back(swap: Swap) -> None:
    swap.use(rollback="never")
    swap.weights.clear()
    with pytest.raises(GateFailed, match=r"gate\.affinity"):
        swap.run()
    assert swap.done == ["install b", "route to b"]
    result = swap.stage.finish()
    (note,) = [note for note in result.notes if note.title.startswith("Stopped where it failed")]
    assert note.text.splitlines() == ["a: 0 of 1 pods Ready.", "To go back by hand:", *BY_HAND]
    assert "rollback.serves" not in {check.id for check in result.checks}


@pytest.mark.parametrize("step", TO_THE_OLD_ROUTE)
def test_a_way_back_that_fails_names_the_state_and_the_commands(swap: Swap, step: str) -> None:
    swap.weights.clear()
    swap.broken[step] = ToolError("helm failed", reason="planted")
    with pytest.raises(RollbackFailed) as caught:
        swap.run()
    error = caught.value
    assert error.where == "state: a: 0 of 1 pods Ready"
    assert "gate.affinity" in (error.reason or "")
    assert (error.reason or "").endswith("then: helm failed: planted")
    assert (error.remedy or "").splitlines()[1:] == BY_HAND
    assert "restored" not in swap.probe.marks
    found = swap.checks()["rollback.serves"]
    assert found.verdict is Verdict.FAIL
    assert found.observed == "helm failed; a: 0 of 1 pods Ready"


def test_a_lock_that_is_lost_on_the_way_back_ends_it_without_advice_to_change_by_hand(swap: Swap) -> None:
    """Somebody else works on the cluster: commands typed beside them would be the second pair of hands."""
    swap.weights.clear()
    swap.broken["route to a"] = LockLost("the lock is lost", reason="bob holds it")
    with pytest.raises(LockLost, match="the lock is lost"):
        swap.run()
    found = swap.checks()["rollback.serves"]
    assert found.verdict is Verdict.FAIL
    assert "the lock is lost" in found.observed


def test_once_pattern_1_goes_after_a_surge_nothing_leads_back(swap: Swap) -> None:
    swap.broken["remove a"] = ToolError("helm failed")
    with pytest.raises(ToolError, match="helm failed"):
        swap.run()
    assert swap.done[-1] == "remove a"


def test_a_pattern_that_its_own_route_does_not_prove_meets_no_client(
    swap: Swap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> Endpoint:
        raise GateFailed("Pattern 3 did not hold verify.weights on its own route", reason="expected 3; observed 0")

    monkeypatch.setattr(surge, "_prove", refuse)
    assert "verify.weights" in (swap.rolled_back().reason or "")
    assert "route to b" not in swap.done
