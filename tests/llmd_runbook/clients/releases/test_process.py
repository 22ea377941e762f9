from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from llmd_runbook.clients.releases import process
from llmd_runbook.errors import ToolCutShort, ToolError


def script(folder: Path, text: str) -> str:
    file = folder / "tool"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_output_goes_line_by_line_to_the_caller(tmp_path: Path) -> None:
    lines: list[str] = []
    tool = script(tmp_path, 'cat; echo "$1 $NAME"; echo warned >&2')
    text = process.run([tool, "a b"], timeout_s=30, stdin="in\n", env={"NAME": "x"}, on_line=lines.append)
    assert text == "in\na b x"
    assert sorted(lines) == ["a b x", "in", "warned"]


def test_failure_tells_status_command_and_last_words(tmp_path: Path) -> None:
    tool = script(tmp_path, 'i=0; while [ $i -lt 30 ]; do echo "line $i" >&2; i=$((i+1)); done; exit 3')
    with pytest.raises(ToolError) as caught:
        process.run([tool, "upgrade", "a b"], timeout_s=30)
    assert "exit status 3" in caught.value.what
    assert caught.value.where == f"{tool} upgrade 'a b'"
    assert str(caught.value.reason).splitlines() == [f"line {number}" for number in range(15, 30)]


def test_known_failures_come_with_their_remedy(tmp_path: Path) -> None:
    said = "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress"
    with pytest.raises(ToolError) as caught:
        process.run([script(tmp_path, f"echo '{said}' >&2; exit 1")], timeout_s=30)
    assert "helm rollback" in str(caught.value.remedy)


def test_no_secret_in_lines_or_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "plain-looking-value")
    lines: list[str] = []
    with pytest.raises(ToolError) as caught:
        process.run(
            [script(tmp_path, "echo hf_abcdefghijklmnop; echo $HF_TOKEN >&2; exit 1")],
            timeout_s=30,
            on_line=lines.append,
        )
    said = "\n".join([*lines, str(caught.value)])
    assert "hf_abcdef" not in said
    assert "plain-looking-value" not in said
    assert said.count("[redacted]") == 3


def test_missing_tool(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        process.run([str(tmp_path / "absent")], timeout_s=30, install="get it there")
    assert caught.value.remedy == "get it there"


def test_a_tool_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    tool = script(tmp_path, "exec sleep 600")
    with pytest.raises(ToolError, match=r"did not end within 0.01 s"):
        process.run([tool], timeout_s=0.01)


def test_interrupting_ends_the_tool_and_its_children(tmp_path: Path) -> None:
    tool = script(tmp_path, "sleep 600 & echo $!; wait")
    children: list[int] = []

    def interrupt(line: str) -> None:
        children.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run([tool], timeout_s=30, on_line=interrupt)
    assert _ended(children[0])


def _ended(pid: int) -> bool:
    """Whether the process is gone, or dead and waiting for its parent, within five seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
    return False


CUT_SHORT = [
    "Error: INSTALLATION FAILED: context deadline exceeded",
    "Error: UPGRADE FAILED: timed out waiting for the condition",
    "Error: UPGRADE FAILED: post-upgrade hooks failed: 1 error occurred:\n\t* timed out waiting for the condition",
    "Error: UPGRADE FAILED: resource Deployment/n/ms not ready. status: Failed, message: Progress deadline exceeded",
    "Error: resource not ready, name: ms, kind: Deployment, status: InProgress\ncontext deadline exceeded",
    'Error: UPGRADE FAILED: Patch "https://c/apis/apps/v1/namespaces/n/deployments/ms": EOF',
    "Error: INSTALLATION FAILED: etcdserver: request timed out",
    "STDERR:\n  Error: UPGRADE FAILED: context deadline exceeded\n\nCOMBINED OUTPUT:\n  Release has been upgraded",
]
REFUSED = [
    'Error: failed calling webhook "w": failed to call webhook: Post "https://w": context deadline exceeded',
    "Error: Kubernetes cluster unreachable: Get https://c/version: context deadline exceeded",
    "Error: UPGRADE FAILED: admission webhook denied the request",
    "Error: INSTALLATION FAILED: values don't meet the specifications of the schema(s)",
    "Error: another operation (install/upgrade/rollback) is in progress",
]


@pytest.mark.parametrize(
    ("said", "kind"), [*((said, ToolCutShort) for said in CUT_SHORT), *((said, ToolError) for said in REFUSED)]
)
def test_only_what_was_not_refused_is_cut_short(tmp_path: Path, said: str, kind: type[ToolError]) -> None:
    (tmp_path / "said").write_text(said)
    tool = script(tmp_path, f"cat {tmp_path}/said >&2; exit 1")
    with pytest.raises(ToolError, match="failed with exit status 1") as caught:
        process.run([tool], timeout_s=30, guard=lambda: None)
    assert type(caught.value) is kind
    with pytest.raises(ToolError) as caught:  # what only reads leaves nothing behind
        process.run([tool], timeout_s=30)
    assert type(caught.value) is ToolError


def test_a_change_that_is_stopped_is_cut_short(tmp_path: Path) -> None:
    with pytest.raises(ToolCutShort, match="did not end within"):
        process.run([script(tmp_path, "exec sleep 600")], timeout_s=0.01, guard=lambda: None)
