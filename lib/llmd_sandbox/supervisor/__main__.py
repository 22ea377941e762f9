"""`python -m llmd_sandbox.supervisor FOLDER`: run the sandbox ordered in FOLDER until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback

import uvloop

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.site import Site
from llmd_sandbox.supervisor.guard import claim
from llmd_sandbox.supervisor.run import run
from llmd_sandbox.supervisor.state import Order, Progress

log = logging.getLogger("llmd_sandbox.supervisor")


def main(name: str) -> int:
    """The exit status: 0 when told to end, 1 when something failed (state.json says what)."""
    os.umask(0o077)
    os.chdir("/")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    site = Site(name, 0)
    order = Order.load(site.directory)
    progress = Progress(site.directory, order.asked)
    try:
        gpu_nodes = 2 if order.pattern2 else 1
        wanted = Site(
            name,
            0,
            engine=order.engine,
            startup_scale=order.startup_scale,
            node_grace_s=order.node_grace_s,
            route_lag_s=order.route_lag_s,
            gpu_nodes=gpu_nodes,
            gpu_zones=order.gpu_zones,
            autoscaler_idle_s=order.autoscaler_idle_s,
        )
        site, guard = claim(wanted)
        with guard:
            site.save()
            uvloop.run(_until_told(site, order, progress))
    except Exception as group:
        error = _first(group)
        if not isinstance(error, SandboxError):
            log.exception("the sandbox failed")
        log.error("%s", error)
        progress.fail(str(error) if isinstance(error, SandboxError) else _internal(error))
        return 1
    return 0


async def _until_told(site: Site, order: Order, progress: Progress) -> None:
    task = asyncio.ensure_future(run(site, order, progress))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        log.info("told to end")


def _internal(error: Exception) -> str:
    """An error nobody foresaw, with the place it comes from."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"internal error: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def _first(error: Exception) -> Exception:
    """The error that took the others with it."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
