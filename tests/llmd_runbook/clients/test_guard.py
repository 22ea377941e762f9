"""No client changes anything without asking its guard, and nobody has a way around the clients."""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llmd_runbook
from llmd_runbook.clients.gke import ENDPOINT_VARIABLE, Bounds, GkePool
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, LEASES, PODS, Kubernetes, connect
from llmd_runbook.clients.releases import Driver, HelmDriver, HelmfileDriver, ReleaseSpec, process
from llmd_runbook.errors import Locked, LockLost
from tests.llmd_runbook.clients.server import Reply, Server

LIB = Path(llmd_runbook.__file__).parent
POD: Any = {"metadata": {"name": "a", "resourceVersion": "7", "managedFields": [{"manager": "llmd-runbook"}]}}

KUBERNETES: dict[str, Callable[[Kubernetes], object]] = {
    "create": lambda kube: kube.create(LEASES, POD, "llm-d"),
    "replace": lambda kube: kube.replace(LEASES, POD, "llm-d"),
    "apply": lambda kube: kube.apply(PODS, POD, "llm-d"),
    "scale": lambda kube: kube.scale("a", "llm-d", 0),
    "patch": lambda kube: kube.patch(DEPLOYMENTS, "a", "llm-d", []),
    "disown": lambda kube: kube.disown(DEPLOYMENTS, POD, "llm-d"),
    "delete": lambda kube: kube.delete(PODS, "a", "llm-d", uid="u", grace_s=0),
}
KUBERNETES_READS = {"get", "find", "all", "raw", "logs", "log_start", "follow", "wait", "may", "server", "authority"}
GKE: dict[str, Callable[[GkePool], object]] = {
    "create_spot": lambda pool: pool.create_spot("nvidia-t4-pool", "us-central1-a", 1),
    "delete": lambda pool: pool.delete(),
    "set_autoscaling": lambda pool: pool.set_autoscaling(Bounds(0, 3)),
    "set_size": lambda pool: pool.set_size(3),
}
GKE_READS = {"describe", "find", "cluster", "operations", "running_operations", "begun_since", "operation", "wait"}
DRIVERS: dict[str, Callable[[Driver], object]] = {
    "apply": lambda driver: driver.apply(lambda line: None),
    "destroy": lambda driver: driver.destroy(lambda line: None),
    "settle": lambda driver: driver.settle(["a"], lambda line: None),
}
DRIVER_READS = {"names", "installed", "render", "versions", "charts", "stored", "differing"}
HELMFILE_READS = {"elsewhere", "version"}


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}


def test_every_method_is_known_as_a_read_or_as_a_change() -> None:
    """A new method has to be put where the tests below look at it."""
    assert public(Kubernetes) == KUBERNETES.keys() | KUBERNETES_READS
    assert public(GkePool) == GKE.keys() | GKE_READS
    assert public(HelmDriver) == DRIVERS.keys() | DRIVER_READS
    assert public(HelmfileDriver) == DRIVERS.keys() | DRIVER_READS | HELMFILE_READS


@pytest.mark.parametrize("name", KUBERNETES)
def test_the_api_server_gets_nothing(name: str, kubeconfig: Path, server: Server) -> None:
    with pytest.raises(LockLost):
        KUBERNETES[name](connect("", str(kubeconfig)))
    assert server.requests == []


def test_the_guard_is_asked_again_before_a_change_is_repeated(kubeconfig: Path, server: Server) -> None:
    """The API server may ask for a pause in which the lock is lost."""
    asked: list[None] = []

    def once() -> None:
        asked.append(None)
        if len(asked) > 1:
            raise LockLost("lost")

    path = DEPLOYMENTS.path("llm-d", "a", "scale")
    server.on(path, Reply(429, headers={"retry-after": "0"}), Reply(200, {}))
    with pytest.raises(LockLost):
        connect("", str(kubeconfig), before_change=once).scale("a", "llm-d", 0)
    assert len(server.asked(path)) == 1


