"""Pods of a model server on their way to Ready, as an API server has them, with their Events and logs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmd_runbook.clients.kubernetes import EVENTS, PODS, Object, Resource
from llmd_runbook.errors import ApiError, ClusterError, DeadlineExceeded
from tests.llmd_runbook.memory import Memory

NAMESPACE = "llm-d"
CONTAINER = "vllm"
RUNNING = {"running": {"startedAt": "2026-11-28T05:01:00Z"}}
CREATING = {"waiting": {"reason": "ContainerCreating"}}
CRASHED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container=vllm"}}

STARTED = (
    "(APIServer pid=1) INFO 11-28 05:01:14 [api_server.py:1839] vLLM API server version 0.11.2\n"
    "(EngineCore_DP0 pid=66) INFO 11-28 05:01:40 [gpu_model_runner.py:2602] Starting to load model Qwen/Qwen2.5-3B...\n"
)
BAR = "\rmodel-00001-of-00002.safetensors: {part:3d}%|#         | 0.4G/3.97G [00:{clock:02d}<00:40, 80.1MB/s]"
FETCHED = (
    "(EngineCore_DP0 pid=66) INFO 11-28 05:03:01 [weight_utils.py:413] Time spent downloading weights for "
    "Qwen/Qwen2.5-3B-Instruct: 81.213402 seconds\n"
)
SHARD = "Loading safetensors checkpoint shards: {part:3d}% Completed | 1/2 [00:05<00:05,  5.01s/it]\n"
LOADED = (
    "(EngineCore_DP0 pid=66) INFO 11-28 05:03:16 [default_loader.py:267] Loading weights took 15.06 seconds\n"
    "(EngineCore_DP0 pid=66) INFO 11-28 05:03:17 [gpu_model_runner.py:2653] Model loading took 5.7916 GiB\n"
)
_NO_MEMORY = (
    "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try lowering "
    "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine.\n"
)
CUDA_OOM = (
    "(EngineCore_DP0 pid=66) ERROR 11-28 05:03:40 [core.py:708] EngineCore failed to start.\n"
    "(EngineCore_DP0 pid=66) ERROR 11-28 05:03:40 [core.py:708] Traceback (most recent call last):\n"
    "(EngineCore_DP0 pid=66) ERROR 11-28 05:03:40 [core.py:708]     raise RuntimeError(\n"
    f"(EngineCore_DP0 pid=66) ERROR 11-28 05:03:40 [core.py:708] {_NO_MEMORY}"
    "(EngineCore_DP0 pid=66) Process EngineCore_DP0:\n"
    "(EngineCore_DP0 pid=66) Traceback (most recent call last):\n"
    f"(EngineCore_DP0 pid=66) {_NO_MEMORY}"
    "(APIServer pid=1) Traceback (most recent call last):\n"
    "(APIServer pid=1)     raise RuntimeError(\n"
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
)
FORBIDDEN = (
    "Traceback (most recent call last):\n"
    "    raise OSError(\n"
    "OSError: You are trying to access a gated repo.\n"
    "Make sure to have access to it at https://huggingface.co/google/gemma-2b-it.\n"
    "403 Client Error. (Request ID: Root=1-0)\n"
    "\n"
    "Cannot access gated repo for url https://huggingface.co/google/gemma-2b-it/resolve/main/config.json.\n"
    "Access to model google/gemma-2b-it is restricted and you are not in the authorized list.\n"
)


def pod(
    name: str,
    node: str = "node-1",
    container: Object | None = None,
    *,
    ready: bool = False,
    restarts: int = 0,
    last: Object | None = None,
    **status: Any,
) -> Object:
    """One with two containers, the second with the GPU; without a node it is Unschedulable."""
    conditions: list[Object] = [{"type": "PodScheduled", "status": "True"}]
    if not node:
        why = {"reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
        conditions = [{"type": "PodScheduled", "status": "False", **why}]
    conditions.append({"type": "Ready", "status": str(ready)})
    server = {"name": CONTAINER, "ready": ready, "restartCount": restarts, "state": container, "lastState": last or {}}
    side = {"name": "side", "ready": True, "restartCount": 0, "state": RUNNING}
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}"},
        "spec": {
            "containers": [{"name": "side"}, {"name": CONTAINER, "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            **({"nodeName": node} if node else {}),
        },
        "status": {
            "phase": "Running" if container == RUNNING else "Pending",
            "conditions": conditions,
            **({"containerStatuses": [side, server]} if container else {}),
            **status,
        },
    }


class Talking(Memory):
    """A cluster whose pods have Events and logs, either of which can be refused; it counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.container = CONTAINER
        self.said: dict[str, str] = {}
        self.said_before: dict[str, str] = {}
        self.refused: dict[str, ClusterError] = {}
        self.reads: list[str] = []

    def event(self, pod: str, when: str, reason: str, message: str, kind: str = "Normal") -> None:
        """Put one in; `when` is a time of day."""
        item = {
            "metadata": {"name": f"{pod}.{len(self.objects)}", "namespace": NAMESPACE},
            "involvedObject": {"kind": "Pod", "name": pod, "uid": f"uid-{pod}"},
            "type": kind,
            "reason": reason,
            "message": message,
            "lastTimestamp": f"2026-11-28T{when}Z",
        }
        self.add(EVENTS, item)

    def all(self, resource: Any, namespace: str | None = None, selector: str = "", fields: str = "") -> list[Object]:
        self.reads.append(resource.plural)
        if resource.plural in self.refused:
            raise self.refused[resource.plural]
        return super().all(resource, namespace, selector)

    def logs(self, pod: str, namespace: str, container: str, tail: int = 200, *, previous: bool = False) -> str:
        said = self.said_before if previous else self.said
        self.reads.append(f"log of {pod}" + (" before" if previous else ""))
        assert (namespace, container) == (NAMESPACE, self.container)
        if "log" in self.refused:
            raise self.refused["log"]
        if pod not in said:
            raise ApiError("the Kubernetes API refused (400)", reason="container is waiting to start")
        return said[pod]


Moment = tuple[float, Callable[["World"], list[Object]]]


class World(Talking):
    """What happens is a list of moments: at that time (s), these are the pods, and this was said."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.moments: list[Moment] = []
        self.options: dict[str, Any] = {}
        self.pods: list[Object] = []

    def at(self, now_s: float, *pods: Object, log: dict[str, str] | None = None) -> None:
        """From then on the pods are these; `log` is added to what they have said."""

        def happen(world: World) -> list[Object]:
            for name, text in (log or {}).items():
                world.said[name] = world.said.get(name, "") + text
            return list(pods)

        self.moments.append((now_s, happen))

    def all(self, resource: Any, namespace: str | None = None, selector: str = "", fields: str = "") -> list[Object]:
        return self.pods if resource is PODS else super().all(resource, namespace, selector, fields)

    def wait(self, resource: Resource, done: Callable[[list[Object]], Any], **options: Any) -> Any:
        """As the client's: told of each state, until it is done, and here until nothing more happens."""
        self.options, state = options, ""
        for now_s, happen in self.moments:
            self.now_s = now_s
            self.pods = happen(self)
            items = self.all(resource, options["namespace"])
            state = options["on_change"](items)
            if found := done(items):
                return found
        raise DeadlineExceeded(f"waited for {options['what']}", reason=state, remedy=options["remedy"])
