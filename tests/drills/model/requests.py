"""What the product asks of gateway and replicas, answered by the model: completions, metrics, and the swap's probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from llmd_runbook.clients.inference import Completion, Inference
from llmd_runbook.clients.metrics import Snapshot
from llmd_runbook.errors import ApiError, ClusterError, Unreachable
from llmd_runbook.load.plan import Plan
from llmd_runbook.load.samples import Sample
from tests.drills.model.calls import Calls
from tests.drills.model.clock import Clock
from tests.drills.model.cluster import Cluster

_GAP_S = 1.0
"""Between two requests of one stream: the model needs no more of them, for it knows every moment."""


class Requests:
    """The gateway and the replicas of one cluster."""

    def __init__(self, cluster: Cluster, clock: Clock, calls: Calls) -> None:
        self.cluster, self.clock, self.calls = cluster, clock, calls

    def complete(self) -> Callable[..., Completion]:
        """In the place of `Inference.complete`."""
        world = self

        def complete(self: Inference, model: str, prompt: str, *, max_tokens: int) -> Completion:
            world.calls.read()
            world.clock.pass_s(0.1)
            world.calls.alive()
            status, said = world.cluster.answer(model, self.endpoint.headers)
            if status != 200:
                raise refused(self.endpoint.url, status, said)
            return Completion("hello", 3, max_tokens, 0, 0.1, f"request-{world.clock.now_s:.2f}", said)

        return complete

    def models(self) -> Callable[..., list[str]]:
        """In the place of `Inference.models`."""
        world = self

        def models(self: Inference) -> list[str]:
            world.calls.read()
            answers = {name: world.cluster.answer(name, self.endpoint.headers) for name in world.cluster.models}
            served = [name for name, (status, _) in answers.items() if status == 200]
            if not served:
                raise refused(self.endpoint.url, *next(iter(answers.values())))
            return served

        return models

    def scrape(self, _: Any, pod: Any) -> Snapshot:
        """In the place of `Scraper.scrape`: an idle replica whose prefix cache is on, or none that answers."""
        self.calls.read()
        name = pod["metadata"]["name"]
        if not self.cluster.runs(name):
            raise Unreachable("cannot read a replica's metrics", where=name, reason="connection refused")
        names = ("request_success_total", "prefix_cache_queries_total", "num_requests_running", "num_requests_waiting")
        nothing: list[tuple[dict[str, str], float]] = [({}, 0.0)]
        samples = {f"vllm:{name}": nothing for name in names}
        samples["vllm:cache_config_info"] = [({"enable_prefix_caching": "True"}, 1.0)]
        return Snapshot(name, "model", samples)

    def served(self, _: Any, pod: Any) -> list[str]:
        """In the place of `Scraper.models`."""
        self.calls.read()
        return [pod["spec"]["containers"][0]["args"][0]]

    def probe(self) -> Probe:
        """In the place of the probe's process."""
        return Probe(self)


class Probe:
    """Steady streams, sent on the model's clock."""

    def __init__(self, requests: Requests) -> None:
        self.trouble = ""
        self._at = requests
        self._samples: list[Sample] = []
        self._origin_s = requests.clock.now_s
        self._open = False

    def __enter__(self) -> Self:
        self._open, self._origin_s = True, self._at.clock.now_s
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False

    def now_s(self) -> float:
        """On the samples' clock."""
        return self._at.clock.now_s - self._origin_s

    def add(self, plan: Plan, phase_s: float = 0.0) -> None:
        """One more stream."""
        self._at.clock.after(phase_s, lambda: self._send(plan))

    def so_far(self) -> list[Sample]:
        """Those that have ended."""
        return list(self._samples)

    def wait(self, done: Callable[[list[Sample]], bool], timeout_s: float) -> bool:
        """Wait until enough were answered."""
        until_s = self._at.clock.now_s + timeout_s
        while not done(self._samples):
            self._at.calls.alive()
            if not self._at.clock.step(until_s):
                return False
        self._at.calls.alive()
        return True

    def stop(self) -> list[Sample]:
        """Send nothing more."""
        self._open = False
        return self.so_far()

    def _send(self, plan: Plan) -> None:
        if not self._open:
            return
        now_s, number = self.now_s(), len(self._samples)
        status, said = self._at.cluster.answer(plan.model, plan.headers)
        good = status == 200
        self._samples.append(
            Sample(
                index=number,
                group=plan.prompts[0].group,
                due_s=now_s,
                sent_s=now_s,
                first_token_s=now_s,
                gaps_s=(),
                done_s=now_s,
                status=status or None,
                error=None if good else f"http_{status}" if status else "connect",
                detail="" if good else said,
                prompt_tokens=3,
                output_tokens=4 if good else None,
                cached_tokens=None,
                events=4 if good else 0,
                request_id=f"probe-{number}",
                headers={},
            )
        )
        self._at.clock.after(_GAP_S, lambda: self._send(plan))


def refused(url: str, status: int, said: str) -> ClusterError:
    """What the client raises for an answer that is none of 200."""
    if status == 0:
        return Unreachable("the gateway does not answer", where=url, reason=said)
    return ApiError(f"the gateway answered {status}", where=url, reason=said)
