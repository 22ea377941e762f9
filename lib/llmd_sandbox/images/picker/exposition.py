"""The picker's `/metrics`, under the names of llm-d v0.4 (v0.10 still serves them too)."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmd_runbook.analysis.scorers import Picker
from llmd_sandbox.images.picker.datastore import Datastore
from llmd_sandbox.kube import ApiStatus, KubeApi

_MODEL = ("model_name", "target_model_name")
_RATIO = [tenth / 10 for tenth in range(11)]
_SCHEDULING_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_DURATION_S = [
    0.005,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1,
    1.25,
    1.5,
    2,
    3,
    4,
    5,
    6,
    8,
    10,
    15,
    20,
    30,
    45,
]
_DURATION_S += [60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600]


class PickerMetrics:
    """What the picker counts."""

    def __init__(self, datastore: Datastore, picker: Picker) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_PoolCollector(datastore, picker))
        objective, extension = "inference_objective_", "inference_extension_"
        self.requests = Counter(objective + "request", "Requests by model.", _MODEL, registry=self.registry)
        self.errors = Counter(
            objective + "request_error",
            "Requests that failed.",
            (*_MODEL, "error_code"),
            registry=self.registry,
        )
        self.duration_s = Histogram(
            objective + "request_duration_seconds",
            "From the request's headers to the end of the response.",
            _MODEL,
            registry=self.registry,
            buckets=_DURATION_S,
        )
        self.running = Gauge(
            objective + "running_requests", "Requests in flight.", ("model_name",), registry=self.registry
        )
        self.scheduling_s = Histogram(
            extension + "scheduler_e2e_duration_seconds",
            "Time of a decision.",
            registry=self.registry,
            buckets=_SCHEDULING_S,
        )
        self.hit_ratio = Histogram(
            extension + "prefix_indexer_hit_ratio",
            "Share of a prompt's blocks that the chosen pod was sent before.",
            registry=self.registry,
            buckets=_RATIO,
        )
        info = Gauge(extension + "info", "Build.", ("commit", "build_ref"), registry=self.registry)
        info.labels("", "").set(1)


class _PoolCollector(Collector):
    """The pool and the index as they are when asked."""

    def __init__(self, datastore: Datastore, picker: Picker) -> None:
        self._datastore = datastore
        self._picker = picker

    def collect(self) -> Iterable[Metric]:
        size = GaugeMetricFamily("inference_extension_prefix_indexer_size", "Entries of the prefix index.")
        size.add_metric([], len(self._picker.index))
        yield size
        targets = list(self._datastore.targets.values())
        name, count = self._datastore.pool_name, len(targets)
        kv_usage = sum(target.endpoint.kv_usage for target in targets) / max(1, count)
        waiting = sum(target.endpoint.waiting for target in targets) / max(1, count)
        for family, help_text, value in (
            (
                "inference_pool_average_kv_cache_utilization",
                "Mean KV-cache usage of the pool's pods.",
                kv_usage,
            ),
            (
                "inference_pool_average_queue_size",
                "Mean number of waiting requests of the pool's pods.",
                waiting,
            ),
            ("inference_pool_ready_pods", "Ready pods of the pool.", count),
        ):
            metric = GaugeMetricFamily(family, help_text, labels=("name",))
            metric.add_metric([name], value)
            yield metric
        queues = GaugeMetricFamily(
            "inference_pool_per_pod_queue_size",
            "Waiting requests of a pod.",
            labels=("name", "model_server_pod"),
        )
        for target in targets:
            queues.add_metric([name, target.endpoint.name], target.endpoint.waiting)
        yield queues


def application(metrics: PickerMetrics, guard: KubeApi | None) -> web.Application:
    """The web application; with `guard`, only callers whose token may get `/metrics` are served."""

    async def serve(request: web.Request) -> web.Response:
        if guard is not None and (refusal := await _refusal(guard, request)):
            return refusal
        text = generate_latest(metrics.registry)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/metrics", serve)
    return app


async def _refusal(guard: KubeApi, request: web.Request) -> web.Response | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        return web.Response(status=401, text="Unauthorized\n")
    try:
        review = await guard.create(
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}},
        )
        if not review["status"].get("authenticated"):
            return web.Response(status=401, text="Unauthorized\n")
        user = review["status"]["user"]
        access = await guard.create(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user["username"],
                    "groups": user.get("groups", []),
                    "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
                },
            },
        )
    except ApiStatus:
        return web.Response(status=500, text="Authentication failed\n")
    if access["status"].get("allowed"):
        return None
    return web.Response(status=403, text=f"Authorization denied for user {user['username']}\n")
