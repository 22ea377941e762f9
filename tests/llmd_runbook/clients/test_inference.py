"""Calls to an OpenAI-compatible server, against scripted answers."""

from __future__ import annotations

import itertools
import json
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from llmd_runbook.clients import inference
from llmd_runbook.clients.inference import Completion, Endpoint, Inference
from llmd_runbook.errors import ApiError, ClusterError, Unreachable
from tests.llmd_runbook.clients.server import Reply, Server, Silence, Stream

MODELS, COMPLETIONS = "/v1/models", "/v1/completions"
USAGE = {"prompt_tokens": 4, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
GOOD: dict[str, Any] = {"choices": [{"text": " there"}], "usage": USAGE}


def ask(client: Inference) -> Completion:
    return client.complete("a/b", "Say hello.", max_tokens=2)


def streamed(client: Inference) -> Completion:
    return client.stream("a/b", "Say hello.", max_tokens=2)


def models(client: Inference) -> list[str]:
    return client.models()


def test_lists_models(server: Server) -> None:
    server.on(MODELS, Reply(body={"object": "list", "data": [{"id": "a/b"}, {"id": "c"}]}))
    assert Inference(Endpoint(server.url)).models() == ["a/b", "c"]


def test_completes_with_an_id_of_its_own_and_the_endpoints_headers(server: Server) -> None:
    server.on(f"/prefix{COMPLETIONS}", Reply(body=GOOD, headers={"x-inference-pod": "pod-1"}))
    client = Inference(Endpoint(f"{server.url}/prefix", headers={"host": "models.example"}))
    first, second = ask(client), ask(client)
    assert (first.text, first.prompt_tokens, first.output_tokens, first.cached_tokens) == (" there", 4, 2, 3)
    assert (first.replica, first.elapsed_s > 0) == ("pod-1", True)
    sent = server.requests[0]
    body = {"model": "a/b", "prompt": "Say hello.", "max_tokens": 2, "temperature": 0}
    assert (sent.method, json.loads(sent.body)) == ("POST", body)
    assert sent.headers["host"] == "models.example"
    assert sent.headers["x-request-id"] == first.request_id == str(uuid.UUID(first.request_id))
    assert first.request_id != second.request_id


@pytest.mark.parametrize("details", [{}, {"prompt_tokens_details": None}])
def test_what_the_server_does_not_say_stays_unsaid(server: Server, details: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 4, "completion_tokens": 2, **details}
    server.on(COMPLETIONS, Reply(body={"choices": [{"text": ""}], "usage": usage}))
    answer = ask(Inference(Endpoint(server.url)))
    assert (answer.cached_tokens, answer.replica) == (None, None)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (404, "fault filter abort"),
        (500, "ext_proc_error: gRPC error 14"),
        (503, "no healthy upstream"),
        (400, '{"error": {"message": "max_tokens must be at least 1"}}'),
        (302, "moved"),
    ],
)
def test_refusals_keep_code_and_body(server: Server, code: int, body: str) -> None:
    server.on(COMPLETIONS, Reply(code, body))
    with pytest.raises(ApiError, match=f"answered {code}") as caught:
        ask(Inference(Endpoint(server.url)))
    assert caught.value.reason == body
    assert caught.value.where == f"POST {server.url}/v1/completions"
    assert caught.value.remedy
    assert len(server.requests) == 1


def test_an_empty_refusal_says_so(server: Server) -> None:
    server.on(COMPLETIONS, Reply(503))
    with pytest.raises(ApiError) as caught:
        ask(Inference(Endpoint(server.url)))
    assert caught.value.reason == "(empty body)"


@pytest.mark.parametrize(
    "body",
    [
        *("", "<html>", "[]", "null", "7", "{}", '{"choices": []}', '{"choices": [{}], "usage": {}}'),
        '{"choices": [{"text": "x"}], "usage": null}',
        '{"choices": [{"text": "x"}], "usage": []}',
        '{"choices": [{"text": "x"}], "usage": {"prompt_tokens": "many", "completion_tokens": 1}}',
        '{"choices": "x", "usage": {}}',
    ],
)
@pytest.mark.parametrize("call", [ask, models])
def test_nonsense_is_named_so(server: Server, body: str, call: Callable[[Inference], Any]) -> None:
    for path in (MODELS, COMPLETIONS):
        server.on(path, Reply(body=body))
    with pytest.raises(ApiError) as caught:
        call(Inference(Endpoint(server.url)))
    assert "the answer is" in caught.value.what
    assert server.url in (caught.value.where or "")
    assert caught.value.reason
    assert caught.value.remedy


