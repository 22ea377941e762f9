"""The event loop: uvloop where there is one, which is steadier under many connections; Windows has none."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

if sys.platform == "win32":
    _new_loop = asyncio.new_event_loop
else:
    import uvloop

    _new_loop = uvloop.new_event_loop


def run_fast(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run` on the fastest loop that there is."""
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(main)
