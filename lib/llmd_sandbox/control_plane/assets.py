"""What the control plane needs on disk, and where it is found.

Servers and kubectl are looked for in `KUBEBUILDER_ASSETS` (the convention of Kubernetes' own test tools),
kubectl and helm on PATH, everything else in the per-user cache, which `build` fills. The tools of `make test-cli`
are looked for on PATH and in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from llmd_sandbox.control_plane import versions
from llmd_sandbox.site import cache_root

GATEWAY_CRDS = "gateway-api"
CLIENTS = ("kubectl", "helm")
NEEDED = (*versions.SERVERS, GATEWAY_CRDS, *CLIENTS)
TOOLS = tuple(versions.TOOLS)
"""What only `make test-cli` needs beside them."""

_VERSION_COMMAND = {
    "kubectl": ["version", "--client", "--output=json"],
    "helm": ["version", "--template={{.Version}}"],
    "helmfile": ["version", "--output=short"],
}
_MINIMUM = {"kubectl": versions.KUBECTL_MINIMUM, "helm": versions.HELM_MINIMUM}


def cache() -> Path:
    """The folder of this version's programs."""
    return cache_root() / versions.KUBERNETES


def cached(name: str) -> Path:
    """Where the cache keeps `name` once complete; a client or tool has a folder of its own, to be put on PATH."""
    if name in versions.TOOLS:
        tool = versions.TOOLS[name]
        return cache_root() / "tools" / f"{name}-{tool.version}" / tool.program
    return cache() / "clients" / name / name if name in CLIENTS else cache() / name


def find(names: Iterable[str] = NEEDED) -> dict[str, Path]:
    """What there is of `names`: each with its file, or its folder in the case of `GATEWAY_CRDS`."""
    found = {name: _find(name) for name in names}
    return {name: path for name, path in found.items() if path is not None}


def missing(names: Iterable[str] = NEEDED) -> list[str]:
    """What there is not of `names`."""
    wanted = list(names)
    found = find(wanted)
    return [name for name in wanted if name not in found]


def client_folders(found: dict[str, Path]) -> tuple[list[str], list[str]]:
    """Folders for before and for after a user's PATH, so that `kubectl` and `helm` are the ones found.

    A cached client was taken because PATH has none that is recent enough, so it comes first. One that was on
    the PATH of `up` may be missing from another shell's, but must not change the order of what that one has.
    """
    folders = list(dict.fromkeys(str(found[name].parent) for name in CLIENTS))
    first = [folder for folder in folders if Path(folder).is_relative_to(cache())]
    return first, [folder for folder in folders if folder not in first]


def _find(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and name != GATEWAY_CRDS and _executable(Path(assets) / name):
        return (Path(assets) / name).absolute()
    if name in CLIENTS:
        on_path = shutil.which(name)
        if on_path and _recent(name, on_path):
            return Path(on_path).absolute()
    if name in versions.TOOLS:
        tool = versions.TOOLS[name]
        on_path = shutil.which(tool.program)
        if on_path and tool.oldest <= _version(tool.program, on_path) < tool.below:
            return Path(on_path).absolute()
    kept = cached(name)
    return kept if kept.is_dir() or _executable(kept) else None


def _executable(file: Path) -> bool:
    return file.is_file() and os.access(file, os.X_OK)


def _recent(name: str, program: str) -> bool:
    """Whether the client on PATH is at least the minimum version; one that cannot say its version is not."""
    return _version(name, program) >= _MINIMUM[name]


def _version(name: str, program: str) -> tuple[int, int]:
    """Major and minor version that the program gives itself; (0, 0) when it gives none."""
    environment = {**os.environ, "HELMFILE_UPGRADE_NOTICE_DISABLED": "1"}  # else helmfile asks the network first
    try:
        answer = subprocess.run(
            [program, *_VERSION_COMMAND[name]], capture_output=True, text=True, timeout=20, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return 0, 0
    match = re.search(r"v?(\d+)\.(\d+)\.", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0, 0)
