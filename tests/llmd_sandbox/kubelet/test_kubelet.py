"""Nodes and pods through the whole kubelet, against an API in memory; the pods' processes are real."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llmd_sandbox import processes
from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.kubelet.kubelet import Kubelet
from llmd_sandbox.kubelet.nodes import SILENCE
from llmd_sandbox.site import Site

NODE, OTHER, POD = "/api/v1/nodes/n1", "/api/v1/nodes/n2", "/api/v1/namespaces/ns/pods/p"
Until = Callable[[Callable[[], object]], Awaitable[None]]
Put = Callable[[str, Object], Object]
MakePod = Callable[..., Object]
FOREVER: dict[str, Any] = {"name": "c", "image": "shell", "command": ["/bin/sleep", "100"]}
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}


def resolve(image: str, command: list[str], args: list[str]) -> list[str] | None:
    return [*command, *args] if image == "shell" else None


@pytest.fixture
async def kubelet(site: Site, api: KubeApi, put: Put, until: Until) -> AsyncIterator[asyncio.Task[None]]:
    """A running kubelet with a booted node; after the test no process of it lives."""
    put(NODE, {"metadata": {"name": "n1"}})
    kubelet = Kubelet(site, api, resolve)
    running = asyncio.create_task(kubelet.run())
    await kubelet.ready.wait()
    yield running
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert processes.find(site.directory) == []


def phase(objects: dict[str, Object]) -> str:
    return str(objects.get(POD, {}).get("status", {}).get("phase", ""))


def ready(objects: dict[str, Object]) -> bool:
    conditions = objects.get(POD, {}).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def waiting(objects: dict[str, Object]) -> str:
    statuses = objects[POD].get("status", {}).get("containerStatuses", [{}])
    return str(statuses[0].get("state", {}).get("waiting", {}).get("reason", ""))


async def test_a_pod_becomes_ready_and_keeps_its_scheduled_condition(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    put: Put,
    until: Until,
    make_pod: MakePod,
) -> None:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    put(POD, {**make_pod(FOREVER), "status": {"phase": "Pending", "conditions": [scheduled]}})
    await until(lambda: ready(objects))
    status = objects[POD]["status"]
    assert status["phase"] == "Running"
    assert status["podIP"] == status["podIPs"][0]["ip"] == site.pod_ip(0)
    assert status["hostIP"] == site.kubelet[0]
    assert scheduled in status["conditions"]
    assert status["containerStatuses"][0]["ready"] is True


async def test_deletion_ends_the_process_and_the_pod(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    put: Put,
    until: Until,
    make_pod: MakePod,
) -> None:
    put(POD, make_pod(FOREVER))
    await until(lambda: ready(objects))
    put(POD, {**objects[POD], "metadata": {**objects[POD]["metadata"], **DELETED}})
    await until(lambda: POD not in objects)
    assert processes.find(site.directory) == []


async def test_a_pod_removed_by_force_is_ended(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    put: Put,
    remove: Callable[[str], None],
    until: Until,
    make_pod: MakePod,
) -> None:
    stubborn = {**FOREVER, "command": ["/bin/sh", "-c", 'trap "" TERM; while :; do sleep 0.02; done']}
    put(POD, make_pod(stubborn))
    await until(lambda: ready(objects))
    remove(POD)
    folder = site.pods / "u1"
    async with asyncio.timeout(5):
        while folder.exists():
            await asyncio.to_thread(lambda: None)
    assert processes.find(site.directory) == []


async def test_init_containers_run_first_and_share_volumes(
    kubelet: asyncio.Task[None], objects: dict[str, Object], put: Put, until: Until, make_pod: MakePod
) -> None:
    mount = {"volumeMounts": [{"name": "d", "mountPath": "/data"}]}
    first = {"name": "i", "image": "shell", "command": ["/bin/sh", "-c", "echo 1 > /data/x"], **mount}
    main = {"name": "c", "image": "shell", "command": ["/bin/cat", "/data/x"], **mount}
    volumes = [{"name": "d", "emptyDir": {}}]
    put(POD, make_pod(main, initContainers=[first], volumes=volumes, restartPolicy="Never"))
    await until(lambda: phase(objects) == "Succeeded")
    assert objects[POD]["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


async def test_a_failing_init_container_fails_the_pod(
    kubelet: asyncio.Task[None], objects: dict[str, Object], put: Put, until: Until, make_pod: MakePod
) -> None:
    first = {"name": "i", "image": "shell", "command": ["/bin/false"]}
    put(POD, make_pod(FOREVER, initContainers=[first], restartPolicy="Never"))
    await until(lambda: phase(objects) == "Failed")
    assert waiting(objects) == "PodInitializing"


async def test_sidecars_are_refused_in_words(
    kubelet: asyncio.Task[None], objects: dict[str, Object], put: Put, until: Until, make_pod: MakePod
) -> None:
    sidecar = {"name": "s", "image": "shell", "command": ["/bin/true"], "restartPolicy": "Always"}
    put(POD, make_pod(FOREVER, initContainers=[sidecar]))
    await until(lambda: phase(objects) == "Failed")
    assert objects[POD]["status"]["message"] == "sidecar containers are not served by this sandbox: s"


async def test_a_missing_volume_source_is_waited_for(
    kubelet: asyncio.Task[None], objects: dict[str, Object], put: Put, until: Until, make_pod: MakePod
) -> None:
    put(POD, make_pod(FOREVER, volumes=[{"name": "v", "configMap": {"name": "c"}}]))
    await until(lambda: any(item.get("reason") == "FailedMount" for item in objects.values()))
    assert waiting(objects) == "ContainerCreating"
    put("/api/v1/namespaces/ns/configmaps/c", {"metadata": {"namespace": "ns", "name": "c"}, "data": {}})
    await until(lambda: ready(objects))


async def test_a_node_taken_away_ends_its_pods(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    put: Put,
    remove: Callable[[str], None],
    until: Until,
    make_pod: MakePod,
) -> None:
    put(POD, make_pod(FOREVER))
    await until(lambda: ready(objects))
    remove(NODE)
    await until(lambda: phase(objects) == "Failed")
    assert not ready(objects)
    assert processes.find(site.directory) == []


async def test_an_overwritten_ready_condition_is_written_again(
    kubelet: asyncio.Task[None], objects: dict[str, Object], put: Put, until: Until, make_pod: MakePod
) -> None:
    put(POD, make_pod(FOREVER))
    await until(lambda: ready(objects))
    status = objects[POD]["status"]
    others = [c for c in status["conditions"] if c["type"] != "Ready"]
    lost = {**status, "conditions": [*others, {"type": "Ready", "status": "False"}]}
    put(POD, {**objects[POD], "status": lost})
    await until(lambda: ready(objects))


async def test_a_finished_pod_is_left_as_it_is_until_deleted(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    calls: list[tuple[str, str]],
    put: Put,
    until: Until,
    make_pod: MakePod,
) -> None:
    done = put(POD, {**make_pod({**FOREVER, "command": [sys.executable]}), "status": {"phase": "Succeeded"}})
    put(POD, {**done, "metadata": {**done["metadata"], **DELETED}})
    await until(lambda: POD not in objects)
    assert ("PATCH", f"{POD}/status") not in calls


async def test_after_a_restart_pods_are_started_anew(
    kubelet: asyncio.Task[None], objects: dict[str, Object], put: Put, until: Until, make_pod: MakePod
) -> None:
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    earlier = {"name": "c", "restartCount": 1, "state": running, "containerID": "containerd://old"}
    put(POD, {**make_pod(FOREVER), "status": {"phase": "Running", "containerStatuses": [earlier]}})
    await until(lambda: ready(objects))
    status = objects[POD]["status"]["containerStatuses"][0]
    assert status["restartCount"] == 2
    assert status["lastState"]["terminated"]["exitCode"] == 255


def silence(objects: dict[str, Object], put: Put, word: str) -> None:
    put(NODE, {**objects[NODE], "metadata": {**objects[NODE]["metadata"], "annotations": {SILENCE: word}}})


def doubt(objects: dict[str, Object], put: Put) -> None:
    """The node-lifecycle controller does not believe the pod to be Ready any more."""
    status = objects[POD]["status"]
    kept = [c for c in status["conditions"] if c["type"] != "Ready"]
    put(POD, {**objects[POD], "status": {**status, "conditions": [*kept, {"type": "Ready", "status": "False"}]}})


async def test_the_pods_of_a_silent_node_run_on_and_nothing_is_told(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    put: Put,
    until: Until,
    make_pod: MakePod,
) -> None:
    put(POD, make_pod(FOREVER))
    await until(lambda: ready(objects))
    running = processes.find(site.directory)
    silence(objects, put, "silent")
    doubt(objects, put)
    put(OTHER, {"metadata": {"name": "n2"}})  # seen after the silence: what comes of it shows that the rest was read
    await until(lambda: "Ready" in str(objects[OTHER].get("status")))
    assert not ready(objects)
    assert processes.find(site.directory) == running
    silence(objects, put, "")
    await until(lambda: ready(objects))


async def test_a_silent_node_that_goes_leaves_its_pods_status_as_it_was(
    kubelet: asyncio.Task[None],
    site: Site,
    objects: dict[str, Object],
    put: Put,
    until: Until,
    make_pod: MakePod,
    remove: Callable[[str], None],
) -> None:
    put(POD, make_pod(FOREVER))
    await until(lambda: ready(objects))
    silence(objects, put, "silent")
    remove(NODE)
    for _ in range(500):  # the end of a process is no event of the API's
        if not processes.find(site.directory):
            break
        await asyncio.sleep(0.02)
    assert processes.find(site.directory) == []
    assert (phase(objects), ready(objects)) == ("Running", True)
