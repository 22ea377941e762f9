"""The bench with another profile, other values, or a caller who may do what a role says and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from llmd_runbook.profile import PARAMETERS, load
from llmd_runbook.stages.review import capacity, configuration, permissions, state, surroundings
from tests.end_to_end.bench import Bench
from tests.end_to_end.conftest import Sandbox

REVIEW = (
    configuration.tools,
    configuration.configuration,
    state.node_pool,
    capacity.capacity,
    state.deployments,
    surroundings.surroundings,
    permissions.permissions,
    state.baseline,
)
"""Stage 01 as its notebook calls it; the baseline, which takes the longest, comes last."""


def variant(bench: Bench, folder: Path, changed: dict[str, str]) -> Bench:
    """The bench with another profile: texts of its own replaced."""
    text = bench.file.read_text()
    for old, new in changed.items():
        assert old in text, f"{old!r} is not in the profile"
        text = text.replace(old, new)
    other = copy.copy(bench)
    other.file = folder / "variant.yaml"
    other.file.write_text(text)
    other.profile = load(str(other.file))
    return other


def with_values(bench: Bench, folder: Path, name: str, old: str, new: str) -> Bench:
    """The bench with one values file changed."""
    text = (PARAMETERS / "helm" / name).read_text()
    assert old in text, f"{old!r} is not in {name}"
    (folder / name).write_text(text.replace(old, new))
    return variant(bench, folder, {f"{PARAMETERS}/helm/{name}": str(folder / name)})


def called_by(bench: Bench, folder: Path, roles: Iterable[dict[str, Any]]) -> Bench:
    """The bench as the ServiceAccount of these roles sees the cluster."""
    manifests = list(roles)
    account = next(item["metadata"]["name"] for item in manifests if item["kind"] == "ServiceAccount")
    file = folder / "roles.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    done = bench.sandbox.start("kubectl", "apply", "-f", file)  # in several namespaces
    assert done.returncode == 0, done.stderr
    kubeconfig = _kubeconfig(bench.sandbox, account, folder)
    return variant(bench, folder, {"context: llmd-sandbox": f"context: llmd-sandbox\n  kubeconfig: {kubeconfig}"})


def printed_roles(sandbox: Sandbox, who: str) -> list[dict[str, Any]]:
    """What `llmd-runbook roles sandbox --WHO` prints."""
    done = sandbox.start("llmd-runbook", "roles", "sandbox", f"--{who}")
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _kubeconfig(sandbox: Sandbox, account: str, folder: Path) -> Path:
    config = yaml.safe_load(Path(sandbox.kubeconfig).read_text())
    token = sandbox.kubectl("create", "token", account).strip()
    config["users"] = [{"name": account, "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = account
    file = folder / "kubeconfig"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config))
    return file
