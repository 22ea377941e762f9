from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest

from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import GATEWAYS, Object, Resource
from llmd_runbook.errors import ApiError, ClusterError, DeadlineExceeded, Forbidden
from llmd_runbook.run import StageRun
from llmd_runbook.stages.load import traffic
from llmd_runbook.topology import RouteView, route_of
from tests.llmd_runbook.clients.server import Answer, Cut, Reply, serving
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.memory import Memory

GOOD = {"Accepted": "True (Accepted)", "ResolvedRefs": "True (ResolvedRefs)"}


def test_the_manifest_is_a_route_that_points_to_the_pattern(bench: Bench) -> None:
    profile = bench.profile
    made = traffic.manifest(profile, profile.pattern3)
    assert (made["metadata"], made["kind"]) == ({"name": "r", "namespace": "llm-d"}, "HTTPRoute")
    assert made["spec"]["rules"][0]["backendRefs"][0]["group"] == "inference.networking.k8s.io"
    assert traffic.points_to(route_of(made), profile.pattern3)
    assert not traffic.points_to(route_of(made), profile.pattern1)
    assert not traffic.accepted(route_of(made))


@pytest.mark.parametrize(
    ("gateways", "backends", "right"),
    [
        (["g"], ["InferencePool/three"], True),
        (["g"], ["Service/three"], False),
        (["g"], ["InferencePool/one"], False),
        (["g"], ["InferencePool/three", "InferencePool/one"], False),
        (["g"], [], False),
        (["other"], ["InferencePool/three"], False),
        (["g", "other"], ["InferencePool/three"], False),
    ],
)
def test_a_route_points_to_one_pattern_and_to_it_alone(
    bench: Bench, gateways: list[str], backends: list[str], right: bool
) -> None:
    assert traffic.points_to(RouteView("r", gateways, backends, {}), bench.profile.pattern3) is right


def test_no_route_points_nowhere_and_is_not_accepted(bench: Bench) -> None:
    assert not traffic.points_to(None, bench.profile.pattern3)
    assert not traffic.accepted(None)


@pytest.mark.parametrize(
    ("conditions", "right"),
    [
        (GOOD, True),
        ({**GOOD, "Programmed": "False (Pending)"}, True),
        ({**GOOD, "ResolvedRefs": "False (BackendNotFound)"}, False),
        ({**GOOD, "Accepted": "Unknown (an older generation)"}, False),
        ({"Accepted": "True (Accepted)"}, False),
        ({}, False),
    ],
)
def test_accepted_needs_both_conditions(conditions: dict[str, str], right: bool) -> None:
    assert traffic.accepted(RouteView("r", ["g"], ["InferencePool/three"], conditions)) is right


WAITS: Object = {"type": "Programmed", "status": "False", "reason": "Pending", "message": "no proxy-only subnet"}
ACCEPTED: Object = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "it is valid"}
DONE: Object = {"type": "Programmed", "status": "True", "reason": "Programmed", "message": ""}


def gateway(name: str, *conditions: Object, address: str = "") -> Object:
    spec = {"gatewayClassName": "c", "listeners": [{"protocol": "HTTP", "port": 80}]}
    status: Object = {"conditions": list(conditions)} | ({"addresses": [{"value": address}]} if address else {})
    return {"metadata": {"name": name, "namespace": "llm-d"}, "spec": spec, "status": status}


class Changing(Memory):
    """A cluster whose Gateways go through these states."""

    def __init__(self, *states: list[Object]) -> None:
        super().__init__()
        self.states = states

    def wait(self, resource: Resource, done: Callable[[list[Object]], Any], **options: Any) -> Any:
        assert resource is GATEWAYS
        state = ""
        for items in self.states:
            state = options["on_change"](items)
            if found := done(items):
                for item in items:
                    self.add(GATEWAYS, item)
                return found
        raise DeadlineExceeded(f"waited for {options['what']}", reason=f"last state: {state}")


