import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet import server
from llmd_sandbox.kubelet.containers import Container
from llmd_sandbox.kubelet.context import PodContext
from llmd_sandbox.site import Site

Get = Callable[[str], Any]


@pytest.fixture
def container(context: PodContext) -> Container:
    return Container(context, {"name": "c", "image": "shell"})


@pytest.fixture
async def get(site: Site, container: Container, make_pod: Callable[..., Object]) -> AsyncIterator[Get]:
    def find(namespace: str, pod: str, name: str) -> Container | None:
        return container if (namespace, pod, name) == ("ns", "p", "c") else None

    tls = server.certificate(site.pki, site.kubelet[0])
    listening = asyncio.Event()
    app = server.application(find, lambda: {"ns/p": {**make_pod(), "status": {"podIP": "127.9.9.9"}}})
    serving = asyncio.create_task(server.serve(app, site.kubelet, tls, listening))
    await listening.wait()
    host, port = site.kubelet
    async with aiohttp.ClientSession() as session:

        async def fetch(path: str) -> tuple[int, str]:
            async with session.get(f"https://{host}:{port}{path}", ssl=False) as response:
                return response.status, await response.text()

        yield fetch
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    if container.logs.current:
        container.logs.current.close()


async def test_health_and_pods(get: Get) -> None:
    assert await get("/healthz") == (200, "ok")
    status, text = await get("/pods")
    assert status == 200
    assert '"uid": "u1"' in text


async def test_logs(get: Get, container: Container) -> None:
    container.logs.begin().feed(b"one\ntwo\n")
    container.logs.begin().feed(b"three\nfour\n")
    assert await get("/containerLogs/ns/p/c") == (200, "three\nfour\n")
    assert await get("/containerLogs/ns/p/c?tailLines=1") == (200, "four\n")
    assert await get("/containerLogs/ns/p/c?previous=true&limitBytes=3") == (200, "one")
    assert await get("/containerLogs/ns/p/c?sinceTime=2999-01-01T00:00:00Z") == (200, "")
    status, text = await get("/containerLogs/ns/p/c?timestamps=true")
    assert status == 200
    assert all(line.split("Z ")[1] in ("three", "four") for line in text.splitlines())


async def test_follow_ends_with_the_container(get: Get, container: Container) -> None:
    log_file = container.logs.begin()
    log_file.feed(b"one\n")
    following = asyncio.create_task(get("/containerLogs/ns/p/c?follow=true"))
    await get("/healthz")
    log_file.feed(b"two\n")
    log_file.close()
    assert await following == (200, "one\ntwo\n")


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/containerLogs/ns/other/c", 404, 'container "c" of pod "other" not found on this node'),
        ("/containerLogs/ns/p/c", 400, 'container "c" in pod "p" is waiting to start: ContainerCreating'),
        (
            "/containerLogs/ns/p/c?previous=true",
            400,
            'previous terminated container "c" in pod "p" not found',
        ),
    ],
)
async def test_no_logs(path: str, status: int, text: str, get: Get) -> None:
    assert await get(path) == (status, text)


async def test_bad_option_is_refused(get: Get, container: Container) -> None:
    container.logs.begin()
    status, text = await get("/containerLogs/ns/p/c?tailLines=many")
    assert status == 400
    assert "many" in text


def test_the_key_is_private(site: Site) -> None:
    server.certificate(site.pki, site.kubelet[0])
    assert stat.S_IMODE((site.pki / "kubelet.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("verb", server.NOT_SERVED)
async def test_what_is_not_served_says_where_the_pod_is(verb: str, get: Get) -> None:
    status, text = await get(f"/{verb}/ns/p/c")
    assert status == 501
    assert text == f"the sandbox serves no {verb}; a pod's own address is open to this machine: 127.9.9.9"
    status, text = await get(f"/{verb}/ns/other")
    assert (status, text.endswith("open to this machine")) == (501, True)
