"""One container: its image, its process, its probes, and its restarts."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from asyncio.subprocess import Process
from dataclasses import dataclass
from pathlib import Path

from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet import environment, probes, spawn, starting, volumes
from llmd_sandbox.kubelet.backoff import BackOff, go_duration
from llmd_sandbox.kubelet.context import PodContext
from llmd_sandbox.kubelet.logs import ContainerLogs, LogFile
from llmd_sandbox.kubelet.sources import ConfigError
from llmd_sandbox.kubelet.status import ContainerState

RETRY_S = 10.0
"""What cannot be made is tried again at each change of a Secret or ConfigMap, and after this time."""


@dataclass(frozen=True)
class Launch:
    """All that is needed to start the process, or a command beside it."""

    argv: list[str]
    variables: dict[str, str]
    folder: Path
    mounts: environment.Mounts


class Container:
    """Runs one container of a pod until it is not to be started again."""

    def __init__(self, context: PodContext, spec: Object, *, init: bool = False, earlier: Object | None = None) -> None:
        self.spec, self.context = spec, context
        self.state = ContainerState(spec["name"], spec["image"])
        if init:
            self.state.waits("PodInitializing")
        if earlier:
            self.state.take_over(earlier)
        self.logs = ContainerLogs(context.folder / "logs" / spec["name"])
        self._field = f"spec.{'initContainers' if init else 'containers'}{{{spec['name']}}}"
        self._restart_policy = context.pod["spec"].get("restartPolicy", "Always")
        if init and self._restart_policy == "Always":
            self._restart_policy = "OnFailure"
        self._process: Process | None = None
        self._launch: Launch | None = None
        self._stopping = False
        self._restarts = BackOff(first_at_once=True)

    async def run(self) -> None:
        """Start the container, and again as the pod's restart policy says; `state` tells how it went."""
        while True:
            await self._pull()
            launch = await self._configure()
            started = time.monotonic()
            await self._execute(launch)
            ended = self.state.terminated
            failed = ended is not None and ended["exitCode"] != 0
            again = self._restart_policy == "Always" or (self._restart_policy == "OnFailure" and failed)
            if self._stopping or not again:
                return
            await self._back_off(time.monotonic() - started)
            self.state.restarts += 1

    async def stop(self, grace_s: float, hurry: asyncio.Event) -> None:
        """End the container for good: preStop, SIGTERM, SIGKILL after `grace_s` or when told to hurry."""
        self._stopping = True
        if self._process is not None:
            self._event("Killing", f"Stopping container {self.spec['name']}")
            await self._end(self._process, grace_s, hurry)

    def on_started(self) -> None:
        """The startup probe is through."""
        self.state.started = True
        self.context.changed()

    def on_ready(self, ready: bool) -> None:
        """The readiness probe's verdict."""
        if ready != self.state.ready:
            self.state.ready = ready
            self.context.changed()

    def on_unhealthy(self, message: str) -> None:
        """A probe failed."""
        self._event("Unhealthy", message, warning=True)

    async def _pull(self) -> None:
        back_off, image = BackOff(first_at_once=False), self.spec["image"]
        while self._argv() is None:
            reason = f'failed to pull and unpack image "{image}": no program of this sandbox stands in for it'
            self._event("Pulling", f'Pulling image "{image}"')
            self._event("Failed", f'Failed to pull image "{image}": {reason}', warning=True)
            self._event("Failed", "Error: ErrImagePull", warning=True)
            self._wait("ErrImagePull", reason)
            delay_s = back_off.next_s()
            await asyncio.sleep(delay_s * self._scale / 2)
            self._event("BackOff", f'Back-off pulling image "{image}"')
            self._event("Failed", "Error: ImagePullBackOff", warning=True)
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {reason}')
            await asyncio.sleep(delay_s * self._scale / 2)
        key = (self.context.node, image)
        if key in self.context.host.pulled and self.spec.get("imagePullPolicy") != "Always":
            self._event("Pulled", f'Container image "{image}" already present on machine')
        else:
            self.context.host.pulled.add(key)
            self._event("Pulling", f'Pulling image "{image}"')
            self._event("Pulled", f'Successfully pulled image "{image}"')

    async def _configure(self) -> Launch:
        sources = self.context.host.sources
        while True:
            seen = sources.generation
            try:
                return await self._make_launch()
            except ConfigError as error:
                self._event("Failed", f"Error: {error}", warning=True)
                self._wait("CreateContainerConfigError", str(error))
            await sources.news_since(seen, RETRY_S)

    async def _make_launch(self) -> Launch:
        context, pod = self.context, self.context.pod
        declared = await environment.declared(
            pod,
            self.spec,
            context.host.sources,
            ip=context.ip,
            host_ip=context.host_ip,
            allocatable=context.allocatable,
        )
        mounts = volumes.mounts(self.spec, context.volumes, declared)
        home = context.folder / "home" / self.spec["name"]
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        variables = environment.base(context.host.site, context.name, context.ip, home)
        if context.kubeconfig:
            variables["KUBECONFIG"] = str(context.kubeconfig)
        node = context.host.nodes.get(context.node)
        variables |= starting.variables(node) | {name: mounts.apply(value) for name, value in declared.items()}
        return Launch(
            argv=starting.instead(node, self.spec) or self._argv(declared, mounts) or [],
            variables=variables,
            folder=_working_folder(self.spec, mounts, home),
            mounts=mounts,
        )

    def _argv(
        self, declared: dict[str, str] | None = None, mounts: environment.Mounts | None = None
    ) -> list[str] | None:
        declared, mounts = declared or {}, mounts or environment.Mounts({})
        command = environment.command_line(self.spec.get("command") or [], declared, mounts)
        args = environment.command_line(self.spec.get("args") or [], declared, mounts)
        return self.context.host.resolve(self.spec["image"], command, args)

    async def _execute(self, launch: Launch) -> None:
        log_file = self.logs.begin()
        try:
            process = await self._start(launch)
            if process is not None:
                await self._accompany(process, launch, log_file)
        finally:
            log_file.close()

    async def _start(self, launch: Launch) -> Process | None:
        try:
            return await spawn.start(launch.argv, launch.variables, launch.folder)
        except OSError as error:
            message = f'exec: "{launch.argv[0]}": {(error.strerror or str(error)).lower()}'
            self._event("Failed", f"Error: {message}", warning=True)
            self.state.ended(128, "StartError")
            self.context.changed()
            return None

    async def _accompany(self, process: Process, launch: Launch, log_file: LogFile) -> None:
        """From the process's start to its end."""
        name = self.spec["name"]
        self._process, self._launch = process, launch
        self.state.runs(f"containerd://{self.context.pod['metadata']['uid']}-{name}-{self.state.restarts}")
        self._event("Created", f"Created container: {name}")
        self._event("Started", f"Started container {name}")
        self.context.changed()
        reader = asyncio.create_task(_copy(process, log_file))
        try:
            await self._supervise(process)
        finally:
            code = await spawn.reap(process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(spawn.DRAIN_S):
                    await reader
            self._process = None
            self.state.ended(code, starting.reason(launch.argv, code))
            self.context.changed()

    async def _supervise(self, process: Process) -> None:
        target = self._target()
        exited = asyncio.create_task(process.wait())
        probing = asyncio.create_task(probes.watch(self.spec, target, self._scale, self))
        try:
            await asyncio.wait({exited, probing}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                failed = probing.result()
                probe = self.spec[f"{failed}Probe"]
                message = f"Container {self.spec['name']} failed {failed} probe, will be restarted"
                self._event("Killing", message)
                grace_s = float(probe.get("terminationGracePeriodSeconds", self.context.grace_s))
                await self._end(process, grace_s, asyncio.Event())
        finally:
            for task in (exited, probing):
                task.cancel()
            await asyncio.gather(exited, probing, return_exceptions=True)

    async def _end(self, process: Process, grace_s: float, hurry: asyncio.Event) -> None:
        deadline = time.monotonic() + grace_s
        tasks = [asyncio.create_task(hurry.wait()), asyncio.create_task(self._ask_to_end(process, grace_s))]
        try:
            left_s = max(0.0, deadline - time.monotonic())
            await asyncio.wait(tasks, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            spawn.kill_session(process)
            await process.wait()

    async def _ask_to_end(self, process: Process, grace_s: float) -> None:
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        if hook:
            await self._pre_stop(hook, grace_s)
        spawn.send(process, signal.SIGTERM)
        await process.wait()

    async def _pre_stop(self, hook: Object, grace_s: float) -> None:
        target = self._target()
        try:
            if "httpGet" in hook:
                await probes.http_get(hook["httpGet"], target, grace_s)
            elif "exec" in hook:
                code, printed = await self._exec(list(hook["exec"]["command"]), grace_s)
                if code:
                    raise probes.ProbeFailure(f"exited with {code}: {printed}")
            elif "sleep" in hook:
                await asyncio.sleep(float(hook["sleep"]["seconds"]))
        except probes.ProbeFailure as failure:
            self._event("FailedPreStopHook", f"PreStopHook failed: {failure}", warning=True)

    def _target(self) -> probes.Target:
        named = {p["name"]: p["containerPort"] for p in self.spec.get("ports") or [] if p.get("name")}
        return probes.Target(self.context.ip, named, self.context.host.http, self._exec)

    async def _exec(self, command: list[str], timeout_s: float) -> tuple[int, str]:
        assert self._launch is not None, "a command runs beside a process"
        words = [self._launch.mounts.apply(word) for word in command]
        return await spawn.execute(words, self._launch.variables, self._launch.folder, timeout_s)

    async def _back_off(self, ran_s: float) -> None:
        delay_s = self._restarts.next_s(ran_s)
        if delay_s:
            name, pod = self.spec["name"], self.context.full_name
            self._event("BackOff", f"Back-off restarting failed container {name} in pod {pod}", warning=True)
            message = f"back-off {go_duration(delay_s)} restarting failed container={name} pod={pod}"
            self._wait("CrashLoopBackOff", message)
            await asyncio.sleep(delay_s * self._scale)

    @property
    def _scale(self) -> float:
        return self.context.host.site.startup_scale

    def _wait(self, reason: str, message: str) -> None:
        self.state.waits(reason, message)
        self.context.changed()

    def _event(self, reason: str, message: str, *, warning: bool = False) -> None:
        self.context.event(reason, message, warning=warning, field_path=self._field)


def _working_folder(spec: Object, mounts: environment.Mounts, home: Path) -> Path:
    """The container's working directory where it lies in a volume; the host's folders are not the image's."""
    wanted = Path(mounts.apply(spec.get("workingDir") or ""))
    mounted = any(wanted.is_relative_to(place) for place in mounts.real.values())
    return wanted if mounted and wanted.is_dir() else home


async def _copy(process: Process, log_file: LogFile) -> None:
    assert process.stdout is not None
    while data := await process.stdout.read(1 << 16):
        log_file.feed(data)
