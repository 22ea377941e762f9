import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

MODEL = "Qwen/Qwen2.5-3B-Instruct"
LONG = "The quick brown fox jumps over the lazy dog. " * 8
Serve = Callable[..., Awaitable[Any]]


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, checked to end with [DONE]."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, done, empty = response.text.split("\n\n")
    assert (done, empty) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


async def test_a_completion(server: Any) -> None:
    response = await server.complete()
    assert response.status_code == 200
    body = response.json()
    assert body["object"] == "text_completion"
    assert body["model"] == MODEL
    assert body["choices"][0]["text"].startswith("[simulated] ")
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
        "prompt_tokens_details": None,
    }


async def test_a_chat(server: Any) -> None:
    body = (await server.chat()).json()
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    message = body["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert message["content"].startswith("[simulated] ")


async def test_the_completions_id_is_the_clients_request_id(server: Any) -> None:
    body = {"model": MODEL, "prompt": "x", "max_tokens": 1}
    response = await server.client.post("/v1/completions", json=body, headers={"x-request-id": "abc"})
    assert response.json()["id"] == "cmpl-abc"
    assert "x-request-id" not in response.headers


async def test_request_id_headers_are_sent_on_demand(serve: Serve) -> None:
    server = await serve("--enable-request-id-headers")
    response = await server.complete()
    assert response.json()["id"] == f"cmpl-{response.headers['x-request-id']}"


async def test_a_streamed_completion_has_the_text_of_the_whole_one(server: Any) -> None:
    whole = (await server.complete()).json()["choices"][0]["text"]
    chunks = events(await server.complete(stream=True))
    assert len(chunks) == 4
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "length"]
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_a_streamed_chat_names_its_role_first_and_its_usage_last(server: Any) -> None:
    chunks = events(await server.chat(stream=True, stream_options={"include_usage": True}))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks[:-1]).startswith("[simulated] ")
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert "prompt_tokens_details" not in chunks[-1]["usage"]


