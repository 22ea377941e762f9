"""Whether a pool's pods are still those whose counters were read."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmd_runbook.clients.kubernetes import PODS, Object
from llmd_runbook.stages.routing.counters import Counters
from llmd_runbook.topology import PoolView
from tests.llmd_runbook.memory import Memory

POOL = PoolView("pool", {"model": "qwen"}, 8000, "epp", 9002, {})


def pod(name: str, *, uid: str = "", ready: str = "True", restarts: int = 0) -> Object:
    return {
        "metadata": {"name": name, "namespace": "llm-d", "uid": uid or name, "labels": {"model": "qwen"}},
        "spec": {"containers": [{}]},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [{"restartCount": restarts}],
        },
    }


def gone(kube: Memory) -> None:
    del kube.objects[PODS.path("llm-d", "b")]


@pytest.mark.parametrize(
    ("change", "who"),
    [
        (lambda kube: None, ""),
        (lambda kube: kube.add(PODS, pod("a", restarts=1)), "a"),
        (lambda kube: kube.add(PODS, pod("a", uid="another")), "a"),
        (lambda kube: kube.add(PODS, pod("b", ready="False")), "b"),
        (lambda kube: kube.add(PODS, pod("c")), "c"),
        (gone, "b"),
    ],
)
def test_a_pod_that_came_went_or_began_anew(change: Callable[[Memory], None], who: str) -> None:
    kube = Memory()
    for name in ("a", "b"):
        kube.add(PODS, pod(name))
    counters = Counters(kube, "llm-d", POOL)
    assert len(counters.pods) == 2
    change(kube)
    assert counters.changed() == (f"{who} came, went or began anew meanwhile" if who else "")
