from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from llmd_sandbox.control_plane import assets
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.kube import Object
from llmd_sandbox.site import SIMULATOR, STARTUP_SCALE, VLLM, Site
from llmd_sandbox.supervisor import environment, guard, objects, patterns, releases, run
from llmd_sandbox.supervisor.state import FAILED, UP, Order, Progress, State


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_progress_keeps_the_time_of_each_phase(tmp_path: Path) -> None:
    progress = Progress(tmp_path, asked=1.0)
    progress.enter("control plane")
    progress.enter(UP)
    state = State.load(tmp_path)
    assert state is not None
    assert (state.pid, state.phase, state.error) == (os.getpid(), UP, None)
    assert set(state.timings_s) == {"start", "control plane"}
    assert state.ready_after_s is not None


def test_the_label_on_the_tin_says_whether_the_engine_is_real() -> None:
    labels = {}
    for engine in STARTUP_SCALE:
        (_, config_map), *_ = objects._label_on_the_tin(Site("one", 5, engine))
        labels[engine] = config_map["data"]["engine"]
    assert labels[SIMULATOR].startswith("simulated")
    assert labels[VLLM].startswith("real vLLM 0.")
    assert "random weights" in labels[VLLM]


async def test_a_sandbox_with_the_real_engine_does_not_start_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "find", lambda: dict.fromkeys(assets.NEEDED, tmp_path))
    site = Site("one", 5, VLLM)
    with pytest.raises(SandboxError, match="the real vLLM") as caught:
        await run.run(site, Order("one", VLLM), Progress(tmp_path, asked=1.0))
    assert caught.value.remedy == "llmd-sandbox build --engine vllm"


def test_a_failure_keeps_its_reason(tmp_path: Path) -> None:
    Progress(tmp_path, asked=1.0).fail("etcd ended")
    state = State.load(tmp_path)
    assert state is not None
    assert (state.phase, state.error, state.ready_after_s) == (FAILED, "etcd ended", None)


def test_state_is_replaced_whole(tmp_path: Path) -> None:
    progress = Progress(tmp_path, asked=1.0)
    before = (tmp_path / "state.json").open()
    with before:
        progress.enter("control plane")
        assert json.load(before)["phase"] == "start"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state.json"]


def test_no_state_yet(tmp_path: Path) -> None:
    assert State.load(tmp_path) is None


def test_an_order_is_read_as_it_was_given(tmp_path: Path) -> None:
    order = Order("one", values="/values", bare=True)
    order.save(tmp_path)
    assert Order.load(tmp_path) == order


def test_two_sandboxes_get_different_addresses() -> None:
    first, held = guard.claim(Site("same", 0))
    with held:
        second, held_too = guard.claim(Site("same", 0))
        with held_too:
            assert first.octet != second.octet
    third, held = guard.claim(Site("same", 0))
    with held:
        assert third.octet == first.octet


def test_a_block_with_a_port_in_use_is_left_out() -> None:
    usual, held = guard.claim(Site("same", 0))
    held.close()
    with socket.create_server(usual.gke):
        other, held = guard.claim(Site("same", 0))
        held.close()
    assert other.octet != usual.octet


def test_a_port_held_everywhere_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: tuple[str, int]) -> socket.socket:
        raise OSError(98, f"Address already in use ({address[0]}:{address[1]})")

    monkeypatch.setattr(guard, "_listen", refuse)
    with pytest.raises(SandboxError, match="No block of loopback addresses is free") as caught:
        guard.claim(Site("same", 0))
    assert "already in use" in str(caught.value.reason)


def test_the_env_file_gives_a_shell_what_it_needs(tmp_path: Path) -> None:
    site = Site("it's", 5)
    site.directory.mkdir(parents=True)
    cached = tmp_path / "cache" / "llmd-sandbox" / "v1.36.3" / "clients" / "helm" / "helm"
    environment.write(site, {"kubectl": Path("/opt/k/kubectl"), "helm": cached})
    script = f"PATH=/usr/bin; . {str(site.env_file)!r}; echo $PATH; echo $KUBECONFIG; echo $LLMD_SANDBOX_NAME"
    said = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"{cached.parent}:/usr/bin:/opt/k", str(site.kubeconfig), "it's"]


