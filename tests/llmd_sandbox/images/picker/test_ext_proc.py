from __future__ import annotations

import json
from collections import Counter
from typing import Any

import aiohttp
import grpc.aio
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

from llmd_runbook.analysis.picker_log_lines import PickerLines
from tests.llmd_sandbox.images.picker.conftest import CONFIG, MODES, World, headers, pod

LONG = {"model": "m", "prompt": "a prompt of many blocks " * 40}
SHORT = {"model": "m", "prompt": "hi"}
BOTH = pytest.mark.parametrize("mode", [MODES.FULL_DUPLEX_STREAMED, MODES.BUFFERED], ids=["duplex", "buffered"])
V0_10 = CONFIG.replace("inference.networking.x-k8s.io", "llm-d.ai")


@BOTH
async def test_a_request_goes_to_a_ready_pod_and_its_prefix_stays_there(world: World, mode: Any) -> None:
    first = await world.envoy.post(LONG, mode=mode)
    assert first.destination in world.addresses().values()
    assert {(await world.envoy.post(LONG, mode=mode)).destination for _ in range(8)} == {first.destination}


async def test_short_prompts_are_spread(world: World) -> None:
    seen = Counter([(await world.envoy.post(SHORT)).destination for _ in range(60)])
    assert set(seen) == set(world.addresses().values())


async def test_duplex_answers_headers_then_the_same_body_in_pieces_that_envoy_takes(world: World) -> None:
    body = json.dumps({"model": "m", "prompt": "x" * 150_000}).encode()
    exchange = await world.envoy.post(body)
    assert exchange.kinds == ["request_headers", *["request_body"] * 3]
    pieces = [answer.request_body.response.body_mutation.streamed_response for answer in exchange.answers[1:]]
    assert b"".join(piece.body for piece in pieces) == body
    assert [piece.end_of_stream for piece in pieces] == [False, False, True]
    assert exchange.answers[0].request_headers.response.clear_route_cache


async def test_buffered_lets_the_headers_through_and_leaves_the_body_alone(world: World) -> None:
    exchange = await world.envoy.post(LONG, mode=MODES.BUFFERED)
    assert exchange.kinds == ["request_headers", "request_body"]
    assert not exchange.answers[0].request_headers.HasField("response")
    assert not exchange.answers[1].request_body.response.HasField("body_mutation")


async def test_a_body_that_ends_with_trailers(world: World) -> None:
    messages = [
        pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=headers())),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=json.dumps(LONG).encode())),
        pb.ProcessingRequest(request_trailers=pb.HttpTrailers()),
    ]
    exchange = await world.envoy.exchange(messages)
    assert exchange.kinds == ["request_headers", "request_body", "request_trailers"]
    assert not exchange.answers[1].request_body.response.body_mutation.streamed_response.end_of_stream


async def test_the_response_is_marked_and_passed_on_piece_by_piece(world: World) -> None:
    messages = [
        pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=headers())),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=json.dumps(LONG).encode(), end_of_stream=True)),
        pb.ProcessingRequest(response_headers=pb.HttpHeaders(headers=headers())),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"data: 1\n\n")),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"", end_of_stream=True)),
        pb.ProcessingRequest(response_trailers=pb.HttpTrailers()),
    ]
    exchange = await world.envoy.exchange(messages)
    marks = exchange.answers[2].response_headers.response.header_mutation.set_headers
    set_to = {mark.header.key: mark.header.raw_value for mark in marks}
    assert set_to == {"x-went-into-resp-headers": b"true"}
    pieces = [answer.response_body.response.body_mutation.streamed_response for answer in exchange.answers[3:5]]
    assert [(piece.body, piece.end_of_stream) for piece in pieces] == [(b"data: 1\n\n", False), (b"", True)]
    assert exchange.kinds[-1] == "response_trailers"


@BOTH
async def test_a_get_goes_anywhere(world: World, mode: Any) -> None:
    async def get() -> str:
        message = pb.HttpHeaders(headers=headers("GET"), end_of_stream=True)
        exchange = await world.envoy.exchange([pb.ProcessingRequest(request_headers=message)], mode=mode)
        assert exchange.kinds == ["request_headers"]
        return exchange.destination

    assert {await get() for _ in range(40)} == set(world.addresses().values())


@BOTH
async def test_bodies_that_are_refused(world: World, mode: Any) -> None:
    prefix = "inference gateway: BadRequest - "
    broken = await world.envoy.post(b"{oops", mode=mode)
    assert broken.refusal == (400, prefix + "Error unmarshaling request body: {oops")
    nameless = await world.envoy.post({"prompt": "x"}, mode=mode)
    assert nameless.refusal == (400, prefix + "model not found in request body")


@BOTH
async def test_without_a_ready_pod(world: World, mode: Any) -> None:
    world.api.put("pods", pod("a", "127.0.0.2", ready=False))
    world.api.put("pods", pod("b", "127.0.0.3", labels={"app": "other"}))
    world.api.remove("pods", "c")
    await world.until(lambda: not world.director.targets)
    text = "inference gateway: ServiceUnavailable - failed to find candidate pods for serving the request"
    assert (await world.envoy.post(SHORT, mode=mode)).refusal == (503, text)
    message = pb.HttpHeaders(headers=headers("GET"), end_of_stream=True)
    exchange = await world.envoy.exchange([pb.ProcessingRequest(request_headers=message)], mode=mode)
    assert exchange.refusal == (500, "inference gateway: Internal - no pods available in datastore")


