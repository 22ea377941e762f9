"""The faults of the matrix, and when each of them is switched on."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from llmd_sandbox import processes
from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.proxy import ApiProxy
from tests.drills.ground import GKE, Ground

SCALE, SWAP, CLEANUP = "02_scale_pool", "03_swap_patterns", "07_cleanup"
_NODES = "cloud.google.com/gke-nodepool=nvidia-t4-pool"
_SERVERS3 = "llm-d.ai/model=Qwen2.5-3B-Instruct"
_KUBELET = "llmd-sandbox/kubelet"
Act = Callable[[Ground], None]


@dataclass(frozen=True)
class Drill:
    """One fault during one step.

    Attributes:
        api: what goes wrong with requests.
        before, after: switched on before the stage, and mended after it.
        trigger, act: what happens as soon as a request to such a path was made.
        environment: more of it for the run.
        file_limit: bytes that a file of the run may have; 0: any number.
    """

    fault: str
    step: str
    api: Fault | None = None
    before: Act | None = None
    after: Act | None = None
    trigger: str = ""
    act: Act | None = None
    helm_hangs: str = ""
    file_limit: int = 0

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", f"{self.fault} {self.step}").strip("-")

    @contextmanager
    def on(self, ground: Ground, folder: Path) -> Iterator[tuple[ApiProxy, dict[str, str]]]:
        """Switched on while the block runs: where the APIs are, and what the run's environment has more."""
        if self.before:
            self.before(ground)
        try:
            with ground.door(*([self.api] if self.api else [])) as door, _acting(self, ground, door):
                yield door, _wrapper(ground, folder, self.helm_hangs) if self.helm_hangs else {}
        finally:
            if self.after:
                self.after(ground)


@contextmanager
def _acting(drill: Drill, ground: Ground, door: ApiProxy) -> Iterator[None]:
    """Watch for the trigger beside the run; what is begun is finished before the block ends."""
    over, errors = threading.Event(), []

    def watch() -> None:
        assert drill.act is not None
        while not over.wait(0.02):
            if any(re.search(drill.trigger, f"{seen.method} {seen.path}") for seen in door.seen):
                try:
                    drill.act(ground)
                except Exception as error:  # to be raised by the test, not lost in a thread
                    errors.append(error)
                return

    thread = threading.Thread(target=watch, name="trigger")
    if drill.act:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if drill.act:
            thread.join()
    assert not errors, errors


def _wrapper(ground: Ground, folder: Path, release: str) -> dict[str, str]:
    """A PATH whose helm hangs, once, when it is to change a release."""
    bin_folder, once = folder / "bin", folder / "hung"
    bin_folder.mkdir()
    path = ground.sandbox.environment["PATH"]
    real = next(found for part in path.split(":") if (found := Path(part) / "helm").is_file())
    script = bin_folder / "helm"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in "upgrade --install {release} "*)\n'
        f"if [ ! -e {once} ]; then : > {once}; exec sleep 600; fi;; esac\n"
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    return {"PATH": f"{bin_folder}:{path}"}


# --- what breaks, and how it is mended


def limits(**gpus: int) -> Act:
    """What the zone has and the project may have."""

    def put(ground: Ground) -> None:
        url = ground.sandbox.environment[GKE]
        httpx.put(f"{url}faults", json=gpus).raise_for_status()

    return put


def start(how: str) -> Act:
    """How model servers start on the nodes that are there."""
    return lambda ground: _kubectl(ground, "annotate", "nodes", "-l", _NODES, f"llmd-sandbox/start={how}")


def start_well(ground: Ground) -> None:
    _kubectl(ground, "annotate", "nodes", "-l", _NODES, "llmd-sandbox/start-")
    _kubectl(ground, "delete", "pods", "-l", _SERVERS3, "--grace-period=1", "--wait=false")


def gateway_down(ground: Ground) -> None:
    name = ground.profile.pattern3.gateway
    _kubectl(ground, "annotate", "gateway", name, "llmd-sandbox/gateway=down")
    time.sleep(5)
    _kubectl(ground, "annotate", "gateway", name, "llmd-sandbox/gateway-")


