"""Each way to the cluster, by every tool alike; and the run that does not start where two of them name two clusters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llmd_runbook.clients import access, cluster, kubernetes
from llmd_runbook.errors import EXIT_PASS, EXIT_USAGE
from llmd_runbook.profile import load
from llmd_runbook.stages import site
from tests.end_to_end.bench import Bench
from tests.end_to_end.callers import printed_roles
from tests.end_to_end.conftest import Sandbox, running
from tests.llmd_runbook.clients.network import ConnectProxy, proxying
from tests.llmd_runbook.clients.server import Reply, serving

pytestmark = pytest.mark.timeout(600)

METADATA = "/computeMetadata/v1/instance/service-accounts/default"
HERE = "context: llmd-sandbox"


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Another cluster, whose names are all the same."""
    with running(tmp_path_factory.mktemp("other"), "--bare") as sandbox:
        yield sandbox


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with proxying() as made:
        yield made


def file(bench: Bench, folder: Path, wanted: str) -> Path:
    """The bench's profile with another access."""
    text = bench.file.read_text()
    assert HERE in text
    made = folder / "access.yaml"
    made.write_text(text.replace(HERE, wanted).replace("requests: 36", "requests: 60"))  # a p95 needs 59
    return made


def token(sandbox: Sandbox) -> str:
    """The administrator's."""
    return str(yaml.safe_load(Path(sandbox.kubeconfig).read_text())["users"][0]["user"]["token"])


def texts(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_run_without_a_kubeconfig_by_what_gke_says_and_through_a_proxy(
    bench: Bench, sandbox: Sandbox, proxy: ConnectProxy, tmp_path: Path
) -> None:
    """As on a private cluster: the token is a workload's identity, and every tool gets it for itself."""
    (tmp_path / "tmp").mkdir()
    secret, google = token(sandbox), {"Metadata-Flavor": "Google", "content-type": "application/json"}
    with serving() as metadata:
        metadata.on("/", Reply(headers=google))
        given = {"access_token": secret, "expires_in": 3600, "token_type": "Bearer"}
        metadata.on(f"{METADATA}/token", Reply(body=given, headers=google))
        metadata.on(f"{METADATA}/", Reply(body={"email": "w@p.iam.gserviceaccount.com"}, headers=google))
        plain = {"content-type": "application/text"}
        metadata.on("/computeMetadata/v1/universe/universe-domain", Reply(body="googleapis.com", headers=plain))
        address = metadata.url.removeprefix("http://")
        done = sandbox.start(
            "llmd-runbook",
            "run",
            file(bench, tmp_path, f'access: gke\n  proxy: "{proxy.url}"'),
            "--stages",
            "01",
            "--output",
            tmp_path / "runs",
            KUBECONFIG=str(tmp_path / "none"),
            TMPDIR=str(tmp_path / "tmp"),
            CLOUDSDK_CONFIG=str(tmp_path),
            GCE_METADATA_HOST=address,
            GCE_METADATA_IP=address,
        )
    assert done.returncode == EXIT_PASS, done.stdout + done.stderr
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "runs").rglob("run.json"))
    helm, gke = record["cluster"]["confirmed_by"]
    assert helm.startswith("helm ")
    assert gke == "GKE: public endpoint"
    assert record["cluster"]["context"] == "gke_sandbox-project_us-central1-a_llm-d-cluster"
    assert len(proxy.asked) > 10  # the Kubernetes client's connections and each helm's
    assert secret not in texts(tmp_path / "runs")
    assert list((tmp_path / "tmp").glob("llmd-runbook-*")) == []


def test_a_node_pool_of_another_cluster(bench: Bench, sandbox: Sandbox, other: Sandbox, tmp_path: Path) -> None:
    done = sandbox.start(
        "llmd-runbook",
        "run",
        bench.file,
        "--output",
        tmp_path / "runs",
        CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER=other.environment["CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER"],
    )
    assert done.returncode == EXIT_USAGE, done.stdout + done.stderr
    assert "GKE means another cluster than the kubeconfig; nothing was started" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_helm_that_its_own_variables_lead_to_another_cluster(
    bench: Bench, sandbox: Sandbox, other: Sandbox, tmp_path: Path
) -> None:
    """helm obeys them, whatever kubeconfig and context it is given."""
    theirs = yaml.safe_load(Path(other.kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    done = sandbox.start(
        "llmd-runbook",
        "run",
        bench.file,
        "--output",
        tmp_path / "runs",
        HELM_KUBEAPISERVER=theirs,
        HELM_KUBECAFILE=str(other.folder / "pki" / "ca.crt"),
        HELM_KUBETOKEN=token(other),
    )
    assert done.returncode == EXIT_USAGE, done.stdout + done.stderr
    assert "helm means another cluster than the kubeconfig" in done.stderr
    assert "by the Kubernetes client" in done.stderr
    assert token(other) not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_pod_by_its_service_account(
    bench: Bench, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the operator's roles, as a Job in the cluster would have them; its address is no endpoint of GKE's."""
    manifests = tmp_path / "roles.json"
    roles = printed_roles(sandbox, "operator")
    manifests.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(roles)}))
    applied = sandbox.start("kubectl", "apply", "-f", manifests)
    assert applied.returncode == 0, applied.stderr
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text(sandbox.kubectl("create", "token", "llmd-runbook-operator").strip())
    (account / "ca.crt").write_bytes((sandbox.folder / "pki" / "ca.crt").read_bytes())
    monkeypatch.setattr(access, "_made", {})
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", account)
    monkeypatch.setattr(kubernetes, "SERVICE_ACCOUNT", account)
    monkeypatch.delenv("KUBECONFIG")
    host, port = bench.kube.server.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    profile = load(str(file(bench, tmp_path, "access: in_cluster")))
    found = cluster.identify(profile)
    assert found.context == "in-cluster"
    assert len(found.confirmed_by) == 2
    driver = site.driver(profile, profile.pattern1)
    assert {item.name for item in driver.installed(profile.namespace)} >= {"gaie-pattern1", "ms-pattern1"}
