import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from llmd_sandbox.kube import KubeApi, Object
from llmd_sandbox.kubelet.events import EventRecorder, node_reference, pod_reference


@pytest.fixture
async def events(api: KubeApi) -> AsyncIterator[EventRecorder]:
    recorder = EventRecorder(api)
    writing = asyncio.create_task(recorder.run())
    yield recorder
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)


def written(objects: dict[str, Object]) -> list[tuple[str, str, int]]:
    found = [item for url, item in objects.items() if "/events/" in url]
    return [(item["type"], item["message"], item["count"]) for item in found]


async def test_repeats_are_counted_on_one_event(
    events: EventRecorder, objects: dict[str, Object], make_pod: Callable[..., Object]
) -> None:
    about = pod_reference(make_pod(), "spec.containers{c}")
    for message in ("probe failed", "probe failed", "another"):
        events.emit(about, "Unhealthy", message, node="n1", warning=True)
    await events.flush()
    assert written(objects) == [("Warning", "probe failed", 2), ("Warning", "another", 1)]


async def test_an_expired_event_is_written_anew(
    events: EventRecorder, objects: dict[str, Object], remove: Callable[[str], None]
) -> None:
    for _ in range(2):
        events.emit(node_reference("n1"), "NodeReady", "ready", node="n1")
        await events.flush()
        remove(next(url for url in objects if "/namespaces/default/events/" in url))
    events.emit(node_reference("n1"), "NodeReady", "ready", node="n1")
    await events.flush()
    assert written(objects) == [("Normal", "ready", 1)]
