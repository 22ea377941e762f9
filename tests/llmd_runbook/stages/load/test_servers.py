"""What a load notes of the replicas: their context length, how long they took to get ready, and on what nodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from llmd_runbook.clients.gke import SPOT_LABEL
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import Forbidden
from llmd_runbook.stages.load import servers


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        ([["--max-model-len=2048"], ["--max-model-len", "2048"]], 2048),
        ([["--max-model-len=2048"], ["--max-model-len=4096"]], None),
        ([[]], None),
        ([["--max-model-len=auto"]], None),
        ([], None),
    ],
)
def test_the_context_length_is_what_all_replicas_say(arguments: list[list[str]], tokens: int | None) -> None:
    pods = [{"spec": {"containers": [{"args": words}]}} for words in arguments]
    assert servers.context_tokens(pods) == tokens


def pod(name: str, ready_at: str | None, *, restarts: int = 0, node: str = "n1") -> dict[str, Any]:
    """Created at 10:00:00."""
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T10:00:05Z"}]
    if ready_at:
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": f"2026-01-02T{ready_at}Z"})
    return {
        "metadata": {"name": name, "creationTimestamp": "2026-01-02T10:00:00Z"},
        "spec": {"nodeName": node, "containers": []},
        "status": {"conditions": conditions, "containerStatuses": [{"restartCount": restarts}]},
    }


def test_seconds_to_ready_are_from_a_pods_creation_and_not_of_one_that_started_again() -> None:
    found = [pod("a", "10:03:20"), pod("b", "10:04:00"), pod("again", "11:00:00", restarts=1), pod("never", None)]
    assert servers.seconds_to_ready(found) == {"a": 200.0, "b": 240.0}


def test_nodes_say_by_their_labels_that_they_are_spot() -> None:
    labels = {"n1": {SPOT_LABEL: "true"}, "n2": {}, "n3": {SPOT_LABEL: "true"}}
    nodes = [{"metadata": {"name": name, "labels": each}} for name, each in labels.items()]
    kube = cast(Kubernetes, SimpleNamespace(all=lambda _: nodes))
    assert servers.on_spot(kube, [pod("a", None), pod("b", None, node="n2"), pod("c", None, node="n3")]) == 2
    assert servers.on_spot(kube, [pod("a", None, node="gone")]) == 0


def test_nodes_that_may_not_be_read_leave_it_open() -> None:
    def refuse(_: object) -> None:
        raise Forbidden("not allowed", where="nodes")

    assert servers.on_spot(cast(Kubernetes, SimpleNamespace(all=refuse)), [pod("a", None)]) is None
