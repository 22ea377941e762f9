"""06, opt-in: Pattern 3 on 1 to N replicas in turn, all under the same load; the release's number is put back.

The same number of requests is in flight in all at each size. As many a replica would be more load on more replicas: it
scales whatever they share, and cannot fail where one replica would have batched it all. There are as many as give the
largest size `load.concurrency` a replica, so that no size is measured idle.

The number is changed through the Deployment's scale subresource, as `kubectl scale` does. What it was before is what
the release renders, so that whoever looks later, the next attempt or stage 03, finds and undoes what was left.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from typing import Any

from llmd_runbook.analysis.latency import Refusal
from llmd_runbook.analysis.scale_out import LEAST_SHARE, turns
from llmd_runbook.analysis.scale_out import judge as judge_gain
from llmd_runbook.clients.kubernetes import DEPLOYMENTS, Kubernetes, Object
from llmd_runbook.errors import ApprovalNeeded, Conflict, DeadlineExceeded
from llmd_runbook.load.calibrate import ClientError
from llmd_runbook.plans import Change
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown, lines
from llmd_runbook.stages import site
from llmd_runbook.stages.figures import Png
from llmd_runbook.stages.load import figures, measurement, traffic
from llmd_runbook.stages.load.scaling_conditions import gpus, refuse_other_keepers
from llmd_runbook.stages.load.scaling_results import KEY, Runs, costs, gains, runs_by_size, served, table
from llmd_runbook.stages.planning import beside, planned
from llmd_runbook.stages.planning.planned import Part, asked, permitted, require
from llmd_runbook.stages.site import ModelServers
from llmd_runbook.stages.waiting import replicas
from llmd_runbook.topology import GPU, endpoint, pool_view
from llmd_runbook.verdicts import declare

NAME = "scale_up_to"
ROUNDS = 3
"""The fewest with an interval worth reading: t of 2 degrees of freedom is 4.3, of one 12.7."""
_PUT_BACK = "put the number of replicas back"

SERVED = declare(
    "scaling.served",
    "with each number of replicas every one of them took part, and every request was answered",
    "see the failures by kind and the events of pods that do not get Ready; what is missing was not measured",
)
GAIN = declare(
    "scaling.gain",
    "under the same load the largest number of replicas serves more requests a second than one does; a gain that is "
    f"surely below {LEAST_SHARE:.0%} of the linear one fails",
    "more replicas do not pay under this load: too few requests are in flight, or what they share is the limit",
)
RESTORED = declare(
    "scaling.restored",
    "Pattern 3 runs on as many replicas again as its release renders, all Ready, and answers",
    "see the events of the pods that are not Ready; stage 03 sets the number again",
)
CHECKS = (SERVED, GAIN, RESTORED)


def plan(stage: StageRun) -> None:
    """Show what is asked for, with its hash, and whether it is approved; nothing is changed.

    Raises:
        NotFound, Conflict: of `planned_part`.
    """
    planned.plan(stage, {NAME: planned_part})


def planned_part(kube: Kubernetes, profile: Profile) -> Part:
    """What will be done.

    Raises:
        NotFound: there is no Pattern 3.
        Conflict: an autoscaler or a GitOps tool keeps the number of replicas.
    """
    servers, sizes = _servers(profile), _sizes(profile)
    live = _live(kube, profile, servers)
    where, now, back = f"{profile.namespace}/{servers.name}", _asked_for(live), servers.replicas
    fits, arithmetic = gpus(kube, profile, live, servers, max(sizes))
    if not fits:
        same = Change(f"replicas of {where}", str(now), str(now))
        return Part(NAME, [same], [f"Not measured: {arithmetic}."], why_not=arithmetic)
    refuse_other_keepers(kube, profile, _another(profile, live, servers), NAME)
    in_flight, requests = _load(profile)
    deadline_s = profile.pattern3.ready_timeout_s + profile.route.ready_timeout_s
    load_s = (1 + -(-requests // in_flight)) * profile.load.request_timeout_s
    before = str(now) if now == back else f"{now}, where the release says {back}: an earlier attempt may have left it"
    order = ", ".join(str(size) for _, size in turns(sizes, ROUNDS))
    return Part(
        NAME,
        [Change(f"replicas of {where}", before, f"{order} in turn, then {back}")],
        [
            f"{ROUNDS * len(sizes)} measurements of {requests} requests, {in_flight} in flight. Clients are served by "
            "1 replica for a while, and would be measured too: do it when nobody else uses Pattern 3. "
            f"Deployment {where}, by its scale subresource: the release is not touched. {arithmetic}."
        ],
        {
            "deployment": where,
            "sizes": sizes,
            "rounds": ROUNDS,
            "afterwards": back,
            "requests": requests,
            "in flight": in_flight,
        },
        _facts(live),
        durations=[
            *((_step(size), deadline_s, f"pattern3 and route, {ROUNDS} times at most") for size in sizes),
            *((_measuring(profile, size), load_s, f"load.request_timeout_s, {ROUNDS} times") for size in sizes),
            (_PUT_BACK, deadline_s, "pattern3 and route"),
        ],
        not_previewed=["Names and nodes of the new pods, and which pods go."],
        not_undone=["Requests at a replica that goes are lost if they outlast its grace period, and so is its cache."],
    )


def restore(stage: StageRun) -> Shown:
    """Put back what an earlier attempt left, or every figure of this stage would be of another number of replicas.

    Raises:
        ApprovalNeeded: something is to be put back, and the plan is not approved.
        Conflict: another number of replicas runs than the profile says, and the profile asks for no change.
        DeadlineExceeded: the replicas do not get Ready, or do not answer.
    """
    profile, kube = stage.profile, site.kubernetes(stage.profile)
    if not asked(stage, NAME):
        return _as_the_profile_says(kube, profile)
    servers = _servers(profile)
    live = _live(kube, profile, servers)
    now = _asked_for(live)
    if now == servers.replicas:
        return lines([f"Nothing to put back: {now} replicas, as the release says."])
    part = permitted(stage, NAME, _PUT_BACK)
    if isinstance(part, Shown):
        raise ApprovalNeeded(
            f"Pattern 3 runs on {now} replicas, and its release says {servers.replicas}; nothing was measured",
            where=f"deployment {profile.namespace}/{servers.name}",
            reason=planned.why_not(stage, NAME),
            remedy=f"approve the plan, or put it back by hand: {_by_hand(kube, profile, servers)}",
        )
    with stage.changing():
        require(stage, kube, part, _facts(live), where=f"deployment {profile.namespace}/{servers.name}")
        _back(stage, kube, servers)
    planned.renew(stage, NAME, _facts(_live(kube, profile, servers)))
    return lines([f"{servers.replicas} replicas again; an earlier attempt had left {now}."])


def measure(stage: StageRun) -> Shown:
    """Measure each size in each round, if that is asked for and approved; then put the number back, whatever happened.

    Raises:
        Conflict: something moved since the plan or between two sizes, or somebody keeps the number of replicas.
    """
    part = permitted(stage, NAME, "run Pattern 3 on other numbers of replicas")
    if isinstance(part, Shown):
        return part
    profile, kube, servers = stage.profile, site.kubernetes(stage.profile), _servers(stage.profile)
    kept: dict[str, Any] = {"runs": [], "trouble": "", "not_restored": "", "client": None}
    stage.data[KEY] = kept
    with stage.changing():
        live = _live(kube, profile, servers)
        refuse_other_keepers(kube, profile, _another(profile, live, servers), NAME)
        require(stage, kube, part, _facts(live), where=f"deployment {profile.namespace}/{servers.name}")
        stage.undo_at_end(_by_hand(kube, profile, servers), lambda: _put_back(stage, kube, servers))
        try:
            _all_sizes(stage, kube, servers, part, kept)
        except DeadlineExceeded as error:  # what was measured before counts, and the number is put back now
            kept["trouble"] = error.in_short
        try:
            _back(stage, kube, servers)
        except DeadlineExceeded as error:
            kept["not_restored"] = error.in_short
    if runs := runs_by_size(stage):
        kept["client"] = asdict(_client_error(stage, runs))
    return stage.table(table(stage))


def judge(stage: StageRun) -> Shown:
    """The verdicts; nothing where it was not asked for. After a change, Pattern 2 must still answer."""
    if not asked(stage, NAME):
        return lines([f"Not asked for (load.{NAME})."])
    if KEY not in stage.data:
        return _nothing_done(stage)
    kept, sizes, runs = stage.data[KEY], _sizes(stage.profile), runs_by_size(stage)
    took_part = served(runs, sizes, ROUNDS, kept["trouble"])
    named = ", ".join(map(str, sizes))
    stage.check(
        SERVED.judge(
            took_part.ok,
            expected=f"{named} replicas, {ROUNDS} times each: all requests answered, every replica with a part of them",
            observed=took_part.reason,
        )
    )
    most = max(sizes)
    ratio = gains(stage).get(most, Refusal(f"{most} replicas were not measured beside one"))
    gain = judge_gain(ratio, most)
    stage.check(
        GAIN.judge(
            gain.ok,
            expected=f"{most} replicas: the interval of the gain above 0, and not all of it below {LEAST_SHARE:.0%} of "
            "the linear one",
            observed=gain.reason,
            evidence=[] if isinstance(ratio, Refusal) else [text for text in (ratio.method, ratio.caveat) if text],
        )
    )
    _judge_restored(stage, kept["not_restored"])
    stage.note(
        "How to read the scaling",
        "As many requests in flight in all at each size, prompts of the same kind and never the same ones, the first "
        "of them warm-up. One replica batches them all, several a part each, and a batch of half the size takes more "
        "than half the time: efficiency below 1 is that, and what gateway and picker add. Fewer requests in flight, "
        "or more, scale otherwise. A new replica begins with an empty cache, and a gateway may send to it late.",
    )
    if planned.done(stage):
        beside.after(stage)
    return lines([gain.reason])


def plot(stage: StageRun) -> Png | Shown:
    """Throughput beside linear, efficiency and cost over the number of replicas, each with its interval."""
    runs = runs_by_size(stage)
    if not runs:
        return lines(["No size was measured, so there is nothing to draw."])
    return figures.sizes(runs, gains(stage), costs(stage), stamp=stage.cluster.stamp)


def _all_sizes(stage: StageRun, kube: Kubernetes, servers: ModelServers, part: Part, kept: dict[str, Any]) -> None:
    """Every round and size; what moves that is not our own change is found before the next one."""
    profile = stage.profile
    where, facts = f"deployment {profile.namespace}/{servers.name}", part.facts
    target = endpoint(kube, profile, profile.pattern3.gateway)
    in_flight, _ = _load(profile)
    for turn, size in turns(_sizes(profile), ROUNDS):
        require(stage, kube, replace(part, facts=facts), _facts(_live(kube, profile, servers)), where=where)
        _resize(stage, kube, replace(servers, replicas=size), _step(size))
        facts = _facts(_live(kube, profile, servers))
        pattern = profile.pattern3.model_copy(update={"replicas": size})
        with stage.step(_measuring(profile, size)) as step:
            seed = measurement.fresh_seed()
            most = max(_sizes(profile))
            found = measurement.measure(profile, target, pattern, in_flight, step, seed=seed, scale=most)
            step.ok(f"round {turn}: {found.succeeded} answers, {found.failed} failures")
        kept["runs"].append({"round": turn, "replicas": size, **found.data()})


def _resize(stage: StageRun, kube: Kubernetes, servers: ModelServers, name: str) -> None:
    """Have exactly so many replicas, all Ready, and an answer of one.

    Raises:
        DeadlineExceeded: with what the pods that are not Ready say.
    """
    profile = stage.profile
    pattern = profile.pattern3.model_copy(update={"replicas": servers.replicas})
    with stage.step(name) as step:
        changed = site.rescale(kube, profile.namespace, servers, step)
        replicas.wait_for(stage, kube, pattern, servers, step)
        traffic.wait_for_answer(endpoint(kube, profile, pattern.gateway), profile, pattern.model, step)
        if changed:
            step.changed(f"{servers.replicas} Ready")
        else:
            step.ok(f"{servers.replicas} Ready already")


def _back(stage: StageRun, kube: Kubernetes, servers: ModelServers) -> None:
    """The release's number, all Ready and answering; the field is its release tool's again, Ready or not."""
    try:
        _resize(stage, kube, servers, _PUT_BACK)
    finally:
        kube.disown(DEPLOYMENTS, _live(kube, stage.profile, servers), stage.profile.namespace)


def _put_back(stage: StageRun, kube: Kubernetes, servers: ModelServers) -> None:
    """When the attempt ends, however: the release's number, without waiting; nothing where it is there again."""
    if _asked_for(_live(kube, stage.profile, servers)) == servers.replicas:
        return
    with stage.changing():
        kube.scale(servers.name, stage.profile.namespace, servers.replicas)
        kube.disown(DEPLOYMENTS, _live(kube, stage.profile, servers), stage.profile.namespace)


