from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmd_sandbox import cli, command, given, lifecycle
from llmd_sandbox.control_plane import assets, build
from llmd_sandbox.errors import NotToBeHad, SandboxError
from llmd_sandbox.images.vllm_cpu import environment
from llmd_sandbox.site import STARTUP_SCALE, Site
from llmd_sandbox.supervisor.state import Order, Progress


@pytest.fixture(autouse=True)
def sandboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Ups and downs asked for; nothing is really started or built."""
    asked: list[str] = []

    def up(order: Order, watch: object) -> bool:
        asked.append(f"up {order.name} bare={order.bare}")
        assert order.startup_scale == STARTUP_SCALE[order.engine]
        Site(order.name, 5).save()
        return order.name != "running"

    def down(name: str) -> bool:
        asked.append(f"down {name}")
        return True

    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    monkeypatch.setattr(lifecycle, "up", up)
    monkeypatch.setattr(lifecycle, "down", down)
    monkeypatch.setattr(build, "ensure", lambda report: None)
    monkeypatch.setattr(environment, "ensure", lambda report: asked.append("build vllm"))
    monkeypatch.setattr(assets, "find", lambda: {"kubectl": Path("/usr/bin/kubectl"), "helm": Path("/usr/bin/helm")})
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["llmd-sandbox", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code if isinstance(caught.value.code, int) else 0


def test_up_says_how_to_use_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sandboxes: list[str]
) -> None:
    assert call(monkeypatch, "up", "--name", "one", "--bare") == 0
    assert sandboxes == ["up one bare=True"]
    said = capsys.readouterr()
    assert said.out == f"source {Site.load('one').env_file}\n"
    assert "one is up" in said.err


def test_the_real_engine_is_built_before_the_sandbox_starts(
    monkeypatch: pytest.MonkeyPatch, sandboxes: list[str]
) -> None:
    assert call(monkeypatch, "up", "--engine", "vllm") == 0
    assert call(monkeypatch, "build", "--engine", "vllm") == 0
    assert sandboxes == ["build vllm", "up default bare=False", "build vllm"]


def test_up_says_when_it_was_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "up", "--name", "running") == 0
    assert "was up already" in capsys.readouterr().err


def test_run_ends_with_the_commands_status_and_takes_down_what_it_started(
    monkeypatch: pytest.MonkeyPatch, sandboxes: list[str]
) -> None:
    assert call(monkeypatch, "run", "--", "bash", "-c", 'test "$LLMD_SANDBOX_NAME" = default && exit 7') == 7
    assert sandboxes == ["up default bare=False", "down default"]


def test_run_leaves_a_running_sandbox_alone(monkeypatch: pytest.MonkeyPatch, sandboxes: list[str]) -> None:
    assert call(monkeypatch, "run", "--name", "running", "--", "true") == 0
    assert sandboxes == ["up running bare=False"]


def test_run_takes_down_also_when_there_is_no_such_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sandboxes: list[str]
) -> None:
    assert call(monkeypatch, "run", "--", "/no/such/program") == 1
    assert sandboxes[-1] == "down default"
    assert "Cannot run /no/such/program" in capsys.readouterr().err


def test_an_interrupt_before_the_command_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "ensure", lambda report: os.kill(os.getpid(), signal.SIGTERM))
    assert call(monkeypatch, "build") == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_error_is_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(report: object) -> None:
        raise SandboxError("It failed.", where="/there", reason="[why]", remedy="do this")

    monkeypatch.setattr(build, "ensure", refuse)
    assert call(monkeypatch, "up") == 1
    assert capsys.readouterr().err.strip() == "It failed.\n  where:  /there\n  reason: [why]\n  to do:  do this"


def test_what_cannot_be_had_has_an_exit_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise NotToBeHad("It cannot be had.", reason="no network")

    monkeypatch.setattr(environment, "ensure", refuse)
    assert call(monkeypatch, "build", "--engine", "vllm") == os.EX_UNAVAILABLE
    assert "reason: no network" in capsys.readouterr().err
    monkeypatch.setenv(given.EPP_BINARY, "/no/such/epp")
    assert call(monkeypatch, "build", "--picker") == os.EX_UNAVAILABLE
    monkeypatch.setenv(given.HELM_DIFF_BINARY, "/no/such/diff")
    assert call(monkeypatch, "build", "--helm-diff") == os.EX_UNAVAILABLE
    monkeypatch.setenv(given.HELM_DIFF_BINARY, sys.executable)
    assert call(monkeypatch, "build", "--helm-diff") == 0


@pytest.mark.parametrize(
    "words",
    [["up", "--nope"], ["up", "--startup-scale", "7"], ["up", "--engine", "gpu"], ["nothing"], ["run"]],
)
def test_wrong_usage_is_2(monkeypatch: pytest.MonkeyPatch, words: list[str], sandboxes: list[str]) -> None:
    assert call(monkeypatch, *words) == 2
    assert sandboxes == []


def test_status_and_env_of_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "status", "--json") == 1
    assert capsys.readouterr().out == '{"phase": "down"}\n'
    assert call(monkeypatch, "env") == 1
    assert "default is not up" in capsys.readouterr().err


def test_status_of_a_sandbox_whose_supervisor_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = Site("default", 5)
    site.save()
    Progress(site.directory, time.time())
    assert call(monkeypatch, "status") == 1
    said = capsys.readouterr().out
    assert "default: failed, 0 processes" in said
    assert "is gone" in said


def test_down_all_takes_every_one(monkeypatch: pytest.MonkeyPatch, sandboxes: list[str]) -> None:
    for name in ("one", "two"):
        Site(name, 5).save()
    assert call(monkeypatch, "down", "--all") == 0
    assert sandboxes == ["down one", "down two"]


def test_faults_are_declared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "faults") == 0
    said = capsys.readouterr().out
    starts = [f"llmd-sandbox/start={how}" for how in ("oom", "cuda-oom")]
    words = ("llmd-sandbox/kubelet=silent", "--route-lag-s", "--api-faults", "throttle", "forbidden", *starts)
    assert all(word in said for word in words)


def test_faults_that_cannot_be_read_start_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sandboxes: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text("[{kind: explode}]")
    assert call(monkeypatch, "run", "--api-faults", str(file), "--", "true") == 1
    assert sandboxes == []
    assert "'explode' is not a valid Kind" in capsys.readouterr().err


def test_up_passes_on_what_is_asked_of_nodes_and_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[Order] = []

    def up(order: Order, watch: object) -> bool:
        ordered.append(order)
        Site(order.name, 5).save()
        return True

    monkeypatch.setattr(lifecycle, "up", up)
    assert call(monkeypatch, "up", "--node-grace-s", "10", "--route-lag-s", "30") == 0
    assert (ordered[0].node_grace_s, ordered[0].route_lag_s) == (10, 30)


@pytest.mark.parametrize("words", [[], ["up"], ["down"], ["status"], ["run"], ["build"], ["env"], ["faults"]])
def test_help_is_everywhere(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    assert call(monkeypatch, *words, "--help") == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_command(tmp_path: Path, number: signal.Signals, status: int) -> None:
    script = (
        "import os, sys; from llmd_sandbox import command;"
        "sys.exit(command.run(['bash', '-c', 'echo $$; exec sleep 100'], os.environ))"
    )
    wrapper = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    assert wrapper.stdout is not None
    with wrapper.stdout:
        child = int(wrapper.stdout.readline())
    wrapper.send_signal(number)
    assert wrapper.wait(10) == status
    assert not Path(f"/proc/{child}").exists()


def test_a_commands_status_is_kept() -> None:
    assert command.run(["bash", "-c", "exit 3"], os.environ) == 3
    assert command.run(["bash", "-c", "kill -9 $$"], os.environ) == 137