@pytest.mark.parametrize("name", GKE)
def test_gke_gets_nothing(name: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, server.url)
    with pytest.raises(LockLost):
        GKE[name](GkePool("p", "l", "c", "pool"))
    assert server.requests == []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """helm and helmfile that note what they are asked, and have one release, a failed one."""
    file = tmp_path / "asked"
    release = {"name": "a", "namespace": "n", "revision": "1", "status": "failed", "chart": "c", "enabled": True}
    listed = json.dumps([{**release, "installed": True, "updated": "2026-01-23T10:00:00Z"}])
    built = json.dumps({"releases": [release]})
    for tool, version in (("helm", "v3.18.0"), ("helmfile", "1.1.0")):
        answers = f"case \"$*\" in *version*) echo {version};; *list*) echo '{listed}';; *build*) echo '{built}';; esac"
        script = tmp_path / tool
        script.write_text(f"#!/bin/sh\necho {tool} $* >> {file}\n{answers}\n")
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return file


@pytest.mark.parametrize("name", DRIVERS)
@pytest.mark.parametrize("tool", ["helm", "helmfile"])
def test_a_release_tool_is_asked_to_read_only(name: str, tool: str, programs: Path) -> None:
    driver: Driver = HelmDriver([ReleaseSpec("a", "chart")], "n")
    if tool == "helmfile":
        driver = HelmfileDriver(Path("helmfile.yaml"), "gke", "x", "n")
    with pytest.raises(LockLost):
        DRIVERS[name](driver)
    asked = {word for line in programs.read_text().splitlines() for word in line.split()[1:]}
    assert asked & {"list", "version"}
    assert not asked & {"upgrade", "install", "uninstall", "rollback", "apply", "sync", "destroy", "delete"}


def test_a_command_under_way_is_ended_when_the_lock_is_lost(tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(f"#!/bin/sh\ntrap 'touch {tmp_path}/ended; exit 1' TERM\necho begun\nsleep 600 &\nwait\n")
    script.chmod(0o755)
    begun: list[str] = []

    def guard() -> None:
        if begun:
            raise LockLost("lost")

    with pytest.raises(LockLost):
        process.run([str(script)], timeout_s=300, on_line=begun.append, guard=guard)
    assert (tmp_path / "ended").exists()


def test_a_command_is_not_begun_without_the_lock(tmp_path: Path) -> None:
    def guard() -> None:
        raise Locked("no")

    with pytest.raises(Locked):
        process.run(["/bin/sh", "-c", f"touch {tmp_path}/begun"], timeout_s=30, guard=guard)
    assert not (tmp_path / "begun").exists()


# Who may make a client, and with what


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(LIB.rglob("*.py")):
        yield str(path.relative_to(LIB)), ast.parse(path.read_text())


def using(*names: str) -> set[str]:
    """Modules in which one of these is used: a name that is called, or an attribute."""
    found = set()
    for module, tree in modules():
        for node in ast.walk(tree):
            named = node.func if isinstance(node, ast.Call) else node
            name = named.id if isinstance(named, ast.Name) else getattr(named, "attr", None)
            if name in names and not isinstance(node, ast.Name):
                found.add(module)
    return found


def test_clients_that_may_change_something_are_made_in_one_place() -> None:
    assert using("connect", "connect_as_pod") == {"clients/cluster.py"}
    helmfile = "clients/releases/helmfile.py"
    assert using("GkePool", "HelmDriver", "HelmfileDriver") == {"clients/access.py", helmfile, "stages/site.py"}
    assert "before_change" not in (LIB / "clients/access.py").read_text()  # it only looks, as this does:
    assert "helmfile.of(profile, pattern.releases, access.of(profile))" in (LIB / "clients/cluster.py").read_text()
    source = (LIB / "stages/site.py").read_text()
    made = source.count("GkePool(") + source.count("HelmDriver(") + source.count("helmfile.of(")
    assert made == 3
    assert source.count("lock.guard(profile)") == 3  # two drivers share one


def test_requests_leave_through_one_door_a_client() -> None:
    assert using("call_api") == {"clients/kubernetes.py"}
    of_load = {"load/calibrate.py", "load/measure.py", "load/probe.py"}  # processes of its own
    assert using("Popen") == {"clients/releases/process.py", *of_load}
    methods = [
        node.attr
        for call in ast.walk(ast.parse((LIB / "clients/gke.py").read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "_call"
        for node in call.args
        if isinstance(node, ast.Attribute) and getattr(node.value, "attr", "") == "_client"
    ]
    assert methods
    assert all(name.startswith(("get_", "list_")) for name in methods)
