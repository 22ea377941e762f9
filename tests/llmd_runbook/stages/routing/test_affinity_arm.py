from __future__ import annotations

import pytest

from llmd_runbook.analysis.attribution import Evidence
from llmd_runbook.stages.routing.affinity_arm import Arm, Row


def row(group: str, replica: str | None, evidence: Evidence | None) -> Row:
    return {"group": group, "replica": replica, "evidence": evidence and evidence.value}


def arm(*rows: Row, cached: float = 0, prompt: float = 0) -> Arm:
    return Arm.of(
        ["a", "b"],
        list(rows),
        unclear=[],
        cached_tokens=cached,
        prompt_tokens=prompt,
        reconciled="",
        elsewhere=False,
        background=0,
    )


def test_requests_are_counted_by_group_and_replica() -> None:
    log = Evidence.PICKER_LOG
    found = arm(row("g1", "b", log), row("g0", "a", log), row("g1", "b", log), row("g1", None, None))
    assert (found.groups, found.counts) == (["g0", "g1"], [[1, 0], [0, 2]])
    assert found.evidence == {"picker's log": 3}
    assert Arm(**vars(found)) == found


def test_a_claim_is_as_strong_as_the_weakest_evidence() -> None:
    strong, weak = row("g", "a", Evidence.HEADER), row("g", "a", Evidence.COUNTERS)
    assert arm(strong).claim == Evidence.HEADER.claim
    assert arm(strong, weak).claim == Evidence.COUNTERS.claim
    assert arm(row("g", None, None)).claim == "nothing is known of who served what"


def test_a_repeat_is_one_that_its_replica_has_served_before() -> None:
    log = Evidence.PICKER_LOG
    served = [row(group, replica, log) for group, replica in [("g", "a"), ("g", "b"), ("g", "a"), ("h", "a")]]
    assert arm(*served).repeats == 0.25
    assert arm().repeats == 0


@pytest.mark.parametrize(("cached", "prompt", "ratio"), [(30, 40, 0.75), (0, 0, 0), (0, -12, 0)])
def test_no_lookup_is_no_hit(cached: float, prompt: float, ratio: float) -> None:
    assert arm(cached=cached, prompt=prompt).hit_ratio == ratio
