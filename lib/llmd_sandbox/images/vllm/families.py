"""vLLM's metric families: names, help, labels and buckets as its V1 engine has them, and what feeds them."""

from __future__ import annotations

from collections.abc import Mapping

from llmd_sandbox.images.vllm.metrics import Counter, Family, Gauge, Histogram, Process
from llmd_sandbox.images.vllm.scheduler import Request, Scheduler, Step

_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_ITERATION = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_DURATION = (0.1, 0.5, 1)
_SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")
FINISHED = ("stop", "length", "abort", "error", "repetition")


def one_two_five(limit: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... up to `limit`: vLLM's buckets for tokens.

    >>> one_two_five(20)
    [1, 2, 5, 10, 20]
    """
    steps = (digit * 10**power for power in range(len(str(limit))) for digit in (1, 2, 5))
    return [step for step in steps if step <= limit]


class EngineMetrics:
    """All families of one server. `model_name` is the first served name."""

    def __init__(self, model_name: str, max_model_len: int, cache_config: Mapping[str, str]) -> None:
        own = {"engine": "0", "model_name": model_name}
        tokens = one_two_five(max_model_len)

        def counter(name: str, text: str, label: str = "", values: tuple[str, ...] = ()) -> Counter:
            return Counter(f"vllm:{name}", text, own, (label,) if label else (), [(v,) for v in values] or ((),))

        def seconds(name: str, text: str, buckets: tuple[float, ...] = _LATENCY) -> Histogram:
            return Histogram(f"vllm:{name}_seconds", f"Histogram of {text}.", own, buckets)

        def sizes(name: str, text: str) -> Histogram:
            return Histogram(f"vllm:{name}", text, own, tokens)

        self.running = Gauge("vllm:num_requests_running", "Number of requests in model execution batches.", own)
        self.waiting = Gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", own)
        self.kv_usage = Gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", own)
        self.queries = counter(
            "prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens."
        )
        self.hits = counter("prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.")
        self.preemptions = counter("num_preemptions_total", "Cumulative number of preemption from the engine.")
        self.prompt_tokens = counter("prompt_tokens_total", "Number of prefill tokens processed.")
        self.generation_tokens = counter("generation_tokens_total", "Number of generation tokens processed.")
        self.success = counter(
            "request_success_total", "Count of successfully processed requests.", "finished_reason", FINISHED
        )
        self.prompt_sizes = sizes("request_prompt_tokens", "Number of prefill tokens processed.")
        self.generation_sizes = sizes("request_generation_tokens", "Number of generation tokens processed.")
        self.iteration = Histogram(
            "vllm:iteration_tokens_total", "Histogram of number of tokens per engine_step.", own, _ITERATION
        )
        self.params_max_tokens = sizes("request_params_max_tokens", "Histogram of the max_tokens request parameter.")
        self.most_generated = sizes(
            "request_max_num_generation_tokens", "Histogram of maximum number of requested generation tokens."
        )
        self.params_n = Histogram(
            "vllm:request_params_n", "Histogram of the n request parameter.", own, (1, 2, 5, 10, 20)
        )
        self.ttft = seconds("time_to_first_token", "time to first token in seconds", _FIRST_TOKEN)
        self.itl = seconds("inter_token_latency", "inter-token latency in seconds", _BETWEEN)
        self.tpot = seconds("request_time_per_output_token", "time_per_output_token_seconds per request", _BETWEEN)
        self.e2e = seconds("e2e_request_latency", "e2e request latency in seconds")
        self.queue = seconds("request_queue_time", "time spent in WAITING phase for request")
        self.inference = seconds("request_inference_time", "time spent in RUNNING phase for request")
        self.prefill = seconds("request_prefill_time", "time spent in PREFILL phase for request")
        self.decode = seconds("request_decode_time", "time spent in DECODE phase for request")
        cache_info = Gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            {"engine": "0", **cache_config},
        )
        cache_info.set(1.0)
        self.http_requests = Counter(
            "http_requests_total",
            "Total number of requests by method, status and handler.",
            {},
            ("handler", "method", "status"),
            (),
        )
        self.http_duration = Histogram(
            "http_request_duration_seconds",
            "Latency with only few buckets by handler.",
            {},
            _DURATION,
            ("handler", "method"),
        )
        awake = Gauge(
            "vllm:engine_sleep_state",
            "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; "
            "weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
            own,
            ("sleep_state",),
            [(state,) for state in _SLEEP_STATES],
        )
        awake.set(1.0, _SLEEP_STATES[0])
        external = (
            "External prefix cache {} from KV connector cross-instance cache sharing, in terms of number of {} tokens."
        )
        unused = [
            counter("external_prefix_cache_queries_total", external.format("queries", "queried")),
            counter("external_prefix_cache_hits_total", external.format("hits", "cached")),
            counter("mm_cache_queries_total", "Multi-modal cache queries, in terms of number of queried items."),
            counter("mm_cache_hits_total", "Multi-modal cache hits, in terms of number of cached items."),
        ]
        self._process = Process()
        self._families: list[Family] = [
            *(member for member in vars(self).values() if isinstance(member, Family)),
            cache_info,
            awake,
            *unused,
        ]

    def render(self) -> bytes:
        """The page."""
        families = [*self._process.families(), *self._families]
        return "".join(family.render() for family in families).encode()

    def gauges(self, scheduler: Scheduler) -> None:
        """Take over the scheduler's present state and its counters."""
        self.running.set(len(scheduler.running))
        self.waiting.set(len(scheduler.waiting))
        self.kv_usage.set(scheduler.pool.usage)
        self.queries.set(scheduler.queried_tokens)
        self.hits.set(scheduler.hit_tokens)
        self.preemptions.set(scheduler.preemptions)

    def stepped(self, step: Step, fed: list[Request], now_s: float) -> None:
        """Count one step that ended at `now_s`, before the requests' own times are moved on."""
        self.iteration.observe(step.tokens)
        self.generation_tokens.add(len(fed))
        for request in fed:
            if request.produced == 1:
                self.prompt_tokens.add(len(request.prompt))
                self.ttft.observe(now_s - request.arrival_s)
            else:
                self.itl.observe(now_s - request.last_token_s)

    def finished(self, request: Request, now_s: float) -> None:
        """Count a request that ended at `now_s`, aborted ones too."""
        self.success.add(1, request.finish_reason or "error")
        self.prompt_sizes.observe(len(request.prompt))
        self.generation_sizes.observe(request.produced)
        self.params_max_tokens.observe(request.max_tokens)
        self.most_generated.observe(request.produced)  # the longest of n, and n is 1
        self.params_n.observe(1)
        self.e2e.observe(now_s - request.arrival_s)
        if request.admitted_s is None or not request.produced:
            return  # dropped before its first token
        decode_s = request.last_token_s - request.first_token_s
        self.queue.observe(request.admitted_s - request.arrival_s)
        self.prefill.observe(request.first_token_s - request.admitted_s)
        self.decode.observe(decode_s)
        self.inference.observe(request.last_token_s - request.admitted_s)
        self.tpot.observe(decode_s / (request.produced - 1) if request.produced > 1 else 0.0)
