"""One sandbox for each file of tests, brought up and taken down as a user would."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmd_sandbox import processes

if TYPE_CHECKING:
    from tests.end_to_end.bench import Bench

PROGRAMS = Path(sys.executable).parent


@dataclass(frozen=True)
class Sandbox:
    """A sandbox that is up, and the environment of a shell that has sourced its file."""

    name: str
    folder: Path
    environment: dict[str, str]

    @property
    def kubeconfig(self) -> str:
        return self.environment["KUBECONFIG"]

    def start(self, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of this project, or one from PATH, with `more` in its environment."""
        own = PROGRAMS / words[0]
        argv = [str(own) if own.exists() else str(words[0]), *map(str, words[1:])]
        return subprocess.run(
            argv, env={**self.environment, **more}, capture_output=True, text=True, check=False, timeout=600
        )

    def kubectl(self, *words: str) -> str:
        """What kubectl prints; it works in the namespace of the releases."""
        done = self.start("kubectl", "--namespace", "llm-d", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox with Pattern 1 serving; a file's `SANDBOX_OPTIONS` are words for `llmd-sandbox up`."""
    with running(tmp_path_factory.mktemp("state"), *getattr(request.module, "SANDBOX_OPTIONS", ())) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The sandbox with its quick profile, in this process's environment."""
    from tests.end_to_end.bench import Bench  # which imports this file

    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))
    assert os.environ.get("KUBECONFIG") != sandbox.kubeconfig


@contextmanager
def running(state: Path, *options: str | Path) -> Iterator[Sandbox]:
    """A sandbox that is up; afterwards neither a process nor a file of it is left."""
    name = f"test-{secrets.token_hex(3)}"
    own = {**os.environ, "LLMD_SANDBOX_STATE": str(state)}

    def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = [str(PROGRAMS / "llmd-sandbox"), *map(str, words), "--name", name]
        return subprocess.run(argv, env=own, capture_output=True, text=True, check=False)

    try:
        up = command("up", *options)
        assert up.returncode == 0, up.stderr
        file = command("env").stdout.strip()
        sourced = subprocess.run(
            ["bash", "-c", 'source "$0" && exec env -0', file], env=own, capture_output=True, text=True, check=True
        )
        pairs = (entry.partition("=") for entry in sourced.stdout.rstrip("\0").split("\0"))
        folder = Path(file).parent
        yield Sandbox(name, folder, {key: value for key, _, value in pairs})
    finally:
        down = command("down")
    assert down.returncode == 0, down.stderr
    assert processes.find(folder) == []
    assert not folder.exists()
