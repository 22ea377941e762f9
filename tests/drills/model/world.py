"""The whole model: a cluster in memory, in the place of everything that the product's clients reach."""

from __future__ import annotations

import copy
import datetime
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from kubernetes.utils import retry

import llmd_runbook.run as run_module
from llmd_runbook import profile as profiles
from llmd_runbook.clients import cluster as cluster_client
from llmd_runbook.clients import gke as gke_client
from llmd_runbook.clients import kubernetes as kubernetes_client
from llmd_runbook.clients.inference import Inference
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.clients.metrics import Scraper
from llmd_runbook.clients.releases import manifests
from llmd_runbook.clients.releases import process as releases_process
from llmd_runbook.manifest import Code, Process
from llmd_runbook.profile import Profile, load
from llmd_runbook.run import context, lock, store
from llmd_runbook.run.stage import StageRun, StepHandle
from llmd_runbook.stages.swap import compare, patterns, probe
from tests.drills.model.api_server import ApiServer
from tests.drills.model.calls import Call, Calls
from tests.drills.model.clock import Clock
from tests.drills.model.cluster import CPU_POOL, GATEWAY, GPU_POOL, NAMESPACE, Cluster
from tests.drills.model.gke import ENDPOINT, Gke
from tests.drills.model.helm import Releases, pool_chart, server_chart
from tests.drills.model.renewing import Renewing
from tests.drills.model.requests import Requests

MODELS = {"pattern1": "old-model", "pattern3": "new-model"}
REPLICAS = {"pattern1": 1, "pattern3": 3}
ROUTE = "route"
_HOST = "model.invalid"

_PROFILE = """
name: model
namespace: {namespace}
approval: self
cluster: {{context: model, simulated: true}}
pool: {{project: p, location: l, cluster: cluster, name: {pool}, accelerator: t4, nodes: 3, min_nodes: 0, max_nodes: 5,
  ready_timeout_s: 300}}
pattern1: {{model: old-model, replicas: 1, inference_pool: gaie-pattern1, gateway: {gateway}, ready_timeout_s: 300,
  releases: {{driver: helm, releases: [
    {{name: gaie-pattern1, chart: charts/pool}}, {{name: ms-pattern1, chart: charts/servers}}]}}}}
pattern3: {{model: new-model, replicas: 3, inference_pool: gaie-pattern3, gateway: {gateway}, ready_timeout_s: 300,
  releases: {{driver: helm, releases: [
    {{name: gaie-pattern3, chart: charts/pool}}, {{name: ms-pattern3, chart: charts/servers}}]}}}}
route: {{name: {route}, ready_timeout_s: 120}}
swap: {{strategy: {strategy}, rollback: {rollback}, quiet_s: 15}}
prices: {{gpu_node_usd_per_hour: 1, cpu_node_usd_per_hour: 1, control_plane_usd_per_hour: 1,
  load_balancer_usd_per_hour: 1, as_of: "2026-01-01", source: invented}}
cleanup: {{option: {cleanup}}}
"""