async def test_cached_tokens_are_shown_with_the_flag_and_only_when_there_are_some(serve: Serve) -> None:
    server = await serve("--enable-prompt-tokens-details")
    cold = (await server.complete(prompt=LONG)).json()["usage"]
    warm = (await server.complete(prompt=LONG)).json()["usage"]
    assert cold["prompt_tokens_details"] is None
    cached = warm["prompt_tokens_details"]["cached_tokens"]
    assert cached == (warm["prompt_tokens"] - 1) // 16 * 16 > 0
    streamed = events(await server.complete(prompt=LONG, stream=True, stream_options={"include_usage": True}))
    assert streamed[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
    salted = (await server.complete(prompt=LONG, cache_salt="other")).json()["usage"]
    assert salted["prompt_tokens_details"] is None


async def test_without_the_flag_nothing_is_said_of_cached_tokens(server: Any) -> None:
    await server.complete(prompt=LONG)
    assert (await server.complete(prompt=LONG)).json()["usage"]["prompt_tokens_details"] is None
    assert server.engine.scheduler.hit_tokens > 0


async def test_the_prefix_cache_can_be_reset(server: Any) -> None:
    await server.complete(prompt=LONG)
    assert (await server.client.post("/reset_prefix_cache")).status_code == 200
    await server.complete(prompt=LONG)
    assert server.engine.scheduler.hit_tokens == 0


async def test_several_prompts_are_several_choices(server: Any) -> None:
    body = (await server.complete(prompt=["Hello there", "Goodbye"])).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == 8
    chunks = events(await server.complete(prompt=[[1, 2], [3, 4]], stream=True))
    assert sorted(chunk["choices"][0]["index"] for chunk in chunks) == [0] * 4 + [1] * 4


async def test_limits_and_stop_are_obeyed(server: Any) -> None:
    text = (await server.complete(max_tokens=20)).json()["choices"][0]["text"]
    word = text.split()[5]
    stopped = (await server.complete(max_tokens=20, stop=word)).json()["choices"][0]
    assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", word)
    assert stopped["text"] == text[: text.index(word)]
    ignoring = (await server.complete(max_tokens=900, ignore_eos=True)).json()
    assert ignoring["usage"]["completion_tokens"] == 900
    assert (await server.complete(max_tokens=None)).json()["usage"]["completion_tokens"] == 16


def error(message: str, kind: str, code: int, param: str | None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def test_an_unknown_model_is_404(server: Any) -> None:
    response = await server.complete(model="nope")
    assert response.status_code == 404
    message = f"The model `nope` does not exist. Valid aliases: {MODEL}."
    assert response.json() == error(message, "NotFoundError", 404, "model")


async def test_too_many_tokens_are_400(server: Any) -> None:
    response = await server.complete(prompt=[1] * 100, max_tokens=2000)
    assert response.status_code == 400
    assert response.json()["error"] == {
        "message": "'max_tokens' or 'max_completion_tokens' is too large: 2000. This model's maximum context "
        "length is 2048 tokens and your request has 100 input tokens (2000 > 2048 - 100).",
        "type": "BadRequestError",
        "param": "max_tokens",
        "code": 400,
    }


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"prompt": [1] * 2048}, "BadRequestError", "maximum context length is 2048 tokens. However"),
        ({"prompt": ""}, "BadRequestError", "Either prompt or prompt_embeds"),
        ({"prompt": 5}, "Bad Request", "1 validation error:"),
        ({"max_tokens": 0}, "BadRequestError", "max_tokens must be at least 1, got 0."),
        ({"max_tokens": "many"}, "Bad Request", "Input should be a valid integer"),
        ({"min_tokens": 9}, "BadRequestError", "min_tokens must be between 0 and max_tokens=4, got 9."),
        ({"temperature": -1}, "BadRequestError", "temperature must be non-negative, got -1.0."),
        ({"n": 2}, "BadRequestError", "n=1"),
        ({"stop": [1]}, "Bad Request", "1 validation error:"),
        ({"stream_options": {"include_usage": True}}, "BadRequestError", "when `stream=True`"),
    ],
)
async def test_what_cannot_be_served_is_400(server: Any, fields: dict[str, object], kind: str, message: str) -> None:
    response = await server.complete(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == kind
    assert message in response.json()["error"]["message"]


@pytest.mark.parametrize("messages", [None, [{"content": "x"}], [{"role": "user", "content": [1]}]])
async def test_messages_need_a_role_and_text(server: Any, messages: object) -> None:
    response = await server.chat(messages=messages)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("1 validation error:")


@pytest.mark.parametrize(
    ("raw", "content_type", "message"),
    [
        (b'{"model"', "application/json", "1 validation error:"),
        (b"\xff", "application/json", "There was an error parsing the body"),
        (b"[]", "application/json", "1 validation error:"),
        (b"{}", "text/plain", "1 validation error:"),
    ],
)
async def test_a_body_that_is_no_json_object_is_400(server: Any, raw: bytes, content_type: str, message: str) -> None:
    response = await server.client.post("/v1/completions", content=raw, headers={"content-type": content_type})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "Bad Request"
    assert response.json()["error"]["message"].startswith(message)


async def test_numbers_written_as_strings_are_read(server: Any) -> None:
    assert (await server.complete(max_tokens="3", temperature="0.5")).json()["usage"]["completion_tokens"] == 3
    refused = await server.complete(temperature="warm")
    assert refused.status_code == 400
    assert "unable to parse string as a number" in refused.json()["error"]["message"]


async def test_small_endpoints(server: Any) -> None:
    get = server.client.get
    card = (await get("/v1/models")).json()["data"][0]
    assert (card["id"], card["root"], card["max_model_len"]) == (MODEL, MODEL, 2048)
    assert [(await get(path)).status_code for path in ("/health", "/ping")] == [200, 200]
    assert "sandbox" in (await get("/version")).json()["version"]
    missing = await get("/v2/nothing")
    assert (missing.status_code, missing.json()) == (404, {"detail": "Not Found"})
    assert card["permission"][0]["allow_sampling"] is True
    assert (await get("/v1/completions")).status_code == 405


async def test_tokenize_counts_what_a_completion_counts(server: Any) -> None:
    post = server.client.post
    prompt = (await post("/tokenize", json={"prompt": LONG})).json()
    used = (await server.complete(prompt=LONG)).json()["usage"]["prompt_tokens"]
    assert prompt["count"] == len(prompt["tokens"]) == used
    messages = (await post("/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]})).json()
    assert messages["count"] == (await server.chat()).json()["usage"]["prompt_tokens"]
    assert (await post("/tokenize", json={})).status_code == 400


async def test_metrics_count_tokens_requests_and_http(server: Any) -> None:
    await server.complete(prompt=LONG)
    await server.complete(prompt=LONG, model="nope")
    response = await server.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    own = f'engine="0",model_name="{MODEL}"'
    assert f"vllm:generation_tokens_total{{{own}}} 4.0\n" in response.text
    assert f'finished_reason="length",model_name="{MODEL}"}} 1.0\n' in response.text
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 1.0' in response.text
    assert 'http_requests_total{handler="/v1/completions",method="POST",status="4xx"} 1.0' in response.text
    assert 'enable_prefix_caching="True"' in response.text


async def test_pods_name_themselves_only_when_told_their_name(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "x-inference-pod" not in (await (await serve()).complete()).headers
    monkeypatch.setenv("POD_NAME", "p-1")
    monkeypatch.setenv("POD_NAMESPACE", "llm-d")
    headers = (await (await serve()).complete(stream=True)).headers
    assert [headers[f"x-inference-{name}"] for name in ("pod", "namespace", "port")] == [
        "p-1",
        "llm-d",
        "8000",
    ]


async def test_an_api_key_guards_the_api_and_nothing_else(serve: Serve) -> None:
    server = await serve("--api-key", "s3cret")
    assert (await server.complete()).status_code == 401
    server.client.headers["authorization"] = "Bearer s3cret"
    assert (await server.complete()).status_code == 200
    del server.client.headers["authorization"]
    assert (await server.client.get("/health")).status_code == 200


async def test_a_served_name_replaces_the_models(serve: Serve) -> None:
    server = await serve("--served-model-name", "short", "alias")
    assert (await server.complete(model="alias")).json()["model"] == "alias"
    assert (await server.complete()).status_code == 404


def batch_of(server: Any, size: int) -> asyncio.Event:
    """Set when the engine has a step of `size` requests."""
    begun = asyncio.Event()

    def step_s(_tokens: int, sequences: int, _context_tokens: int) -> float:
        if sequences == size:
            begun.set()
        return 1e-4

    server.engine.step_s = step_s
    return begun


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_aborts_its_request(server: Any, stream: bool) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 2000, "ignore_eos": True, "stream": stream}).encode()
    inbox: asyncio.Queue[dict[str, object]] = asyncio.Queue()
    inbox.put_nowait({"type": "http.request", "body": body, "more_body": False})
    scope: dict[str, object] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "query_string": b"",
        "root_path": "",
    }
    scope |= {"headers": [(b"content-type", b"application/json")], "client": ("c", 1), "server": ("s", 1)}

    async def ignore(_message: object) -> None:
        return

    begun = batch_of(server, 1)
    answering = asyncio.create_task(server.app(scope, inbox.get, ignore))
    await begun.wait()
    inbox.put_nowait({"type": "http.disconnect"})
    await answering
    assert server.engine.metrics.success.value("abort") == 1
    assert not server.engine.scheduler.running
    assert server.engine.scheduler.pool.usage == 0


async def test_a_stopping_server_ends_what_is_in_flight(server: Any) -> None:
    begun = batch_of(server, 2)
    whole = asyncio.create_task(server.complete(max_tokens=2000, ignore_eos=True))
    cut = asyncio.create_task(server.complete(max_tokens=2000, ignore_eos=True, stream=True))
    await begun.wait()
    server.engine.abort_all()
    assert (await whole).status_code == 500
    assert (await whole).json()["error"]["type"] == "InternalServerError"
    with pytest.raises(AssertionError):  # httpx's transport insists on an end that never comes
        await cut
    assert server.engine.metrics.success.value("abort") == 2
