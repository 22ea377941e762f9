"""What the cluster's autoscaler says of pods that wait, and what is made of it, on a cluster in memory."""

from __future__ import annotations

from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import EVENTS
from llmd_runbook.stages.pool.autoscaler import judge
from llmd_runbook.stages.pool.scale_events import waits_for_a_node, words
from llmd_runbook.topology import Replica
from llmd_runbook.verdicts import Verdict
from tests.llmd_runbook.conftest import Bench
from tests.llmd_runbook.memory import Memory

GREW = "TriggeredScaleUp: pod triggered scale-up: [{group 1->3 (max: 5)}]"
FULL = "NotTriggerScaleUp: pod didn't trigger scale-up: 1 max node group size reached"


def event(name: str, pod: str, reason: str, when: str, kind: str = "Pod") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "llm-d"},
        "involvedObject": {"kind": kind, "name": pod},
        "reason": reason,
        "message": f"said at {when}",
        "lastTimestamp": when,
    }


def test_the_last_word_on_each_pod_counts() -> None:
    kube = Memory()
    for item in (
        event("1", "a", "NotTriggerScaleUp", "2026-11-28T05:00:10Z"),
        event("2", "a", "TriggeredScaleUp", "2026-11-28T05:00:30Z"),
        event("3", "a", "NotTriggerScaleUp", "2026-11-28T05:00:20Z"),
        event("4", "a", "Scheduled", "2026-11-28T05:01:00Z"),
        event("5", "b", "FailedScaleUp", "2026-11-28T05:00:00Z"),
        event("6", "other", "TriggeredScaleUp", "2026-11-28T05:00:00Z"),
        event("7", "b", "TriggeredScaleUp", "2026-11-28T06:00:00Z", kind="Node"),
    ):
        kube.add(EVENTS, item)
    assert words(kube, "llm-d", ["a", "b"]) == {
        "a": "TriggeredScaleUp: said at 2026-11-28T05:00:30Z",
        "b": "FailedScaleUp: said at 2026-11-28T05:00:00Z",
    }


@pytest.mark.parametrize(("status", "waits"), [("False", True), ("True", False), ("", False)])
def test_a_pod_waits_for_a_node_where_the_scheduler_found_none(status: str, waits: bool) -> None:
    conditions = [{"type": "PodScheduled", "status": status}] if status else []
    assert waits_for_a_node({"status": {"conditions": conditions}}) is waits


@pytest.mark.parametrize(
    ("nodes", "said", "verdict", "observed"),
    [
        (
            ["n", "n", "n"],
            {"p0": GREW},
            Verdict.PASS,
            "3 of 3 on nodes of the pool; new ones were made for 1",
        ),
        (["n", "n", "n"], {}, Verdict.INCONCLUSIVE, "3 of 3 on nodes of the pool; new ones were made for 0"),
        (
            ["n", "n", "else"],
            {"p0": GREW},
            Verdict.FAIL,
            "2 of 3 on nodes of the pool; new ones were made for 1",
        ),
        (["n", "n", "n", ""], {"p0": GREW, "p3": FULL}, Verdict.FAIL, f"3 of 4 on nodes of the pool; p3: {FULL}"),
        (["n", "n"], {"p0": GREW}, Verdict.FAIL, "2 of 2 on nodes of the pool; new ones were made for 1"),
        ([], {}, Verdict.FAIL, "0 of 0 on nodes of the pool; new ones were made for 0"),
    ],
)
def test_growth_is_proved_by_replicas_that_waited_and_run(
    bench: Bench, nodes: list[str], said: dict[str, str], verdict: Verdict, observed: str
) -> None:
    pods = [Replica(f"p{number}", node, "Running", True, 0, 1, False, {}) for number, node in enumerate(nodes)]
    check = judge(bench.profile, pods, {"n"}, said)
    assert (check.verdict, check.observed) == (verdict, observed)
    assert (check.remedy is None) == (verdict is Verdict.PASS)
