"""What a cluster does by itself: Deployments get pods, pods get nodes, start, and end; routes reach the data path."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from tests.drills.model.api_server import ApiServer, Key, Object
from tests.drills.model.clock import Clock

NAMESPACE = "llm-d"
POOL_LABEL, ACCELERATOR_LABEL = "cloud.google.com/gke-nodepool", "cloud.google.com/gke-accelerator"
GPU_POOL, CPU_POOL = "gpu-pool", "default-pool"
GPU = "nvidia.com/gpu"
GATEWAY = "gateway"

BOOT_S, START_S, END_S, ACCEPT_S = 30.0, 40.0, 5.0, 1.0
"""A machine's boot, a model server's start, a pod's end, and a controller's answer to a route."""


class Start(StrEnum):
    """How a model server's start goes."""

    WELL = "well"
    NEVER = "never Ready"
    OOM = "out of memory"


@dataclass(frozen=True)
class Service:
    """The models that the gateway answers for, from a time (s) on."""

    since_s: float
    models: frozenset[str]


class Cluster:
    """Controllers, kubelets and the gateway. `lag_s`: how long requests follow a change of routes."""

    def __init__(self, api: ApiServer, clock: Clock, *, lag_s: float) -> None:
        self.api, self._clock, self._lag_s = api, clock, lag_s
        self.start: dict[str, Start] = {}
        """How starts go, by app; those that are not named go well."""
        self.gateway_up = True
        self.history: list[Service] = []
        self._programmed: dict[str, Object] = {}
        self._names = 0
        api.on_change.append(self._changed)

    # --- nodes

    def add_node(self, pool: str) -> str:
        """A machine that boots."""
        self._names += 1
        name = f"{pool}-{self._names}"
        labels = {POOL_LABEL: pool, **({ACCELERATOR_LABEL: "t4"} if pool == GPU_POOL else {})}
        self.api.put("nodes", {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {}})
        self._clock.after(BOOT_S, lambda: self._booted(name))
        return name

    def remove_node(self, name: str) -> None:
        """The machine is gone, and so are its pods: evicted before where there was time."""
        self.api.remove(Key("nodes", "", name))
        for pod in [pod for pod in self.api.of("pods") if pod["spec"].get("nodeName") == name]:
            self.api.remove(_key("pods", pod))

    def evict(self, name: str) -> list[str]:
        """Have the pods of a node end; the apps of those that served."""
        pods = [
            pod
            for pod in self.api.of("pods")
            if pod["spec"].get("nodeName") == name and "deletionTimestamp" not in pod["metadata"]
        ]
        for pod in pods:
            self._end(pod)
        return [pod["metadata"]["labels"]["app"] for pod in pods if _gpus(pod) and _is_ready(pod)]

    def cordon(self, name: str) -> None:
        """No pod comes to this node any more."""
        node = copy.deepcopy(self.api.objects[Key("nodes", "", name)])
        node["spec"]["unschedulable"] = True
        self.api.put("nodes", node)

    def lose_node(self, name: str, notice_s: float = 0.0) -> None:
        """The machine breaks, or its spot capacity is taken back with notice; the instance group makes another."""
        if notice_s:
            self.cordon(name)
            self._clock.after(notice_s - END_S - 1.0, lambda: self.evict(name))
        self._clock.after(notice_s, lambda: self._replace(name))

    def _replace(self, name: str) -> None:
        if Key("nodes", "", name) in self.api.objects:
            self.remove_node(name)
            self.add_node(GPU_POOL)

    def gpu_nodes(self) -> list[str]:
        """The GPU pool's nodes, those with the fewest pods first."""
        load = {node["metadata"]["name"]: 0 for node in self.api.of("nodes", **{POOL_LABEL: GPU_POOL})}
        for pod in self.api.of("pods"):
            if pod["spec"].get("nodeName") in load:
                load[pod["spec"]["nodeName"]] += 1
        return sorted(load, key=lambda name: load[name])

    def _booted(self, name: str) -> None:
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}]
        gpus = {GPU: "1"} if name.startswith(GPU_POOL) else {}
        self.api.status(Key("nodes", "", name), conditions=ready, allocatable={"cpu": "4", "memory": "15Gi", **gpus})
        self._schedule()

    # --- pods

    def crash(self, app: str, most: int = 1) -> None:
        """The processes of so many Ready replicas end; the kubelet starts each again."""
        ready = [pod for pod in self.api.of("pods", app=app) if _is_ready(pod)]
        for pod in ready[:most]:
            self._set_ready(_key("pods", pod), False, restarts=_restarts(pod) + 1)
            self._begin(pod, START_S / 2)

    def runs(self, name: str) -> bool:
        """Whether a model server answers at its own address."""
        return any(_is_ready(pod) for pod in self.api.of("pods") if pod["metadata"]["name"] == name)

    def _changed(self, event: str, at: Key, item: Object) -> None:
        if at.plural == "deployments":
            self._reconcile(at, item if event != "DELETED" else None)
        elif at.plural == "pods" and event == "DELETED":
            self._reconcile_owner(item)
            self._schedule()
        elif at.plural == "pods" and "deletionTimestamp" in item["metadata"]:
            self._clock.after(END_S, lambda: self.api.remove(at))
        elif at.plural == "pods":
            self._count(item)
        elif at.plural == "httproutes":
            self._route(event, at, item)
        if at.plural in ("pods", "httproutes", "inferencepools", "deployments"):
            self.observe()

    def _reconcile_owner(self, pod: Object) -> None:
        at = Key("deployments", pod["metadata"]["namespace"], pod["metadata"]["labels"]["app"])
        if (owner := self.api.objects.get(at)) is not None:
            self._reconcile(at, owner)

    def _reconcile(self, at: Key, deployment: Object | None) -> None:
        pods = [pod for pod in self.api.of("pods", app=at.name) if "deletionTimestamp" not in pod["metadata"]]
        wanted = deployment["spec"].get("replicas", 1) if deployment else 0
        for pod in sorted(pods, key=_is_ready)[: max(0, len(pods) - wanted)]:
            self._end(pod)
        for _ in range(wanted - len(pods)):
            assert deployment is not None
            self._names += 1
            template = copy.deepcopy(deployment["spec"]["template"])
            meta = {"name": f"{at.name}-{self._names}", "namespace": at.namespace, "labels": {"app": at.name}}
            meta["labels"] |= template["metadata"].get("labels", {})
            self.api.put("pods", {"metadata": meta, "spec": template["spec"], "status": {"phase": "Pending"}})
        if deployment:
            self._schedule()
            self._counted(at)

    def _end(self, pod: Object) -> None:
        marked = copy.deepcopy(pod)
        marked["metadata"]["deletionTimestamp"] = self._clock.present().isoformat()
        self.api.put("pods", marked)

    def _schedule(self) -> None:
        taken = {pod["spec"].get("nodeName") for pod in self.api.of("pods") if _gpus(pod)}
        nodes = [
            node
            for node in self.api.of("nodes")
            if node["status"].get("allocatable") and not node["spec"].get("unschedulable")
        ]
        for pod in self.api.of("pods"):
            if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
                continue
            names = [
                node["metadata"]["name"]
                for node in nodes
                if not _gpus(pod) or (GPU in node["status"]["allocatable"] and node["metadata"]["name"] not in taken)
            ]
            if names:
                if _gpus(pod):
                    taken.add(names[0])
                self._bind(pod, names[0])

    def _bind(self, pod: Object, node: str) -> None:
        bound = copy.deepcopy(pod)
        bound["spec"]["nodeName"], bound["status"] = node, {"phase": "Running", "conditions": []}
        self.api.put("pods", bound)
        self._begin(bound, START_S if _gpus(pod) else 2.0)

    def _begin(self, pod: Object, start_s: float) -> None:
        """A pod's container starts, as those of its app do now."""
        at = _key("pods", pod)
        match self.start.get(pod["metadata"]["labels"]["app"], Start.WELL):
            case Start.WELL:
                self._clock.after(start_s, lambda: self._set_ready(at, True))
            case Start.OOM:
                self._clock.after(5.0, lambda: self._out_of_memory(at))
            case Start.NEVER:
                self._set_ready(at, False)

    def mend(self) -> None:
        """Whatever keeps model servers from starting is gone: those that wait start."""
        self.start.clear()
        for pod in self.api.of("pods"):
            if pod["spec"].get("nodeName") and not _is_ready(pod):
                self._clock.after(START_S, partial(self._set_ready, _key("pods", pod), True))

    def _out_of_memory(self, at: Key) -> None:
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
        last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        if (pod := self.api.objects.get(at)) is not None:
            container = _container(False, _restarts(pod) + 3, waiting)
            self.api.status(at, containerStatuses=[{**container, "lastState": last}])

    def _set_ready(self, at: Key, ready: bool, restarts: int | None = None) -> None:
        """With so many restarts where that is given; else with as many as before."""
        pod = self.api.objects.get(at)
        if pod is None or "deletionTimestamp" in pod["metadata"]:
            return
        restarts = _restarts(pod) if restarts is None else restarts
        condition = {"type": "Ready", "status": str(ready), "reason": "" if ready else "ContainersNotReady"}
        self.api.status(at, conditions=[condition], containerStatuses=[_container(ready, restarts, {"running": {}})])

    def _count(self, pod: Object) -> None:
        self._counted(Key("deployments", pod["metadata"]["namespace"], pod["metadata"]["labels"]["app"]))

    def _counted(self, at: Key) -> None:
        deployment = self.api.objects.get(at)
        if deployment is None:
            return
        pods = [pod for pod in self.api.of("pods", app=at.name) if "deletionTimestamp" not in pod["metadata"]]
        ready = sum(map(_is_ready, pods))
        numbers = {"replicas": len(pods), "updatedReplicas": len(pods), "readyReplicas": ready}
        generation = deployment["metadata"]["generation"]
        self.api.status(at, **numbers, availableReplicas=ready, observedGeneration=generation)

    # --- routes and requests

    def _route(self, event: str, at: Key, route: Object) -> None:
        if event == "DELETED":
            self._clock.after(self._lag_s, lambda: self._program(at.name, None))
            return
        generation = route["metadata"]["generation"]
        told = [item for parent in route.get("status", {}).get("parents", []) for item in parent["conditions"]]
        if told and all(item["observedGeneration"] == generation for item in told):
            return
        spec = copy.deepcopy(route["spec"])
        self._clock.after(ACCEPT_S, lambda: self._accept(at, generation))
        self._clock.after(ACCEPT_S + self._lag_s, lambda: self._program(at.name, spec))

    def _accept(self, at: Key, generation: int) -> None:
        kinds = [("Accepted", "Accepted"), ("ResolvedRefs", "ResolvedRefs")]
        conditions = [
            {"type": kind, "status": "True", "reason": reason, "observedGeneration": generation}
            for kind, reason in kinds
        ]
        if (route := self.api.objects.get(at)) and route["metadata"]["generation"] == generation:
            self.api.status(at, parents=[{"conditions": conditions}])

    def _program(self, name: str, spec: Object | None) -> None:
        self._programmed.pop(name, None)
        if spec:
            self._programmed[name] = spec
        self.observe()

    def gateway_down(self, seconds: float) -> None:
        """The gateway refuses connections for a while."""
        self.gateway_up = False
        self.observe()
        self._clock.after(seconds, self._gateway_back)

    def _gateway_back(self) -> None:
        self.gateway_up = True
        self.observe()

    def answer(self, model: str, headers: dict[str, str]) -> tuple[int, str]:
        """Status and the answering pod (or the reason) for a request under that name with these headers."""
        if not self.gateway_up:
            return 0, "connection refused"
        spec = next((spec for spec in self._by_precedence() if _matches(spec, headers)), None)
        if spec is None:
            return 404, "no route"
        pools = [ref["name"] for rule in spec["rules"] for ref in rule["backendRefs"] if ref.get("weight", 1)]
        pool = self.api.objects.get(Key("inferencepools", NAMESPACE, pools[0])) if pools else None
        if pool is None:
            return 500, f"no InferencePool {pools}"
        picker = pool["spec"]["endpointPickerRef"]["name"]
        if not any(map(_is_ready, self.api.of("pods", app=picker))):
            return 500, "no endpoint picker"
        servers = [pod for pod in self.api.of("pods", **pool["spec"]["selector"]["matchLabels"]) if _is_ready(pod)]
        if not servers:
            return 503, "no Ready replica"
        able = [pod for pod in servers if model in pod["spec"]["containers"][0]["args"]]
        return (200, str(able[0]["metadata"]["name"])) if able else (404, f"no model {model}")

    def _by_precedence(self) -> list[Object]:
        """Routes for a host, and those that match a header, come before those for everybody (Gateway API)."""
        return sorted(self._programmed.values(), key=lambda spec: (not spec.get("hostnames"), not _headers(spec)))

    def observe(self) -> None:
        """Note what clients get now, where it is not what they got before."""
        models = frozenset(model for model in self.models if self.answer(model, {})[0] == 200)
        if not self.history or self.history[-1].models != models:
            self.history.append(Service(self._clock.now_s, models))

    models: tuple[str, ...] = ()
    """The names that clients ask for."""

    def gap_s(self, since_s: float) -> float:
        """For how long, in outages that began from then on, no model was served under any name."""
        ends = [*(entry.since_s for entry in self.history[1:]), self._clock.now_s]
        return sum(
            end_s - entry.since_s
            for entry, end_s in zip(self.history, ends, strict=True)
            if not entry.models and entry.since_s >= since_s
        )


def _key(plural: str, item: Object) -> Key:
    return Key(plural, item["metadata"].get("namespace", ""), item["metadata"]["name"])


def _gpus(pod: Object) -> bool:
    return any(GPU in item.get("resources", {}).get("limits", {}) for item in pod["spec"]["containers"])


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _restarts(pod: Object) -> int:
    return max((item["restartCount"] for item in pod["status"].get("containerStatuses", [])), default=0)


def _container(ready: bool, restarts: int, state: Object) -> Object:
    return {"name": "vllm", "ready": ready, "restartCount": restarts, "state": state}


def _headers(spec: Object) -> list[Object]:
    matches = [match for rule in spec["rules"] for match in rule.get("matches", [])]
    return [header for match in matches for header in match.get("headers", [])]


def _matches(spec: Object, headers: dict[str, str]) -> bool:
    small = {name.lower(): value for name, value in headers.items()}
    hosts = spec.get("hostnames", [])
    if hosts and small.get("host") not in hosts:
        return False
    return all(small.get(header["name"].lower()) == header["value"] for header in _headers(spec))
