from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmd_sandbox import processes
from llmd_sandbox.site import MARKER, Site


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    return Site("test", 2)


def test_marked_processes_are_found_and_killed_others_are_not(site: Site) -> None:
    marked = subprocess.Popen(["sleep", "100"], env=processes.environment(site))
    other = subprocess.Popen(["sleep", "100"], env={**os.environ, MARKER: f"{site.directory}-2"})
    try:
        assert eventually(lambda: processes.find(site.directory) == [marked.pid])
        assert processes.kill_all(site.directory) == []
        assert marked.wait(5) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_new_process_that_appears_meanwhile_is_killed_too(site: Site) -> None:
    script = "while true; do sleep 60 & sleep 0.02; done"
    marked = subprocess.Popen(["bash", "-c", script], env=processes.environment(site))
    try:
        assert eventually(lambda: len(processes.find(site.directory)) > 3)
        assert processes.kill_all(site.directory) == []
    finally:
        marked.kill()
        marked.wait()
    assert processes.find(site.directory) == []


def test_one_process_is_asked_after(site: Site, tmp_path: Path) -> None:
    marked = subprocess.Popen(["sleep", "100"], env=processes.environment(site))
    assert processes.runs(marked.pid, site.directory)
    assert eventually(lambda: not processes.runs(marked.pid, tmp_path / "another"))
    marked.kill()
    assert eventually(lambda: not processes.runs(marked.pid, site.directory))
    marked.wait()
    assert not processes.runs(marked.pid, site.directory)


def test_a_zombie_does_not_count(site: Site) -> None:
    marked = subprocess.Popen(["true"], env=processes.environment(site))
    stat = Path(f"/proc/{marked.pid}/stat")
    assert eventually(lambda: ") Z " in stat.read_text())
    assert processes.find(site.directory) == []
    marked.wait()


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time; from llmd_sandbox.processes import die_with_parent;"
        "child = subprocess.Popen(['sleep', '100'], preexec_fn=die_with_parent());"
        "print(child.pid, flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert eventually(lambda: not Path(f"/proc/{child}").exists())


def test_environment_has_marker_and_extra(site: Site) -> None:
    made = processes.environment(site, {"EXTRA": "1"})
    assert made[MARKER] == str(site.directory)
    assert made["EXTRA"] == "1"
    assert made["PATH"] == os.environ["PATH"]
