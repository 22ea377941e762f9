"""The declared faults: those of the two APIs, as a file lists them, and where the others are switched on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from llmd_sandbox.errors import SandboxError

_FILE = "run --api-faults FILE -- COMMAND, in the file: "

DOORS = [
    (
        "a kubelet hangs or is cut off: no Lease, no status, its containers run on",
        "kubectl annotate node NODE llmd-sandbox/kubelet=silent (up --node-grace-s 10: NotReady after 10 s, not 50)",
        "kubectl annotate node NODE llmd-sandbox/kubelet-",
    ),
    ("a machine breaks", "the same, then kubectl delete node NODE", "resize the node pool"),
    (
        "spot capacity is taken back: the node's pods end, it goes after its notice (30 s times the scale)",
        "kubectl annotate node NODE llmd-sandbox/kubelet=reclaimed (llmd-sandbox/notice-s=5: after 5 s)",
        "the instance group makes another one",
    ),
    (
        "model servers run out of memory when they start (exit status 137), or never get Ready",
        "kubectl annotate node NODE llmd-sandbox/start=oom (or: hang); for containers with a GPU that start there",
        "kubectl annotate node NODE llmd-sandbox/start-; delete pods that hang",
    ),
    (
        "simulated model servers end as they start, with 1 and in vLLM's and huggingface_hub's words: no GPU memory "
        "is left to warm up the sampler, or the model hub refuses the token (403)",
        "kubectl annotate node NODE llmd-sandbox/start=cuda-oom (or: forbidden)",
        "kubectl annotate node NODE llmd-sandbox/start-",
    ),
    (
        "model servers download for so many seconds (times --startup-scale) and say nothing meanwhile, as vLLM; with "
        "TQDM_POSITION=-1 in the container's environment they show a progress bar, as huggingface_hub",
        "kubectl annotate node NODE llmd-sandbox/download-s=900; for containers that start there",
        "kubectl annotate node NODE llmd-sandbox/download-s-",
    ),
    (
        "the gateway is down: no listener, every connection is refused",
        "kubectl -n NAMESPACE annotate gateway NAME llmd-sandbox/gateway=down",
        "kubectl -n NAMESPACE annotate gateway NAME llmd-sandbox/gateway-",
    ),
    (
        "no more GPU machines in the zone (stock-out), or none within the quota",
        'curl -X PUT $CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER/faults -d \'{"gpu_stock": 1, "gpu_quota": 1}\'',
        "the same with 8 and 8",
    ),
    ("routes lag behind their conditions", "up --route-lag-s 30 (times --startup-scale)", "up without it"),
    (
        "an API refuses (throttle 429, conflict 409, break 500), loses its answer (cut), never answers (stall), "
        "forgets what was (expire)",
        _FILE + "[{kind: throttle, method: GET, path: /nodes, times: 2}]",
        "run without it",
    ),
    (
        "whoever changes something is killed, before or after the change is made",
        _FILE + "[{kind: kill-after, changes: true, skip: 4}]",
        "run without it",
    ),
]
"""Fault, how to have it, how to end it."""


class Kind(StrEnum):
    """What goes wrong with a request to the API server or to the GKE API."""

    THROTTLE = "throttle"
    """Refused with 429 and Retry-After before anything is done, as by API Priority and Fairness."""
    CONFLICT = "conflict"
    """Refused with 409 before anything is done; by GKE because another operation runs."""
    BREAK = "break"
    """Refused with 500 before anything is done."""
    CUT = "cut"
    """Done, but the connection breaks before the answer."""
    STALL = "stall"
    """Done, but no answer ever comes: the client gives up, or waits for ever."""
    EXPIRE = "expire"
    """A watch that asks for the first state of all: the API server itself answers 410 Gone, for custom resources,
    of which it remembers less than that."""
    KILL_BEFORE = "kill-before"
    """The client's run is killed (SIGKILL) before anything is done."""
    KILL_AFTER = "kill-after"
    """Done, and the client's run is killed before it hears of it."""


@dataclass(frozen=True)
class Fault:
    """One fault of the API server or the GKE API.

    Args:
        method: HTTP method that it hits; every one when empty.
        path: regular expression, searched in the path and query of a request.
        times: how many requests it hits; 0: every one.
        retry_after_s: seconds, for `throttle`.
        changes: only requests that change something; a Lease, which is renewed all the time, does not count.
        skip: how many requests that it would hit pass before the first that it hits.
    """

    kind: Kind
    method: str = ""
    path: str = ""
    times: int = 1
    retry_after_s: int = 1
    changes: bool = False
    skip: int = 0

    def hits(self, method: str, path: str) -> bool:
        """Whether it concerns a request; `expire` concerns watches alone."""
        right = self.method in ("", method) and re.search(self.path, path) is not None
        if self.changes and not changes(method, path):
            return False
        return right and (self.kind is not Kind.EXPIRE or "watch=true" in path)


def changes(method: str, path: str) -> bool:
    """Whether a request changes something; the renewal of a Lease does not count."""
    asks = method == "GET" or "/selfsubject" in path or "dryRun=All" in path
    return not asks and "/leases" not in path


def load(file: Path) -> list[Fault]:
    """The faults that a YAML file lists, each a mapping of the arguments of `Fault`.

    Raises:
        SandboxError: it cannot be read, or lists something else.
    """
    try:
        found = yaml.safe_load(file.read_text())
        return [_fault(item) for item in found]
    except (OSError, yaml.YAMLError, ValueError, TypeError, re.error) as error:
        raise SandboxError(
            "The faults cannot be read.",
            where=str(file),
            reason=str(error),
            remedy="a list like: [{kind: throttle, method: GET, path: /nodes, times: 2, retry_after_s: 1}]",
        ) from error


def _fault(item: dict[str, Any]) -> Fault:
    fault = Fault(**{**item, "kind": Kind(item.get("kind", ""))})
    re.compile(fault.path)
    return fault
