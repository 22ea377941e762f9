"""A bench for runs: a small valid profile, notebooks written on the spot, and an output folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4

from llmd_runbook import cli
from llmd_runbook import profile as profiles
from llmd_runbook.manifest import ClusterIdentity, Run
from llmd_runbook.profile import Profile
from llmd_runbook.run.store import RunStore, all_runs

Command = Callable[..., tuple[int, str, str]]

PROFILE = """
name: tiny
namespace: llm-d
cluster: {context: c, simulated: true}
pool: {project: p, location: l, cluster: c, name: pool, accelerator: t4, nodes: 3}
pattern1: {model: a, replicas: 1, inference_pool: one, gateway: g,
  releases: {driver: helmfile, file: helmfile.yaml, postfix: x}}
pattern3: {model: b, replicas: 3, inference_pool: three, gateway: g,
  releases: {driver: helmfile, file: helmfile.yaml, postfix: y}}
route: {name: r}
prices: {gpu_node_usd_per_hour: 1, cpu_node_usd_per_hour: 1, control_plane_usd_per_hour: 1,
  load_balancer_usd_per_hour: 1, as_of: "2026-01-01", source: invented}
cleanup: {option: delete}
"""

SETUP = """
from pathlib import Path
from llmd_runbook.manifest import ClusterIdentity
from llmd_runbook.run import begin, verdicts
from llmd_runbook.verdicts import CheckSpec
def identify(_):
    return ClusterIdentity(context="c", server="https://s", kube_system_uid="uid", kubernetes_version="v1",
                           simulated=True, real={"control plane": "real", "engine": "simulated"})
def judge(ok):
    return CheckSpec("tiny.check", "that it is so", "mend it").judge(ok, expected="so", observed="seen")
"""

DRIVER = """
import sys
from pathlib import Path
from llmd_runbook import cli
exec(Path(sys.argv[0]).with_name("setup.txt").read_text())
cli.FOLDER = Path(sys.argv[0]).with_name("notebooks")
cli.stage_names = lambda: sorted(path.stem for path in cli.FOLDER.glob("*.ipynb"))
cli.identify_cluster = identify
cli.main()
"""


class Bench:
    """Everything that a run needs, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.output = folder / "runs"
        self.profile_file = folder / "tiny.yaml"
        self.cluster = ClusterIdentity(
            context="c", server="https://s", kube_system_uid="uid", kubernetes_version="v1", simulated=True
        )
        self.notebooks.mkdir()
        self.profile_file.write_text(PROFILE)
        (folder / "helmfile.yaml").touch()
        (folder / "setup.txt").write_text(SETUP)
        (folder / "driver.py").write_text(DRIVER)

    @property
    def profile(self) -> Profile:
        return profiles.load(str(self.profile_file))

    def notebook(self, stage: str, *cells: str, approves: bool = False, plan_cell: int | None = None) -> Path:
        """A stage's notebook: parameters, set-up, begin, and then these cells; code cell `plan_cell` shows its plan."""
        folder = f"notebooks=Path({str(self.notebooks)!r})"
        approve = ", approve" if approves else ""
        opening = f"stage = begin({stage!r}, profile, run{approve}, identify=identify, {folder})"
        names = ["profile", "run", *(["approve"] if approves else [])]
        source = "\n".join(f'{name} = ""' for name in names)
        parameters = v4.new_code_cell(source, metadata={"tags": ["parameters"]})
        code = [v4.new_code_cell(source) for source in (SETUP, opening, *cells)]
        if plan_cell is not None:
            code[plan_cell].metadata["tags"] = ["plan"]
        content = v4.new_notebook(cells=[v4.new_markdown_cell("# A stage"), parameters, *code])
        content.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        path = self.notebooks / f"{stage}.ipynb"
        nbformat.write(content, path)
        return path

    def start(self, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """`llmd-runbook WORDS`, with these notebooks and a cluster that answers."""
        return self._start([sys.executable, str(self.folder / "driver.py"), *words], env or {})

    def papermill(self, notebook: Path, *words: str) -> subprocess.Popen[str]:
        """`papermill NOTEBOOK OUT -p profile ...`, as anybody would."""
        command = [sys.executable, "-m", "papermill", str(notebook), str(self.folder / "out.ipynb")]
        return self._start([*command, "-p", "profile", str(self.profile_file), *words], {})

    def _start(self, command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**inherited, "LLMD_RUNBOOK_OUTPUT": str(self.output), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def store(self) -> RunStore:
        """The newest run."""
        return all_runs(self.output)[0]

    def run(self) -> Run:
        """The newest run's record."""
        return self.store().read()

    def record(self, name: str) -> Any:
        """A notebook of the newest run."""
        return nbformat.read(self.store().folder / name, as_version=4)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call `llmd-runbook WORDS` in this process: exit code, stdout, stderr."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmd-runbook", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call
