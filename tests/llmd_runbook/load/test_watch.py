from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llmd_runbook.clients.metrics import KV_USAGE, PREFIX_HITS, PREFIX_QUERIES, RUNNING, WAITING, Snapshot
from llmd_runbook.errors import Unreachable
from llmd_runbook.load import watch
from llmd_runbook.load.watch import Readings, Watch


def snapshot(pod: str, **values: float) -> Snapshot:
    names = {"running": RUNNING, "waiting": WAITING, "kv": KV_USAGE, "queries": PREFIX_QUERIES, "hits": PREFIX_HITS}
    return Snapshot(pod, "pod IP", {names[key]: [({}, value)] for key, value in values.items()})


def pages(**values: list[float]) -> Callable[[], dict[str, Snapshot]]:
    """Two replicas whose pages change from reading to reading; the last one stays."""
    count = iter(range(10**6))

    def read() -> dict[str, Snapshot]:
        number = next(count)
        now = {key: series[min(number, len(series) - 1)] for key, series in values.items()}
        return {name: snapshot(name, **now) for name in ("a", "b")}

    return read


def test_readings_are_on_the_clock_of_the_load() -> None:
    read = pages(running=[0, 4], waiting=[0, 1], kv=[0, 0.5], queries=[100, 300], hits=[50, 100])
    started_s = time.time()
    with Watch(read) as watching:
        pass
    found = watching.readings(started_s)
    assert len(found.at_s) >= 2
    assert 0 <= found.at_s[0] <= found.at_s[-1] < 60
    assert found.running["a"][0] == 0
    assert found.running["b"][-1] == 4
    assert found.hit_share == 0.25  # 50 of 200 tokens, on both
    assert found.held(-1, 60)[-1] == 10
    assert found.queues(-1, 60)[-1] == 1
    assert found.held(1000, 2000) == []
    assert found.trouble == ""


def test_it_reads_while_the_load_runs_and_leaves_pauses(monkeypatch: object) -> None:
    seen = threading.Event()
    count = iter(range(10**6))

    def read() -> dict[str, Snapshot]:
        if next(count) == 3:
            seen.set()
        return {"a": snapshot("a", running=1, waiting=0, kv=0, queries=0, hits=0)}

    with Watch(read) as watching:
        assert seen.wait(60)
    found = watching.readings(time.time())
    gaps = [later - at for at, later in zip(found.at_s[1:-2], found.at_s[2:-1], strict=True)]
    assert min(gaps) >= 0.9 * watch.INTERVAL_S
    assert found.hit_share == 0.0  # caching is off: nothing was looked up


def test_what_cannot_be_read_is_said_and_does_not_stop_the_load() -> None:
    def read() -> dict[str, Snapshot]:
        raise Unreachable("cannot read a replica's metrics", reason="forbidden")

    with Watch(read) as watching:
        done = True
    assert done
    assert watching.readings(0) == Readings(trouble="cannot read a replica's metrics: forbidden")


def test_a_server_without_these_metrics_is_said() -> None:
    with Watch(lambda: {"a": snapshot("a", running=1)}) as watching:
        pass
    assert watching.readings(0).trouble == "a exposes no vllm:num_requests_waiting"


def test_counters_that_went_back_have_no_hit_share() -> None:
    """A replica that began anew."""
    with Watch(pages(running=[1], waiting=[0], kv=[0], queries=[500, 100], hits=[50, 20])) as watching:
        pass
    assert watching.readings(0).hit_share is None
