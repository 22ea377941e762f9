"""`python -m llmd_runbook.load.probing`: steady streams of requests that are told to it line by line.

In: `{"origin": ...}`, then any number of `{"plan": ..., "phase_s": ...}`, then `{"stop": true}`. Out: one sample a
line as each request ends, then `{"stopped": true}`. It ends when its standard input does, so that it cannot outlive
whoever started it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import Sample
from llmd_runbook.load.steady import send

_LONGEST_LINE = 1 << 24


class Orphaned(Exception):
    """Standard input ended before the stop."""


def main() -> int:
    """Run until told to stop; 1 when orphaned."""
    status = 0
    try:
        asyncio.run(_run())
    except* (Orphaned, BrokenPipeError):
        status = 1
    return status


async def _run() -> None:
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    origin = float(json.loads(await lines.readline())["origin"])
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        while not stopping.is_set():
            line = await lines.readline()
            if not line:
                raise Orphaned  # its streams are cancelled: nobody hears of them any more
            message = json.loads(line)
            if "stop" in message:
                stopping.set()
                continue
            plan, begin_s = Plan.model_validate(message["plan"]), time.perf_counter() - origin + message["phase_s"]
            group.create_task(send(plan, origin, stopping.is_set, _tell, begin_s))
    print('{"stopped": true}', flush=True)


def _tell(sample: Sample) -> None:
    print(f'{{"sample": {sample.model_dump_json()}}}', flush=True)


if __name__ == "__main__":
    sys.exit(main())
