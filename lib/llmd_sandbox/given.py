"""Programs that are in no package registry, so that a user who has one says where it is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from llmd_sandbox.errors import NotToBeHad

EPP_BINARY = "LLMD_SANDBOX_EPP"
"""Environment variable that names a real endpoint picker's binary, to be run instead of ours."""

HELM_DIFF_BINARY = "LLMD_SANDBOX_HELM_DIFF"
"""Environment variable that names the binary of helm's plug-in helm-diff."""

_GO_BUILD_INFO = re.compile(rb"path\t([\w./-]+)\nmod\t\S+\t(v[\w.+-]+)?")
"""Go writes into each program what it was built from: package, module, version, which a checkout has not."""


def picker() -> Path:
    """The real endpoint picker.

    Raises:
        NotToBeHad: none is named, or what is named is no program.
    """
    return _named(
        EPP_BINARY,
        "The real endpoint picker",
        "build cmd/epp of kubernetes-sigs/gateway-api-inference-extension (v1.2.0) or of llm-d/llm-d-router (v0.10.0), "
        f"or take it out of their images, and say where it is: {EPP_BINARY}=/path/to/epp make test-picker",
    )


def helm_diff() -> Path:
    """helm's plug-in helm-diff: the binary that is named, else the one of this user's helm.

    Raises:
        NotToBeHad: there is neither.
    """
    return _named(
        HELM_DIFF_BINARY,
        "helm-diff",
        "install the plug-in, or build it (go build, in a checkout of github.com/databus23/helm-diff) and say where "
        f"it is: {HELM_DIFF_BINARY}=/path/to/diff; without it: make test-cli CLI=without-helm-diff",
        _plugins().glob("*/bin/diff"),
    )


def described(binary: Path) -> str:
    """What a Go program is: its file's name, what it says that it was built from, and its SHA-256."""
    content = binary.read_bytes()
    built = _GO_BUILD_INFO.search(content)
    version = (built[2] or b"a version that it does not tell").decode() if built else ""
    origin = f", built from {built[1].decode()}, {version}" if built else ", which does not say what it was built from"
    return f"{binary.name}{origin}, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"


def _named(variable: str, what: str, remedy: str, installed: Iterable[Path] = ()) -> Path:
    named = os.environ.get(variable, "")
    for found in [Path(named).expanduser()] if named else sorted(installed):
        if found.is_file() and os.access(found, os.X_OK):
            return found.absolute()
    raise NotToBeHad(
        f"{what} is in no package registry, and this machine has none.",
        reason=f"{variable} names no program: {named or 'it is not set'}",
        remedy=remedy,
    )


def _plugins() -> Path:
    """Where this user's helm keeps its plug-ins."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("HELM_PLUGINS") or Path(data) / "helm" / "plugins")