class World:
    """A fresh cluster with Pattern 1 serving, and a profile for it below `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        strategy: str = "recreate",
        rollback: str = "auto",
        cleanup: str = "restore_pattern1",
        lag_s: float = 8.0,
    ) -> None:
        self.folder, self.output = folder, folder / "runs"
        self.clock, self.calls = Clock(), Calls()
        self.clock.alive = self.calls.alive
        self.calls.watchers.append(self._seen)
        self.once_moving: Callable[[], None] | None = None
        """What happens, once, as soon as somebody asks for a change of the clients' route."""
        self.api = ApiServer(self.clock, self.calls)
        self.cluster = Cluster(self.api, self.clock, lag_s=lag_s)
        self.cluster.models = tuple(MODELS.values())
        self.gke = Gke(self.cluster, self.clock, self.calls)
        self.helm = Releases(self.api, self.clock, self.calls, chart)
        self.profile_file = _written(folder, strategy, rollback, cleanup)
        self.profile: Profile = load(str(self.profile_file))
        self._furnish()

    def _furnish(self) -> None:
        self.api.put("namespaces", {"metadata": {"name": "kube-system"}})
        says = {"simulated": "true", "control plane": "a model in memory"}
        self.api.put("configmaps", {"metadata": {"name": "llmd-sandbox", "namespace": "kube-public"}, "data": says})
        for pool in (CPU_POOL, GPU_POOL):
            self.cluster.add_node(pool)
        listener = {"name": "http", "protocol": "HTTP", "port": 80}
        self.api.put(
            "gateways",
            {
                "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
                "spec": {"gatewayClassName": "c", "listeners": [listener]},
                "status": {
                    "addresses": [{"value": _HOST}],
                    "conditions": [
                        {"type": kind, "status": "True", "reason": kind} for kind in ("Accepted", "Programmed")
                    ],
                },
            },
        )
        for name in ("gaie-pattern1", "ms-pattern1"):
            self.helm.install(name)
        backend = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "gaie-pattern1"}
        matches = [{"path": {"type": "PathPrefix", "value": "/"}}]
        self.api.put(
            "httproutes",
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute",
                "metadata": {"name": ROUTE, "namespace": NAMESPACE},
                "spec": {
                    "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
                    "rules": [{"matches": matches, "backendRefs": [backend]}],
                },
            },
        )
        self.clock.pass_s(200.0)

    def serves(self) -> list[str]:
        """The models for which the gateway answers now."""
        return [model for model in MODELS.values() if self.cluster.answer(model, {})[0] == 200]

    def settle(self) -> None:
        """Let what is under way in the cluster come to its end."""
        self.clock.pass_s(300.0)

    def _seen(self, call: Call) -> None:
        if (happens := self.once_moving) and call.target.endswith(f"/httproutes/{ROUTE}"):
            self.once_moving = None
            happens()

    # --- in the place of the outside world

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Inside, the product's clients, clocks and processes are the model's."""
        requests = Requests(self.cluster, self.clock, self.calls)
        with pytest.MonkeyPatch.context() as patch:
            clients: dict[tuple[Any, str], Any] = {
                (cluster_client, "connect"): self._connect,
                (kubernetes_client, "connect"): self._connect,
                (lock, "threading"): Renewing(self.clock, self.calls),
                (lock, "_held"): {},
                (gke_client, "_connect"): lambda _: (ENDPOINT, self.gke),
                (releases_process, "run"): self.helm.run,
                (Inference, "complete"): requests.complete(),
                (Inference, "models"): requests.models(),
                (Scraper, "scrape"): lambda own, pod: requests.scrape(own, pod),
                (Scraper, "models"): lambda own, pod: requests.served(own, pod),
                (probe, "Probe"): requests.probe,
                (compare, "measure"): lambda *_: None,  # real load, for which nothing here has a time
                (patterns, "plot"): lambda _: None,  # a figure takes longer than all the rest
                (profiles, "load"): lambda _: self.profile,
            }
            for (owner, name), value in clients.items():
                patch.setattr(owner, name, value)
            for name in set(os.environ) - {"PATH", "HOME", "PYTEST_CURRENT_TEST"}:
                patch.delenv(name)  # what is looked for in it (secrets) takes time
            patch.setenv(store.OUTPUT_VARIABLE, str(self.output))
            patch.setattr(manifests, "parse", _parsed)
            self._own_clock(patch)
            self._own_process(patch)
            yield
        run_module._current.clear()

    def _connect(self, *_: Any, **more: Any) -> Kubernetes:
        known = {name: value for name, value in more.items() if name in ("before_change", "read_s")}
        return Kubernetes(self.api.client(), "model", None, **known)

    def _own_clock(self, patch: pytest.MonkeyPatch) -> None:
        clock = self.clock

        class Datetime(datetime.datetime):
            """A date whose present is the model's."""

            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Any:
                return clock.present(tz)

        import_module("llmd_runbook.clients.lease")  # the product loads it late, and its clock is replaced too
        virtual = types.SimpleNamespace(sleep=clock.sleep, monotonic=clock.monotonic, time=clock.time)
        for module in _modules(("llmd_runbook.clients", "llmd_runbook.stages", "llmd_runbook.run")):
            if vars(module).get("time") is time:
                patch.setattr(module, "time", virtual)
            if vars(module).get("datetime") is datetime.datetime and module.__name__ != "llmd_runbook.run.store":
                patch.setattr(module, "datetime", Datetime)
        original = retry.on_retry_after_error

        def waiting(*given: Any) -> Any:
            return original(*given, sleep_func=clock.sleep)

        patch.setattr(retry, "on_retry_after_error", waiting)

    def _own_process(self, patch: pytest.MonkeyPatch) -> None:
        """Every life is a process of its own; one that was killed writes nothing any more."""
        calls, change = self.calls, store.RunStore.change

        def this_process() -> Process:
            return Process(pid=calls.life, host="model", started_s=float(calls.life))

        def alive(process: Process) -> bool:
            return process.pid in calls.living

        @contextmanager
        def changing(self: store.RunStore) -> Iterator[Any]:
            calls.alive()
            with change(self) as record:
                yield record

        @contextmanager
        def stepping(self: StageRun, name: str) -> Iterator[StepHandle]:
            calls.step = name
            with step(self, name) as handle:
                yield handle
            calls.step = ""

        step = StageRun.step
        patch.setattr(StageRun, "step", stepping)
        patch.setattr(store.RunStore, "change", changing)
        for original, mine in ((context.this_process, this_process), (context.alive, alive)):
            for module in _modules(("llmd_runbook",)):
                for name, value in list(vars(module).items()):
                    if value is original:
                        patch.setattr(module, name, mine)
        patch.setattr(store, "tools", lambda: {"helm": "v4.1.4"})
        patch.setattr(store, "code", lambda _: Code(commit=None, dirty=None))
        patch.setattr(store, "write_atomically", lambda path, text: path.write_text(text))
        unregistered = types.SimpleNamespace(register=lambda _: None, unregister=lambda _: None)
        for module in _modules(("llmd_runbook.run",)):
            if "atexit" in vars(module):
                patch.setattr(module, "atexit", unregistered)


def chart(release: str) -> list[dict[str, Any]]:
    """The objects of a release."""
    pattern = release.split("-", 1)[1]
    if release.startswith("gaie-"):
        return pool_chart(pattern)
    return server_chart(pattern, MODELS[pattern], REPLICAS[pattern])


_parse = cache(manifests.parse)


def _parsed(text: str, where: str) -> list[dict[str, Any]]:
    """YAML takes longer than all the rest, and the same few texts come again and again."""
    return copy.deepcopy(_parse(text, where))


def _modules(packages: tuple[str, ...]) -> list[types.ModuleType]:
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(packages)]


def _written(folder: Path, strategy: str, rollback: str, cleanup: str) -> Path:
    for name in ("pool", "servers"):
        chart_folder = folder / "charts" / name
        chart_folder.mkdir(parents=True, exist_ok=True)
        (chart_folder / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 1.0.0\n")
    file = folder / "model.yaml"
    names = {"namespace": NAMESPACE, "pool": GPU_POOL, "gateway": GATEWAY, "route": ROUTE}
    file.write_text(_PROFILE.format(**names, strategy=strategy, rollback=rollback, cleanup=cleanup))
    return file
