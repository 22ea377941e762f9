from __future__ import annotations

from typing import Any

import pytest

from llmd_runbook.clients.kubernetes import Object
from llmd_runbook.errors import ProfileError
from llmd_runbook.stages import site
from tests.llmd_runbook.conftest import Bench


def deployment(name: str, gpus: int = 0, **spec: Any) -> Object:
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {"cpu": "1"}
    containers = [{"name": "side"}, {"name": "vllm", "resources": {"limits": limits}}]
    selector = {"matchLabels": {"role": "decode", "app": name}}
    return {
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": selector, "template": {"spec": {"containers": containers}}, **spec},
    }


def test_the_model_servers_are_the_deployment_that_asks_for_gpus(bench: Bench) -> None:
    service = {"kind": "Service", "metadata": {"name": "web"}}
    found = site.model_servers([service, deployment("epp"), deployment("ms", 1, replicas=3)], bench.profile)
    assert found == site.ModelServers("ms", "app=ms,role=decode", 3)


def test_a_deployment_without_replicas_has_one(bench: Bench) -> None:
    assert site.model_servers([deployment("ms", 1)], bench.profile).replicas == 1


@pytest.mark.parametrize(
    ("manifests", "names"),
    [([], "none"), ([deployment("epp")], "none"), ([deployment("a", 1), deployment("b", 2)], "a, b")],
)
def test_none_or_several_are_told(bench: Bench, manifests: list[Object], names: str) -> None:
    with pytest.raises(ProfileError, match="exactly one") as caught:
        site.model_servers(manifests, bench.profile)
    assert (caught.value.reason, caught.value.where) == (names, str(bench.profile_file))
    assert caught.value.remedy