def test_a_releases_values_are_layered(tmp_path: Path) -> None:
    for name in ("infra.yaml", "infra.sandbox.yaml", "other.yaml"):
        (tmp_path / name).touch()
    assert releases.value_files(tmp_path, "infra") == [
        tmp_path / "infra.yaml",
        tmp_path / "infra.sandbox.yaml",
    ]
    with pytest.raises(SandboxError, match="values of release gone are missing") as caught:
        releases.value_files(tmp_path, "gone")
    assert "--bare" in str(caught.value.remedy)


async def test_a_failing_helm_is_an_error_with_its_words(tmp_path: Path) -> None:
    helm = tmp_path / "helm"
    helm.write_text("#!/bin/bash\necho 'Error: no matches for kind PodMonitor' >&2\nexit 1\n")
    helm.chmod(0o755)
    with pytest.raises(SandboxError, match="release infra") as caught:
        await releases.install(Site("one", 5), helm, "llm-d", "infra", "infra", [])
    assert caught.value.reason == "Error: no matches for kind PodMonitor"


def condition(kind: str, value: str) -> Object:
    return {"status": {"conditions": [{"type": kind, "status": value}]}}


def test_warnings_leave_out_what_always_comes() -> None:
    def event(kind: str, reason: str) -> Object:
        return {"involvedObject": {"name": "pod"}, "type": kind, "reason": reason, "message": "why"}

    events = [
        event("Normal", "Pulled"),
        event("Warning", "FailedToUpdateEndpoint"),
        event("Warning", "BackOff"),
    ]
    assert patterns.warnings(events) == ["pod: BackOff: why"]


def test_nodes_are_ready_when_all_are() -> None:
    ready, not_ready = condition("Ready", "True"), condition("Ready", "False")
    assert patterns.nodes_ready({"a": ready})
    assert not patterns.nodes_ready({"a": ready, "b": not_ready})
    assert not patterns.nodes_ready({"a": {"status": {}}})
    assert not patterns.nodes_ready({})


def test_deployments_are_available_when_both_have_their_replicas() -> None:
    def deployment(wanted: int, available: int) -> Object:
        return {"spec": {"replicas": wanted}, "status": {"availableReplicas": available}}

    assert patterns.deployments_available({"a": deployment(1, 1), "b": deployment(1, 1)}, 1)
    assert not patterns.deployments_available({"a": deployment(1, 1)}, 1)
    assert not patterns.deployments_available({"a": deployment(1, 1), "b": deployment(1, 1)}, 2)
    assert not patterns.deployments_available({"a": deployment(1, 1), "b": deployment(2, 1)}, 1)
    assert not patterns.deployments_available({"a": deployment(1, 1), "b": {"spec": {"replicas": 1}}}, 1)


def test_the_gateways_url_needs_programmed_and_an_address() -> None:
    name = f"{objects.NAMESPACE}/{patterns.PATTERN1.gateway}"
    gateway = condition("Programmed", "True") | {"spec": {"listeners": [{"port": 8080}]}}
    assert patterns.gateway_url({name: gateway}, patterns.PATTERN1.gateway) == ""
    gateway["status"]["addresses"] = [{"value": "127.5.1.1"}]
    assert patterns.gateway_url({name: gateway}, patterns.PATTERN1.gateway) == "http://127.5.1.1:8080"
    gateway["status"]["conditions"][0]["status"] = "False"
    assert patterns.gateway_url({name: gateway}, patterns.PATTERN1.gateway) == ""
    assert patterns.gateway_url({}, patterns.PATTERN1.gateway) == ""
