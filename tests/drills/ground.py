"""The ground of the drills: a sandbox, a profile for each strategy, lives that meet faults, and what must hold then."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from llmd_runbook.manifest import Attempt, Status
from llmd_runbook.profile import PARAMETERS, load
from llmd_runbook.verdicts import Verdict
from llmd_sandbox.faults.declared import Fault
from llmd_sandbox.faults.killing import kill_tree
from llmd_sandbox.faults.proxy import ApiProxy, before_api_server
from llmd_sandbox.site import Site
from tests.drills.lives import Ended, Life
from tests.drills.probe import Probe
from tests.end_to_end.bench import QUICK
from tests.end_to_end.conftest import Sandbox

GKE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER"
PATTERN1, PATTERN3 = "pattern1", "pattern3"
SCALE, SWAP, CLEANUP = "02_scale_pool", "03_swap_patterns", "07_cleanup"
STAGES = (SCALE, SWAP, CLEANUP)
ENDS_WITH = {SCALE: PATTERN1, SWAP: PATTERN3, CLEANUP: PATTERN1}
"""The pattern that serves once a stage is finished."""
RELEASES = {pattern: {f"gaie-{pattern}", f"ms-{pattern}"} for pattern in (PATTERN1, PATTERN3)}
_DRILLED = {
    "ready_timeout_s: 90": "ready_timeout_s: 25",
    "rollback: never  # a failure is looked at where it happened": "rollback: auto",
}
"""What differs from the quick profile: shorter deadlines, and the way back that operators have."""
RECREATE, SURGE = "recreate", "surge"
_STRATEGIES = {RECREATE: "", SURGE: "\n  strategy: surge\n  quiet_s: 2\n  compare_rounds: 0"}
_SERVES_S, _GKE_S = 30.0, 30.0


class Ground:
    """One sandbox with a profile a strategy; `strategy` is that of the next lives."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox, self.folder, self.output = sandbox, folder, folder / "runs"
        self.strategy = RECREATE
        self.files = {strategy: _written(folder, strategy) for strategy in _STRATEGIES}
        self.profile = load(str(self.files[RECREATE]))
        self.models = (self.profile.pattern1.model, self.profile.pattern3.model)
        self.site = Site.load(sandbox.name)
        gateway = json.loads(sandbox.kubectl("get", "gateway", self.profile.pattern1.gateway, "-o", "json"))
        address, port = gateway["status"]["addresses"][0]["value"], gateway["spec"]["listeners"][0]["port"]
        self.probe = Probe(f"http://{address}:{port}", self.models)

    # --- lives

    @contextmanager
    def door(self, *faults: Fault) -> Iterator[ApiProxy]:
        """Both APIs, with faults; who is to be killed is the present life."""
        with before_api_server(self.site, faults, self._kill) as door:
            yield door

    def live(self, stages: Sequence[str], run: str = "new", door: ApiProxy | None = None) -> Ended:
        """One life, to its end."""
        return self.begin(stages, run, door).wait()

    def begin(
        self,
        stages: Sequence[str],
        run: str = "new",
        door: ApiProxy | None = None,
        **environment: str,
    ) -> Life:
        """One life that has begun."""
        own = {**self.environment(door), **environment}
        self._life = Life(self.files[self.strategy], self.output, own, stages, run)
        return self._life

    @property
    def pid(self) -> int:
        """Of the present life."""
        return self._life.pid

    def environment(self, door: ApiProxy | None) -> dict[str, str]:
        """Of a process that meets the faults of a door."""
        own = dict(self.sandbox.environment)
        return own | {"KUBECONFIG": str(door.kubeconfig), GKE: door.gke} if door else own

    def _kill(self, _client: int) -> None:
        kill_tree(psutil.Process(self.pid))

    # --- the node pool, past the product

    def pool(self, method: str, name: str = "", **body: object) -> httpx.Response:
        """A request about a node pool, the GPUs' where none is named, to the GKE API."""
        pool = self.profile.pool
        path = f"v1/projects/{pool.project}/locations/{pool.location}/clusters/{pool.cluster}/nodePools/"
        url = f"{self.sandbox.environment[GKE]}{path}{name or pool.name}{method}"
        return httpx.post(url, json=body) if body else httpx.get(url)

    def nodes(self) -> list[str]:
        """Names of the nodes with GPUs."""
        selector = f"cloud.google.com/gke-nodepool={self.profile.pool.name}"
        return self.sandbox.kubectl("get", "nodes", "-l", selector, "-o", "name").split()

    def as_before_02(self) -> None:
        """The pool as stage 02 finds it in the beginning: one node, other bounds for the autoscaler."""
        self._until(lambda: self.pool(":setAutoscaling", autoscaling={"enabled": False}).is_success)
        self._until(lambda: self.pool(":setSize", nodeCount=1).is_success)
        self._until(lambda: len(self.nodes()) == 1)

    def _until(self, true: Callable[[], bool]) -> None:
        until_s = time.monotonic() + _GKE_S
        while not true():
            assert time.monotonic() < until_s, "the pool does not become as it was"
            time.sleep(0.1)

    # --- what must hold

    def serves(self) -> str:
        """The pattern that answers now, waited for; empty where neither does."""
        until_s = time.monotonic() + _SERVES_S
        while time.monotonic() < until_s:
            for pattern, model in zip(RELEASES, self.models, strict=True):
                if self.probe.answers(model):
                    return pattern
            time.sleep(0.1)
        return ""

    def orphans(self, pattern: str) -> list[str]:
        """What is there and should not be, or the other way round, where only that pattern is to be left."""
        found = self.left_running()
        listed = self.sandbox.start("helm", "list", "--namespace", "llm-d", "-a", "-o", "json")
        if listed.returncode:  # helm 4 has no such flag, and shows all
            listed = self.sandbox.start("helm", "list", "--namespace", "llm-d", "-o", "json")
        releases = {item["name"]: item["status"] for item in json.loads(listed.stdout)}
        wanted = dict.fromkeys({"infra", *RELEASES[pattern]}, "deployed")
        if releases != wanted:
            found.append(f"releases {releases}")
        routes = self.sandbox.kubectl("get", "httproutes", "-o", "name").split()
        if routes != [f"httproute.gateway.networking.k8s.io/{self.profile.route.name}"]:
            found.append(f"routes {routes}")
        return found

    def left_running(self) -> list[str]:
        """Leases that somebody holds and processes that live where no run is under way."""
        leases = json.loads(self.sandbox.kubectl("get", "leases", "-o", "json"))["items"]
        holders = [item["spec"].get("holderIdentity") for item in leases]
        found = [f"lease held by {holder}" for holder in holders if holder]
        for process in psutil.process_iter(["pid", "environ", "cmdline"]):
            variables = process.info["environ"] or {}
            if variables.get("LLMD_RUNBOOK_OUTPUT") == str(self.output):
                found.append(f"process {process.pid}: {process.info['cmdline']}")
        return found


