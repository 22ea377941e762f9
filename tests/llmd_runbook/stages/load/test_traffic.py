from __future__ import annotations

import pytest

from llmd_runbook.stages.load import traffic
from llmd_runbook.topology import RouteView, route_of
from tests.llmd_runbook.conftest import Bench

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
