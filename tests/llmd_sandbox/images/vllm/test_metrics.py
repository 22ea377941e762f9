from prometheus_client.parser import text_string_to_metric_families as read

from llmd_sandbox.images.vllm.blocks import BlockPool
from llmd_sandbox.images.vllm.families import EngineMetrics, one_two_five
from llmd_sandbox.images.vllm.metrics import Counter, Gauge, Histogram
from llmd_sandbox.images.vllm.scheduler import Request, Scheduler
from llmd_sandbox.images.vllm.tokens import Answer

OWN = ("engine", "model_name")
FAMILIES = {
    "vllm:num_requests_running": ("gauge", OWN),
    "vllm:num_requests_waiting": ("gauge", OWN),
    "vllm:kv_cache_usage_perc": ("gauge", OWN),
    "vllm:prefix_cache_queries": ("counter", OWN),
    "vllm:prefix_cache_hits": ("counter", OWN),
    "vllm:num_preemptions": ("counter", OWN),
    "vllm:prompt_tokens": ("counter", OWN),
    "vllm:generation_tokens": ("counter", OWN),
    "vllm:request_success": ("counter", ("engine", "finished_reason", "model_name")),
    "vllm:request_prompt_tokens": ("histogram", OWN),
    "vllm:request_generation_tokens": ("histogram", OWN),
    "vllm:iteration_tokens_total": ("histogram", OWN),
    "vllm:request_params_max_tokens": ("histogram", OWN),
    "vllm:request_params_n": ("histogram", OWN),
    "vllm:time_to_first_token_seconds": ("histogram", OWN),
    "vllm:inter_token_latency_seconds": ("histogram", OWN),
    "vllm:request_time_per_output_token_seconds": ("histogram", OWN),
    "vllm:e2e_request_latency_seconds": ("histogram", OWN),
    "vllm:request_queue_time_seconds": ("histogram", OWN),
    "vllm:request_inference_time_seconds": ("histogram", OWN),
    "vllm:request_prefill_time_seconds": ("histogram", OWN),
    "vllm:request_decode_time_seconds": ("histogram", OWN),
    "vllm:cache_config_info": ("gauge", ("block_size", "engine", "num_gpu_blocks")),
    "vllm:request_max_num_generation_tokens": ("histogram", OWN),
    "vllm:engine_sleep_state": ("gauge", ("engine", "model_name", "sleep_state")),
    "vllm:external_prefix_cache_queries": ("counter", OWN),
    "vllm:external_prefix_cache_hits": ("counter", OWN),
    "vllm:mm_cache_queries": ("counter", OWN),
    "vllm:mm_cache_hits": ("counter", OWN),
    "http_requests": ("counter", ("handler", "method", "status")),
    "http_request_duration_seconds": ("histogram", ("handler", "method")),
    "process_resident_memory_bytes": ("gauge", ()),
    "process_cpu_seconds": ("counter", ()),
    "process_start_time_seconds": ("gauge", ()),
}


def page(name: str = "m") -> EngineMetrics:
    return EngineMetrics(name, 2048, {"block_size": "16", "num_gpu_blocks": "100"})


def samples(metrics: EngineMetrics) -> dict[str, float]:
    """Value of each series without labels of its own, by sample name."""
    return {
        sample.name: sample.value
        for family in read(metrics.render().decode())
        for sample in family.samples
        if set(sample.labels) <= set(OWN)
    }


def test_names_types_and_labels_are_vllms() -> None:
    metrics = page()
    metrics.http_requests.add(1, "/v1/completions", "POST", "2xx")
    metrics.http_duration.observe(0.2, "/v1/completions", "POST")
    found = {
        family.name: (family.type, tuple(sorted(set(family.samples[0].labels) - {"le"})))
        for family in read(metrics.render().decode())
    }
    assert found == FAMILIES


def test_buckets_are_vllms() -> None:
    families = {family.name: family for family in read(page().render().decode())}

    def bounds(name: str) -> list[str]:
        return [sample.labels["le"] for sample in families[name].samples if "le" in sample.labels]

    assert bounds("vllm:time_to_first_token_seconds")[:3] == ["0.001", "0.005", "0.01"]
    assert bounds("vllm:time_to_first_token_seconds")[-3:] == ["640.0", "2560.0", "+Inf"]
    assert bounds("vllm:inter_token_latency_seconds")[:3] == ["0.01", "0.025", "0.05"]
    assert bounds("vllm:e2e_request_latency_seconds")[-2:] == ["7680.0", "+Inf"]
    assert bounds("vllm:request_prompt_tokens")[-3:] == ["1000.0", "2000.0", "+Inf"]
    assert bounds("vllm:iteration_tokens_total")[:3] == ["1.0", "8.0", "16.0"]