def _judge_restored(stage: StageRun, trouble: str) -> None:
    profile, kube, servers = stage.profile, site.kubernetes(stage.profile), _servers(stage.profile)
    now = _asked_for(_live(kube, profile, servers))
    ready = sum(pod.ready and not pod.terminating for pod in site.server_pods(kube, profile.namespace, servers))
    stage.check(
        RESTORED.judge(
            (now, ready, trouble) == (servers.replicas, servers.replicas, ""),
            expected=f"{servers.replicas} replicas asked for and Ready, and an answer",
            observed=f"{now} asked for, {ready} Ready" + (f"; {trouble}" if trouble else ""),
        )
    )


def _nothing_done(stage: StageRun) -> Shown:
    """Asked for and not done is inconclusive, never left out."""
    why = planned.why_not(stage, NAME)
    remedy = "approve the plan: set its hash"
    if beside.stops(stage):
        remedy = beside.BEFORE.remedy
    elif GPU in why:
        remedy = f"ask for fewer (load.{NAME}), or give the pool more nodes (pool.nodes, stage 02)"
    for spec in CHECKS:
        stage.check(spec.judge(None, expected="each size measured", observed=f"not done: {why}", remedy=remedy))
    return lines([f"Nothing was proved: {why}."])


def _client_error(stage: StageRun, runs: Runs) -> ClientError | Refusal:
    """The calibration at the latency of the largest size, the shortest: what the client adds weighs most there."""
    with stage.step("calibrate the client for the load on all sizes") as step:
        error = measurement.client_error(stage.profile, runs[max(runs)][max(runs[max(runs)])], step)
        step.ok(error.reason if isinstance(error, Refusal) else f"{1000 * error.latency_p95_s:.1f} ms added at p95")
    return error


