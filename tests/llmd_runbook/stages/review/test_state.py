from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import HTTP_ROUTES, Object
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.review import state
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.releases import Releases

RULE, CONDITIONS = ("spec", "rules", 0), ("status", "parents", 0, "conditions")


@pytest.mark.parametrize(("answers", "verdict"), [(58, Verdict.FAIL), (59, Verdict.PASS)])
def test_a_p95_needs_59_answers(open_stage: Callable[[str], StageRun], answers: int, verdict: Verdict) -> None:
    stage = open_stage("01_review_state")
    stage.data["baseline"] = {"latencies_s": [1.0] * answers}
    state.samples(stage)
    (check,) = stage.finish().checks
    assert (check.verdict, check.observed) == (verdict, f"{answers} answers")
    assert check.expected == "59 answers, for p50 and p95"


class Cluster(Memory):
    """One whose caller may do everything."""

    def may(self, spec: Object) -> bool:
        return True


def path(value: str) -> Object:
    return {"path": {"type": "PathPrefix", "value": value}}


def refused(kind: str, reason: str) -> Object:
    return {"type": kind, "status": "False", "reason": reason}


@pytest.fixture
def route(bench: Bench) -> Object:
    """Pattern 1's HTTPRoute as the swap leaves it, accepted and resolved."""
    made = traffic.manifest(bench.profile, bench.profile.pattern1)
    conditions = [{"type": kind, "status": "True", "reason": kind} for kind in ("Accepted", "ResolvedRefs")]
    return {**made, "status": {"parents": [{"conditions": conditions}]}}


@pytest.fixture
def judged(open_stage: Callable[[str], StageRun], monkeypatch: pytest.MonkeyPatch) -> Callable[[Object], Check]:
    """What stage 01 says of an HTTPRoute."""

    def judge(route: Object) -> Check:
        kube = Cluster()
        kube.add(HTTP_ROUTES, route)
        monkeypatch.setattr(site, "kubernetes", lambda _: kube)
        monkeypatch.setattr(site, "driver", lambda *_: Releases("ms-one", present=True))
        stage = open_stage("01_review_state")
        state.deployments(stage)
        (check,) = (check for check in stage.finish().checks if check.id == "pattern1.route")
        return check

    return judge


def test_a_route_that_carries_everything_to_pattern_1(judged: Callable[[Object], Check], route: Object) -> None:
    assert judged(route).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ((*RULE, "backendRefs"), [{"kind": "InferencePool", "name": "three"}], "sends to InferencePool/three"),
        ((*RULE, "backendRefs"), [{"name": "one"}], "sends to Service/one"),
        ((*RULE, "backendRefs"), [], "sends to nothing"),
        (("spec", "parentRefs"), [{"name": "other"}], "at other"),
        ((*RULE, "matches"), [path("/x")], "paths /x"),
        ((*RULE, "matches"), [path("/"), path("/x")], "paths / /x"),
        ((*CONDITIONS, 0), refused("Accepted", "NoMatchingParent"), "Accepted False (NoMatchingParent)"),
        ((*CONDITIONS, 1), refused("ResolvedRefs", "BackendNotFound"), "ResolvedRefs False (BackendNotFound)"),
        (CONDITIONS, [], "no conditions"),
    ],
)
def test_a_route_that_does_not_carry_everything_to_pattern_1(
    judged: Callable[[Object], Check], route: Object, place: tuple[str | int, ...], value: Any, said: str
) -> None:
    """Another pool, another Gateway, paths that the swap would take away, a gateway that has not taken it."""
    *way, last = place
    part: Any = route
    for step in way:
        part = part[step]
    part[last] = value
    check = judged(route)
    assert check.verdict is Verdict.FAIL
    assert said in check.observed
