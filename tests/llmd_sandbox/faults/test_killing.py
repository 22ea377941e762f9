"""Who is at the other end of a connection, and its end with all that belongs to its run."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from llmd_sandbox.faults.killing import client_of, kill_run

RUN = """
import subprocess, sys, time
tool = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(tool.pid, flush=True)
time.sleep(600)
"""
STRANGER = "sleep 600 >/dev/null 2>&1 & sleep 600 >/dev/null 2>&1 & echo $!"


@pytest.fixture
def run() -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """A run of this process, and a tool that it has started in a session of its own."""
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        tool = psutil.Process(int(started.stdout.readline()))
        try:
            yield psutil.Process(started.pid), tool
        finally:
            started.kill()
            if tool.is_running():
                tool.kill()


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_the_process_at_the_other_end_of_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client_of(client.getsockname(), server.getsockname()) == os.getpid()
        gone = client.getsockname()
    with pytest.raises(LookupError, match="no process has the connection"):
        client_of((gone[0], 1), gone)


def test_a_tools_run_is_killed_from_its_root_to_its_last_process(run: tuple[psutil.Process, psutil.Process]) -> None:
    root, tool = run
    kill_run(tool.pid)
    assert ended(root)
    assert ended(tool)


def test_a_process_of_somebody_else_is_killed_alone() -> None:
    """Two orphans of one shell: neither descends from this process any more."""
    made = subprocess.run(["setsid", "sh", "-c", STRANGER], capture_output=True, text=True, check=True)
    stranger = psutil.Process(int(made.stdout))
    (other,) = [
        each
        for each in psutil.process_iter()
        if each.pid != stranger.pid and _session(each) == os.getsid(stranger.pid) and each.name() == "sleep"
    ]
    try:
        assert os.getpid() not in [each.pid for each in stranger.parents()]
        kill_run(stranger.pid)
        assert ended(stranger)
        assert not ended(other)
    finally:
        other.kill()


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return 0
