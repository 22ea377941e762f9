"""Requests beside a measurement, against scripted answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest

from llmd_runbook.clients.inference import Endpoint, Inference
from llmd_runbook.load.background import Background
from tests.llmd_runbook.clients.server import Reply, Server, serving

PATH = "/v1/completions"
GOOD = {"choices": [{"text": "x"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


def until(server: Server, requests: int) -> None:
    deadline = time.monotonic() + 30
    while len(server.requests) < requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(server.requests) >= requests


def test_every_request_is_kept_with_its_own_prompt_and_none_begins_after_the_end(server: Server) -> None:
    server.on(PATH, Reply(body=GOOD))
    with Background(Inference(Endpoint(server.url)), "m", in_flight=3, seed=1) as background:
        until(server, 9)
    sent = {request.headers["x-request-id"]: json.loads(request.body) for request in server.requests}
    assert {answer.request_id: answer.body for answer in background.answers} == sent
    assert len({body["prompt"] for body in sent.values()}) == len(sent)
    assert background.failures == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("background")]


def test_a_refused_request_is_counted_and_the_next_ones_go_on(server: Server) -> None:
    server.on(PATH, Reply(429, "slow down"), Reply(body=GOOD))
    with Background(Inference(Endpoint(server.url)), "m", in_flight=1, seed=1) as background:
        until(server, 3)
    assert background.failures == ["slow down"]
    assert len(background.answers) == len(server.requests) - 1


def test_it_ends_when_what_it_accompanies_fails(server: Server) -> None:
    server.on(PATH, Reply(body=GOOD))
    with (
        pytest.raises(RuntimeError, match="measured"),
        Background(Inference(Endpoint(server.url)), "m", in_flight=2, seed=1),
    ):
        raise RuntimeError("what is measured fails")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("background")]


def test_turnover_waits_for_requests_that_end(server: Server) -> None:
    server.on(PATH, Reply(429, "slow down"), Reply(body=GOOD))
    with Background(Inference(Endpoint(server.url)), "m", in_flight=1, seed=1) as background:
        background.turnover(3, timeout_s=3600)  # a test takes no such time: it is woken
        assert len(background.answers) + len(background.failures) >= 3
    before = len(background.answers)
    background.turnover(1, timeout_s=0)  # nothing ends any more: it returns nevertheless
    assert len(background.answers) == before
