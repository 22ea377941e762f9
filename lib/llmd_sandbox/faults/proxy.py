"""Reverse proxies before the API server and the GKE API, in which the declared faults happen; all else passes as it is.

The first has the API server's own certificate and address, on another port, so that a kubeconfig differs in the port
alone. What needs a connection of its own (exec, attach, port-forward) does not pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.door import Door, Seen
from llmd_sandbox.faults.killing import kill_run
from llmd_sandbox.faults.refusals import refusal
from llmd_sandbox.site import Site

__all__ = ["ApiProxy", "Seen", "before_api_server"]

_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
_LARGEST_BODY = 16 * 2**20

Kill = Callable[[int], None]
"""Kills the run of the client with that process id."""


class ApiProxy:
    """The two APIs of a sandbox, with faults; `seen` is every request in the order of its answer.

    `kubeconfig` leads to the first, `gke` (a URL) to the second.
    """

    def __init__(self, site: Site, faults: Sequence[Fault], kill: Kill = kill_run) -> None:
        self.kubeconfig, self.gke = Path(), ""
        self._site, self._door = site, Door(faults, kill)
        self._open = contextlib.AsyncExitStack()

    @property
    def seen(self) -> list[Seen]:
        """Every request so far."""
        return self._door.seen

    async def start(self) -> None:
        """Listen, and write the kubeconfig that leads here."""
        pki = self._site.pki
        trusted = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        own.load_cert_chain(pki / "server.crt", pki / "server.key")
        host, port = await self._front("https", self._site.api_server, trusted, own)
        config = yaml.safe_load(self._site.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://{host}:{port}"
        self.kubeconfig = pki / f"faults-{port}.kubeconfig"
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(yaml.safe_dump(config))
        host, port = await self._front("http", self._site.gke, None, None)
        self.gke = f"http://{host}:{port}/"

    async def stop(self) -> None:
        """Close everything; the kubeconfig goes too."""
        await self._open.aclose()
        self.kubeconfig.unlink(missing_ok=True)

    async def _front(
        self, scheme: str, upstream: tuple[str, int], trusted: ssl.SSLContext | None, own: ssl.SSLContext | None
    ) -> tuple[str, int]:
        """A proxy before one of the APIs; where it listens."""
        connector = aiohttp.TCPConnector(ssl=trusted or True, limit=0)
        session = await self._open.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        )
        front = _Front(self._door, session, f"{scheme}://{upstream[0]}:{upstream[1]}")
        application = web.Application(client_max_size=_LARGEST_BODY)
        application.router.add_route("*", "/{path:.*}", front.serve)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        self._open.push_async_callback(_end, runner)
        await web.TCPSite(runner, upstream[0], 0, ssl_context=own).start()
        host, port = runner.addresses[0][:2]
        return str(host), int(port)


class _Front:
    """Passes requests on to one server, unless something goes wrong with them."""

    def __init__(self, door: Door, session: aiohttp.ClientSession, upstream: str) -> None:
        self._door, self._session, self._upstream = door, session, upstream

    async def serve(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path
        fault = self._door.due(request.method, path)
        kind = fault.kind if fault else None
        if fault and kind in (Kind.THROTTLE, Kind.CONFLICT, Kind.BREAK):
            answer = refusal(fault, path)
            self._door.note(request, answer.status, kind)
            return answer
        if kind is Kind.KILL_BEFORE:
            self._door.note(request, 0, kind)
            await self._door.kill(request)
            return web.Response()
        url = URL(f"{self._upstream}{path}", encoded=True)
        if kind is Kind.EXPIRE:
            url = url.update_query(resourceVersion="1")
        body = await request.read()
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP]
        async with self._session.request(
            request.method, url, data=body or None, headers=headers, allow_redirects=False
        ) as response:
            if kind in (Kind.CUT, Kind.STALL, Kind.KILL_AFTER):
                await response.read()
                self._door.note(request, 0, kind)
                return await self._unanswered(request, kind)
            self._door.note(request, response.status, kind)
            return await _pass_on(request, response)

    async def _unanswered(self, request: web.Request, kind: Kind) -> web.Response:
        if kind is Kind.STALL:
            await asyncio.Event().wait()  # until the client gives up, which cancels this
        if kind is Kind.KILL_AFTER:
            await self._door.kill(request)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


async def _end(runner: web.AppRunner) -> None:
    """Break every connection: an orderly end of TLS would wait for clients that keep theirs open."""
    for connection in runner.server.connections if runner.server else []:
        if connection.transport:
            connection.transport.abort()
    await runner.cleanup()


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status)
    response.headers.extend((k, v) for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP)
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # the client has heard enough
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
    return response


@contextlib.contextmanager
def before_api_server(site: Site, faults: Sequence[Fault], kill: Kill = kill_run) -> Iterator[ApiProxy]:
    """The proxies, served by a thread of their own while the block runs.

    Raises:
        OSError: no port is free.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="api faults", daemon=True)
    thread.start()
    proxy = ApiProxy(site, faults, kill)
    try:
        asyncio.run_coroutine_threadsafe(proxy.start(), loop).result()
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(proxy.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