@pytest.mark.parametrize("body", ['{"data": 7}', '{"data": [{}]}', '{"data": ["a"]}', '{"data": null}'])
def test_lists_of_models_that_are_none(server: Server, body: str) -> None:
    server.on(MODELS, Reply(body=body))
    with pytest.raises(ApiError, match="no list of models"):
        Inference(Endpoint(server.url)).models()


@pytest.mark.parametrize(("call", "path"), [(ask, COMPLETIONS), (streamed, COMPLETIONS), (models, MODELS)])
def test_a_slow_gateway_is_one_message_with_what_was_asked_and_how_long(
    server: Server, call: Callable[[Inference], object], path: str
) -> None:
    server.on(path, Silence())
    with pytest.raises(Unreachable) as caught:
        call(Inference(Endpoint(server.url), timeout_s=0.1))
    assert caught.value.what == "the gateway gave no answer within 0.1 s"
    assert f"{server.url}{path}" in str(caught.value.where)
    assert caught.value.reason == "timed out"
    assert "endpoint picker" in str(caught.value.remedy)


def test_an_address_that_takes_no_connection_in_time_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise httpx.ConnectTimeout("timed out")

    monkeypatch.setattr(httpx.Client, "request", refuse)
    with pytest.raises(Unreachable, match="no connection within 5 s") as caught:
        Inference(Endpoint("http://192.0.2.1")).models()
    assert "firewalls" in str(caught.value.remedy)


def test_a_closed_port_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(Unreachable, match="refused"):
        Inference(Endpoint(url)).models()


@pytest.mark.parametrize("url", ["http://[::1", "ftp://192.0.2.1", "http://"])
def test_addresses_that_are_none_are_unreachable(url: str) -> None:
    with pytest.raises(Unreachable) as caught:
        Inference(Endpoint(url)).models()
    assert url in (caught.value.where or "")
    assert caught.value.reason


def test_a_ca_file_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ClusterError):
            Inference(Endpoint("https://127.0.0.1:1", ca_file=str(tmp_path / name))).models()


def test_no_password_of_a_url_gets_into_an_error(server: Server) -> None:
    url = server.url.replace("http://", "http://ann:pass-word@")
    server.on(MODELS, Reply(500, "no"))
    with pytest.raises(ApiError) as caught:
        Inference(Endpoint(url)).models()
    assert "pass-word" not in str(caught.value)


EVENTS = [
    'data: {"choices": [{"text": " the"}], "usage": null}\n',
    'data: {"choices": [{"text": "re"}]}\n',
    'data: {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}\n',
    "data: [DONE]\n",
]


def test_streams_with_the_time_to_the_first_token_and_the_usage(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(100)
    monkeypatch.setattr(inference, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    server.on(COMPLETIONS, Stream(*EVENTS).end())
    answer = Inference(Endpoint(server.url)).stream("a/b", "Say hello.", max_tokens=2, request_id="mine")
    assert (answer.text, answer.prompt_tokens, answer.output_tokens) == (" there", 4, 2)
    assert (answer.cached_tokens, answer.request_id) == (None, "mine")
    assert (answer.ttft_s, answer.elapsed_s) == (1, 2)  # the first piece, not the second; then the end
    sent = server.requests[0]
    assert sent.headers["x-request-id"] == "mine"
    assert json.loads(sent.body) == answer.body
    assert answer.body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        (EVENTS[:3], "ended early"),
        ([EVENTS[0], EVENTS[3]], "no usage"),
        (['data: {"error": {"message": "out of blocks"}}\n'], "out of blocks"),
        (["data: {]\n"], "JSONDecodeError"),
    ],
)
def test_a_stream_that_is_none(server: Server, events: list[str], reason: str) -> None:
    server.on(COMPLETIONS, Stream(*events).end())
    with pytest.raises(ApiError, match="not a streamed completion") as caught:
        Inference(Endpoint(server.url)).stream("a/b", "Say hello.", max_tokens=2)
    assert reason in str(caught.value.reason)


def test_a_stream_that_is_refused_or_cut(server: Server) -> None:
    server.on(COMPLETIONS, Reply(503, "no candidate pods"))
    with pytest.raises(ApiError, match="answered 503") as caught:
        Inference(Endpoint(server.url)).stream("a/b", "Say hello.", max_tokens=2)
    assert caught.value.reason == "no candidate pods"
    server.on(COMPLETIONS, Stream(EVENTS[0]).end(cut=True))
    with pytest.raises(Unreachable):
        Inference(Endpoint(server.url)).stream("a/b", "Say hello.", max_tokens=2)
