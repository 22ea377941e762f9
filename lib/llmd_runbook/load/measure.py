"""A plan run in a process of its own: in a notebook's kernel an event loop runs already, and it is busy."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO

from llmd_runbook.errors import ToolError
from llmd_runbook.load.client import authorization
from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import LoadResult, Progress

_END_S = 5.0
_KEPT_CHARACTERS = 2000


def measure(plan: Plan, on_progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """Run a plan and return its samples; blocks. The process ends with this call, however the call ends.

    Raises:
        ToolError: the load generator ended without a result.
        UsageError: the plan names a token that is not in the environment.
    """
    authorization(plan)
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmd_runbook.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the notebook, which ends this process below
        )
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdout:
            try:
                result = _converse(process.stdin, process.stdout, plan, on_progress)
            finally:
                status = _end(process, process.stdin)
        if result is None:
            complaints.seek(0)
            raise ToolError(
                f"the load generator ended without a result (exit status {status})",
                where=plan.url,
                reason=complaints.read()[-_KEPT_CHARACTERS:].strip() or "it said nothing",
                remedy="run the stage again; a plan that fails twice is a defect worth reporting",
            )
        return result


def _converse(
    stdin: IO[str], stdout: IO[str], plan: Plan, on_progress: Callable[[Progress], None] | None
) -> LoadResult | None:
    try:
        stdin.write(plan.model_dump_json() + "\n")
        stdin.flush()
    except BrokenPipeError:
        return None  # it ended at once; its complaint says why
    result = None
    for line in stdout:
        message = json.loads(line)
        if "result" in message:
            result = LoadResult.model_validate(message["result"])
        elif on_progress:
            on_progress(Progress.model_validate(message["progress"]))
    return result


def _end(process: subprocess.Popen[str], stdin: IO[str]) -> int:
    """Close its input, which ends it; if it does not, end it hard."""
    with contextlib.suppress(BrokenPipeError):  # it has ended already
        stdin.close()
    try:
        return process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