def programmed(stage: StageRun, kube: Changing) -> tuple[str, list[str]]:
    shown: list[str] = []
    with stage.step("wait") as step, patch.object(step, "progress", lambda text, **_: shown.append(text)):
        return traffic.wait_programmed(kube, stage.profile, stage.profile.pattern3, step).url, shown


def test_the_gateways_conditions_are_shown_as_they_change(open_stage: Callable[[str], StageRun]) -> None:
    other = gateway("other", DONE, address="192.0.2.9")
    kube = Changing(
        [other],
        [other, gateway("g")],
        [other, gateway("g", ACCEPTED, WAITS)],
        [other, gateway("g", ACCEPTED, DONE)],
        [other, gateway("g", ACCEPTED, DONE, address="192.0.2.1")],
    )
    url, shown = programmed(open_stage("03_swap_patterns"), kube)
    assert url == "http://192.0.2.1"
    assert [text.removeprefix("waiting for Gateway g: ") for text in shown] == [
        "no such Gateway",
        "no address; no conditions",
        "no address; Accepted True (Accepted), Programmed False (Pending); Programmed: no proxy-only subnet",
        "no address; Accepted True (Accepted), Programmed True (Programmed)",
        "192.0.2.1; Accepted True (Accepted), Programmed True (Programmed)",
    ]


def test_a_gateway_that_is_never_programmed_says_why(open_stage: Callable[[str], StageRun]) -> None:
    kube = Changing([gateway("g", ACCEPTED, WAITS, address="192.0.2.1")])
    with pytest.raises(DeadlineExceeded, match="Gateway g to be programmed") as caught:
        programmed(open_stage("03_swap_patterns"), kube)
    assert "Programmed False (Pending); Programmed: no proxy-only subnet" in str(caught.value.reason)


ANSWER = Reply(body={"choices": [{"text": "hello"}], "usage": {"prompt_tokens": 2, "completion_tokens": 8}})


def waited(
    open_stage: Callable[[str], StageRun], *answers: Answer, timeout_s: float = 60
) -> tuple[int, Exception | None]:
    """How often a gateway was asked that gives these answers, and what ended the wait where none was good."""
    stage = open_stage("03_swap_patterns")
    route = stage.profile.route.model_copy(update={"ready_timeout_s": timeout_s})
    profile = stage.profile.model_copy(update={"route": route})
    with serving() as gateway, stage.step("wait until requests arrive") as step:
        gateway.on("/v1/completions", *answers)
        ended: Exception | None = None
        try:
            traffic.wait_for_answer(Endpoint(gateway.url), profile, "b", step)
        except (ClusterError, DeadlineExceeded) as error:
            ended = error
        step.ok()
        return len(gateway.requests), ended


@pytest.mark.parametrize(
    "lagging",
    [
        Reply(404, "no such route yet"),
        Reply(500, "ext_proc_error: gRPC error 14"),
        Reply(503, "no healthy upstream"),
        Cut(),
    ],
)
def test_what_a_lagging_data_path_answers_is_asked_again(
    open_stage: Callable[[str], StageRun], lagging: Answer
) -> None:
    assert waited(open_stage, lagging, ANSWER) == (2, None)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (Reply(400, "max_tokens must be at least 1"), ApiError),
        (Reply(401, "Jwt is missing"), Forbidden),
        (Reply(403, "RBAC: access denied"), Forbidden),
    ],
)
def test_a_refusal_of_the_request_itself_is_not_asked_again(
    open_stage: Callable[[str], StageRun], refusal: Reply, kind: type[Exception]
) -> None:
    asked, ended = waited(open_stage, refusal, ANSWER)
    assert (asked, type(ended)) == (1, kind)
    assert f"answered {refusal.status}" in str(ended)


def test_what_never_answers_ends_at_the_deadline_with_the_last_answer(open_stage: Callable[[str], StageRun]) -> None:
    _, ended = waited(open_stage, Reply(503, "no healthy upstream"), timeout_s=0.01)
    assert isinstance(ended, DeadlineExceeded)
    assert "no healthy upstream" in str(ended.reason)
