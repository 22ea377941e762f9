from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmd_sandbox.control_plane import go
from llmd_sandbox.errors import SandboxError

Program = Callable[[Path, str], None]


@pytest.mark.parametrize(("said", "taken"), [("go1.26.0", True), ("go2.0", True), ("go1.25.9", False)])
def test_go_on_path_must_be_recent(machine: Path, program: Program, said: str, taken: bool) -> None:
    program(machine / "bin" / "go", f"echo {said}")
    assert (go.on_path() is not None) is taken


def test_no_go_on_path(machine: Path) -> None:
    assert go.on_path() is None


def test_caches_are_its_own_and_toolchains_are_not_fetched(machine: Path, program: Program) -> None:
    program(machine / "bin" / "go", 'echo "$GOMODCACHE $GOCACHE $GOTOOLCHAIN"')
    toolchain = go.Go(machine / "bin" / "go", machine / "cache")
    said = toolchain.run(toolchain.module("etcd"), ["env"], lambda line: None)
    assert said.split() == [f"{machine}/cache/modules", f"{machine}/cache/compiled", "local"]


def test_a_module_is_copied_so_that_ours_stays_as_it_is(machine: Path) -> None:
    copy = go.Go(machine / "bin" / "go", machine / "cache").module("etcd")
    assert (copy / "go.sum").read_bytes() == (go.TOOLS / "etcd" / "go.sum").read_bytes()


def test_a_failure_carries_the_last_lines(machine: Path, program: Program) -> None:
    program(machine / "bin" / "go", "for i in 1 2 3 4 5 6; do echo line $i >&2; done; exit 3")
    toolchain = go.Go(machine / "bin" / "go", machine / "cache")
    lines: list[str] = []
    with pytest.raises(SandboxError, match=r"`go build` failed in module etcd \(exit status 3\)") as caught:
        toolchain.run(toolchain.module("etcd"), ["build"], lines.append)
    assert caught.value.reason == "line 2 line 3 line 4 line 5 line 6"
    assert len(lines) == 6


def test_an_interrupt_ends_the_compiler(machine: Path, program: Program) -> None:
    program(machine / "bin" / "go", "echo $$ >&2; echo compiling >&2; exec sleep 100")
    toolchain = go.Go(machine / "bin" / "go", machine / "cache")
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        if line == "compiling":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toolchain.run(toolchain.module("etcd"), ["build"], interrupt)
    assert not Path(f"/proc/{seen[0]}").exists()
