"""Each peer in an environment of its own, below the user's cache folder, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

_PYTHONS = ("python3.12", "python3.13")
"""All three run on these; inference-perf needs 3.12 at least."""
_INSTALL_S = 1200.0


class NotCompared(Exception):
    """Why there is no figure of a peer; it counts as a target missed."""


@dataclass(frozen=True)
class Package:
    """A peer as its package index knows it; `size` is what it and its dependencies take on disk."""

    name: str
    version: str
    size: str


def obtain(package: Package, console: Console) -> Path:
    """The folder of the peer's programs, installed if it is not there yet.

    Raises:
        NotCompared: there is no Python for it, or it could not be installed.
    """
    folder = _cache() / f"{package.name}-{package.version}"
    whole = folder / "complete"
    if not whole.exists():
        console.print(
            f"installing {package.name} {package.version} once, {package.size}, into {folder}", soft_wrap=True
        )
        shutil.rmtree(folder, ignore_errors=True)
        uv = Path(sys.executable).parent / "uv"
        _do(uv, "venv", "--quiet", "--no-python-downloads", "--python", _python(), folder)
        _do(uv, "pip", "install", "--quiet", "--python", folder / "bin/python", f"{package.name}=={package.version}")
        whole.touch()
    return folder / "bin"


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "llmd-runbook" / "peers"


def _python() -> Path:
    """A Python that the peers run on: from PATH, else from pyenv; a shim that leads nowhere is passed over."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for name in _PYTHONS:
        on_path = shutil.which(name)
        minor = name.removeprefix("python")
        for found in (*([Path(on_path)] if on_path else []), *sorted(versions.glob(f"{minor}.*/bin/{name}"))):
            if subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
                return found
    raise NotCompared(f"none of {', '.join(_PYTHONS)} is on PATH or below {versions}")


def _do(*command: str | Path) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCompared(f"not installed: {error}") from error
    if done.returncode != 0:
        raise NotCompared(f"not installed: {' '.join(done.stderr.split())[-400:]}")
