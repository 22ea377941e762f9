"""The load generator must not come to rest on a client that distorts what it measures."""

from __future__ import annotations

import subprocess
import sys

LOADED = "import sys, llmd_runbook.load.__main__; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def test_the_engine_sends_with_aiohttp_and_never_loads_httpx() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout.split()
    assert "aiohttp" in loaded
    assert "httpx" not in loaded, "50 requests of 50 ms take it a second: `make bench-load`"