async def test_queues_and_caches_are_scraped_and_a_failing_scrape_keeps_the_last_values(world: World) -> None:
    world.pods["a"].waiting, world.pods["b"].kv_usage = 9, 0.9
    await world.until(lambda: _endpoint(world, "a").waiting == 9 and _endpoint(world, "b").kv_usage == 0.9)
    assert {(await world.envoy.post(SHORT)).destination for _ in range(12)} == {world.addresses()["c"]}
    world.pods["a"].up, scrapes = False, world.pods["a"].scrapes
    await world.until(lambda: world.pods["a"].scrapes > scrapes + 2)
    assert _endpoint(world, "a").waiting == 9
    assert _endpoint(world, "a").block_size == 16
    assert _endpoint(world, "a").num_blocks == 40


async def test_sheddable_requests_are_refused_only_when_every_pod_is_saturated(world: World) -> None:
    spec = {"priority": -1, "poolRef": {"name": "gaie-pattern3"}}
    world.api.put("inferenceobjectives", {"metadata": {"name": "batch", "namespace": "llm-d"}, "spec": spec})
    await world.until(lambda: world.director.priority("batch") == -1)
    wanted = {"x-gateway-inference-objective": "batch"}
    assert (await world.envoy.post(SHORT, **wanted)).destination
    for fake in world.pods.values():
        fake.waiting = 6
    await world.until(lambda: all(_endpoint(world, name).waiting == 6 for name in world.pods))
    assert (await world.envoy.post(SHORT, **wanted)).refusal[0] == 429
    assert (await world.envoy.post(SHORT)).destination


async def test_log_lines_of_a_request(world: World) -> None:
    exchange = await world.envoy.post(LONG, **{"x-request-id": "probe-7"})
    [handled] = world.events("Request handled")
    assert handled["x-request-id"] == "probe-7"
    assert handled["endpoint"] == exchange.destination
    assert handled["level"] == "Level(-3)"
    scores = world.events("Calculated score")
    assert len(scores) == 3 * 3
    assert {line["plugin"] for line in scores} >= {
        "queue-scorer/queue-scorer",
        "prefix-cache-scorer/prefix-cache-scorer",
    }
    assert scores[0]["endpoint"] == {"name": "a-rank-0", "namespace": "llm-d"}
    [state] = world.events("prefix cached state")
    assert len(state["hashes"]) == len(LONG["prompt"]) // 64
    read = PickerLines()
    read.feed(world.log.getvalue().splitlines())
    [decided] = read.handled
    assert (decided.chosen, read.unreadable) == ([exchange.destination], 0)
    assert decided.addresses[exchange.destination] in decided.totals
    assert decided.metrics.keys() == decided.totals.keys() == set(world.pods)
    assert max(decided.totals.values()) == decided.totals[decided.addresses[exchange.destination]]
    await world.envoy.post(SHORT)
    [short] = world.events("Request body too small for prefix cache")
    assert (short["size"], short["block size"]) == (2, 64)


@pytest.mark.parametrize("world", [V0_10], indirect=True)
async def test_v0_10_has_token_blocks_and_its_own_levels(world: World) -> None:
    text = {"model": "m", "prompt": "shorter than a block"}
    first = await world.envoy.post(text, **{"x-request-id": "one"})
    assert (await world.envoy.post(text, **{"x-request-id": "two"})).destination == first.destination
    assert world.events("Calculated score")[0]["level"] == "debug"
    assert isinstance(world.events("Request handled")[0]["ts"], float)
    read = PickerLines()
    read.feed(world.log.getvalue().splitlines())
    assert [decided.chosen for decided in read.handled] == [[first.destination]] * 2
    assert read.handled[1].totals[read.handled[0].addresses[first.destination]] == 7
    assert read.handled[1].metrics.keys() == set(world.pods)


async def test_health_follows_the_pool(world: World) -> None:
    async with grpc.aio.insecure_channel(f"{world.address}:{world.flags.grpc_health_port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        assert await check(b"\x0a\x13inference-extension") == b"\x08\x01"
        world.api.remove("inferencepools", "gaie-pattern3")
        await world.until(lambda: not world.director.targets)
        assert await check(b"") == b"\x08\x02"


async def test_metrics_need_a_token_that_may_read_them(world: World) -> None:
    await world.envoy.post(LONG)
    url = f"http://{world.address}:{world.flags.metrics_port}/metrics"
    world.api.allowed_tokens.add("scraper")
    async with aiohttp.ClientSession() as session:
        for token, status in (("", 401), ("unknown", 401), ("other", 403), ("scraper", 200)):
            async with session.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}) as answer:
                assert answer.status == status
                page = await answer.text()
    assert 'inference_objective_request_total{model_name="m",target_model_name="m"} 1.0' in page
    assert 'inference_pool_ready_pods{name="gaie-pattern3"} 3.0' in page
    assert f"inference_extension_prefix_indexer_size {len(LONG['prompt']) // 64}.0" in page
    assert "inference_extension_scheduler_e2e_duration_seconds_count 1.0" in page
    assert 'inference_pool_per_pod_queue_size{model_server_pod="a-rank-0",name="gaie-pattern3"} 0.0' in page


async def test_only_what_the_charts_role_allows_is_asked_of_the_api(world: World) -> None:
    await world.envoy.post(LONG)
    group = "/apis/inference.networking"
    await world.until(lambda: len(world.api.paths) >= 3)
    assert world.api.paths == {
        "GET /api/v1/namespaces/llm-d/pods",
        f"GET {group}.k8s.io/v1/namespaces/llm-d/inferencepools",
        f"GET {group}.x-k8s.io/v1alpha2/namespaces/llm-d/inferenceobjectives",
    }


def _endpoint(world: World, name: str) -> Any:
    return world.director.targets[f"{name}-rank-0"].endpoint
