"""Pattern 2, which the guide lets run beside: it is not touched, and changing stages prove that it still answers."""

from __future__ import annotations

from llmd_runbook.clients.inference import Endpoint, Inference
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import ClusterError, DeadlineExceeded
from llmd_runbook.profile import Beside, Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.topology import Replica, endpoint, pool_view, replicas
from llmd_runbook.verdicts import CheckSpec, Verdict, declare

BEFORE = declare(
    "pattern2.before",
    "Pattern 2 runs with all its replicas Ready and answers through its own route, before this stage changes anything",
    "mend Pattern 2 first; where a swap is half done and cannot wait for that, finish it by a new run of a profile "
    "without `pattern2`; nothing of Pattern 2 is changed by either",
)
AFTER = declare(
    "pattern2.after",
    "Pattern 2 still runs with all its replicas Ready and answers, after what this stage changed",
    "see where its pods are (kubectl -n NAMESPACE describe pods): a node that went took one along, and its model is "
    "loaded anew; else undo this stage with stage 07",
)


def before(stage: StageRun) -> None:
    """Judge Pattern 2 as it is, where the profile has one; where it fails, `stops` keeps the stage from changing."""
    if wanted := stage.profile.pattern2:
        with stage.step("ask Pattern 2"):
            _judge(stage, BEFORE, wanted, *_asked(stage.profile, wanted))


def stops(stage: StageRun) -> str:
    """Why nothing may be changed, approved or not: Pattern 2 failed `pattern2.before`; empty where it did not."""
    failed = [check for check in stage.checks([BEFORE.id]) if check.verdict is Verdict.FAIL]
    return f"{BEFORE.id} failed: {failed[0].observed}" if failed else ""


def after(stage: StageRun) -> None:
    """Judge Pattern 2 again; a pod that had to move is given `pattern2.route.ready_timeout_s` to load its model."""
    if wanted := stage.profile.pattern2:
        with stage.step("ask Pattern 2 again") as step:
            profile = _with_its_route(stage.profile, wanted)
            try:
                target = _target(site.kubernetes(profile), profile, wanted)
                traffic.wait_for_answer(target, profile, wanted.model, step)
            except (ClusterError, DeadlineExceeded) as error:
                step.ok(error.what)  # the check below says it, with what the pods do
            _judge(stage, AFTER, wanted, *_asked(stage.profile, wanted))


def _asked(profile: Profile, wanted: Beside) -> tuple[list[Replica], str, str]:
    """Its pods, what it answered (empty: nothing), and why not."""
    kube, own = site.kubernetes(profile), _with_its_route(profile, wanted)
    pool = pool_view(kube, profile.namespace, wanted.inference_pool)
    if pool is None:
        return [], "", f"no InferencePool {wanted.inference_pool}"
    pods = replicas(kube, profile.namespace, pool)
    try:
        target = _target(kube, own, wanted)
        client = Inference(target, timeout_s=profile.load.request_timeout_s)
        answer = client.complete(wanted.model, "Say hello.", max_tokens=8)
        return pods, f"{answer.output_tokens} tokens from {target.url}, request {answer.request_id}", ""
    except ClusterError as error:
        return pods, "", error.in_short


def _judge(stage: StageRun, spec: CheckSpec, wanted: Beside, pods: list[Replica], answer: str, why: str) -> None:
    ready = [pod for pod in pods if pod.ready and not pod.terminating]
    stage.check(
        spec.judge(
            bool(answer) and len(ready) == wanted.replicas,
            expected=f"{wanted.replicas} Ready replicas of {wanted.model}, and an answer",
            observed=f"{len(ready)} of {len(pods)} Ready; {'an answer' if answer else why}",
            evidence=[*([answer] if answer else []), *(f"{pod.name} on {pod.node}: {pod.phase}" for pod in pods)],
        )
    )


def _with_its_route(profile: Profile, wanted: Beside) -> Profile:
    return profile.model_copy(update={"route": wanted.route})


def _target(kube: Kubernetes, profile: Profile, wanted: Beside) -> Endpoint:
    return endpoint(kube, profile, wanted.gateway)
