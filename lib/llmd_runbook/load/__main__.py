"""`python -m llmd_runbook.load`: one line of plan in, lines of JSON out (progress, then the result).

It ends when its standard input does, so that it cannot outlive whoever started it, and on SIGINT and SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from llmd_runbook.errors import EXIT_INTERRUPTED, EXIT_USAGE, RunbookError
from llmd_runbook.load.engine import run
from llmd_runbook.load.loops import run_fast
from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import Progress


def main() -> int:
    """Run the plan on standard input; 130 when interrupted, 2 where it cannot be run, with one message."""
    plan = Plan.model_validate_json(sys.stdin.readline())
    try:
        run_fast(_run(plan))
    except asyncio.CancelledError:
        return EXIT_INTERRUPTED
    except RunbookError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    return 0


async def _run(plan: Plan) -> None:
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    loop.add_reader(sys.stdin.fileno(), lambda: _at_end_of_input(running))
    result = await run(plan, _tell)
    print(f'{{"result": {result.model_dump_json()}}}', flush=True)


def _at_end_of_input(running: asyncio.Task[None]) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        running.cancel()


def _tell(progress: Progress) -> None:
    print(f'{{"progress": {progress.model_dump_json()}}}', flush=True)


if __name__ == "__main__":
    sys.exit(main())
