import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from llmd_sandbox import processes
from llmd_sandbox.kube import Object
from llmd_sandbox.kubelet.containers import Container
from llmd_sandbox.kubelet.context import PodContext
from llmd_sandbox.kubelet.logs import LogOptions
from llmd_sandbox.kubelet.starting import DOWNLOAD_S, START

Reached = Callable[[Callable[[], object]], Any]


@pytest.fixture
def reached(context: PodContext) -> Reached:
    """Wait for a container's state; woken by each change of it."""
    changed = asyncio.Event()
    context.changed = changed.set

    async def wait(predicate: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not predicate():
                changed.clear()
                await changed.wait()

    return wait


def sh(script: str, **fields: Any) -> Object:
    return {"name": "c", "image": "shell", "command": ["/bin/sh", "-c", script], **fields}


def waits_for(container: Container, reason: str) -> bool:
    return bool(container.state.state.get("waiting", {}).get("reason") == reason)


async def output(container: Container, *, previous: bool = False) -> str:
    return b"".join([c async for c in container.logs.read(LogOptions(), previous=previous)]).decode()


async def printed(container: Container, text: str) -> None:
    """Follow the log until `text` is in it."""
    seen = b""
    async with asyncio.timeout(5):
        async for chunk in container.logs.read(LogOptions(follow=True)):
            seen += chunk
            if text.encode() in seen:
                return


def reasons(objects: dict[str, Object]) -> dict[str, str]:
    """Messages of the events by their reason."""
    return {item["reason"]: item["message"] for url, item in objects.items() if "/events/" in url}


async def test_runs_once_with_its_environment(context: PodContext, objects: dict[str, Object]) -> None:
    context.pod["spec"]["restartPolicy"] = "Never"
    container = Container(context, sh("echo $GREETING $LLMD_SANDBOX_POD_IP", env=[{"name": "GREETING", "value": "hi"}]))
    await container.run()
    assert await output(container) == f"hi {context.ip}\n"
    assert container.state.terminated is not None
    assert container.state.terminated["reason"] == "Completed"
    await context.host.events.flush()
    assert {"Pulling", "Pulled", "Created", "Started"} <= set(reasons(objects))


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Always", 0, True)],
)
async def test_restart_policy(policy: str, code: int, again: bool, context: PodContext, reached: Reached) -> None:
    context.pod["spec"]["restartPolicy"] = policy
    container = Container(context, sh(f"exit {code}"))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.restarts >= 1 or container.state.terminated)
    if again:
        await reached(lambda: container.state.restarts >= 1 and container.state.last)
        running.cancel()
    else:
        await running
        assert container.state.restarts == 0
    await asyncio.gather(running, return_exceptions=True)


async def test_crash_loop(context: PodContext, reached: Reached, objects: dict[str, Object]) -> None:
    container = Container(context, sh("echo run; exit 3"))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.state.get("waiting", {}).get("reason") == "CrashLoopBackOff")
    assert container.state.state["waiting"]["message"].startswith("back-off 10s restarting failed container=c")
    assert container.state.last["terminated"]["exitCode"] == 3
    assert container.state.restarts == 1, "the first restart comes without a wait"
    assert await output(container, previous=True) == "run\n"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await context.host.events.flush()
    assert reasons(objects)["BackOff"] == "Back-off restarting failed container c in pod p_ns(u1)"


async def test_unknown_image(context: PodContext, reached: Reached, objects: dict[str, Object]) -> None:
    container = Container(context, {"name": "c", "image": "nope:1"})
    running = asyncio.create_task(container.run())
    for reason in ("ErrImagePull", "ImagePullBackOff", "ErrImagePull"):
        await reached(partial(waits_for, container, reason))
    assert "nope:1" in container.state.state["waiting"]["message"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await context.host.events.flush()
    assert {"Failed", "BackOff"} <= set(reasons(objects))


async def test_missing_secret_is_waited_for(
    context: PodContext, reached: Reached, put: Callable[[str, Object], Object]
) -> None:
    context.pod["spec"]["restartPolicy"] = "Never"
    entry = {"name": "T", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "HF_TOKEN"}}}
    container = Container(context, sh('[ "$T" = v ]', env=[entry]))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.state["waiting"]["reason"] == "CreateContainerConfigError")
    assert container.state.state["waiting"]["message"] == 'secret "hf" not found'
    put("/api/v1/namespaces/ns/secrets/hf", {"data": {"HF_TOKEN": "dg=="}})
    context.host.sources.changed("ADDED", {})
    await running
    assert container.state.terminated is not None
    assert container.state.terminated["exitCode"] == 0


