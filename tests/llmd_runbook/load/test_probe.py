"""A probe against a server on loopback: it sends until it is stopped, and its end never breaks what it watches."""

from __future__ import annotations

import json
import subprocess
import sys

import psutil
import pytest

from llmd_runbook.load.plan import Burst, Open, Plan
from llmd_runbook.load.probe import Probe
from llmd_runbook.load.prompts import unique
from tests.llmd_runbook.clients.server import Reply, serving

PATH = "/v1/completions"
STREAM = f"data: {json.dumps({'choices': [{'text': ' a'}]})}\n\ndata: [DONE]\n\n"
WHOLE = {"choices": [{"text": " a"}], "usage": {"prompt_tokens": 8, "completion_tokens": 1}}


def probing() -> list[psutil.Process]:
    """This process's children that probe; what other tests left unburied has no command line."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "llmd_runbook.load.probing" in child.cmdline()]


def plan(url: str, *, streamed: bool, model: str = "m") -> Plan:
    arrival = Open(rate_per_s=50, gaps="constant")
    return Plan(url=url, model=model, prompts=unique(3, 8, seed=1), output_tokens=1, arrival=arrival, streamed=streamed)


def test_streams_of_both_kinds_go_on_until_it_is_stopped() -> None:
    with serving() as server, Probe() as probe:
        server.on(PATH, Reply(200, WHOLE))
        probe.add(plan(server.url, streamed=False))
        assert probe.wait(lambda samples: len(samples) >= 5, 60)
        server.on(PATH, Reply(200, STREAM))
        probe.add(plan(server.url, streamed=True, model="n"), 0.01)
        assert probe.wait(lambda samples: sum(sample.events == 1 for sample in samples) >= 5, 60)
        now_s = probe.now_s()
        samples = probe.stop()
        sent = [json.loads(request.body) for request in server.asked(PATH)]
    assert probe.trouble == ""
    assert len(samples) == len(sent)
    assert [sample.sent_s for sample in samples] == sorted(sample.sent_s for sample in samples)
    whole = [sample for sample in samples if sample.ok and sample.events == 0]
    assert whole[0].output_tokens == 1
    assert whole[0].body_bytes == len(json.dumps(WHOLE).encode())
    assert all(sample.sent_s >= sample.due_s for sample in samples)
    assert samples[4].done_s < now_s
    assert {(body["model"], body.get("stream", False)) for body in sent} == {("m", False), ("n", True)}


def test_an_answer_that_is_no_completion_is_no_success() -> None:
    with serving() as server, Probe() as probe:
        server.on(PATH, Reply(200, {"hello": 1}))
        probe.add(plan(server.url, streamed=False))
        assert probe.wait(lambda samples: len(samples) >= 3, 60)
        samples = probe.stop()
    assert {sample.error for sample in samples} == {"truncated"}


def test_a_probe_that_dies_says_so_and_raises_nothing() -> None:
    with serving() as server, Probe() as probe:
        server.on(PATH, Reply(200, STREAM))
        probe.add(plan(server.url, streamed=True))
        assert probe.wait(lambda samples: len(samples) >= 2, 60)
        (process,) = probing()
        process.kill()
        assert probe.wait(lambda _: False, 60) is False
        samples = probe.stop()
    assert len(samples) >= 2
    assert probe.trouble == "the probe ended by itself: it said nothing"


def test_it_does_not_outlive_its_block() -> None:
    with serving() as server, Probe() as probe:
        server.on(PATH, Reply(200, STREAM))
        probe.add(plan(server.url, streamed=True))
        assert probe.wait(lambda samples: len(samples) >= 1, 60)
    children = probing()
    assert children == []


def test_its_process_ends_with_its_standard_input() -> None:
    with serving() as server:
        server.on(PATH, Reply(200, STREAM))
        message = {"plan": plan(server.url, streamed=True).model_dump(mode="json"), "phase_s": 0}
        done = subprocess.run(
            [sys.executable, "-m", "llmd_runbook.load.probing"],
            input=f'{{"origin": 0}}\n{json.dumps(message)}\n',
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 1, done.stderr
    assert "stopped" not in done.stdout


def test_it_needs_an_open_loop_at_equal_gaps() -> None:
    with Probe() as probe, pytest.raises(ValueError, match="open loop"):
        probe.add(plan("http://127.0.0.1:9", streamed=True).model_copy(update={"arrival": Burst()}))