def _as_the_profile_says(kube: Kubernetes, profile: Profile) -> Shown:
    """Without a change to make: the Deployment behind the pool has the profile's number of replicas.

    Raises:
        Conflict: it has another one.
    """
    pool = pool_view(kube, profile.namespace, profile.pattern3.inference_pool)
    found = [
        item
        for item in (kube.all(DEPLOYMENTS, profile.namespace) if pool else [])
        if pool and pool.selector.items() <= item["spec"]["template"]["metadata"].get("labels", {}).items()
    ]
    wanted = profile.pattern3.replicas
    if len(found) == 1 and _asked_for(found[0]) != wanted:
        name = found[0]["metadata"]["name"]
        raise Conflict(
            f"Pattern 3 runs on {_asked_for(found[0])} replicas, and every figure of this stage is for {wanted}; "
            "nothing was measured",
            where=f"deployment {profile.namespace}/{name}",
            reason="somebody scaled it, or an attempt to measure other sizes was killed",
            remedy=f"put it back: {_by_hand(kube, profile, ModelServers(name, '', wanted))}; or run stage 03 again",
        )
    return lines([f"Not asked for (load.{NAME}); {wanted} replicas are measured."])


def _servers(profile: Profile) -> ModelServers:
    return site.model_servers(site.driver(profile, profile.pattern3).render(), profile)


