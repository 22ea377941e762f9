"""The ways to an API server: kubeconfigs as people have them, GKE's own description, a pod's service account."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_runbook import profile as profiles
from llmd_runbook.clients import access, cluster, gke_credential, kubernetes
from llmd_runbook.clients.gke import ENDPOINT_VARIABLE
from llmd_runbook.clients.kubernetes import NODES, connect
from llmd_runbook.errors import Forbidden, NotFound, Unreachable, UsageError
from llmd_runbook.profile import Profile
from tests.llmd_runbook.clients.network import proxying, serving_tls
from tests.llmd_runbook.clients.server import Reply, Server, serving
from tests.llmd_runbook.conftest import PROFILE

CLUSTER = "/v1/projects/p/locations/l/clusters/c"
NODE = NODES.path(name="n")
METADATA = "/computeMetadata/v1/instance/service-accounts/default"
TOKEN = "ya29.the-token-of-this-test"


def profile(tmp_path: Path, wanted: str) -> Profile:
    path = tmp_path / "tiny.yaml"
    path.write_text(PROFILE.replace("{context: c, simulated: true}", f"{{{wanted}, simulated: true}}"))
    (tmp_path / "helmfile.yaml").touch()
    return profiles.load(str(path))


def kubeconfig(tmp_path: Path, server: dict[str, Any], user: dict[str, Any]) -> str:
    path = tmp_path / "kubeconfig"
    content = {
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": server}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return str(path)


def plugin(tmp_path: Path, body: str) -> dict[str, Any]:
    """A credential plug-in that runs this shell script."""
    file = tmp_path / "plugin"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(file), "interactiveMode": "Never"}}


def credential(token: str, expires: str = "2100-01-01T00:00:00Z") -> str:
    status = {"token": token, "expirationTimestamp": expires}
    return json.dumps({"apiVersion": gke_credential.API_VERSION, "kind": "ExecCredential", "status": status})


def described(**more: Any) -> dict[str, Any]:
    """GKE's answer about a cluster."""
    authority = base64.b64encode(b"-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n").decode()
    return {"name": "c", "endpoint": "192.0.2.7", "masterAuth": {"clusterCaCertificate": authority}, **more}


@pytest.fixture
def made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeconfigs are made anew, below the test's folder."""
    monkeypatch.setattr(access, "_made", {})
    monkeypatch.setattr(kubernetes, "_shared", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


# --- kubeconfigs as people have them ------------------------------------------------------------------------------


def test_a_credential_plug_in_is_run_again_when_its_token_has_expired(tmp_path: Path, server: Server) -> None:
    server.on(NODE, Reply(body={}))
    script = f"echo x >> {tmp_path}/runs; echo '{credential('from-the-plugin', '2020-01-01T00:00:00Z')}'"
    kube = connect("", kubeconfig(tmp_path, {"server": server.url}, plugin(tmp_path, script)))
    before = len((tmp_path / "runs").read_text().split())
    kube.get(NODES, "n")
    assert server.requests[0].headers["authorization"] == "Bearer from-the-plugin"
    assert len((tmp_path / "runs").read_text().split()) > before


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'please run: gcloud auth login' >&2; exit 7", "please run: gcloud auth login"),
        ("echo nonsense", "failed to decode"),
        ('echo \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "x", "status": {}}\'', "token"),
    ],
)
def test_a_credential_plug_in_that_gives_none_is_told_with_its_own_words(
    tmp_path: Path, server: Server, script: str, said: str
) -> None:
    with pytest.raises(UsageError, match="kubeconfig context") as caught:
        connect("", kubeconfig(tmp_path, {"server": server.url}, plugin(tmp_path, script)))
    assert said in str(caught.value.reason)
    assert server.requests == []


def test_a_credential_plug_in_that_is_missing_is_named(tmp_path: Path, server: Server) -> None:
    user = plugin(tmp_path, "true")
    user["exec"]["command"] = "gke-gcloud-auth-plugin-that-is-missing"
    with pytest.raises(UsageError) as caught:
        connect("", kubeconfig(tmp_path, {"server": server.url}, user))
    assert "gke-gcloud-auth-plugin-that-is-missing" in str(caught.value.reason)
    assert "PATH" in str(caught.value.remedy)


