from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from llmd_sandbox.control_plane import pki
from llmd_sandbox.kube import KubeApi
from llmd_sandbox.site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    made = Site("test", 77)
    pki.write(made)
    return made


def test_nobody_else_can_read_a_key_or_a_token(site: Site) -> None:
    files = [*site.pki.iterdir(), *pki.kubeconfigs(site).values()]
    assert len(files) >= 9
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_the_serving_certificate_names_the_sandbox_addresses(site: Site) -> None:
    certificate = x509.load_pem_x509_certificate((site.pki / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {"127.77.0.1"}


def test_openssl_accepts_the_chain(site: Site) -> None:
    ssl.create_default_context(cafile=str(site.pki / "ca.crt"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(site.pki / "server.crt", site.pki / "server.key")
    ca = x509.load_pem_x509_certificate((site.pki / "ca.crt").read_bytes())
    x509.load_pem_x509_certificate((site.pki / "server.crt").read_bytes()).verify_directly_issued_by(ca)


def test_every_user_has_a_token_of_its_own(site: Site) -> None:
    rows = [line.split(",") for line in (site.pki / "tokens.csv").read_text().splitlines()]
    assert [row[1] for row in rows] == [name for name, _ in pki.USERS.values()]
    assert len({row[0] for row in rows}) == len(pki.USERS)
    assert [row[3] for row in rows] == ['"system:masters"', '"system:masters"', '""', '""']


def test_the_kubeconfig_is_usable_and_carries_its_ca(site: Site) -> None:
    api = KubeApi.from_kubeconfig(site.kubeconfig)
    assert api.server == "https://127.77.0.1:6443"
    cluster = yaml.safe_load(site.kubeconfig.read_text())["clusters"][0]["cluster"]
    assert set(cluster) == {"server", "certificate-authority-data"}


def test_keys_are_new_each_time(site: Site) -> None:
    before = (site.pki / "server.key").read_bytes(), (site.pki / "tokens.csv").read_bytes()
    pki.write(site)
    assert before[0] != (site.pki / "server.key").read_bytes()
    assert before[1] != (site.pki / "tokens.csv").read_bytes()
