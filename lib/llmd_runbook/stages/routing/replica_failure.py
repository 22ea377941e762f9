"""05, opt-in: one replica is killed during traffic; what is lost, for how long, and where its prefixes go.

The pod is deleted with grace period 0: to clients that is a crash, for nothing is drained. It is kinder than one to
the picker, which learns at once from the API that the pod is gone.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from llmd_runbook.analysis.affinity import ALPHA
from llmd_runbook.analysis.replica_loss import (
    STEADY,
    Request,
    fullest,
    homes,
    judge_moves,
    judge_service,
    loss,
)
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, PODS, Kubernetes, Object
from llmd_runbook.errors import ClusterError, DeadlineExceeded, NotFound
from llmd_runbook.load.plan import Open, Plan, Prompt
from llmd_runbook.load.prompts import shared_prefix
from llmd_runbook.load.samples import Sample
from llmd_runbook.load.stream import Stream
from llmd_runbook.plans import Change
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines
from llmd_runbook.stages import site
from llmd_runbook.stages.planning import beside
from llmd_runbook.stages.planning.planned import Part, asked, permitted, require
from llmd_runbook.stages.routing.replica_failure_tables import Moments, home_text, moments_table, moves, outcomes
from llmd_runbook.stages.routing.served_by import ServedBy
from llmd_runbook.topology import PoolView, endpoint, replica_view, selector_text
from llmd_runbook.verdicts import declare

if TYPE_CHECKING:
    from llmd_runbook.stages.figures import Png

NAME = "kill_replica"
_KEY = "failure"
_RATE_PER_S = 5.0
_ANSWER_TOKENS = 16
_SUFFIX_TOKENS = 16
_PROMPTS_PER_GROUP = 5
_ROUNDS_BEFORE = 3
"""Requests of every prefix before the kill: the first finds a home, the others show it."""
_ROUNDS_AFTER = 6
_PATIENCE = 3
"""Rounds may take so many times as long as the stream needs to send them; what is missing then is judged."""
_SETTLE, _STRENGTH = "send a steady stream until every prefix has a home", "wait for full strength"
_FOLLOW = "ask for the moved prefixes again"
_SETTLED_WITHIN_S = 30.0
"""A gateway's data path lags what the API says by up to this (facts of GKE's load balancers)."""
_GUIDE = "the gateway automatically routes to healthy replicas (no downtime)"

CONTINUES = declare(
    "failure.service_continues",
    f"with one replica killed the others go on answering, and after {_SETTLED_WITHIN_S:.0f} s no request is lost",
    "with one replica there is none to go on; else see the picker's log and the HealthCheckPolicy of the pool",
)
MOVES = declare(
    "failure.prefixes_move",
    "every prefix of the killed replica gets one new home, beyond what prefix-blind routing gives (permutation test)",
    "see the picker's configuration (stage 04): prefix-cache-scorer and its weight",
)
RECOVERS = declare(
    "failure.recovers",
    "the killed replica is replaced and its Deployment available again within pattern3.ready_timeout_s",
    "see the events of the pod that is not Ready: a node without a free GPU, an image or model that does not load",
)
CHECKS = (CONTINUES, MOVES, RECOVERS)


def planned(kube: Kubernetes, profile: Profile) -> Part:
    """What will be done."""
    pool = site.pattern3_pool(kube, profile)
    servers = _servers(kube, profile, pool)
    count = str(servers["spec"].get("replicas", 1))
    where = f"{profile.namespace}/{pool.name}"
    alone = ["There is only one replica: nothing answers until its replacement is Ready."] if count == "1" else []
    return Part(
        NAME,
        [Change(f"replicas of {where}", count, f"one fewer, killed during traffic, then {count} again")],
        [
            *alone,
            "Requests in flight at the killed replica are lost. The Deployment replaces it: the new pod loads its "
            "model again, which takes minutes on a real node, and its cache is empty. It cannot be undone.",
        ],
        {
            "pool": where,
            "deployment": f"{profile.namespace}/{servers['metadata']['name']}",
            "pods": 1,
            "which": "the home of most of the test's prefixes",
            "how": "delete with grace period 0",
            "requests_per_s": _RATE_PER_S,
        },
        _facts(pool, servers),
        durations=[
            (_SETTLE, _settle_s(profile), "affinity.groups, load.request_timeout_s"),
            (_STRENGTH, profile.pattern3.ready_timeout_s, "pattern3.ready_timeout_s"),
            (_FOLLOW, _follow_s(profile), "affinity.groups, load.request_timeout_s"),
        ],
        not_previewed=[
            "Which pod is killed: the home of most of the test's prefixes, known once they have been asked for. Its "
            "replacement's name and node."
        ],
        not_undone=["Requests in flight at the killed replica, and its prefix cache, are lost."],
    )


def measure(stage: StageRun) -> Shown:
    """Kill one replica in a steady stream of requests, if that is asked for and approved; every request is counted."""
    part = permitted(stage, NAME, "kill one replica during traffic")
    if isinstance(part, Shown):
        return part
    with stage.changing():
        return _measured(stage, part)


def _measured(stage: StageRun, part: Part) -> Shown:
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    pool = site.pattern3_pool(kube, profile)
    seed = random.SystemRandom().randrange(2**31)
    stage.data[_KEY] = {"seed": seed, "rate_per_s": _RATE_PER_S}
    with closing(ServedBy(kube, profile, pool)) as served, Stream(_plan(kube, profile, seed)) as stream:
        at = _settle(stage, stream, served)
        before = homes(_requests(stream.so_far(), at, 0.0))
        if len(before) < profile.affinity.groups:
            why = f"of {profile.affinity.groups} prefixes {len(before)} have a replica that is known to have answered"
            stage.data[_KEY]["why_not"] = f"{why}; nothing was killed"
            return lines([stage.data[_KEY]["why_not"]])
        killed = fullest(before)
        moments, servers, uid = _kill(stage, kube, part, killed, stream)
        watching = threading.Thread(target=_watch, args=(profile, pool, servers, uid, stream, moments), daemon=True)
        watching.start()
        moved = {group for group, home in before.items() if home.replica == killed}
        at |= _follow(stage, stream, served, moments, moved)
        with stage.step(_STRENGTH) as step:
            watching.join()
            step.ok(moments.trouble or moments.unseen or f"{moments.after_kill(moments.full_s):.1f} s after the kill")
        samples = stream.stop()
        at |= served.of(samples)
    requests = _requests(samples, at, moments.killed_s)
    stage.data[_KEY] |= {
        "killed": killed,
        "moments": vars(moments),
        "requests": [[r.group, round(r.sent_s, 3), round(r.done_s, 3), r.replica, r.error] for r in requests],
        "attributed_by": served.how,
    }
    return stage.table(outcomes(loss(requests, killed)))


def _settle(stage: StageRun, stream: Stream, served: ServedBy) -> dict[str, str]:
    """Wait until every prefix was asked for often enough to have a home; who answered."""
    with stage.step(_SETTLE) as step:
        groups = stage.profile.affinity.groups
        stream.wait(lambda samples: _asked(samples, 0.0, groups) >= _ROUNDS_BEFORE, _settle_s(stage.profile))
        samples = stream.so_far()
        at = served.of(samples)
        step.ok(f"{len(samples)} requests, of {len(at)} it is known who got them")
    return at


def _kill(stage: StageRun, kube: Kubernetes, part: Part, killed: str, stream: Stream) -> tuple[Moments, Object, str]:
    """Look again at what the plan was made from, then delete the pod; when, its Deployment, and its UID."""
    profile = stage.profile
    with stage.step("kill the home of most prefixes") as step:
        pool = site.pattern3_pool(kube, profile)
        servers = _servers(kube, profile, pool)
        where = f"deployment {profile.namespace}/{servers['metadata']['name']}"
        require(stage, kube, part, _facts(pool, servers), where=where)
        uid = kube.get(PODS, killed, profile.namespace)["metadata"]["uid"]
        moments = Moments(stream.now_s())
        kube.delete(PODS, killed, profile.namespace, uid=uid, grace_s=0, tell=step.remark)
        step.changed(f"pod {killed} deleted with grace period 0")
    return moments, servers, uid


def _follow(stage: StageRun, stream: Stream, served: ServedBy, moments: Moments, moved: set[str]) -> dict[str, str]:
    """Go on until every moved prefix was asked for often enough to show its new home; who answered."""
    with stage.step(_FOLLOW) as step:
        stream.wait(lambda samples: _settled(samples, moments, moved) >= _ROUNDS_AFTER, _follow_s(stage.profile))
        step.ok(f"{len(moved)} prefixes")
        return served.of(stream.so_far())  # now, for a log is rotated away while a replica is long in coming


def _settle_s(profile: Profile) -> float:
    return _PATIENCE * profile.affinity.groups * _ROUNDS_BEFORE / _RATE_PER_S + profile.load.request_timeout_s


def _follow_s(profile: Profile) -> float:
    rounds_s = profile.affinity.groups * _ROUNDS_AFTER / _RATE_PER_S
    return _PATIENCE * rounds_s + _SETTLED_WITHIN_S + profile.load.request_timeout_s


def judge(stage: StageRun) -> Shown:
    """The verdicts, and where the prefixes went; nothing where it was not asked for."""
    if not asked(stage, NAME):
        return lines([f"Not asked for (affinity.{NAME})."])
    data = stage.data.get(_KEY, {})
    if "killed" not in data:
        return _nothing_done(stage, data.get("why_not"))
    killed, moments, requests = data["killed"], Moments(**data["moments"]), _restored(data)
    found = loss(requests, killed)
    service = judge_service(found, within_s=_SETTLED_WITHIN_S)
    lost = [r for r in requests if r.error is not None and r.done_s >= 0]
    stage.check(
        CONTINUES.judge(
            service.ok,
            expected=f"answers by other replicas, and none lost that is sent {_SETTLED_WITHIN_S:.0f} s after the kill",
            observed=service.reason,
            evidence=[f"{r.error}: {r.group} sent at {r.sent_s:+.2f} s, ended at {r.done_s:+.2f} s" for r in lost[:20]],
        )
    )
    before = homes(request for request in requests if request.sent_s < 0)
    later = [r for r in requests if r.sent_s > (found.last_chosen_s or 0.0) and r.sent_s >= 0]
    moved = judge_moves(before, later, killed, seed=data["seed"])
    after = homes(later)
    stage.check(
        MOVES.judge(
            moved.ok,
            expected=f"each of them at one new home, at least {STEADY:.0%} of its requests; p at most {ALPHA}",
            observed=moved.reason,
            evidence=[f"{group}: {home_text(before[group])} -> {home_text(after.get(group))}" for group in before],
        )
    )
    full_s = moments.after_kill(moments.full_s)
    stage.check(
        RECOVERS.judge(
            None if moments.unseen else full_s is not None,
            expected=f"all replicas available within {stage.profile.pattern3.ready_timeout_s:.0f} s",
            observed=moments.trouble or moments.unseen or f"after {full_s:.1f} s",
        )
    )
    stage.note(
        "The guide on this",
        f'The guide: "{_GUIDE}". Measured: {found.lost} of {found.in_flight.sent + found.after.sent} requests lost. '
        "Requests in flight at a replica that crashes fail; the pod was deleted with grace period 0, which the picker "
        "sees at once: a crash that only probes reveal loses more. One event: it says nothing of how often.",
    )
    stage.table(moments_table(found, moments))
    return stage.table(moves(before, after, killed))


def plot(stage: StageRun) -> Png | Shown:
    """Every request: when it was sent, its prefix, who answered or that it was lost; and the moments."""
    data = stage.data.get(_KEY, {})
    if "killed" not in data:
        return lines(["Nothing was killed, so there is nothing to draw."])
    moments = Moments(**data["moments"])
    times = {"killed": 0.0, "gone from the API": moments.gone_s, "full strength": moments.full_s}
    times |= {name: moments.after_kill(at_s) for name, at_s in times.items() if name != "killed"}
    marks = {name: at_s for name, at_s in times.items() if at_s is not None}
    from llmd_runbook.stages.routing.replica_failure_figure import (
        requests_over_time,  # matplotlib takes a second to load
    )

    return requests_over_time(_restored(data), data["killed"], marks, stamp=stage.cluster.stamp)


def _nothing_done(stage: StageRun, why_not: str | None) -> Shown:
    """Asked for and not done is inconclusive, never left out."""
    stopped = beside.stops(stage)
    why = why_not or f"not done: {stopped or 'the plan is not approved'}"
    remedy = "approve the plan: set its hash"
    if why_not:
        remedy = "let the picker log who is chosen: affinity.raise_log_level"
    elif stopped:
        remedy = beside.BEFORE.remedy
    for spec in CHECKS:
        stage.check(spec.judge(None, expected="one replica killed during traffic", observed=why, remedy=remedy))
    return lines([f"Nothing was proved: {why}."])


def _servers(kube: Kubernetes, profile: Profile, pool: PoolView) -> Object:
    """The Deployment whose pods the pool selects.

    Raises:
        NotFound: none, or several.
    """
    found = [
        item
        for item in kube.all(DEPLOYMENTS, profile.namespace)
        if pool.selector.items() <= item["spec"]["template"]["metadata"].get("labels", {}).items()
    ]
    if len(found) != 1:
        raise NotFound(
            f"{len(found)} Deployments stand behind the InferencePool; exactly one is needed",
            where=f"{profile.namespace}/{pool.name}",
            reason=", ".join(item["metadata"]["name"] for item in found) or "none has labels that the pool selects",
            remedy="give each pattern labels of its own, or run stage 03",
        )
    return found[0]


def _facts(pool: PoolView, servers: Object) -> dict[str, Any]:
    name = f"Deployment {servers['metadata']['name']}"
    return {
        f"InferencePool {pool.name}: selector": selector_text(pool.selector),
        f"{name}: UID": servers["metadata"]["uid"],
        f"{name}: generation": servers["metadata"]["generation"],
        f"{name}: replicas": servers["spec"].get("replicas", 1),
    }


def _plan(kube: Kubernetes, profile: Profile, seed: int) -> Plan:
    """Every prefix once a round, each round in another order, so that nothing is in step with a router's turn."""
    wanted = profile.affinity
    prompts = shared_prefix(
        wanted.groups,
        _PROMPTS_PER_GROUP,
        prefix_tokens=wanted.prefix_tokens,
        tokens=wanted.prefix_tokens + _SUFFIX_TOKENS,
        seed=seed,
    )
    seen: Counter[str] = Counter()
    rounds: list[list[Prompt]] = [[] for _ in range(_PROMPTS_PER_GROUP)]
    for prompt in prompts:  # they come shuffled, and stay so within a round
        rounds[seen[prompt.group]].append(prompt)
        seen[prompt.group] += 1
    target = endpoint(kube, profile, profile.pattern3.gateway)
    return Plan(
        **asdict(target),
        model=profile.pattern3.model,
        prompts=[prompt for one in rounds for prompt in one],
        output_tokens=_ANSWER_TOKENS,
        arrival=Open(rate_per_s=_RATE_PER_S, gaps="constant"),
        request_timeout_s=profile.load.request_timeout_s,
    )


