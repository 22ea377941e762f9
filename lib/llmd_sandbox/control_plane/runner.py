"""The four servers as children of this process: started, watched, restarted, ended.

Before the control plane was ready once, the end of a server is an error, since its cause is at hand. Then it
is started again with growing delay, as static pods are on a real cluster, until it ends `_QUICK_ENDS` times
in a row within `_QUICK_S` of its start.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import aiohttp

from llmd_sandbox.control_plane import pki, servers
from llmd_sandbox.errors import SandboxError
from llmd_sandbox.kube import KubeApi
from llmd_sandbox.processes import die_with_parent, environment
from llmd_sandbox.site import Site

log = logging.getLogger(__name__)

_QUICK_S = 10.0
_QUICK_ENDS = 5
_START_S = 60.0
_PROBE_S = 0.02


class ControlPlane:
    """etcd, kube-apiserver, kube-controller-manager and kube-scheduler of one sandbox."""

    def __init__(self, site: Site, binaries: dict[str, Path]) -> None:
        self.site, self.binaries = site, binaries
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            SandboxError: a server does not start, or keeps ending.
        """
        pki.write(self.site)
        self.site.logs.mkdir(parents=True, exist_ok=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep("etcd"))
            await self._wait_etcd()  # an API server that finds it closed comes back only after a second
            group.create_task(self._keep("kube-apiserver"))
            await self._wait_ready()
            group.create_task(self._keep("kube-controller-manager"))
            group.create_task(self._keep("kube-scheduler"))
            self.ready.set()

    async def _wait_etcd(self) -> None:
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    if await _listens(self.site.etcd):
                        return
                    await asyncio.sleep(_PROBE_S)
        except TimeoutError as error:
            raise self._failure("etcd", f"did not listen within {_START_S:.0f} s") from error

    async def _wait_ready(self) -> None:
        try:
            async with (
                asyncio.timeout(_START_S),
                KubeApi.from_kubeconfig(self.site.component_kubeconfig) as api,
            ):
                while True:
                    if await _answers(api):
                        return
                    await asyncio.sleep(_PROBE_S)
        except TimeoutError as error:
            raise self._failure("kube-apiserver", f"did not become ready within {_START_S:.0f} s") from error

    async def _keep(self, server: str) -> None:
        loop = asyncio.get_running_loop()
        quick = 0
        while True:
            started = loop.time()
            status = await self._run_once(server)
            quick = quick + 1 if loop.time() - started < _QUICK_S else 1
            if not self.ready.is_set() or quick >= _QUICK_ENDS:
                raise self._failure(server, f"ended with status {status}")
            delay_s = 0.25 * 2**quick
            log.warning("%s ended with status %s; starts again in %.1f s", server, status, delay_s)
            await asyncio.sleep(delay_s)

    async def _run_once(self, server: str) -> int:
        argv = servers.command(server, self.binaries[server], self.site)
        with (self.site.logs / f"{server}.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment(self.site),
                preexec_fn=die_with_parent(),
            )
        try:
            return await process.wait()
        finally:
            # SIGTERM would let the API server linger for a minute while clients watch.
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _failure(self, server: str, what: str) -> SandboxError:
        file = self.site.logs / f"{server}.log"
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
        return SandboxError(
            f"{server} {what}",
            where=str(file),
            reason="\n          ".join(lines[-5:]) or "it printed nothing",
            remedy="start again; if it repeats, look whether another program holds the sandbox's addresses",
        )


async def _listens(address: tuple[str, int]) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except OSError:
        return False
    writer.close()
    return True


async def _answers(api: KubeApi) -> bool:
    try:
        return await api.text("/readyz") == "ok"
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
