"""The notebooks of the project: which stages there are, in which order."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from llmd_runbook.errors import UsageError
from llmd_runbook.profile import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "notebooks"
PLAN_TAG = "plan"
"""On the cell that shows a stage's plan: the last one that `--plan-only` executes."""
_STAGE = re.compile(r"\d\d_[a-z0-9_]+")


def stage_names(folder: Path = FOLDER) -> list[str]:
    """Stages in order: the names of the numbered notebooks."""
    return sorted(path.stem for path in folder.glob("*.ipynb") if _STAGE.fullmatch(path.stem))


def checked_name(stage: str) -> str:
    """The name of a stage, as it is.

    Raises:
        UsageError: it does not look like one.
    """
    if not _STAGE.fullmatch(stage):
        raise UsageError(f"{stage!r} is no stage", remedy="name it like its notebook, without .ipynb: 01_review_state")
    return stage


def takes_approval(notebook: Path) -> bool:
    """Whether a notebook has something to approve: a parameter `approve`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    names = (target for text in tagged for node in ast.parse(text).body for target in getattr(node, "targets", []))
    return any(isinstance(name, ast.Name) and name.id == "approve" for name in names)


def with_plan(chosen: list[str], folder: Path) -> list[str]:
    """The chosen stages that have a plan: those that may be approved.

    Raises:
        UsageError: none has.
    """
    found = [stage for stage in chosen if takes_approval(folder / f"{stage}.ipynb")]
    if not found:
        raise UsageError(
            "none of these stages has a plan: they change nothing",
            where="--plan-only",
            reason=", ".join(chosen),
            remedy="name a stage that changes something in --stages, or leave --stages out",
        )
    return found


def choose(words: str, known: list[str]) -> list[str]:
    """The stages meant by `all` or a list such as `01,02_scale_pool`, in order and once each.

    Raises:
        UsageError: a word names no stage; the known ones are listed.
    """
    if words == "all":
        return known
    chosen = set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        matches = [stage for stage in known if word in (stage, stage[:2])]
        if not matches:
            raise UsageError(
                f"unknown stage {word!r}", where="--stages", remedy=f"choose from: all, {', '.join(known)}"
            )
        chosen.update(matches)
    if not chosen:
        raise UsageError("no stage was chosen", where="--stages", remedy=f"choose from: all, {', '.join(known)}")
    return sorted(chosen)