def replica_crashes(ground: Ground) -> None:
    pod = _pods(ground)[0]["metadata"]["name"]
    for pid in processes.find(ground.sandbox.folder):
        process = psutil.Process(pid)
        if process.environ().get("HOSTNAME") == pod:
            process.kill()
            return
    raise AssertionError(f"no process of {pod}")


def spot_reclaim(ground: Ground) -> None:
    _kubectl(ground, "annotate", "node", _node(ground), f"{_KUBELET}=reclaimed", "llmd-sandbox/notice-s=3")


def node_disappears(ground: Ground) -> None:
    node = _node(ground)
    _kubectl(ground, "annotate", "node", node, f"{_KUBELET}=silent")
    _kubectl(ground, "delete", "node", node, "--wait=false")


def _node(ground: Ground) -> str:
    return str(next(pod["spec"]["nodeName"] for pod in _pods(ground) if pod["spec"].get("nodeName")))


def _pods(ground: Ground) -> list[dict[str, dict[str, str]]]:
    """Pattern 3's pods, once there are some with a node."""
    while True:
        found = json.loads(ground.sandbox.kubectl("get", "pods", "-l", _SERVERS3, "-o", "json"))["items"]
        if found and all(pod["spec"].get("nodeName") for pod in found):
            return list(found)
        time.sleep(0.05)


def _kubectl(ground: Ground, *words: str) -> None:
    ground.sandbox.kubectl(*words)


# --- the matrix

_BOUNDS, _SIZE = r"/clusters/llm-d-cluster\?", ":setSize"
_ROUTE = "/httproutes/"
_APIS = {
    "API 409": Kind.CONFLICT,
    "API 429": Kind.THROTTLE,
    "API 500": Kind.BREAK,
    "answer lost": Kind.CUT,
    "time-out": Kind.STALL,
}


def _api(step: str, path: str, *kinds: str, method: str = "") -> list[Drill]:
    return [Drill(name, step, api=Fault(_APIS[name], method, path, changes=True)) for name in kinds]


DRILLS: dict[str, list[Drill]] = {
    SCALE: [
        *_api("02 autoscaling", _BOUNDS, "API 409", "API 429", "API 500", "time-out", method="PUT"),
        *_api("02 size", _SIZE, "API 409", "API 429", "API 500", "answer lost", "time-out"),
        Drill("GKE stock-out", "02 size", before=limits(gpu_stock=1), after=limits(gpu_stock=8)),
        Drill("GKE quota", "02 size", before=limits(gpu_quota=1), after=limits(gpu_quota=8)),
    ],
    SWAP: [
        *_api("03 remove", "/deployments/ms-pattern1", "API 409", "API 429", "API 500", "answer lost", method="DELETE"),
        *_api("03 install", "/deployments/ms-pattern3", "API 429", "API 500", "answer lost", method="PATCH"),
        *_api("03 route", _ROUTE, "API 409", "API 429", "API 500", "answer lost", "time-out", method="PATCH"),
        Drill("hanging helm", "03 install", helm_hangs="ms-pattern3"),
        Drill("pod never Ready", "03 install", before=start("hang"), after=start_well),
        Drill("OOM on start", "03 install", before=start("oom"), after=start_well),
        Drill("replica crashes", "03 route", trigger="PATCH .*httproutes", act=replica_crashes),
        Drill("gateway down for 5 s", "03 route", trigger="PATCH .*httproutes", act=gateway_down),
        Drill("spot reclaim", "03 install", trigger="PATCH .*/deployments/ms-pattern3", act=spot_reclaim),
        Drill("node disappears", "03 install", trigger="PATCH .*/deployments/ms-pattern3", act=node_disappears),
        Drill("full disk (file size limit)", "03", file_limit=24_000),
    ],
    CLEANUP: [
        *_api("07 remove", "/deployments/ms-pattern3", "API 409", "API 500", method="DELETE"),
        *_api("07 install", "/deployments/ms-pattern1", "API 500", "answer lost", method="PATCH"),
        *_api("07 route", _ROUTE, "API 409", "API 500", "answer lost", method="PATCH"),
        *_api("07 shrink", _SIZE, "API 409", "API 500", "answer lost", "time-out"),
    ],
}
