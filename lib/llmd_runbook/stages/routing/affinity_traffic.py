"""Requests of stage 05: sent, each with the evidence of who served it.

Where a response header or the picker's log names the replica, the requests of an arm go under background load, one
after another while unrelated ones keep the replicas busy. Where neither does they go alone, and the one counter
that moves names the replica.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmd_runbook.analysis.attribution import Counts, Replica, Sent, Served, attribute, in_headers, reconcile
from llmd_runbook.analysis.picker_log_lines import Decided, Metrics
from llmd_runbook.clients.inference import Completion, Inference
from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.clients.metrics import (
    CACHE_CONFIG,
    KV_USAGE,
    PREFIX_HITS,
    PREFIX_QUERIES,
    REQUESTS,
    WAITING,
)
from llmd_runbook.clients.picker_log import PickerLog
from llmd_runbook.errors import ClusterError
from llmd_runbook.load.background import Background
from llmd_runbook.load.plan import Prompt
from llmd_runbook.load.prompts import LEAST_PREFIX_TOKENS, unique
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages import site
from llmd_runbook.stages.routing.affinity_arm import Arm, Asked, Row, Trail
from llmd_runbook.stages.routing.counters import Counters, Snapshots, difference
from llmd_runbook.topology import PoolView, endpoint, picker

_ANSWER_TOKENS = 2
_BACKGROUND_A_REPLICA = 2
_LOGGED_WITHIN_S = 2.0
_LOG_POLL_S = 0.2
_DETAILS = "--enable-prompt-tokens-details"


@dataclass(frozen=True)
class _Answered:
    """A request of the arm: its answer, its group, and the replicas as scraped before it and after it."""

    answer: Completion
    group: str
    before: Snapshots
    after: Snapshots


class Traffic:
    """The way to Pattern 3, and what is watched there.

    Raises:
        NotFound: there is no InferencePool, or no Gateway.
    """

    def __init__(self, stage: StageRun) -> None:
        profile = stage.profile
        self._model, self._seed = profile.pattern3.model, random.SystemRandom().randrange(2**31)
        kube = site.kubernetes(profile)
        pool = site.pattern3_pool(kube, profile)
        self._counters = Counters(kube, profile.namespace, pool)
        self._replicas = [_replica(pod, pool) for pod in self._counters.pods]
        target = endpoint(kube, profile, profile.pattern3.gateway)
        self._client = Inference(target, profile.load.request_timeout_s)
        self._log, self._no_log = _picker_log(kube, profile.namespace, pool)
        self._reports_cached = all(_DETAILS in _words(pod) for pod in self._counters.pods)

    def close(self) -> None:
        """Stop hearing the picker's log."""
        if self._log:
            self._log.close()

    def send(
        self, prompts: Sequence[Prompt], label: Callable[[Prompt, int], str], step: StepHandle
    ) -> tuple[Arm, Trail]:
        """Send an arm: who served what, and all that explains why."""
        first = self._counters.scrape()
        probe = self._ask(unique(1, LEAST_PREFIX_TOKENS, seed=self._seed)[0].text)
        logged = self._logged([probe.request_id]).get(probe.request_id)
        named = logged is not None or in_headers(probe.headers, self._replicas) is not None
        if not named:
            return self._attributed(self._alone(prompts, label, step, first), [probe], 0, first)
        in_flight = _BACKGROUND_A_REPLICA * len(self._replicas)
        with Background(self._client, self._model, in_flight=in_flight, seed=self._seed) as background:
            scrape = (lambda: first) if logged and logged.metrics else self._counters.scrape  # the log has better ones
            answered = self._beside(prompts, label, step, scrape, background)
        return self._attributed(answered, [probe, *background.answers], len(background.failures), first)

    def _alone(
        self, prompts: Sequence[Prompt], label: Callable[[Prompt, int], str], step: StepHandle, first: Snapshots
    ) -> list[_Answered]:
        """One at a time, each counted before the next is sent."""
        answered = []
        before = self._counters.counted(first, 1)
        for index, prompt in enumerate(prompts):
            answer = self._ask(prompt.text)
            after = self._counters.counted(before, 1)
            answered.append(_Answered(answer, label(prompt, index), before, after))
            before = after
            step.progress(f"{index + 1} of {len(prompts)} requests", done=index + 1, total=len(prompts))
        return answered

    def _beside(
        self,
        prompts: Sequence[Prompt],
        label: Callable[[Prompt, int], str],
        step: StepHandle,
        scrape: Callable[[], Snapshots],
        background: Background,
    ) -> list[_Answered]:
        """One after another while others are under way, each when load lies elsewhere than for the one before.

        Else new prefixes, which go to the least loaded replica, would all find the same one.
        """
        answered = []
        before = scrape()
        for index, prompt in enumerate(prompts):
            background.turnover(len(self._replicas))
            answer = self._ask(prompt.text)
            after = scrape()
            answered.append(_Answered(answer, label(prompt, index), before, after))
            before = after
            step.progress(f"{index + 1} of {len(prompts)} requests", done=index + 1, total=len(prompts))
        return answered

    def _attributed(
        self, answered: list[_Answered], others: list[Completion], failed: int, first: Snapshots
    ) -> tuple[Arm, Trail]:
        last = self._counters.counted(first, len(answered) + len(others))
        alone = len(others) == 1
        sent = [
            Sent(one.answer.request_id, one.answer.headers, _moved(one.before, one.after) if alone else None)
            for one in answered
        ]
        beside = [Sent(other.request_id, other.headers) for other in others]
        logged = self._logged([one.request_id for one in [*sent, *beside]])
        served, served_beside = (attribute(batch, self._replicas, logged) for batch in (sent, beside))
        counts = {name: Counts(first[name].total(REQUESTS), last[name].total(REQUESTS)) for name in first}
        changed = self._counters.changed()
        summed = reconcile(counts, len(sent) + len(beside), failed, [*served, *served_beside], changed)
        looked_up = sum(other.prompt_tokens for other in others)
        arm = Arm.of(
            [replica.name for replica in self._replicas],
            [self._row(one, order, who) for order, (one, who) in enumerate(zip(answered, served, strict=True))],
            unclear=[
                *(f"request {index}: {one.reason}" for index, one in enumerate(served) if one.replica is None),
                *([] if summed.ok else [summed.reason]),
            ],
            cached_tokens=difference(first, last, PREFIX_HITS),
            prompt_tokens=difference(first, last, PREFIX_QUERIES) - looked_up,
            reconciled=summed.reason,
            elsewhere=summed.ok is False,
            background=len(others) - 1,
        )
        trail = Trail(
            asked=[
                *(Asked(other.request_id, other.body) for other in others),
                *(
                    Asked(one.answer.request_id, one.answer.body, one.group, _metrics(one.before), _metrics(one.after))
                    for one in answered
                ),
            ],
            logged=logged,
            served={one.request_id: one.replica for one in [*served, *served_beside] if one.replica},
            addresses={replica.address: replica.name for replica in self._replicas},
            no_log=self._no_log,
            restarted=self._log.restarted() if self._log else False,
        )
        return arm, trail

    def _row(self, one: _Answered, order: int, served: Served) -> Row:
        unsaid = 0 if self._reports_cached else None  # a count of 0 is left out of the answer
        cached_tokens = one.answer.cached_tokens
        return {
            "request_id": one.answer.request_id,
            "group": one.group,
            "order": order,
            "replica": served.replica,
            "evidence": served.evidence and served.evidence.value,
            "ttft_s": one.answer.ttft_s,
            "cached_tokens": unsaid if cached_tokens is None else cached_tokens,
            "prompt_tokens": one.answer.prompt_tokens,
        }

    def _ask(self, prompt: str) -> Completion:
        return self._client.stream(self._model, prompt, max_tokens=_ANSWER_TOKENS)

    def _logged(self, ids: Sequence[str]) -> dict[str, Decided]:
        """What the picker's log says, as soon as it says all of these; nothing where it cannot be read."""
        deadline = time.monotonic() + _LOGGED_WITHIN_S
        while self._log:
            found = {decided.request_id: decided for decided in self._log.read().handled}
            if time.monotonic() >= deadline or all(one in found for one in ids):
                return found
            time.sleep(_LOG_POLL_S)
        return {}


