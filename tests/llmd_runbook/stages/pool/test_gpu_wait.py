"""Waiting for nodes: each is shown with its state, and the error of a wait that ends in vain has them too."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import Object, Resource
from llmd_runbook.errors import DeadlineExceeded
from llmd_runbook.stages.pool.gpu_wait import wait_for_gpus
from tests.llmd_runbook.memory import Memory


def node(name: str, ready: str = "True", gpus: str = "1") -> Object:
    why = {} if ready == "True" else {"reason": "KubeletNotReady", "message": "no network plugin"}
    return {
        "metadata": {"name": name},
        "status": {"allocatable": {"nvidia.com/gpu": gpus}, "conditions": [{"type": "Ready", "status": ready, **why}]},
    }


class Scripted(Memory):
    """A client whose wait sees these states, one after the other."""

    def __init__(self, *states: list[Object]) -> None:
        super().__init__()
        self.states = states

    def wait(self, resource: Resource, done: Callable[[list[Object]], Any], **options: Any) -> Any:
        for items in self.states:
            said = options["on_change"](items)
            if (found := done(items)) is not None:
                return found
        raise DeadlineExceeded("waited", reason=said)


def waited(*states: list[Object]) -> tuple[int, list[str]]:
    shown: list[str] = []
    step: Any = SimpleNamespace(progress=lambda text, **_: shown.append(text))
    return wait_for_gpus(Scripted(*states), "pool", 2, 60, step), shown


def test_each_node_is_shown_while_it_comes() -> None:
    usable, shown = waited([], [node("a"), node("b", ready="False")], [node("a"), node("b")])
    assert usable == 2
    assert shown == [
        "0 of 2 nodes usable: no nodes",
        "1 of 2 nodes usable: a: ready True, schedulable True, 1 GPUs; "
        "b: ready False (KubeletNotReady: no network plugin), schedulable True, 1 GPUs",
        "2 of 2 nodes usable: a: ready True, schedulable True, 1 GPUs; b: ready True, schedulable True, 1 GPUs",
    ]


def test_a_node_whose_driver_is_missing_is_not_usable() -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        waited([node("a"), node("b", gpus="0")])
    assert "b: ready True, schedulable True, 0 GPUs" in str(caught.value.reason)