def _live(kube: Kubernetes, profile: Profile, servers: ModelServers) -> Object:
    return kube.get(DEPLOYMENTS, servers.name, profile.namespace)


def _another(profile: Profile, live: Object, servers: ModelServers) -> ModelServers:
    """With one of the sizes that the Deployment does not have now."""
    return replace(servers, replicas=next(size for size in _sizes(profile) if size != _asked_for(live)))


def _facts(live: Object) -> dict[str, Any]:
    name = f"Deployment {live['metadata']['name']}"
    return {
        f"{name}: UID": live["metadata"]["uid"],
        f"{name}: generation": live["metadata"]["generation"],
        f"{name}: replicas": _asked_for(live),
    }


def _asked_for(live: Object) -> int:
    return int(live["spec"].get("replicas", 1))


def _sizes(profile: Profile) -> list[int]:
    return list(range(1, (profile.load.scale_up_to or 0) + 1))


def _load(profile: Profile) -> tuple[int, int]:
    """Requests in flight and in all, the same at each size."""
    most = profile.load.scale_up_to or 0
    return most * profile.load.concurrency, most * profile.load.requests


def _step(size: int) -> str:
    return f"run Pattern 3 on {_many(size)}"


def _measuring(profile: Profile, size: int) -> str:
    return f"measure {_many(size)} with {_load(profile)[0]} requests in flight"


def _many(size: int) -> str:
    return f"{size} replica{'s' * (size > 1)}"


def _by_hand(kube: Kubernetes, profile: Profile, servers: ModelServers) -> str:
    """The command that puts the number back, whoever reads it and wherever this process ended."""
    words = ["kubectl", "--context", kube.context, "--namespace", profile.namespace, "scale", "deployment"]
    return shlex.join([*words, servers.name, f"--replicas={servers.replicas}"])
