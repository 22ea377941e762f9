"""What a profile needs for the real endpoint picker of either generation."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from llmd_runbook.profile import PARAMETERS, PROJECT_ROOT

FLAG = "kv-cache-usage-percentage-metric"
NEWER = PARAMETERS / "helm" / "picker.v0.10.yaml"


@dataclass(frozen=True)
class Prepared:
    """Whether the binary is of the newer generation; a profile and a folder of values as that one needs them."""

    newer: bool
    profile: Path
    values: Path


def prepare(epp: Path, base: str, folder: Path) -> Prepared:
    """The profile `base` for this binary, in `folder`."""
    newer, values = _is_newer(epp), folder / "helm"
    shutil.copytree(PARAMETERS / "helm", values)
    text = (PARAMETERS / f"{base}.yaml").read_text().replace("../lib/", f"{PROJECT_ROOT}/lib/")
    if newer:
        shutil.copy(NEWER, values / "gaie-pattern1.sandbox.yaml")
        for release in ("gaie-pattern1", "gaie-pattern3"):
            _without_flag(values / f"{release}.yaml")
            old = f"[helm/{release}.yaml]"
            assert old in text
            text = text.replace(old, f"[helm/{release}.yaml, helm/{NEWER.name}]")
    profile = folder / f"{base}.yaml"
    profile.write_text(text)
    return Prepared(newer, profile, values)


def _is_newer(epp: Path) -> bool:
    """Whether a binary is of the generation that has no flag for the metric of KV use; no version is told by any."""
    usage = subprocess.run([epp, "--help"], capture_output=True, text=True, check=False, timeout=60)
    words = usage.stdout + usage.stderr
    assert "pool-name" in words, f"{epp} is no endpoint picker: {words[:300]}"
    return FLAG not in words


def _without_flag(values: Path) -> None:
    content = yaml.safe_load(values.read_text())
    del content["inferenceExtension"]["flags"][FLAG]
    values.write_text(yaml.safe_dump(content))