async def test_no_such_program_is_a_start_error(context: PodContext) -> None:
    context.pod["spec"]["restartPolicy"] = "Never"
    container = Container(context, {"name": "c", "image": "shell", "command": ["/no/such/program"]})
    await container.run()
    assert container.state.terminated is not None
    assert (container.state.terminated["exitCode"], container.state.terminated["reason"]) == (
        128,
        "StartError",
    )


GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}


def says(context: PodContext, how: str) -> None:
    """Annotate the container's node."""
    assert isinstance(context.host.nodes, dict)
    context.host.nodes[context.node] = {"metadata": {"annotations": {START: how}}}


async def test_a_model_server_runs_out_of_memory_where_its_node_says_so(
    context: PodContext, reached: Reached, objects: dict[str, Object]
) -> None:
    says(context, "oom")
    container = Container(context, sh("echo well", **GPU))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.last)
    ended = container.state.last["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    says(context, "")
    await reached(lambda: container.state.last.get("terminated", {}).get("reason") == "Completed")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await context.host.events.flush()


async def test_a_model_server_hears_how_long_a_download_takes_on_its_node(context: PodContext) -> None:
    assert isinstance(context.host.nodes, dict)
    context.host.nodes[context.node] = {"metadata": {"annotations": {DOWNLOAD_S: "900"}}}
    context.pod["spec"]["restartPolicy"] = "Never"
    container = Container(context, sh("echo $LLMD_SANDBOX_DOWNLOAD_S"))
    await container.run()
    assert await output(container) == "900\n"


@pytest.mark.parametrize(("how", "heard"), [("cuda-oom", "cuda-oom"), ("", "nothing")])
async def test_a_model_server_hears_how_its_start_ends_on_its_node(context: PodContext, how: str, heard: str) -> None:
    says(context, how)
    context.pod["spec"]["restartPolicy"] = "Never"
    container = Container(context, sh("echo ${LLMD_SANDBOX_START:-nothing}", **GPU))
    await container.run()
    assert await output(container) == f"{heard}\n"


async def test_a_model_server_hangs_where_its_node_says_so(context: PodContext, reached: Reached) -> None:
    says(context, "hang")
    container = Container(context, sh("echo well", **GPU))
    running = asyncio.create_task(container.run())
    await reached(lambda: "running" in container.state.state)
    await printed(container, "loading the model")
    assert "running" in container.state.state
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_other_containers_start_well_on_such_a_node(context: PodContext) -> None:
    says(context, "hang")
    context.pod["spec"]["restartPolicy"] = "Never"
    container = Container(context, sh("echo well"))
    await container.run()
    assert await output(container) == "well\n"


async def test_liveness_failure_restarts(context: PodContext, reached: Reached, objects: dict[str, Object]) -> None:
    probe = {"exec": {"command": ["/bin/false"]}, "periodSeconds": 0.01, "failureThreshold": 2}
    container = Container(context, sh("exec sleep 100", livenessProbe=probe))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.last)
    assert container.state.last["terminated"]["signal"] == 15
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await context.host.events.flush()
    assert reasons(objects)["Killing"] == "Container c failed liveness probe, will be restarted"


async def test_stop_runs_the_hook_then_terminates(context: PodContext, reached: Reached) -> None:
    hook = {"preStop": {"exec": {"command": ["/bin/sh", "-c", "echo hook > hooked"]}}}
    script = 'trap "cat hooked; exit 7" TERM; echo up; while :; do sleep 0.02; done'
    container = Container(context, sh(script, lifecycle=hook))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.ready)
    await printed(container, "up")
    await container.stop(5, asyncio.Event())
    await running
    assert await output(container) == "up\nhook\n"
    assert container.state.terminated is not None
    assert container.state.terminated["exitCode"] == 7


@pytest.mark.parametrize("hurry_first", [True, False])
async def test_a_process_that_ignores_sigterm_is_killed(
    hurry_first: bool, context: PodContext, reached: Reached
) -> None:
    container = Container(context, sh('trap "" TERM; echo up; while :; do sleep 0.02; done'))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.ready)
    await printed(container, "up")
    hurry = asyncio.Event()
    if hurry_first:
        hurry.set()
    await container.stop(60 if hurry_first else 0.2, hurry)
    await running
    assert container.state.terminated is not None
    assert container.state.terminated["signal"] == 9


async def test_cancel_leaves_no_process(context: PodContext, reached: Reached) -> None:
    container = Container(context, sh('sleep 100 & trap "" TERM; echo up; while :; do sleep 0.02; done'))
    running = asyncio.create_task(container.run())
    await reached(lambda: container.state.ready)
    await printed(container, "up")
    directory = context.host.site.directory
    assert processes.find(directory)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert processes.kill_all(directory, timeout_s=5) == []
    assert container.state.terminated is not None
    assert container.state.terminated["signal"] == 9
