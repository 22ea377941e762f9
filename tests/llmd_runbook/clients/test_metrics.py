"""Replicas' counters: the text format, and the two ways to it."""

from __future__ import annotations

import pytest

from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.clients.metrics import CACHE_CONFIG, PREFIX_HITS, REQUESTS, RUNNING, Scraper, parse, served
from llmd_runbook.errors import ApiError, Unreachable
from tests.llmd_runbook.clients.server import Reply, Server, status

TEXT = """# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="a/b"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a/b"} 4.0
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a/b"} 0.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{enable_prefix_caching="True",num_gpu_blocks="1000"} 1.0
"""


def pod(server: Server, name: str = "p", address: str = "127.0.0.1") -> Object:
    return {"metadata": {"name": name, "namespace": "llm-d"}, "status": {"podIP": address}}


def port(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def proxy(server: Server, name: str = "p") -> str:
    return f"/api/v1/namespaces/llm-d/pods/{name}:{port(server)}/proxy/metrics"


def test_parses_counters_gauges_and_labels() -> None:
    snapshot = parse("p", "pod IP", TEXT)
    assert (snapshot.pod, snapshot.via) == ("p", "pod IP")
    assert snapshot.total(REQUESTS) == 7
    assert snapshot.total(RUNNING) == 0
    assert snapshot.total(PREFIX_HITS) is None
    assert snapshot.labels(CACHE_CONFIG) == {"enable_prefix_caching": "True", "num_gpu_blocks": "1000"}
    assert snapshot.labels(PREFIX_HITS) == {}
    assert {labels["finished_reason"]: value for labels, value in snapshot.samples[REQUESTS]} == {
        "stop": 3,
        "length": 4,
    }


def test_a_part_of_a_page_is_what_the_whole_page_says_of_it() -> None:
    whole, part = parse("p", "pod IP", TEXT), parse("p", "pod IP", TEXT, (REQUESTS, RUNNING))
    assert part.samples == {name: whole.samples[name] for name in (REQUESTS, RUNNING)}


@pytest.mark.parametrize("text", ["<html><body>no</body></html>", "{}", '{"a": 1}', "a{b=c} 1", "vllm:x one", "a{"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="not the Prometheus text format") as caught:
        parse("p", "pod IP", text)
    assert caught.value.where == "/metrics of p"
    assert caught.value.reason
    assert caught.value.remedy


def test_the_proxy_comes_first(server: Server, kube: Kubernetes) -> None:
    server.on(proxy(server), Reply(body=TEXT))
    server.on("/metrics", Reply(body=TEXT))
    snapshot = Scraper(kube, port(server)).scrape(pod(server))
    assert (snapshot.via, snapshot.total(REQUESTS)) == ("pods/proxy", 7)
    assert server.asked("/metrics") == []


@pytest.mark.parametrize(
    "refusal",
    [Reply(403, status(403, "Forbidden", "no pods/proxy")), Reply(503, "no route"), Reply(body="<html>")],
    ids=["forbidden", "unavailable", "garbage"],
)
def test_the_pods_own_address_comes_second_and_is_remembered(server: Server, kube: Kubernetes, refusal: Reply) -> None:
    for name in ("p", "q"):
        server.on(proxy(server, name), refusal)
    server.on("/metrics", Reply(body=TEXT))
    scraper = Scraper(kube, port(server))
    found = scraper.all([pod(server, "p"), pod(server, "q")])
    assert {name: snapshot.via for name, snapshot in found.items()} == {"p": "pod IP", "q": "pod IP"}
    assert len(server.asked(proxy(server, "p"))) == 1
    assert server.asked(proxy(server, "q")) == []


def test_the_way_that_worked_can_stop_working(server: Server, kube: Kubernetes) -> None:
    server.on(proxy(server), Reply(403, status(403, "Forbidden", "no")), Reply(body=TEXT))
    server.on("/metrics", Reply(body=TEXT), Reply(500, "no more"))
    scraper = Scraper(kube, port(server))
    assert [scraper.scrape(pod(server)).via for _ in range(3)] == ["pod IP", "pods/proxy", "pods/proxy"]


def test_both_reasons_are_told_when_both_ways_fail(server: Server, kube: Kubernetes) -> None:
    server.on(proxy(server), Reply(403, status(403, "Forbidden", "no pods/proxy for you")))
    server.on("/metrics", Reply(500, "no"))
    with pytest.raises(Unreachable) as caught:
        Scraper(kube, port(server)).scrape(pod(server))
    reason = caught.value.reason or ""
    assert "pods/proxy: no pods/proxy for you; pod IP: " in reason
    assert "500" in reason
    assert caught.value.where == f"llm-d/p:{port(server)}/metrics"
    assert caught.value.remedy


@pytest.mark.parametrize("address", ["", "::1", "fd00::1%x"])
def test_addresses_that_nothing_serves(server: Server, kube: Kubernetes, address: str) -> None:
    with pytest.raises(Unreachable, match="pod IP: "):
        Scraper(kube, port(server)).scrape(pod(server, address=address))


def test_a_pods_models_by_the_same_two_ways(server: Server, kube: Kubernetes) -> None:
    answer = Reply(body='{"object": "list", "data": [{"id": "a/b"}, {"id": "c"}]}')
    path = proxy(server).removesuffix("metrics") + "v1/models"
    server.on(path, answer)
    assert Scraper(kube, port(server)).models(pod(server)) == ["a/b", "c"]
    server.on(path, Reply(403, status(403, "Forbidden", "no pods/proxy")))
    server.on("/v1/models", answer)
    assert Scraper(kube, port(server)).models(pod(server)) == ["a/b", "c"]
    server.on("/v1/models", Reply(401, "log in"))
    with pytest.raises(Unreachable, match="v1/models") as caught:
        Scraper(kube, port(server)).models(pod(server))
    assert "no pods/proxy" in (caught.value.reason or "")


@pytest.mark.parametrize("text", ["<html>", "[]", '{"data": 1}', '{"data": [{}]}', '{"data": ["a"]}'])
def test_other_answers_are_no_list_of_models(text: str) -> None:
    with pytest.raises(ApiError, match="not a list of models") as caught:
        served("p", "pod IP", text)
    assert caught.value.where == "/v1/models of p"
