"""Who the cluster is, and that nothing starts on one that the profile does not mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook import profile as profiles
from llmd_runbook.clients import cluster
from llmd_runbook.clients.gke import ENDPOINT_VARIABLE, ClusterState
from llmd_runbook.errors import EXIT_USAGE, ApiError, Forbidden, Unreachable, UsageError
from llmd_runbook.profile import Profile
from tests.llmd_runbook.clients.network import serving_tls
from tests.llmd_runbook.clients.server import Reply, Server, serving, status
from tests.llmd_runbook.conftest import PROFILE

CLUSTER = "/v1/projects/p/locations/l/clusters/c"
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


@pytest.fixture(autouse=True)
def gke(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A GKE API that names the test's API server as its cluster, and a PATH without helm."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with serving() as made:
        monkeypatch.setenv(ENDPOINT_VARIABLE, made.url)
        made.on(CLUSTER, Reply(body={"name": "c", "endpoint": server.url.removeprefix("http://")}))
        yield made


def helm(folder: Path, version: str, script: str) -> None:
    """A helm on PATH that says its version, and for everything else runs a line of shell."""
    file = folder / "helm"
    file.write_text(f'#!/bin/sh\ncase "$1" in version) echo {version};; *) {script};; esac\n')
    file.chmod(0o755)


def uid(value: str) -> str:
    return f"echo 'apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: identity}}\ndata: {{uid: {value}}}'"


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


# --- one cluster, whoever is asked ------------------------------------------------------------------------------


def test_helm_and_gke_confirm_the_cluster(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    answering(server, PARTS)
    helm(tmp_path, "v3.18.0", uid("uid-1"))
    found = cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert found.confirmed_by == ["helm v3.18.0: UID of kube-system", "GKE: public endpoint"]


@pytest.mark.parametrize(
    ("script", "what", "said"),
    [
        (uid("uid-2"), "helm means another cluster", "uid-1 by the Kubernetes client, uid-2 by helm"),
        ("echo 'Kubernetes cluster unreachable' >&2; exit 1", "helm does not get to the cluster", "unreachable"),
    ],
)
def test_a_helm_that_goes_elsewhere_or_nowhere_ends_it(
    server: Server, kubeconfig: Path, tmp_path: Path, script: str, what: str, said: str
) -> None:
    answering(server, PARTS)
    helm(tmp_path, "v3.18.0", script)
    with pytest.raises(UsageError, match=what) as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert said in str(caught.value.reason)
    assert caught.value.exit_code == EXIT_USAGE
    assert "HELM_KUBE" in str(caught.value.remedy)


def helmfile(folder: Path, release: str, more: str = "") -> None:
    """A helmfile on PATH whose helmfile has that release, and what else is said."""
    file = folder / "helmfile"
    says = f"releases: [{{name: a, kubeContext: {release}}}]\n{more}"
    file.write_text(f"#!/bin/sh\ncase \"$1\" in version) echo 1.8.0;; *) echo '{says}';; esac\n")
    file.chmod(0o755)


def test_helmfile_confirms_that_it_stays_where_it_is_sent(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    answering(server, PARTS)
    helm(tmp_path, "v3.18.0", uid("uid-1"))
    helmfile(tmp_path, "here")
    found = cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert "helmfile 1.8.0: context of each release" in found.confirmed_by


@pytest.mark.parametrize(
    ("release", "more", "said"),
    [
        ("elsewhere", "", "release a has the context elsewhere"),
        ("here", 'helmDefaults: {args: ["--kube-context", "elsewhere"]}', "helmDefaults.args has --kube-context"),
    ],
)
def test_a_helmfile_that_leads_elsewhere_ends_it(
    server: Server, kubeconfig: Path, tmp_path: Path, release: str, more: str, said: str
) -> None:
    answering(server, PARTS)
    helm(tmp_path, "v3.18.0", uid("uid-1"))
    helmfile(tmp_path, release, more)
    with pytest.raises(UsageError, match="helmfile means another cluster") as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert caught.value.reason == f"{tmp_path / 'helmfile.yaml'}: {said}"
    assert caught.value.exit_code == EXIT_USAGE
    assert "out of the helmfile" in str(caught.value.remedy)


def test_a_helmfile_that_cannot_be_read_confirms_nothing(server: Server, kubeconfig: Path, tmp_path: Path) -> None:
    answering(server, PARTS)
    helm(tmp_path, "v3.18.0", uid("uid-1"))
    helmfile(tmp_path, "[")
    found = cluster.identify(profile(tmp_path, kubeconfig, simulated=True)).confirmed_by
    assert found == ["helm v3.18.0: UID of kube-system", "GKE: public endpoint"]


@pytest.mark.parametrize("version", ["v3.12.3", "v2.17.0"])
def test_a_helm_that_cannot_tell_confirms_nothing(
    server: Server, kubeconfig: Path, tmp_path: Path, version: str
) -> None:
    answering(server, PARTS)
    helm(tmp_path, version, uid("uid-2"))
    assert cluster.identify(profile(tmp_path, kubeconfig, simulated=True)).confirmed_by == ["GKE: public endpoint"]


def test_a_node_pool_of_another_cluster_ends_it(server: Server, gke: Server, kubeconfig: Path, tmp_path: Path) -> None:
    answering(server, PARTS)
    gke.on(CLUSTER, Reply(body={"name": "c", "endpoint": "192.0.2.7"}))
    with pytest.raises(UsageError, match="GKE means another cluster") as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert f"{server.url} is no endpoint of cluster c (public 192.0.2.7)" in str(caught.value.reason)
    read = {request.path for request in server.requests}
    assert read == {"/version", "/api/v1/namespaces/kube-system", SAYS}


def test_a_cluster_that_gke_does_not_know_ends_it(
    server: Server, gke: Server, kubeconfig: Path, tmp_path: Path
) -> None:
    answering(server, PARTS)
    gke.on(CLUSTER, Reply(404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "Not found: c."}}))
    with pytest.raises(UsageError, match="GKE means another cluster") as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert caught.value.reason == "Not found: c."


def test_an_autopilot_cluster_is_refused_before_any_plan(
    server: Server, gke: Server, kubeconfig: Path, tmp_path: Path
) -> None:
    answering(server, PARTS)
    endpoint = server.url.removeprefix("http://")
    gke.on(CLUSTER, Reply(body={"name": "c", "endpoint": endpoint, "autopilot": {"enabled": True}}))
    with pytest.raises(UsageError, match="Autopilot") as caught:
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))
    assert "Standard cluster" in str(caught.value.remedy)


def test_who_may_not_ask_gke_is_not_confirmed_by_it(
    server: Server, gke: Server, kubeconfig: Path, tmp_path: Path
) -> None:
    answering(server, PARTS)
    denied = {"code": 403, "status": "PERMISSION_DENIED", "message": "no"}
    gke.on(CLUSTER, Reply(403, {"error": denied}))
    assert cluster.identify(profile(tmp_path, kubeconfig, simulated=True)).confirmed_by == []


def test_a_gke_that_does_not_answer_is_no_confirmation(
    server: Server, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(server, PARTS)
    with serving() as gone:
        monkeypatch.setenv(ENDPOINT_VARIABLE, gone.url)
    with pytest.raises(Unreachable, match="cannot read cluster"):
        cluster.identify(profile(tmp_path, kubeconfig, simulated=True))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://192.0.2.7", "public endpoint"),
        ("https://192.0.2.7:443/", "public endpoint"),
        ("https://10.0.0.2", "private endpoint"),
        ("https://gke-1.us-central1-a.gke.goog", "dns endpoint"),
        ("https://127.0.0.1:8443", ""),
        ("https://192.0.2.7:6443", ""),
    ],
)
def test_the_same_cluster_by_its_endpoints(url: str, said: str) -> None:
    endpoints = {"public": "192.0.2.7", "private": "10.0.0.2", "dns": "gke-1.us-central1-a.gke.goog"}
    found = ClusterState("c", "RUNNING", "1.36", endpoints, "")
    assert cluster.same_cluster(found, url, "") == said


def test_the_same_cluster_by_its_authority_behind_a_tunnel(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as (_, authority):
        ours = authority.read_text()
        (tmp_path / "another").mkdir()
        with serving_tls(tmp_path / "another") as (_, other):
            theirs = other.read_text()
    found = ClusterState("c", "RUNNING", "1.36", {"public": "192.0.2.7"}, f"{theirs}{ours}")  # as during a rotation
    assert cluster.same_cluster(found, "https://127.0.0.1:8443", ours) == "certificate authority"
    found = ClusterState("c", "RUNNING", "1.36", {"public": "192.0.2.7"}, theirs)
    assert cluster.same_cluster(found, "https://127.0.0.1:8443", ours) == ""
