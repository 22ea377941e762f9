"""The stages' own changes when their answers are lost, over real HTTP: the step goes on and its record says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from llmd_runbook.clients.kubernetes import DEPLOYMENTS, HTTP_ROUTES, Kubernetes, Object, connect
from llmd_runbook.errors import Unreachable
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.verdicts import Step, StepStatus
from tests.guards import anything
from tests.llmd_runbook.clients.server import Cut, Reply, Server, serving, status

Open = Callable[[str], StageRun]
Act = Callable[[Kubernetes, Profile, StepHandle], object]

NOTHING = Reply(404, status(404, "NotFound", "there is none"))
FOUND = "looked up, and the change is there"
SERVERS = site.ModelServers("ms", "app=ms", 3)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def kube(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubernetes:
    monkeypatch.setattr("llmd_runbook.clients.kubernetes._LOOK_UP_S", 0.0)
    named = {"context": {"cluster": "c", "user": "u"}, "cluster": {"server": server.url}, "user": {"token": "t"}}
    parts = {f"{kind}s": [{"name": kind[0], kind: value}] for kind, value in named.items()}
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "c", **parts}))
    return connect("", str(file), before_change=anything)


def live(manifest: Object) -> Object:
    """As the API server holds it once the gateway has accepted it."""
    accepted = [{"type": kind, "status": "True", "observedGeneration": 1} for kind in ("Accepted", "ResolvedRefs")]
    meta = {**manifest["metadata"], "uid": "u", "resourceVersion": "8", "generation": 1}
    return {**manifest, "metadata": meta, "status": {"parents": [{"conditions": accepted}]}}


def routes(*items: Object) -> Reply:
    version = {"kind": "HTTPRouteList", "apiVersion": HTTP_ROUTES.api_version, "metadata": {"resourceVersion": "9"}}
    return Reply(body={**version, "items": list(items)})


def one_step(stage: StageRun, kube: Kubernetes, act: Act) -> Step:
    with stage.step("change") as step:
        act(kube, stage.profile, step)
    return stage.finish().steps[0]


def changed_without_an_answer(server: Server, before: Object, after: Object | None) -> None:
    """A route is read, changed, which is not answered, and looked up."""
    path = HTTP_ROUTES.path("llm-d", before["metadata"]["name"])
    server.on(path, Reply(body=before), Cut(), Reply(body=after) if after else NOTHING)
    server.on(HTTP_ROUTES.path("llm-d"), routes(*([after] if after else [])))


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("what", ["move", "open_own"])
def test_a_route_whose_answer_is_lost(
    server: Server, kube: Kubernetes, open_stage: Open, what: str, made: bool
) -> None:
    stage = open_stage("03_swap_patterns")
    profile, pattern = stage.profile, stage.profile.pattern3
    act, make = {
        "move": (traffic.move, traffic.manifest),
        "open_own": (traffic.open_own, traffic.own_manifest),
    }[what]
    old, new = (live(make(profile, each)) for each in (profile.pattern1, pattern))
    old["metadata"]["name"] = new["metadata"]["name"]
    changed_without_an_answer(server, old, new if made else old)
    if made:
        step = one_step(stage, kube, lambda *given: call(act, pattern, *given))
        assert (step.status, step.detail.endswith(FOUND)) == (StepStatus.CHANGED, True)
    else:
        with pytest.raises(Unreachable, match="it was looked up, and the change is not there"):
            one_step(stage, kube, lambda *given: call(act, pattern, *given))
    assert [request.method for request in server.requests if request.method != "GET"] == ["PATCH"]


@pytest.mark.parametrize("made", [True, False])
def test_the_removal_of_our_own_route_whose_answer_is_lost(
    server: Server, kube: Kubernetes, open_stage: Open, made: bool
) -> None:
    stage = open_stage("03_swap_patterns")
    pattern = stage.profile.pattern3
    route = live(traffic.own_manifest(stage.profile, pattern))
    changed_without_an_answer(server, route, None if made else route)
    if made:
        step = one_step(stage, kube, lambda *given: call(traffic.close_own, pattern, *given))
        assert (step.status, step.detail.endswith(FOUND)) == (StepStatus.CHANGED, True)
    else:
        with pytest.raises(Unreachable, match="the change is not there"):
            one_step(stage, kube, lambda *given: call(traffic.close_own, pattern, *given))
    assert [request.method for request in server.requests if request.method != "GET"] == ["DELETE"]


@pytest.mark.parametrize("made", [True, False])
def test_a_rescaling_whose_answer_is_lost(server: Server, kube: Kubernetes, open_stage: Open, made: bool) -> None:
    stage = open_stage("03_swap_patterns")
    path = DEPLOYMENTS.path("llm-d", "ms")
    zero, three = (Reply(body={"metadata": {"name": "ms"}, "spec": {"replicas": count}}) for count in (0, 3))
    server.on(path, zero, three if made else zero)
    server.on(f"{path}/scale", Cut())
    if made:
        step = one_step(stage, kube, lambda kube, _, step: site.rescale(kube, "llm-d", SERVERS, step))
        assert step.detail.endswith(FOUND)
    else:
        with pytest.raises(Unreachable, match="the change is not there"):
            one_step(stage, kube, lambda kube, _, step: site.rescale(kube, "llm-d", SERVERS, step))
    assert len(server.asked(f"{path}/scale")) == 1


def call(act: Callable[..., None], pattern: Pattern, kube: Kubernetes, profile: Profile, step: StepHandle) -> None:
    act(kube, profile, pattern, step)
