"""What Pattern 3 must hold once it has the clients' traffic, or it does not keep it."""

from __future__ import annotations

from llmd_runbook.analysis.cutover import NEW, Asked, share_at_least
from llmd_runbook.analysis.latency import Refusal, percentile, percentile_ratio, samples_to_decide
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import GateFailed
from llmd_runbook.run import StageRun
from llmd_runbook.stages.load import measurement
from llmd_runbook.stages.load.measurement import Measured
from llmd_runbook.stages.swap import steps
from llmd_runbook.stages.swap.probe import SwapProbe
from llmd_runbook.stages.verify import picker_weights
from llmd_runbook.topology import Replica, trouble
from llmd_runbook.verdicts import Check, Verdict, declare

REVIEW = "01_review_state"
PREFIX_SCORER = "prefix-cache-scorer"
_REQUESTS = 125
"""Of the load whose p95 is compared, at least: the fewest whose second largest bounds a p95 from above at 97.5 %, so
that one answer may be slow by chance."""
_ANSWERS = 40
"""Requests of the probe that the error rate is judged on: three seconds' worth."""
_MOST_ERRORS = 0.01

_MORE = "it proves neither; {needed} answers a side would, if both patterns stay as they are: raise load.requests"

READY = declare(
    "gate.readiness",
    "with traffic on it Pattern 3 still has all its replicas, each Ready, and none has restarted since it was ready",
    "read what the replica said before it ended: kubectl -n NAMESPACE logs POD --previous",
)
ERRORS = declare(
    "gate.errors",
    f"of the probe's requests to Pattern 3 no more fail than an error rate of {_MOST_ERRORS:.0%} explains (95 %)",
    "see the reasons: 5xx are the endpoint picker or the replicas, 404 a route or a name",
)
LATENCY = declare(
    "gate.p95",
    "under the load of stage 01's baseline, Pattern 3's p95 latency is at most swap.max_p95_ratio times the "
    "baseline's, with 95 % confidence; where it is more with 95 % confidence this fails",
    "see stage 06 for where the time goes; raise swap.max_p95_ratio only where the slower model is meant to be slower",
)
AFFINITY = declare(
    "gate.affinity",
    "Pattern 3's endpoint picker weighs the prefix cache, as it is configured now",
    "correct pluginsCustomConfig in the values of the InferencePool's release",
)


def hold(stage: StageRun, kube: Kubernetes, probe: SwapProbe, target: Endpoint, before: dict[str, int]) -> None:
    """Judge all gates.

    Args:
        before: restarts by pod, when Pattern 3 had got ready.

    Raises:
        GateFailed: the first that failed, with what was observed.
    """
    checks = [_affinity(stage, kube)]
    slow = _latency(stage, target)
    checks += [slow] if slow else []
    with stage.step("watch Pattern 3 under traffic") as step:
        seen = probe.wait_for(NEW, _ANSWERS, since=_judged_from(probe))
        step.ok("" if seen else probe.trouble or "the probe sees too few requests")
    checks += [_errors(probe), _readiness(steps.pods_of(stage, kube, stage.profile.pattern3), before, stage)]
    for check in checks:
        stage.check(check)
    failed = [check for check in checks if check.verdict is Verdict.FAIL]
    if failed:
        first = failed[0]
        raise GateFailed(
            f"Pattern 3 did not hold {', '.join(check.id for check in failed)}",
            where=stage.profile.pattern3.inference_pool,
            reason=f"expected {first.expected}; observed {first.observed}"
            + "".join(f"; {line}" for line in first.evidence[:3]),
            remedy=first.remedy,
        )


def restarts(pods: list[Replica]) -> dict[str, int]:
    """Restarts by pod."""
    return {pod.name: pod.restarts for pod in pods}


def _readiness(pods: list[Replica], before: dict[str, int], stage: StageRun) -> Check:
    wanted = stage.profile.pattern3.replicas
    ready = [pod for pod in pods if pod.ready and not pod.terminating]
    crashed = [pod for pod in pods if pod.restarts > before.get(pod.name, 0)]
    strange = [pod for pod in pods if pod.name not in before]
    return READY.judge(
        len(ready) == len(pods) == wanted and not crashed and not strange,
        expected=f"{wanted} of {wanted} Ready, the same pods, no restart",
        observed=f"{len(ready)} of {len(pods)} Ready, {len(crashed)} restarted, {len(strange)} replaced",
        evidence=[f"{pod.name}: {trouble(pod.manifest) or pod.phase}, {pod.restarts} restarts" for pod in pods],
    )


