"""What breaks in the cluster itself, and how it is mended."""

from __future__ import annotations

import json
import resource
import time
from typing import Any

import httpx
import psutil

from llmd_sandbox import processes
from tests.drills.faults import Act, wait_until
from tests.drills.ground import GKE, PATTERN1, PATTERN3, SCALE, Ground

_GPU_NODES = "cloud.google.com/gke-nodepool=nvidia-t4-pool"
_SERVERS = {PATTERN1: "llm-d.ai/model=gemma-2b-it", PATTERN3: "llm-d.ai/model=Qwen2.5-3B-Instruct"}
_KUBELET = "llmd-sandbox/kubelet"
_BUSY_S = 3.0


def limits(**gpus: int) -> Act:
    """What the zone has (`gpu_stock`) and the project may have (`gpu_quota`)."""

    def put(ground: Ground) -> None:
        httpx.put(f"{ground.sandbox.environment[GKE]}faults", json=gpus).raise_for_status()

    return put


def busy_elsewhere(ground: Ground) -> None:
    """Somebody begins operations on another pool of the cluster, one after another for a while."""
    until_s, begun = time.monotonic() + _BUSY_S, 0
    while time.monotonic() < until_s:
        begun += ground.pool(":setSize", "default-pool", nodeCount=1).is_success
        time.sleep(0.02)
    assert begun


def servers_start(how: str) -> Act:
    """How model servers start from now on: `oom` or `hang`; well again where nothing is given."""
    value = f"llmd-sandbox/start={how}" if how else "llmd-sandbox/start-"
    return lambda ground: _kubectl(ground, "annotate", "nodes", "-l", _GPU_NODES, "--overwrite", value)


def start_well(ground: Ground) -> None:
    """Model servers start well again; those that hang are ended."""
    servers_start("")(ground)
    for selector in _SERVERS.values():
        _kubectl(ground, "delete", "pods", "-l", selector, "--grace-period=1", "--wait=false")


def disk_full(ground: Ground) -> None:
    """From now on the run cannot write into any file; what it has begun (helm) can, and what it begins cannot."""
    resource.prlimit(ground.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def gateway_down(ground: Ground) -> None:
    """No listener for five seconds."""
    name = ground.profile.pattern3.gateway
    _kubectl(ground, "annotate", "gateway", name, "llmd-sandbox/gateway=down")
    time.sleep(5)
    _kubectl(ground, "annotate", "gateway", name, "llmd-sandbox/gateway-")


def replica_crashes(pattern: str) -> Act:
    """The process of a pattern's first replica is killed."""

    def crash(ground: Ground) -> None:
        pod = _with_nodes(ground, pattern)[0]["metadata"]["name"]
        for pid in processes.find(ground.sandbox.folder):
            process = psutil.Process(pid)
            if process.environ().get("HOSTNAME") == pod:
                process.kill()
                return
        raise AssertionError(f"no process of {pod}")

    return crash


def spot_reclaim(ground: Ground) -> None:
    """The node of a replica of Pattern 3 is taken back; its notice is a tenth of 30 s, as all else is shorter."""
    _kubectl(ground, "annotate", "node", _node(ground), f"{_KUBELET}=reclaimed", "llmd-sandbox/notice-s=3")


def node_disappears(ground: Ground) -> None:
    """The machine of a replica of Pattern 3 is gone without a word."""
    _disappears(ground, _node(ground))


def new_node_disappears(ground: Ground) -> None:
    """A machine that a resize has just made, so that nothing runs on it, is gone without a word."""
    used = {f"node/{pod['spec']['nodeName']}" for pod in _with_nodes(ground, PATTERN1)}
    wait_until(lambda: set(ground.nodes()) - used, "no new node")
    _disappears(ground, (set(ground.nodes()) - used).pop().removeprefix("node/"))


def scaled_again(ground: Ground) -> None:
    """What an operator does where nodes are missing: stage 02."""
    ended = ground.live([SCALE])
    assert ended.status == 0, ended.attempts[SCALE].error


def _disappears(ground: Ground, node: str) -> None:
    _kubectl(ground, "annotate", "node", node, f"{_KUBELET}=silent")
    _kubectl(ground, "delete", "node", node, "--wait=false")


def _node(ground: Ground) -> str:
    return str(_with_nodes(ground, PATTERN3)[0]["spec"]["nodeName"])


def _with_nodes(ground: Ground, pattern: str) -> list[dict[str, Any]]:
    """The pods of a pattern's model servers, once there are some and each has a node."""
    found: list[dict[str, Any]] = []

    def scheduled() -> bool:
        found[:] = json.loads(ground.sandbox.kubectl("get", "pods", "-l", _SERVERS[pattern], "-o", "json"))["items"]
        return bool(found) and all(pod["spec"].get("nodeName") for pod in found)

    wait_until(scheduled, f"no pods of {pattern} with nodes")
    return found


def _kubectl(ground: Ground, *words: str) -> None:
    ground.sandbox.kubectl(*words)
