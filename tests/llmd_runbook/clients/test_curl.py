"""The guide's loop by bash and curl: what `time` says and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_runbook.clients import curl
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.errors import ToolError, UsageError
from tests.llmd_runbook.clients.server import Reply, Silence, serving


def test_every_request_is_the_guides() -> None:
    with serving() as gateway:
        gateway.on("/v1/completions", Reply(body={"choices": []}))
        found = curl.loop(
            Endpoint(gateway.url, headers={"Host": "models.example"}), json.dumps({"prompt": "Hi"}), 5, 30
        )
        asked = gateway.asked("/v1/completions")
    assert [(request.method, request.body) for request in asked] == [("POST", '{"prompt": "Hi"}')] * 5
    assert {request.headers["host"] for request in asked} == {"models.example"}
    assert {request.headers["content-type"] for request in asked} == {"application/json"}
    assert 0 <= found.loop_s <= found.ended_s


def test_the_loop_ends_whatever_is_answered() -> None:
    """It throws answers and errors away alike; who looks must look elsewhere."""
    with serving() as gateway:
        gateway.on("/v1/completions", Reply(503, "no healthy upstream"))
        curl.loop(Endpoint(gateway.url), "{}", 3, 30)
        assert len(gateway.asked("/v1/completions")) == 3


def test_answers_that_never_come_end_it() -> None:
    with serving() as gateway:
        gateway.on("/v1/completions", Silence())
        with pytest.raises(ToolError, match=r"did not end within 0\.5 s"):
            curl.loop(Endpoint(gateway.url), "{}", 2, 0.5)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        (Endpoint("http://127.0.0.1:1", bearer_variable="TOKEN"), "for everybody to read"),
        (Endpoint("http://127.0.0.1:1", bearer_file="token"), "for everybody to read"),
        (Endpoint("https://127.0.0.1:1", server_name="models.example"), "models.example"),
    ],
)
def test_what_the_guides_curl_cannot_send(target: Endpoint, why: str) -> None:
    with pytest.raises(UsageError, match="cannot be replayed here") as refused:
        curl.loop(target, "{}", 1, 5)
    assert why in str(refused.value)


def test_a_machine_without_curl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="cannot run curl"):
        curl.loop(Endpoint("http://127.0.0.1:1"), "{}", 1, 5)


def test_processes_that_send_nothing() -> None:
    found = curl.starting(3, 30)
    assert 0 <= found.loop_s <= found.ended_s
