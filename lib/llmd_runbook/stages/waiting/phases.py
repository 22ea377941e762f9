"""How far a pod is on its way to Ready: by the pod as the API server has it and, of a model server, by vLLM's log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.topology import GPU, condition


class Phase(IntEnum):
    """The phases in their order. `START` stands for the three after it, where no log tells them apart."""

    CAPACITY = 0
    """No node has taken the pod."""
    IMAGE_PULL = 1
    """A node has; volumes, Secrets and the image are being fetched, no container of its model server has run yet."""
    START = 2
    DOWNLOAD = 3
    """The container runs; vLLM imports, reads its configuration, and fetches the weights."""
    LOAD = 4
    """The weights are there and come into GPU memory."""
    WARM_UP = 5
    """The weights are loaded: compilation, CUDA graphs, the server's start, the readiness probe."""
    READY = 6
    ENDING = 7
    """It is being deleted, or has ended for good."""

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


_LOADED = re.compile(
    r"Loading weights took|Model loading took|torch\.compile |KV cache memory|GPU KV cache size|"
    r"[Cc]apturing|Starting vLLM API server|Application startup complete"
)
_FETCHED = re.compile(r"Time spent downloading weights|Loading \w+ (checkpoint shards|using )")
"""Both as vLLM 0.11 to 0.32 write them (weight_utils.py, default_loader.py, gpu_model_runner.py, api_server.py). Of a
download it says nothing before the end: it runs `snapshot_download` with its progress bar off."""

_PROCESS = re.compile(r"^\([^()]*pid=\d+\)\s*")
_TIME = re.compile(r"^(\w+)\s+\d\d-\d\d \d\d:\d\d:\d\d\s+")
_BAR_CLOCK = re.compile(r"\s*\[\d+:\d\d.*?\]")
_TROUBLE = re.compile(r"\b(WARN(ING)?|ERROR|CRITICAL|\w*Error|Traceback|[Rr]etry(ing)?)\b")
_RAISED = re.compile(r"^(ERROR \[[\w.:]+\] )?[\w.]*(Error|Exception): ")
"""How Python ends a traceback."""
_BLAMES_ANOTHER = "See root cause above"


def phase_of(pod: Object, log: Sequence[str] | None) -> Phase:
    """Where a pod is; `log` are lines of `lines`, None where its log cannot be read."""
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"] or status.get("phase") in ("Succeeded", "Failed"):
        return Phase.ENDING
    if condition(status, "Ready").startswith("True"):
        return Phase.READY
    if not pod["spec"].get("nodeName"):
        return Phase.CAPACITY
    if not has_run(pod):
        return Phase.IMAGE_PULL
    if log is None:
        return Phase.START
    if any(_LOADED.search(line) for line in log):
        return Phase.WARM_UP
    return Phase.LOAD if any(_FETCHED.search(line) for line in log) else Phase.DOWNLOAD


def server_container(pod: Object) -> str:
    """Name of the container that asks for a GPU, else of the first."""
    found = pod["spec"]["containers"]
    with_gpu = [item for item in found if GPU in item.get("resources", {}).get("limits", {})]
    return str((with_gpu or found)[0]["name"])


def has_run(pod: Object) -> bool:
    """Whether the model server's container runs, or ran before."""
    state = _container_status(pod)
    kinds = {**state.get("state", {}), **state.get("lastState", {})}
    return any(kinds.get(kind) is not None for kind in ("running", "terminated"))


def runs(pod: Object) -> bool:
    """Whether the model server's container runs now."""
    return _container_status(pod).get("state", {}).get("running") is not None


def restarts(pod: Object) -> int:
    """How often the model server's container was started again."""
    return int(_container_status(pod).get("restartCount", 0))


def lines(log: str) -> list[str]:
    """A log's lines without process, time, and a progress bar's clock: what says the same again looks the same.

    >>> lines("(EngineCore pid=7) INFO 04-24 12:35:29 [default_loader.py:384] Loading weights took 15.06 seconds")
    ['INFO [default_loader.py:384] Loading weights took 15.06 seconds']
    >>> lines("shards:  33% Completed | 1/3 [00:05<00:10,  5.01s/it]")
    ['shards:  33% Completed | 1/3']
    """
    bare = (_BAR_CLOCK.sub("", _TIME.sub(r"\1 ", _PROCESS.sub("", line))) for line in re.split(r"[\r\n]+", log))
    return [line.strip() for line in bare if line.strip()]


def advances(line: str) -> bool:
    """Whether a line that was never there before is progress; warnings, errors and retries are not."""
    return _TROUBLE.search(line) is None


def cause(log: Sequence[str]) -> str:
    """What ended a container, by its log: the last exception that does not point to another one; empty without any."""
    raised = [line for line in log if _RAISED.match(line) and _BLAMES_ANOTHER not in line]
    return raised[-1] if raised else ""


def telling(log: Sequence[str], *, runs: bool) -> str:
    """The line that matters: of a container that `runs` the last one, of an ended one its cause, else its last error or
    warning."""
    last = log[-1] if log else ""
    if runs:
        return last
    blamed = [line for line in log if not advances(line) and _BLAMES_ANOTHER not in line]
    return cause(log) or (blamed[-1] if blamed else last)


def _container_status(pod: Object) -> Object:
    name = server_container(pod)
    found: list[Object] = pod.get("status", {}).get("containerStatuses", [])
    return next((item for item in found if item.get("name") == name), {})
