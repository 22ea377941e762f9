"""`python -m llmd_sandbox.images.vllm vllm serve MODEL ...`: start as vLLM does, serve until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from llmd_sandbox.images.vllm import logs
from llmd_sandbox.images.vllm.args import Config, cache_labels, parse
from llmd_sandbox.images.vllm.blocks import BlockPool
from llmd_sandbox.images.vllm.engine import Engine
from llmd_sandbox.images.vllm.errors import ConfigError
from llmd_sandbox.images.vllm.failing import Failure
from llmd_sandbox.images.vllm.families import EngineMetrics
from llmd_sandbox.images.vllm.http import Api
from llmd_sandbox.images.vllm.models import T4
from llmd_sandbox.images.vllm.scheduler import Scheduler
from llmd_sandbox.images.vllm.timing import StepTime


class _Server(uvicorn.Server):
    """Leaves the signals to us: uvicorn would end this process by the signal, vLLM ends with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def build(config: Config) -> Engine:
    """The engine that a configuration describes."""
    scheduler = Scheduler(
        BlockPool(config.num_gpu_blocks),
        config.block_size,
        config.max_num_seqs,
        config.max_num_batched_tokens,
        config.enable_prefix_caching,
    )
    metrics = EngineMetrics(config.served_names[0], config.max_model_len, cache_labels(config))
    return Engine(scheduler, StepTime(config.model, T4, config.dtype).step_s, metrics)


async def serve(config: Config, address: str, startup_scale: float, download: logs.Download, failure: Failure) -> None:
    """Start up, listen on `address`, serve until SIGTERM or SIGINT; requests in flight are then aborted.

    With a `failure` it ends where the start does.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = build(config)
    starting = asyncio.create_task(logs.start(config, startup_scale, download, failure))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() or failure:
        return
    server = _Server(
        uvicorn.Config(
            Api(config, engine).app(),
            host=address,
            port=config.port,
            lifespan="on",
            log_config=None,
            access_log=config.access_log,
            server_header=True,
            timeout_graceful_shutdown=1,
        )
    )
    running = [asyncio.create_task(engine.run()), stopping]
    if config.log_stats:
        running.append(asyncio.create_task(logs.log_stats(engine.scheduler, engine.metrics)))
    serving = asyncio.create_task(server.serve())
    done, _pending = await asyncio.wait((serving, *running), return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    engine.abort_all()
    await serving
    for task in done:
        task.result()


def main() -> int:
    """Run the server named by the command line; its exit status."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stdout, format="(APIServer pid=1) %(levelname)s:     %(message)s"
    )
    try:
        config = parse(sys.argv[1:])
    except ConfigError as error:
        print("Traceback (most recent call last):", error, sep="\n", file=sys.stderr)
        return 1
    address = os.environ.get("LLMD_SANDBOX_POD_IP", "127.0.0.1")
    scale = float(os.environ.get("LLMD_SANDBOX_STARTUP_SCALE", "1"))
    seconds = os.environ.get("LLMD_SANDBOX_DOWNLOAD_S")
    download = logs.Download(float(seconds) if seconds else None, shown=os.environ.get("TQDM_POSITION") == "-1")
    failure = Failure(os.environ.get("LLMD_SANDBOX_START", ""))
    uvloop.run(serve(config, address, scale, download, failure))
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
