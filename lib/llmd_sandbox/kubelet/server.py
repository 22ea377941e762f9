"""The kubelet's HTTPS API: what the API server asks for when somebody says `kubectl logs`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import web

from llmd_sandbox.certificates import self_signed
from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet.containers import Container
from llmd_sandbox.kubelet.logs import LogOptions
from llmd_sandbox.kubelet.times import parse

NOT_SERVED = ("exec", "attach", "portForward")
"""What kubectl asks for and only a stream of its own could carry."""

FindContainer = Callable[[str, str, str], Container | None]
"""Container by namespace, pod and name."""


def certificate(folder: Path, ip: str) -> ssl.SSLContext:
    """A new self-signed serving certificate for `ip`; key and certificate are kept in `folder`, mode 0600."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_file, cert_file = folder / "kubelet.key", folder / "kubelet.crt"
    key_pem, cert_pem = self_signed("llmd-sandbox-kubelet", ip)
    for file, pem in ((key_file, key_pem), (cert_file, cert_pem)):
        file.touch(mode=0o600)
        file.write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    return context


def application(find: FindContainer, pods: Callable[[], Mapping[str, Object]]) -> web.Application:
    """`/healthz`, `/pods` and `/containerLogs/<namespace>/<pod>/<container>`; what is not served says so."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def pod_list(_: web.Request) -> web.Response:
        return web.json_response({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [*pods().values()]})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/pods", pod_list),
            web.get("/containerLogs/{namespace}/{pod}/{container}", _container_logs(find)),
            *(web.route("*", f"/{verb}/{{namespace}}/{{pod}}{{rest:.*}}", _not_served(pods)) for verb in NOT_SERVED),
        ]
    )
    return app


async def serve(app: web.Application, address: tuple[str, int], tls: ssl.SSLContext, ready: asyncio.Event) -> None:
    """Serve until cancelled."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, *address, ssl_context=tls).start()
        ready.set()
        await asyncio.get_running_loop().create_future()
    finally:
        await runner.cleanup()


def log_options(query: Mapping[str, str]) -> LogOptions:
    """The options of `PodLogOptions` as they come in the query.

    Raises:
        ValueError: a number or time that is none.
    """
    since = parse(query["sinceTime"]) if "sinceTime" in query else None
    if "sinceSeconds" in query:
        since = datetime.now(UTC) - timedelta(seconds=int(query["sinceSeconds"]))
    return LogOptions(
        follow=query.get("follow") == "true",
        timestamps=query.get("timestamps") == "true",
        tail_lines=int(query["tailLines"]) if "tailLines" in query else None,
        since=since,
        limit_bytes=int(query["limitBytes"]) if "limitBytes" in query else None,
    )


def _not_served(pods: Callable[[], Mapping[str, Object]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A pod is a process of this machine, so that nobody needs a stream through the API server to reach it."""

    async def answer(request: web.Request) -> web.Response:
        wanted = (request.match_info["namespace"], request.match_info["pod"])
        found = [pod for pod in pods().values() if (pod["metadata"]["namespace"], pod["metadata"]["name"]) == wanted]
        address = found[0].get("status", {}).get("podIP", "") if found else ""
        own = f": {address}" if address else ""
        text = f"the sandbox serves no {request.path.split('/')[1]}; a pod's own address is open to this machine{own}"
        return web.Response(status=501, text=text)

    return answer


def _container_logs(find: FindContainer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        pod, name = request.match_info["pod"], request.match_info["container"]
        container = find(request.match_info["namespace"], pod, name)
        if container is None:
            return web.Response(status=404, text=f'container "{name}" of pod "{pod}" not found on this node')
        try:
            options = log_options(request.query)
        except ValueError as error:
            return web.Response(status=400, text=f"invalid log option: {error}")
        previous = request.query.get("previous") == "true"
        file = container.logs.previous_file if previous else container.logs.current_file
        if not file.exists():
            return web.Response(status=400, text=_no_log(container, pod, previous=previous))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for chunk in container.logs.read(options, previous=previous):
            await response.write(chunk)
        return response

    return answer


def _no_log(container: Container, pod: str, *, previous: bool) -> str:
    name = container.spec["name"]
    if previous:
        return f'previous terminated container "{name}" in pod "{pod}" not found'
    reason = container.state.state.get("waiting", {}).get("reason", "ContainerCreating")
    if reason in ("ErrImagePull", "ImagePullBackOff"):
        return f'container "{name}" in pod "{pod}" is waiting to start: trying and failing to pull image'
    return f'container "{name}" in pod "{pod}" is waiting to start: {reason}'
