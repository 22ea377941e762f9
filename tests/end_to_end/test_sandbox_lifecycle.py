"""A real sandbox comes up and goes without a trace, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmd_sandbox import lifecycle, processes
from llmd_sandbox.site import Site

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(900)]

Sandbox = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Calls `llmd-sandbox`, with a state folder of its own; what is left over is an error."""
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "llmd_sandbox.cli", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    yield call
    call("down", "--all")


def up(sandbox: Sandbox, name: str) -> Site:
    answer = sandbox("up", "--bare", "--name", name)
    assert answer.returncode == 0, answer.stderr
    return Site.load(name)


def assert_gone(site: Site) -> None:
    assert processes.find(site.directory) == []
    assert not site.directory.exists()
    for address in (site.guard_address, site.api_server, site.etcd, site.kubelet, site.gke, site.envoy_admin):
        with socket.socket() as probe:
            assert probe.connect_ex(address) != 0, f"{address} still answers"


def kubectl(site: Site, *words: str) -> str:
    script = 'source "$0" && exec kubectl "$@"'
    argv = ["bash", "-c", script, str(site.env_file), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def pids_of(site: Site, program: str) -> list[int]:
    return [
        pid
        for pid in processes.find(site.directory)
        if program in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    ]


def test_up_is_idempotent_and_down_leaves_nothing(sandbox: Sandbox) -> None:
    site = up(sandbox, "one")
    assert "was up already" in sandbox("up", "--bare", "--name", "one").stderr
    status = json.loads(sandbox("status", "--name", "one", "--json").stdout)
    assert status["phase"] == "up"
    label = json.loads(kubectl(site, "get", "configmap", "-n", "kube-public", "llmd-sandbox", "-o", "json"))
    assert label["data"]["simulated"] == "true"
    assert label["data"]["sandbox"] == "one"
    assert kubectl(site, "get", "gatewayclass", "-o", "name").strip().endswith("gke-l7-regional-external-managed")
    assert sandbox("down", "--name", "one").returncode == 0
    assert_gone(site)
    assert not any(site.directory.parent.iterdir())


POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: pool}
spec:
  selector: {matchLabels: {a: b}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: picker, port: {number: 9002}}
"""


def test_kinds_fill_in_defaults_and_refuse_what_is_wrong(sandbox: Sandbox, tmp_path: Path) -> None:
    site = up(sandbox, "one")
    file = tmp_path / "pool.yaml"
    file.write_text(POOL)
    kubectl(site, "create", "-f", str(file))
    picker = json.loads(kubectl(site, "get", "inferencepool", "pool", "-o", "json"))["spec"]["endpointPickerRef"]
    assert (picker["failureMode"], picker["kind"], picker["group"]) == ("FailClose", "Service", "")
    file.write_text(POOL.replace("name: pool", "name: other").replace(", port: {number: 9002}", ""))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        kubectl(site, "create", "-f", str(file))
    assert "needs a port" in caught.value.stderr
    assert sandbox("down", "--name", "one").returncode == 0


@pytest.mark.parametrize("program", ["llmd_sandbox.supervisor", "kube-apiserver", "etcd", "envoy"])
def test_down_leaves_nothing_after_a_kill(sandbox: Sandbox, program: str) -> None:
    site = up(sandbox, "one")
    victims = pids_of(site, program)
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    assert sandbox("down", "--name", "one").returncode == 0
    assert_gone(site)


def test_a_killed_api_server_comes_back_with_its_objects(sandbox: Sandbox) -> None:
    site = up(sandbox, "one")
    kubectl(site, "create", "namespace", "kept")
    (victim,) = pids_of(site, "kube-apiserver")
    os.kill(victim, signal.SIGKILL)
    script = 'source "$0"; until kubectl get namespace kept; do sleep 0.2; done'
    subprocess.run(["timeout", "60", "bash", "-c", script, str(site.env_file)], check=True, capture_output=True)
    assert pids_of(site, "kube-apiserver") not in ([], [victim])
    assert json.loads(sandbox("status", "--name", "one", "--json").stdout)["phase"] == "up"


def test_a_killed_supervisor_is_told_and_up_replaces_it(sandbox: Sandbox) -> None:
    site = up(sandbox, "one")
    state = lifecycle.state("one")
    assert state is not None
    os.kill(state.pid, signal.SIGKILL)
    answer = sandbox("status", "--name", "one")
    assert answer.returncode == 1
    assert "is gone" in answer.stdout
    again = up(sandbox, "one")
    assert kubectl(again, "get", "namespace", "llm-d", "-o", "name").strip() == "namespace/llm-d"
    assert sandbox("down", "--name", "one").returncode == 0
    assert_gone(site)


def test_two_sandboxes_stand_side_by_side(sandbox: Sandbox) -> None:
    one, two = up(sandbox, "one"), up(sandbox, "two")
    kubectl(one, "create", "namespace", "only-in-one")
    assert "only-in-one" not in kubectl(two, "get", "namespaces", "-o", "name")
    assert sandbox("down", "--name", "one").returncode == 0
    assert_gone(one)
    assert "namespace/llm-d" in kubectl(two, "get", "namespaces", "-o", "name")
    assert sandbox("down", "--all").returncode == 0
    assert_gone(two)


def test_run_takes_down_what_it_started_when_told_to_end(sandbox: Sandbox) -> None:
    words = ["run", "--bare", "--name", "brief", "--", "bash", "-c", "echo here; exec sleep 100"]
    runner = subprocess.Popen([sys.executable, "-m", "llmd_sandbox.cli", *words], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    with runner.stdout:
        assert runner.stdout.readline() == "here\n"
    site = Site.load("brief")
    runner.terminate()
    assert runner.wait(30) == 143
    assert_gone(site)
