"""The picker as a whole: what listens, what watches, and the order in which it starts and ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from aiohttp import web
from envoy.service.ext_proc.v3 import external_processor_pb2_grpc

from llmd_runbook.analysis.picker_config import PickerConfig
from llmd_runbook.analysis.scorers import Generation, Picker
from llmd_sandbox.images.picker.datastore import Datastore
from llmd_sandbox.images.picker.director import Director
from llmd_sandbox.images.picker.event_log import DEFAULT, VERBOSE, EventLog
from llmd_sandbox.images.picker.exposition import application
from llmd_sandbox.images.picker.ext_proc import ExternalProcessor
from llmd_sandbox.images.picker.flags import Flags
from llmd_sandbox.images.picker.scrape import Scraper, Series
from llmd_sandbox.kube import KubeApi

KV_METRIC = {Generation.V0_4: "vllm:gpu_cache_usage_perc", Generation.V0_10: "vllm:kv_cache_usage_perc"}
"""What each generation reads unless told otherwise; current vLLM serves the second name only."""
FORGET_INTERVAL_S = 120.0
GRACE_S = 5.0
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""grpc.health.v1.HealthCheckResponse with status SERVING and NOT_SERVING."""


async def serve(flags: Flags, config: PickerConfig, log: EventLog, api: KubeApi, address: str) -> None:
    """Run until SIGTERM or SIGINT; streams that are open may take `GRACE_S` to end."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(flags, config, log, api, address) as started:
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({stopping, started.watching}, return_when=asyncio.FIRST_COMPLETED)
        if started.watching.done():
            await started.watching  # it never ends but by an error
        log.event(DEFAULT, "Controller manager terminated")


@dataclass(frozen=True)
class Started:
    """A picker that runs."""

    director: Director
    watching: asyncio.Task[None]


@asynccontextmanager
async def running(
    flags: Flags, config: PickerConfig, log: EventLog, api: KubeApi, address: str
) -> AsyncIterator[Started]:
    """The picker while it runs, all ports open."""
    picker = Picker(config.rules())
    series = Series(
        flags.total_queued_requests_metric,
        flags.kv_cache_usage_percentage_metric or KV_METRIC[config.generation],
        flags.cache_info_metric,
        flags.model_server_metrics_path,
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(api)
        scraper = await stack.enter_async_context(Scraper(series, log, flags.refresh_metrics_interval))
        datastore = Datastore(
            api,
            flags.pool_namespace or os.environ.get("NAMESPACE", "default"),
            flags.pool_name,
            flags.pool_group,
            flags.model_server_metrics_port,
            changed=lambda: scraper.follow(datastore.targets.values()),
        )
        director = Director(config, datastore, picker, log)
        await _listen(stack, flags, log, director, datastore, address)
        runner = web.AppRunner(application(director.metrics, api if flags.metrics_endpoint_auth else None))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, address, flags.metrics_port).start()
        log.event(DEFAULT, "Serving metrics server", bindAddress=f"{address}:{flags.metrics_port}", secure=False)
        watching = asyncio.create_task(datastore.run())
        forgetting = asyncio.create_task(_forget(picker, datastore, log))
        for task in (watching, forgetting):
            stack.push_async_callback(_end, task)
        yield Started(director, watching)


async def _listen(
    stack: AsyncExitStack, flags: Flags, log: EventLog, director: Director, datastore: Datastore, address: str
) -> None:
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    picker_server, health_server = grpc.aio.server(options=options), grpc.aio.server(options=options)
    external_processor_pb2_grpc.add_ExternalProcessorServicer_to_server(ExternalProcessor(director, log), picker_server)
    health_server.add_generic_rpc_handlers((_health(datastore),))
    where = f"{address}:{flags.grpc_port}"
    if flags.secure_serving:
        picker_server.add_secure_port(where, _credentials(flags.cert_path, address))
    else:
        picker_server.add_insecure_port(where)
    health_server.add_insecure_port(f"{address}:{flags.grpc_health_port}")
    for name, server, port in (
        ("ext-proc", picker_server, flags.grpc_port),
        ("health", health_server, flags.grpc_health_port),
    ):
        await server.start()
        stack.push_async_callback(server.stop, GRACE_S)
        log.event(DEFAULT, "gRPC server listening", name=name, port=port)


def _health(datastore: Datastore) -> Any:
    """Check for every service name alike, as upstream's does without leader election."""

    async def check(request: bytes, context: Any) -> bytes:
        return _SERVING if datastore.pool_synced else _NOT_SERVING

    handler = grpc.unary_unary_rpc_method_handler(check)
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler})


def _credentials(folder: str, address: str) -> Any:
    """The certificate in `folder` (tls.crt, tls.key), else one made for this run."""
    if folder:
        key, chain = (Path(folder) / "tls.key").read_bytes(), (Path(folder) / "tls.crt").read_bytes()
    else:
        from llmd_sandbox.certificates import self_signed

        key, chain = self_signed("llmd-sandbox-picker", address)
    return grpc.ssl_server_credentials([(key, chain)])


async def _forget(picker: Picker, datastore: Datastore, log: EventLog) -> None:
    while True:
        await asyncio.sleep(FORGET_INTERVAL_S)
        for name in picker.forget_all_but(datastore.targets.keys()):
            log.event(VERBOSE, "Removed pod not in active set", pod=name)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
