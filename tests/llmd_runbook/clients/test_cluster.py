"""Who the cluster is, and that nothing starts on one that the profile does not mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmd_runbook import profile as profiles
from llmd_runbook.clients import cluster
from llmd_runbook.errors import ApiError, Forbidden, UsageError
from llmd_runbook.profile import Profile
from tests.llmd_runbook.clients.server import Reply, Server, status
from tests.llmd_runbook.conftest import PROFILE

SAYS = "/api/v1/namespaces/kube-public/configmaps/llmd-sandbox"
PARTS = {"simulated": "true", "control plane": "real", "engine": "simulated"}


def profile(tmp_path: Path, kubeconfig: Path, *, simulated: bool) -> Profile:
    text = PROFILE.replace(
        "{context: c, simulated: true}",
        f'{{context: here, kubeconfig: "{kubeconfig}", simulated: {str(simulated).lower()}}}',
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    (tmp_path / "helmfile.yaml").touch()
    return profiles.load(str(path))


def answering(server: Server, data: dict[str, str] | None) -> None:
    server.on("/version", Reply(body={"gitVersion": "v1.33.1", "major": "1"}))
    server.on("/api/v1/namespaces/kube-system", Reply(body={"metadata": {"uid": "uid-1"}}))
    if data is not None:
        server.on(SAYS, Reply(body={"data": data}))


def test_a_simulated_cluster_says_what_is_real_in_it(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    answering(server, PARTS)
    found = cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert (found.context, found.server, found.kube_system_uid) == ("here", server.url, "uid-1")
    assert (found.kubernetes_version, found.simulated) == ("v1.33.1", True)
    assert found.real == {"control plane": "real", "engine": "simulated"}


def test_a_real_cluster_says_nothing(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    answering(server, None)
    found = cluster.identify(profile(tmp_path, kubeconfig, simulated=False))
    assert (found.simulated, found.real) == (False, {})


@pytest.mark.parametrize(
    ("simulated", "data", "said"),
    [
        (True, None, "the profile is for a simulated cluster, and this is a real one"),
        (True, {"simulated": "false"}, "the profile is for a simulated cluster, and this is a real one"),
        (True, {}, "the profile is for a simulated cluster, and this is a real one"),
        (False, PARTS, "the profile is for a real cluster, and this is a simulated one"),
    ],
)
def test_a_profile_of_the_other_kind_is_refused(
    server: Server, kubeconfig: Path, tmp_path: Path, simulated: bool, data: dict[str, str] | None, said: str
) -> None:
    answering(server, data)
    with pytest.raises(UsageError, match=said) as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=simulated))
    assert caught.value.where == f"context here, {server.url}"
    assert f"cluster.simulated is {str(simulated).lower()}" in (caught.value.reason or "")
    assert caught.value.remedy


@pytest.mark.parametrize("body", ["<html>", "", "[]", "null", "{}"])
def test_what_is_no_kubernetes_is_told(server: Server, kubeconfig: Path, tmp_path: Path, body: Any) -> None:
    server.on("/version", Reply(body=body))
    with pytest.raises(ApiError, match="no Kubernetes API") as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert caught.value.reason
    assert caught.value.remedy


def test_a_cluster_that_may_not_be_asked_is_not_taken_for_a_real_one(
    server: Server, kubeconfig: Path, tmp_path: Path
) -> None:
    answering(server, None)
    server.on(SAYS, Reply(403, status(403, "Forbidden", "no configmaps for you")))
    with pytest.raises(Forbidden, match="no configmaps for you"):
        cluster.identify(profile(tmp_path, kubeconfig, simulated=False))


def test_a_context_that_does_not_exist_is_a_usage_error(kubeconfig: Path, tmp_path: Path) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace("name: here", "name: elsewhere"))
    with pytest.raises(UsageError, match="'here'"):
        cluster.of(profile(tmp_path, kubeconfig, simulated=True))