def lost_record(attempt: Attempt) -> bool:
    """Whether the record of a killed attempt says nothing that is not so: it still runs, and its process is gone."""
    gone = attempt.process is not None and not psutil.pid_exists(attempt.process.pid)
    return attempt.status is Status.RUNNING and gone and attempt.verdict is None


def true_record(ended: Ended, stage: str) -> Attempt:
    """The attempt of a life that ended by itself: finished, with a check that failed, or failed with a reason."""
    attempt = ended.attempts[stage]
    if ended.status == 0:
        assert attempt.status is Status.FINISHED, attempt
    elif attempt.status is Status.FINISHED:
        assert attempt.verdict is Verdict.FAIL, attempt
    else:
        assert attempt.status is Status.FAILED, attempt
        assert attempt.error is not None
        assert attempt.error.message
    return attempt


@contextmanager
def ground_of(sandbox: Sandbox, folder: Path) -> Iterator[Ground]:
    """The ground, with requests under way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMD_SANDBOX_STATE", str(sandbox.folder.parent.parent))
        ground = Ground(sandbox, folder)
        with ground.probe:
            yield ground


def _written(folder: Path, strategy: str) -> Path:
    """The sandbox's profile, quick, with that strategy."""
    text = (PARAMETERS / "sandbox.yaml").read_text()
    for old, new in {**QUICK, **_DRILLED}.items():
        assert old in text, f"{old!r} is not in the profile any more"
        text = text.replace(old, new)
    file = folder / f"drills-{strategy}.yaml"
    file.write_text(text.replace("rollback: auto", f"rollback: auto{_STRATEGIES[strategy]}"))
    return file