def _picker_log(kube: Kubernetes, namespace: str, pool: PoolView) -> tuple[PickerLog | None, str]:
    """The log of the pool's picker, else why it cannot be read."""
    try:
        return PickerLog(kube, namespace, picker(kube, namespace, pool).pods), ""
    except ClusterError as error:
        return None, f"the picker's log cannot be read: {error.what}: {error.reason or error.where}"


def _replica(pod: Object, pool: PoolView) -> Replica:
    address = str(pod.get("status", {}).get("podIP", ""))
    host = f"[{address}]" if ":" in address else address
    return Replica(pod["metadata"]["name"], f"{host}:{pool.target_port}")


def _words(pod: Object) -> list[str]:
    return [
        word
        for container in pod["spec"]["containers"]
        for word in [*container.get("command", []), *container.get("args", [])]
    ]


def _metrics(snapshots: Snapshots) -> dict[str, Metrics]:
    found = {}
    for name, snapshot in snapshots.items():
        labels = snapshot.labels(CACHE_CONFIG)
        found[name] = Metrics(
            waiting=int(snapshot.total(WAITING) or 0),
            kv_usage=snapshot.total(KV_USAGE) or 0.0,
            block_size=_number(labels.get("block_size")),
            num_blocks=_number(labels.get("num_gpu_blocks")),
        )
    return found


def _number(text: str | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _moved(before: Snapshots, after: Snapshots) -> list[str]:
    """The replicas whose request counter moved, one entry a request."""
    return [
        name
        for name in after
        for _ in range(int((after[name].total(REQUESTS) or 0) - (before[name].total(REQUESTS) or 0)))
    ]
