from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from llmd_sandbox import processes
from llmd_sandbox.control_plane import versions
from llmd_sandbox.control_plane.runner import ControlPlane
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.site import Site
from llmd_sandbox.supervisor.guard import claim

Program = Callable[[Path, str], None]

# A server that says ok at /readyz, with the sandbox's own certificate.
API_SERVER = """
import http.server, ssl, sys
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
server = http.server.HTTPServer((flags["bind-address"], int(flags["secure-port"])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(flags["tls-cert-file"], flags["tls-private-key-file"])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""

ETCD = """
import socket, sys, time, urllib.parse
flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
address = urllib.parse.urlsplit(flags["listen-client-urls"])
with socket.create_server((address.hostname, address.port)):
    time.sleep(100)
"""


@pytest.fixture
def binaries(machine: Path, program: Program) -> dict[str, Path]:
    found = {server: machine / "servers" / server for server in versions.SERVERS}
    for server, file in found.items():
        program(file, f"echo $$ >> {machine}/{server}.pid; exec sleep 100")
    (machine / "api.py").write_text(API_SERVER)
    (machine / "etcd.py").write_text(ETCD)
    program(found["etcd"], f'echo $$ >> {machine}/etcd.pid; exec {sys.executable} {machine}/etcd.py "$@"')
    program(found["kube-apiserver"], f'exec {sys.executable} {machine}/api.py "$@"')
    return found


@pytest.fixture
async def site(machine: Path) -> AsyncIterator[Site]:
    claimed, guard = claim(Site("test", 0))
    with guard:
        claimed.directory.mkdir(parents=True)
        yield claimed
    assert processes.find(claimed.directory) == []


def written(file: Path) -> list[int]:
    return [int(each) for each in file.read_text().split()] if file.exists() else []


async def pids(file: Path, count: int) -> list[int]:
    async with asyncio.timeout(10):
        while True:
            if len(found := written(file)) >= count:
                return found
            await asyncio.sleep(0.02)


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_becomes_ready_and_leaves_nothing_when_cancelled(site: Site, binaries: dict[str, Path]) -> None:
    plane = ControlPlane(site, binaries)
    task = asyncio.create_task(plane.run())
    await asyncio.wait_for(plane.ready.wait(), 10)
    assert len(processes.find(site.directory)) >= 2
    await cancelled(task)


async def test_a_server_that_ends_is_started_again(site: Site, binaries: dict[str, Path], machine: Path) -> None:
    plane = ControlPlane(site, binaries)
    task = asyncio.create_task(plane.run())
    await asyncio.wait_for(plane.ready.wait(), 10)
    first = (await pids(machine / "etcd.pid", 1))[0]
    os.kill(first, signal.SIGKILL)
    assert (await pids(machine / "etcd.pid", 2))[1] != first
    await cancelled(task)


async def test_a_server_that_cannot_start_is_an_error_with_its_last_words(
    site: Site, binaries: dict[str, Path], program: Program
) -> None:
    program(binaries["etcd"], "echo listen tcp: address already in use >&2; exit 7")
    with pytest.RaisesGroup(pytest.RaisesExc(SandboxError, match="etcd ended with status 7")) as caught:
        await asyncio.wait_for(ControlPlane(site, binaries).run(), 10)
    error = caught.value.exceptions[0]
    assert isinstance(error, SandboxError)
    assert "address already in use" in str(error.reason)


async def test_servers_carry_the_marker(site: Site, binaries: dict[str, Path], machine: Path) -> None:
    task = asyncio.create_task(ControlPlane(site, binaries).run())
    pid = (await pids(machine / "etcd.pid", 1))[0]
    assert pid in processes.find(site.directory)
    await cancelled(task)
