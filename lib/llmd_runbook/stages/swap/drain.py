"""When Pattern 1 may go: when its own counters say that nothing reaches it any more."""

from __future__ import annotations

import time

from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.clients.metrics import PREFIX_QUERIES, REQUESTS, RUNNING, WAITING, Scraper, Snapshot
from llmd_runbook.errors import DeadlineExceeded, NotFound, Unreachable
from llmd_runbook.profile import Pattern
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages.swap import steps
from llmd_runbook.topology import Replica, pool_view

_LOOK_S = 1.0
"""Counters cannot be watched: how often they are read."""

Counters = dict[str, tuple[float, ...]]
"""By pod: requests done, prefix tokens looked up, running, waiting."""


def read(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> Counters:
    """The counters of a pattern's model servers; without those that are neither Ready nor answer: nothing ends there.

    Raises:
        Unreachable: the metrics of a Ready pod cannot be read.
        NotFound: the pattern's InferencePool is gone, or a counter is missing.
    """
    pool = pool_view(kube, stage.profile.namespace, pattern.inference_pool)
    if pool is None:
        raise NotFound("there is no InferencePool", where=f"{stage.profile.namespace}/{pattern.inference_pool}")
    scraper, found = Scraper(kube, pool.target_port), {}
    for pod in live(stage, kube, pattern):
        try:
            found[pod.name] = _values(scraper.scrape(pod.manifest))
        except Unreachable:
            if pod.ready:
                raise
    return found


def live(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> list[Replica]:
    """The model servers of a pattern that nobody has begun to remove."""
    return [pod for pod in steps.pods_of(stage, kube, pattern) if not pod.terminating]


def idle(counters: Counters) -> bool:
    """No request runs or waits."""
    return all(running == waiting == 0 for *_, running, waiting in counters.values())


def until_quiet(stage: StageRun, kube: Kubernetes, pattern: Pattern, step: StepHandle) -> float:
    """Read until all counters stand still, with nothing running, for `swap.quiet_s`; how long ago that began (s).

    A replica that cannot be read, such as one that has just crashed, is read again: it is no reason to leave the
    pattern that serves.

    Raises:
        DeadlineExceeded: something still reaches the pattern, or its counters cannot be read.
        NotFound: of `read`.
    """
    profile = stage.profile
    quiet_s = profile.swap.quiet_s
    limit_s = quiet_s + profile.route.ready_timeout_s + profile.load.request_timeout_s
    deadline = time.monotonic() + limit_s
    (last, trouble), since = _look(stage, kube, pattern), time.monotonic()
    while True:
        still_s = time.monotonic() - since
        if not trouble and idle(last) and still_s >= quiet_s:
            return still_s
        said = trouble or _words(last)
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(
                f"waited {limit_s:.0f} s for the requests to {pattern.model} to end",
                where=", ".join(last),
                reason=f"its counters stood still for {still_s:.0f} s, not {quiet_s:g} s; last: {said}",
                remedy="look for another route or client that leads to these pods, then run the stage again",
            )
        step.progress(f"{said}; still for {still_s:.0f} of {quiet_s:g} s", done=still_s, total=quiet_s)
        time.sleep(_LOOK_S)
        before = last
        last, trouble = _look(stage, kube, pattern)
        if trouble or last != before or not idle(last):
            since = time.monotonic()


def _look(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> tuple[Counters, str]:
    """The counters, or why they cannot be read now."""
    try:
        return read(stage, kube, pattern), ""
    except Unreachable as error:
        return {}, error.in_short


def _values(found: Snapshot) -> tuple[float, ...]:
    values = []
    for name in (REQUESTS, PREFIX_QUERIES, RUNNING, WAITING):
        value = found.total(name)
        if value is None:
            raise NotFound(
                f"the replica exposes no {name}, so that nothing says when it is idle",
                where=f"/metrics of {found.pod}",
                remedy="use swap.strategy recreate, or a model server that exposes vLLM's metrics",
            )
        values.append(value)
    return tuple(values)


def _words(counters: Counters) -> str:
    done = sum(values[0] for values in counters.values())
    busy = sum(values[2] + values[3] for values in counters.values())
    return f"{done:.0f} requests done, {busy:.0f} under way"