def _watch(profile: Profile, pool: PoolView, servers: Object, uid: str, stream: Stream, moments: Moments) -> None:
    """Note when the pod is gone or not Ready, and when its Deployment is at full strength; runs beside the stream."""
    moments.unseen = "the watch broke"
    kube = site.kubernetes(profile)
    wanted = int(servers["spec"].get("replicas", 1))

    def state(pods: list[Object]) -> str:
        views = {pod["metadata"]["uid"]: replica_view(pod) for pod in pods}
        alive = uid in views and views[uid].ready and not views[uid].terminating
        if moments.gone_s is None and not alive:
            moments.gone_s = stream.now_s()
        return ", ".join(f"{view.name} {view.phase}, ready {view.ready}" for view in views.values()) or "no pods"

    def full(pods: list[Object]) -> bool:
        ready = [pod for pod in pods if replica_view(pod).ready and not replica_view(pod).terminating]
        return len(ready) == wanted and all(pod["metadata"]["uid"] != uid for pod in pods)

    try:
        kube.wait(
            PODS,
            full,
            what=f"{wanted} Ready replicas",
            timeout_s=profile.pattern3.ready_timeout_s,
            remedy=RECOVERS.remedy,
            namespace=profile.namespace,
            selector=selector_text(pool.selector),
            on_change=state,
        )
        site.wait_available(kube, profile.namespace, servers["metadata"]["name"], profile.pattern3.ready_timeout_s)
        moments.full_s = stream.now_s()
        moments.unseen = ""
    except DeadlineExceeded as error:
        moments.trouble, moments.unseen = error.in_short, ""
    except ClusterError as error:
        moments.unseen = error.in_short


def _asked(samples: list[Sample], since_s: float, groups: int) -> int:
    """How often the least asked of so many groups was answered, of requests sent since then."""
    counts = Counter(sample.group for sample in samples if sample.ok and sample.sent_s >= since_s)
    return min(counts.values()) if len(counts) == groups else 0


def _settled(samples: list[Sample], moments: Moments, moved: set[str]) -> int:
    """How often the least asked moved prefix was answered since the pod is gone and nothing fails any more."""
    if moments.gone_s is None:
        return 0
    failed = [sample.sent_s for sample in samples if not sample.ok and sample.sent_s > moments.killed_s]
    return _asked([s for s in samples if s.group in moved], max([moments.gone_s, *failed]), len(moved))


def _requests(samples: list[Sample], at: dict[str, str], zero_s: float) -> list[Request]:
    return [Request(s.group, s.sent_s - zero_s, s.done_s - zero_s, at.get(s.request_id), s.error) for s in samples]


def _restored(data: dict[str, Any]) -> list[Request]:
    return [Request(*row) for row in data["requests"]]