def test_token_buckets_end_at_the_models_length() -> None:
    assert one_two_five(2048) == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    assert one_two_five(100)[-1] == 100
    assert one_two_five(99)[-1] == 50


def test_a_request_is_counted_in_all_its_phases() -> None:
    metrics = page()
    scheduler = Scheduler(BlockPool(101), 16, 256, 2048, caching=True)
    said = Answer([1, 2, 3], ["a", "b", "c"], "length", None)
    request = Request(list(range(40)), said, 10.0, lambda _: None, 3)
    scheduler.add(request)
    metrics.gauges(scheduler)
    assert samples(metrics)["vllm:num_requests_waiting"] == 1
    for start_s, end_s in ((12.0, 12.5), (12.5, 12.6), (12.6, 12.7)):
        step = scheduler.schedule(start_s)
        assert step is not None
        fed = scheduler.complete(step, end_s)
        metrics.stepped(step, fed, end_s)
        request.last_token_s = end_s
        metrics.gauges(scheduler)
    metrics.finished(request, 12.7)
    seen = samples(metrics)
    assert seen["vllm:num_requests_waiting"] == seen["vllm:num_requests_running"] == 0
    assert (seen["vllm:prompt_tokens_total"], seen["vllm:generation_tokens_total"]) == (40, 3)
    assert seen["vllm:prefix_cache_queries_total"] == 40
    assert round(seen["vllm:time_to_first_token_seconds_sum"], 6) == 2.5
    assert round(seen["vllm:request_queue_time_seconds_sum"], 6) == 2.0
    assert round(seen["vllm:request_prefill_time_seconds_sum"], 6) == 0.5
    assert round(seen["vllm:request_decode_time_seconds_sum"], 6) == 0.2
    assert round(seen["vllm:request_inference_time_seconds_sum"], 6) == 0.7
    assert round(seen["vllm:e2e_request_latency_seconds_sum"], 6) == 2.7
    assert round(seen["vllm:inter_token_latency_seconds_sum"], 6) == 0.2
    assert seen["vllm:inter_token_latency_seconds_count"] == 2
    assert round(seen["vllm:request_time_per_output_token_seconds_sum"], 6) == 0.1
    assert seen["vllm:iteration_tokens_total_sum"] == 42
    assert metrics.success.value("length") == 1


def test_a_request_dropped_in_the_queue_has_no_phases() -> None:
    metrics = page()
    request = Request([1], Answer([1], ["a"], "length", None), 0.0, lambda _: None, 1)
    request.finish_reason = "abort"
    metrics.finished(request, 1.0)
    assert metrics.success.value("abort") == 1
    assert samples(metrics)["vllm:request_queue_time_seconds_count"] == 0


def test_label_values_are_escaped() -> None:
    name = 'a"b\\c\nd'
    families = {family.name: family for family in read(page(name).render().decode())}
    assert families["vllm:num_requests_running"].samples[0].labels["model_name"] == name


def test_a_change_shows_and_no_change_keeps_the_text() -> None:
    gauge = Gauge("g", "h", {})
    text = gauge.render()
    gauge.set(0.0)
    assert gauge.render() is text
    gauge.set(2.5)
    assert gauge.render().endswith("g 2.5\n")
    counter = Counter("c_total", "h", {}, ("kind",), ())
    counter.add(0, "x")
    assert "x" not in counter.render()
    counter.add(2, "x")
    counter.add(1, "x")
    assert 'c_total{kind="x"} 3.0' in counter.render()


def test_a_value_on_a_bound_is_in_its_bucket() -> None:
    histogram = Histogram("h", "h", {}, (1, 2))
    for value in (1, 1.5, 9):
        histogram.observe(value)
    assert histogram.render().splitlines()[2:] == [
        'h_bucket{le="1.0"} 1.0',
        'h_bucket{le="2.0"} 2.0',
        'h_bucket{le="+Inf"} 3.0',
        "h_count 3.0",
        "h_sum 11.5",
    ]