def _errors(probe: SwapProbe) -> Check:
    since_s = probe.marks.get(_judged_from(probe), 0.0)
    asked = [one for one in probe.requests() if one.model == NEW and one.sent_s >= since_s]
    failed = [one for one in asked if not one.ok]
    enough = len(asked) >= _ANSWERS
    return ERRORS.judge(
        share_at_least(len(failed), len(asked)) <= _MOST_ERRORS if enough else None,
        expected=f"no error rate above {_MOST_ERRORS:.0%}, judged on at least {_ANSWERS} requests",
        observed=f"{len(failed)} of {len(asked)} failed" + (f"; {probe.trouble}" if probe.trouble else ""),
        evidence=_kinds(failed),
        remedy="" if enough else "see why the probe saw so few requests",
    )


def _latency(stage: StageRun, target: Endpoint) -> Check | None:
    """None where stage 01 left no baseline to compare with."""
    review = stage.earlier(REVIEW)
    if review is None or "baseline" not in review.data:
        stage.note("No p95 gate", "Stage 01 left no baseline in this run, so that there is no p95 to compare with.")
        return None
    base = measurement.restored(review.data["baseline"])
    profile = stage.profile
    requests = max(_REQUESTS, profile.load.requests)
    enough = profile.model_copy(update={"load": profile.load.model_copy(update={"requests": requests})})
    with stage.step("put stage 01's load on Pattern 3") as step:
        found = measurement.measure(enough, target, profile.pattern3, base.concurrency, step, seed=3)
        step.ok(f"{found.succeeded} answers, {found.failed} failures")
    stage.data["gate_load"] = found.data()
    return judged(base, found, profile.swap.max_p95_ratio)


def judged(base: Measured, found: Measured, most: float) -> Check:
    """The p95 gate: whether the ratio of the p95 latencies, with its whole interval, is on one side of the permitted.

    Where it is on neither, nothing is proved, and that is no reason to leave a pattern that serves.
    """
    expected = f"p95 at most {most:g} times the baseline's, {base.concurrency} in flight in both"
    ratio = percentile_ratio(base.latencies_s, found.latencies_s, 0.95)
    if isinstance(ratio, Refusal):
        return LATENCY.judge(None, expected=expected, observed=ratio.reason, remedy=_MORE.format(needed="more"))
    slower = ratio.low is not None and ratio.low > most
    within = ratio.high is not None and ratio.high <= most
    decides = samples_to_decide(ratio, 0.95, most, min(base.succeeded, found.succeeded))
    return LATENCY.judge(
        False if slower else True if within else None,
        expected=expected,
        observed=f"{ratio.value:.2f} times, 95 % interval {_end(ratio.low)} to {_end(ratio.high)}",
        evidence=[
            f"Pattern 3: p95 {measurement.shown(percentile(found.latencies_s, 0.95))} s, beside the probe's traffic",
            f"Pattern 1 (stage 01): p95 {measurement.shown(percentile(base.latencies_s, 0.95))} s",
            f"interval of the ratio: {ratio.method}; {ratio.caveat}",
        ],
        remedy="" if slower or within else _MORE.format(needed=f"about {decides}" if decides else "more"),
    )


def _end(value: float | None) -> str:
    return "an open end" if value is None else f"{value:.2f}"


def _affinity(stage: StageRun, kube: Kubernetes) -> Check:
    with stage.step("read the endpoint picker's weights") as step:
        weights, source, why = picker_weights(kube, stage.profile)
        step.ok(source or why)
    return AFFINITY.judge(
        weights.get(PREFIX_SCORER, 0) > 0,
        expected=f"{PREFIX_SCORER} with a weight above 0",
        observed=", ".join(f"{name} {weight:g}" for name, weight in weights.items()) or why or "no scorers",
        evidence=[source or "no configuration found"],
    )


def _judged_from(probe: SwapProbe) -> str:
    """The moment from which requests to Pattern 3 are judged: it serves and, in a surge, Pattern 1 is idle."""
    return max("serving", "drained", key=lambda name: probe.marks.get(name, 0.0))


def _kinds(failed: list[Asked]) -> list[str]:
    kinds = sorted({one.error or "" for one in failed})
    return [f"{kind}: {sum(one.error == kind for one in failed)}" for kind in kinds]
