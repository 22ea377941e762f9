"""A stage's notebook, executed cell by cell in this process: the operator's own calls, without a kernel's start."""

from __future__ import annotations

import contextlib
import io
import json
from functools import cache
from types import CodeType
from typing import Any

from llmd_runbook.errors import RunbookError
from llmd_runbook.run.notebooks import FOLDER
from llmd_runbook.run.stage import StageRun


def execute(stage: str, profile: str, run: str, names: dict[str, Any]) -> RunbookError | None:
    """Run the cells; what ended them early, recorded as a kernel records it.

    Args:
        names: gets the variables of the cells, `stage` among them.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            for code in _cells(stage):
                exec(code, names)
                if "stage" not in names:
                    names |= {"profile": profile, "run": run}
    except RunbookError as error:
        begun: StageRun | None = names.get("stage")
        if begun is not None:
            begun._cell_failed(type(error).__name__, str(error), "")
        return error
    return None


@cache
def _cells(stage: str) -> list[CodeType]:
    notebook = json.loads((FOLDER / f"{stage}.ipynb").read_text())
    return [
        compile("".join(cell["source"]), f"{stage} cell {number}", "exec")
        for number, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code"
    ]
