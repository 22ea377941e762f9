"""The picker's log through the Kubernetes API, against scripted answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.clients import picker_log
from llmd_runbook.clients.kubernetes import PODS, Kubernetes
from llmd_runbook.clients.picker_log import PickerLog
from llmd_runbook.errors import Forbidden
from tests.llmd_runbook.clients.server import Reply, Server, status

SAMPLE = (Path(__file__).parents[2] / "data" / "picker-v0.4-one-request.log").read_text(encoding="utf-8")
PATH = PODS.path("llm-d", "epp-1")


def pod(started: str = "2026-11-24T10:00:00Z") -> dict[str, Any]:
    running = {"name": "epp", "state": {"running": {"startedAt": started}}}
    return {"spec": {"containers": [{"name": "epp"}, {"name": "envoy"}]}, "status": {"containerStatuses": [running]}}


@pytest.fixture
def follow(kube: Kubernetes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., PickerLog]]:
    """Follows pods' logs; where a stream ends it is opened again at once."""
    monkeypatch.setattr(picker_log, "_AGAIN_S", 0.01)
    with ExitStack() as stack:
        yield lambda *pods: stack.enter_context(closing(PickerLog(kube, "llm-d", list(pods))))


def heard(log: PickerLog, count: int) -> set[str]:
    """Ids of the requests in the log, as soon as there are so many."""
    deadline = time.monotonic() + 30
    while len(log.read().handled) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return {decided.request_id for decided in log.lines.handled}


def test_follows_every_pod_and_puts_them_together(server: Server, follow: Callable[..., PickerLog]) -> None:
    server.on(PATH, Reply(body=pod()))
    server.on(PODS.path("llm-d", "epp-2"), Reply(body=pod()))
    server.on(f"{PATH}/log", Reply(body=SAMPLE))
    server.on(PODS.path("llm-d", "epp-2") + "/log", Reply(body=SAMPLE.replace("probe-2", "probe-3")))
    assert heard(follow("epp-1", "epp-2"), 2) == {"probe-2", "probe-3"}
    query = server.asked(f"{PATH}/log")[0].query
    assert (query["container"], query["follow"]) == ("epp", "true")
    assert "tailLines" not in query


def test_a_stream_that_is_cut_is_opened_again_some_seconds_back(
    server: Server, follow: Callable[..., PickerLog]
) -> None:
    server.on(PATH, Reply(body=pod()))
    server.on(f"{PATH}/log", Reply(body=SAMPLE), Reply(body=SAMPLE + SAMPLE.replace("probe-2", "probe-3")))
    assert heard(follow("epp-1"), 2) == {"probe-2", "probe-3"}
    first, second = (request.query["sinceSeconds"] for request in server.asked(f"{PATH}/log")[:2])
    assert (first, second) == ("1", "5")


def test_says_when_the_picker_began_anew(server: Server, follow: Callable[..., PickerLog]) -> None:
    server.on(PATH, Reply(body=pod()), Reply(body=pod()), Reply(body=pod("2026-11-24T10:05:00Z")))
    server.on(f"{PATH}/log", Reply(body=""))
    log = follow("epp-1")
    assert [log.restarted(), log.restarted()] == [False, True]


def test_a_picker_that_goes_away_keeps_what_it_said(server: Server, follow: Callable[..., PickerLog]) -> None:
    gone = Reply(404, status(404, "NotFound", 'pods "epp-1" not found'))
    server.on(PATH, Reply(body=pod()), gone)
    server.on(f"{PATH}/log", Reply(body=SAMPLE), gone)
    log = follow("epp-1")
    assert heard(log, 1) == {"probe-2"}
    assert log.restarted()


def test_a_log_that_may_not_be_read(server: Server, kube: Kubernetes) -> None:
    server.on(PATH, Reply(body=pod()))
    server.on(f"{PATH}/log", Reply(403, status(403, "Forbidden", "cannot get pods/log")))
    with pytest.raises(Forbidden, match="not permitted") as caught:
        PickerLog(kube, "llm-d", ["epp-1"])
    assert caught.value.reason == "cannot get pods/log"
