"""The lane `make test-cli`: operators' own tools, and one sandbox for all of it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmd_sandbox import given
from llmd_sandbox.control_plane import assets
from llmd_sandbox.errors import NotToBeHad
from tests.end_to_end.conftest import Sandbox, running


@dataclass(frozen=True)
class Toolbox:
    """Programs by name: `helm3`, `helm4`, `helmfile`, `kubectl`."""

    programs: dict[str, Path]
    empty: Path

    def environment(self, helm: str, plugins: Path | None = None) -> dict[str, str]:
        """A PATH on which `helm` is this one and helmfile is found; no plug-in but those in `plugins`."""
        folders = [str(self.programs[name].parent) for name in (helm, "helmfile")]
        return {
            "PATH": os.pathsep.join([*folders, os.environ["PATH"]]),
            "HELM_PLUGINS": str(plugins or self.empty),
            **{f"HELM_{kind}_HOME": str(self.empty / kind) for kind in ("CACHE", "CONFIG", "DATA")},
        }


@pytest.fixture(scope="session")
def toolbox(tmp_path_factory: pytest.TempPathFactory) -> Toolbox:
    wanted = (*assets.TOOLS, "kubectl")
    absent = assets.missing(wanted)
    if absent:
        pytest.fail(f"missing: {', '.join(absent)}. `make test-cli` builds them; or put them on PATH")
    return Toolbox(assets.find(wanted), tmp_path_factory.mktemp("helm"))


@pytest.fixture(scope="session")
def helm_diff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for HELM_PLUGINS with nothing but helm-diff in it."""
    try:
        binary = given.helm_diff()
    except NotToBeHad as error:
        pytest.fail(str(error))
    said = subprocess.run([str(binary), "version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"\d+\.\d+\.\d+", said)
    plugins = tmp_path_factory.mktemp("plugins")
    folder = plugins / "helm-diff"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "diff").symlink_to(binary)
    (folder / "plugin.yaml").write_text(
        f"name: diff\nversion: {version[0] if version else '3.0.0'}\nusage: a diff\ndescription: a diff\n"
        "platformCommand:\n  - command: ${HELM_PLUGIN_DIR}/bin/diff\n"
    )
    return plugins


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """One sandbox for the whole lane, with Pattern 1 serving at first; each file leaves Pattern 1 behind."""
    with running(tmp_path_factory.mktemp("state")) as up:
        yield up
