from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_sandbox import lifecycle, processes
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.supervisor.state import FAILED, UP, Order, State

SUPERVISOR = """
import subprocess, sys, time
from llmd_sandbox.site import Site
from llmd_sandbox.supervisor.state import UP, Order, Progress
folder = Site(sys.argv[2], 0).directory
progress = Progress(folder, Order.load(folder).asked)
subprocess.Popen(["sleep", "100"])
progress.enter("control plane")
{then}
"""


def supervisor(tmp_path: Path, then: str) -> list[str]:
    file = tmp_path / "supervisor.py"
    file.write_text(SUPERVISOR.format(then=then))
    return [sys.executable, str(file), "of"]


@pytest.fixture(autouse=True)
def ends_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(lifecycle, "SUPERVISOR", supervisor(tmp_path, "progress.enter(UP); time.sleep(100)"))
    yield
    for name in lifecycle.names():
        lifecycle.down(name)


def quiet(state: State) -> None:
    del state


def left(name: str) -> tuple[bool, list[int]]:
    folder = lifecycle.directory(name)
    return folder.exists(), processes.find(folder)


def test_up_then_down_leaves_nothing() -> None:
    phases: list[str] = []
    assert lifecycle.up(Order("one"), lambda state: phases.append(state.phase))
    assert phases[-1] == UP
    assert len(left("one")[1]) == 2
    assert lifecycle.down("one")
    assert left("one") == (False, [])
    assert lifecycle.names() == []
    assert not lifecycle.down("one")


def test_up_when_it_is_up_does_nothing() -> None:
    lifecycle.up(Order("one"), quiet)
    before = left("one")
    assert not lifecycle.up(Order("one"), quiet)
    assert left("one") == before


def test_up_replaces_what_a_killed_supervisor_left() -> None:
    lifecycle.up(Order("one"), quiet)
    state = lifecycle.state("one")
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    os.waitpid(state.pid, 0)  # it is this process's child
    found = lifecycle.state("one")
    assert found is not None
    assert found.phase == FAILED
    assert f"process {state.pid}" in str(found.error)
    assert lifecycle.up(Order("one"), quiet)
    assert len(left("one")[1]) == 2


def test_a_failing_start_is_one_message_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = supervisor(tmp_path, "progress.fail('etcd ended with status 7'); time.sleep(100)")
    monkeypatch.setattr(lifecycle, "SUPERVISOR", command)
    with pytest.raises(SandboxError, match="did not come up") as caught:
        lifecycle.up(Order("one"), quiet)
    assert caught.value.reason == "etcd ended with status 7"
    assert left("one") == (False, [])


def test_a_supervisor_that_dies_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "SUPERVISOR", supervisor(tmp_path, "sys.exit('no more memory')"))
    with pytest.raises(SandboxError, match="did not come up") as caught:
        lifecycle.up(Order("one"), quiet)
    assert caught.value.reason == "no more memory"
    assert left("one") == (False, [])


def test_an_interrupt_while_it_comes_up_leaves_nothing() -> None:
    def interrupt(state: State) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lifecycle.up(Order("one"), interrupt)
    assert left("one") == (False, [])


def test_two_sandboxes_do_not_touch_each_other() -> None:
    lifecycle.up(Order("one"), quiet)
    lifecycle.up(Order("two"), quiet)
    assert lifecycle.names() == ["one", "two"]
    lifecycle.down("one")
    assert left("one") == (False, [])
    assert len(left("two")[1]) == 2


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "../x", "a" * 33])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(SandboxError, match="cannot be called"):
        lifecycle.directory(name)


def test_what_was_never_there_has_no_state() -> None:
    assert lifecycle.state("one") is None