def test_a_certificate_of_an_authority_of_ones_own(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as (server, authority):
        server.on(NODE, Reply(body={}))
        trusting = {"server": server.url, "certificate-authority": str(authority)}
        kube = connect("", kubeconfig(tmp_path, trusting, {"token": "t"}))
        assert kube.get(NODES, "n") == {}
        assert kube.authority == authority.read_text()
        with pytest.raises(Unreachable) as caught:
            connect("", kubeconfig(tmp_path, {"server": server.url}, {"token": "t"})).get(NODES, "n")
    assert "certificate" in str(caught.value.reason).lower()


def test_the_kubeconfigs_proxy(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as (server, authority), proxying() as proxy:
        server.on(NODE, Reply(body={}))
        behind = {"server": server.url, "certificate-authority": str(authority), "proxy-url": proxy.url}
        assert connect("", kubeconfig(tmp_path, behind, {"token": "t"})).get(NODES, "n") == {}
        assert proxy.asked == [server.url.removeprefix("https://")]


def test_the_environments_proxy_and_what_it_is_not_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving_tls(tmp_path) as (server, authority), proxying() as proxy:
        server.on(NODE, Reply(body={}))
        file = kubeconfig(tmp_path, {"server": server.url, "certificate-authority": str(authority)}, {"token": "t"})
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        assert connect("", file).get(NODES, "n") == {}
        assert len(proxy.asked) == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert connect("", file).get(NODES, "n") == {}
        assert len(proxy.asked) == 1


def test_a_proxy_that_is_not_there_is_told(tmp_path: Path) -> None:
    with serving_tls(tmp_path) as (server, authority):
        with proxying() as proxy:
            gone = proxy.url
        behind = {"server": server.url, "certificate-authority": str(authority), "proxy-url": gone}
        with pytest.raises(Unreachable) as caught:
            connect("", kubeconfig(tmp_path, behind, {"token": "t"})).get(NODES, "n")
    assert "proxy" in str(caught.value.reason).lower()


def test_the_tools_get_the_context_that_is_current_now(tmp_path: Path, server: Server) -> None:
    file = kubeconfig(tmp_path, {"server": server.url}, {"token": "t"})
    assert access.of(profile(tmp_path, f'kubeconfig: "{file}"')) == access.Access(file, "here")


# --- as GKE describes it ----------------------------------------------------------------------------------------


@pytest.fixture
def gke(monkeypatch: pytest.MonkeyPatch, made_here: None) -> Any:
    with serving() as made:
        monkeypatch.setenv(ENDPOINT_VARIABLE, made.url)
        yield made


ENDPOINTS = {
    "controlPlaneEndpointsConfig": {
        "dnsEndpointConfig": {"endpoint": "gke-1.us-central1-a.gke.goog"},
        "ipEndpointsConfig": {"publicEndpoint": "192.0.2.7", "privateEndpoint": "10.0.0.2"},
    }
}
CLOSED = {
    "privateClusterConfig": {
        "privateEndpoint": "10.0.0.2",
        "publicEndpoint": "192.0.2.7",
        "enablePrivateEndpoint": True,
    }
}
OLDER = {"privateClusterConfig": {"privateEndpoint": "10.0.0.2", "publicEndpoint": "192.0.2.7"}}


@pytest.mark.parametrize(
    ("wanted", "more", "server"),
    [
        ("access: gke", {}, "https://192.0.2.7"),
        ("access: gke, endpoint: public", ENDPOINTS, "https://192.0.2.7"),
        ("access: gke, endpoint: private", ENDPOINTS, "https://10.0.0.2"),
        ("access: gke, endpoint: private", OLDER, "https://10.0.0.2"),
        ("access: gke, endpoint: dns", ENDPOINTS, "https://gke-1.us-central1-a.gke.goog"),
    ],
)
def test_a_kubeconfig_of_each_endpoint(
    tmp_path: Path, gke: Server, wanted: str, more: dict[str, Any], server: str
) -> None:
    gke.on(CLUSTER, Reply(body=described(**more)))
    asked = profile(tmp_path, wanted)
    made = access.of(asked)
    file = Path(made.kubeconfig)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    content = json.loads(file.read_text())
    found = content["clusters"][0]["cluster"]
    assert found["server"] == server
    assert ("certificate-authority-data" in found) is (asked.cluster.endpoint != "dns")
    assert content["users"][0]["user"].keys() == {"exec"}
    assert made.context == content["current-context"] == "gke_p_l_c"
    assert access.of(asked) == made
    assert len(gke.requests) == 1


@pytest.mark.parametrize(
    ("wanted", "more", "has"),
    [
        ("private", {}, "public"),
        ("dns", OLDER, "public, private"),
        (
            "public",
            {"privateClusterConfig": {**OLDER["privateClusterConfig"], "enablePrivateEndpoint": True}},
            "private",
        ),
    ],
)
def test_an_endpoint_that_the_cluster_does_not_have(
    tmp_path: Path, gke: Server, wanted: str, more: dict[str, Any], has: str
) -> None:
    gke.on(CLUSTER, Reply(body=described(**more)))
    with pytest.raises(UsageError, match=f"no {wanted} endpoint") as caught:
        access.of(profile(tmp_path, f"access: gke, endpoint: {wanted}"))
    assert caught.value.reason == f"GKE names: {has}"


def test_a_cluster_that_gke_does_not_have(tmp_path: Path, gke: Server) -> None:
    gke.on(CLUSTER, Reply(404, {"error": {"code": 404, "status": "NOT_FOUND", "message": "Not found: c."}}))
    with pytest.raises(NotFound, match="cannot read cluster"):
        cluster.of(profile(tmp_path, "access: gke"))


def test_every_tool_gets_its_token_from_workload_identity_and_no_file_keeps_it(
    tmp_path: Path, gke: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GKE API, a metadata server as in a pod of GKE, an API server behind a proxy: the whole way."""
    with serving_tls(tmp_path) as (server, authority), proxying() as proxy, serving() as metadata:
        address = server.url.removeprefix("https://")
        given = base64.b64encode(authority.read_bytes()).decode()
        gke.on(CLUSTER, Reply(body=described(endpoint=address, masterAuth={"clusterCaCertificate": given})))
        google = {"Metadata-Flavor": "Google", "content-type": "application/json"}
        metadata.on("/", Reply(headers=google))
        token = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
        metadata.on(f"{METADATA}/token", Reply(body=token, headers=google))
        metadata.on(f"{METADATA}/", Reply(body={"email": "w@p.iam.gserviceaccount.com"}, headers=google))
        metadata.on(
            "/computeMetadata/v1/universe/universe-domain",
            Reply(body="googleapis.com", headers={"content-type": "application/text"}),
        )
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.url.removeprefix("http://"))
        monkeypatch.setenv("GCE_METADATA_IP", metadata.url.removeprefix("http://"))
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        server.on(NODE, Reply(body={}))
        asked = profile(tmp_path, f'access: gke, proxy: "{proxy.url}"')
        assert cluster.of(asked).get(NODES, "n") == {}
        assert cluster.of(asked).get(NODES, "n") == {}
        assert [one.headers["authorization"] for one in server.requests] == [f"Bearer {TOKEN}"] * 2
        assert len(metadata.asked(f"{METADATA}/token")) == 1
        assert proxy.asked == [address]
    assert TOKEN not in Path(access.of(asked).kubeconfig).read_text()


def test_a_machine_without_google_credentials_is_told_how_to_log_in(
    tmp_path: Path, gke: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(Forbidden, match="no Google credentials"):
        gke_credential.credential()
    gke.on(CLUSTER, Reply(body=described()))
    with pytest.raises(UsageError) as caught:
        cluster.of(profile(tmp_path, "access: gke"))
    assert "gcloud auth application-default login" in str(caught.value.reason)


def test_the_kubeconfig_goes_with_the_process(tmp_path: Path, gke: Server) -> None:
    gke.on(CLUSTER, Reply(body=described()))
    file = profile(tmp_path, "access: gke").path
    code = (
        "import sys\nfrom llmd_runbook import profile\nfrom llmd_runbook.clients import access\n"
        "print(access.of(profile.load(sys.argv[1])).kubeconfig)\nraise SystemExit('an error')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    made = Path(done.stdout.strip())
    assert (done.returncode, made.name) == (1, "kubeconfig")
    assert not made.parent.exists()


# --- in a pod -----------------------------------------------------------------------------------------------------


def test_the_service_account_of_the_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_here: None) -> None:
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", tmp_path)
    monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", tmp_path)
    with serving_tls(tmp_path) as (server, authority):
        (tmp_path / "ca.crt").write_bytes(authority.read_bytes())
        (tmp_path / "token").write_text("of-the-pod")
        host, port = server.url.removeprefix("https://").split(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        server.on(NODE, Reply(body={}))
        asked = profile(tmp_path, "access: in_cluster")
        assert cluster.of(asked).get(NODES, "n") == {}
        made = access.of(asked)
        assert made.context == "in-cluster"
        assert "of-the-pod" not in Path(made.kubeconfig).read_text()
        assert connect(made.context, made.kubeconfig).get(NODES, "n") == {}  # what helm is given
        assert [one.headers["authorization"].lower() for one in server.requests] == ["bearer of-the-pod"] * 2


def test_a_process_outside_of_a_pod_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_here: None) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UsageError, match="runs in no pod") as caught:
        access.of(profile(tmp_path, "access: in_cluster"))
    assert "KUBERNETES_SERVICE_HOST" in str(caught.value.reason)


# --- the profile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("access: gke, context: c", "context has a meaning with access kubeconfig only"),
        ("access: in_cluster, kubeconfig: k", "kubeconfig has a meaning with access kubeconfig only"),
        ("endpoint: dns", "endpoint has a meaning with access gke only"),
        ("access: in_cluster, proxy: 'http://p'", "proxy has a meaning with access gke only"),
        ("access: gcloud", "access"),
    ],
)
def test_keys_of_another_access_are_refused(tmp_path: Path, wanted: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        profile(tmp_path, wanted)
    assert said in str(caught.value)
