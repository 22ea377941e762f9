"""A stream against a server on loopback: it sends until it is stopped, whatever is answered."""

from __future__ import annotations

import json

import pytest

from llmd_runbook.load.plan import Burst, Open, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.stream import Stream
from tests.llmd_runbook.clients.server import Reply, serving

PATH = "/v1/completions"
TEXT = f"data: {json.dumps({'choices': [{'text': ' a'}]})}\n\ndata: [DONE]\n\n"


def plan(url: str, rate_per_s: float = 100) -> Plan:
    arrival = Open(rate_per_s=rate_per_s, gaps="constant")
    return Plan(url=url, model="m", prompts=unique(3, 8, seed=1), output_tokens=1, arrival=arrival)


def test_it_goes_round_its_prompts_until_it_is_stopped() -> None:
    with serving() as server:
        server.on(PATH, Reply(200, TEXT))
        with Stream(plan(server.url)) as stream:
            assert stream.wait(lambda samples: len(samples) >= 7, 20)
            now_s = stream.now_s()
        samples = stream.stop()
        sent = [json.loads(request.body)["prompt"] for request in server.asked(PATH)]
    assert len(samples) == len(sent) >= 7
    assert [sample.group for sample in samples[:4]] == ["u0", "u1", "u2", "u0"]
    assert [sample.due_s for sample in samples[:3]] == pytest.approx([0, 0.01, 0.02])
    assert all(sample.ok and sample.sent_s >= sample.due_s for sample in samples)
    assert len({sample.request_id for sample in samples}) == len(samples)
    assert samples[6].sent_s <= now_s
    assert stream.so_far() != []


def test_what_fails_is_counted_and_holds_nothing_back() -> None:
    with serving() as server:
        server.on(PATH, Reply(503, "no healthy upstream"), Reply(200, TEXT))
        with Stream(plan(server.url)) as stream:
            assert stream.wait(lambda samples: sum(sample.ok for sample in samples) >= 3, 20)
        samples = stream.stop()
    assert [sample.error for sample in samples if not sample.ok] == ["http_503"]


def test_a_wait_that_is_over_says_so() -> None:
    with serving() as server, Stream(plan(server.url)) as stream:
        assert stream.wait(lambda _: False, 0.05) is False


def test_a_defect_in_its_thread_reaches_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr("llmd_runbook.load.steady.Sender", broken)
    with pytest.raises(ExceptionGroup) as caught, Stream(plan("http://127.0.0.1:9")) as stream:
        stream.wait(lambda _: False, 20)
    assert [str(error) for error in caught.value.exceptions] == ["a defect"]


def test_it_needs_an_open_loop_at_equal_gaps() -> None:
    for arrival in (Burst(), Open(rate_per_s=1)):
        with pytest.raises(ValueError, match="open loop"):
            Stream(plan("http://127.0.0.1:9").model_copy(update={"arrival": arrival}))
