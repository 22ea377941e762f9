"""Keys, certificates and tokens of one sandbox: made new at each start, never leaving its folder."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from llmd_sandbox.site import Site

USERS = {
    "admin": ("llmd-sandbox-admin", "system:masters"),
    "component": ("llmd-sandbox-component", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
}
"""Who may call the API server with a token: user name and group; the last two have only their RBAC roles."""

_LIFETIME = dt.timedelta(days=365)


@dataclass(frozen=True)
class _Authority:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def write(site: Site) -> None:
    """Write certificates, service-account keys, the token file and every kubeconfig, all with mode 0600."""
    site.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority = _authority()
    _private(site.pki / "ca.crt", _pem(authority.certificate))
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    addresses = [site.api_server[0], site.etcd[0]]
    _issue(site.pki, "server", authority, names, addresses)
    _issue(site.pki, "etcd-client", authority, ["kube-apiserver"], [])
    _key_pair(site.pki, "service-account")
    tokens = {user: secrets.token_hex(24) for user in USERS}
    lines = [f'{tokens[user]},{name},{user},"{group}"' for user, (name, group) in USERS.items()]
    _private(site.pki / "tokens.csv", "\n".join(lines).encode() + b"\n")
    ca = base64.b64encode(_pem(authority.certificate)).decode()
    for user, file in kubeconfigs(site).items():
        _private(file, yaml.safe_dump(_kubeconfig(site, USERS[user][0], tokens[user], ca)).encode())


def kubeconfigs(site: Site) -> dict[str, Path]:
    """The kubeconfig file of each key of `USERS`."""
    return {
        "admin": site.kubeconfig,
        "component": site.component_kubeconfig,
        "controller-manager": site.pki / "controller-manager.kubeconfig",
        "scheduler": site.pki / "scheduler.kubeconfig",
    }


def _kubeconfig(site: Site, user: str, token: str, ca: str) -> dict[str, object]:
    host, port = site.api_server
    cluster = {"server": f"https://{host}:{port}", "certificate-authority-data": ca}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "llmd-sandbox",
        "clusters": [{"name": "llmd-sandbox", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "llmd-sandbox", "context": {"cluster": "llmd-sandbox", "user": user}}],
    }


def _authority() -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("llmd-sandbox-ca")
    builder = _builder(name, name, key)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _Authority(key, builder.sign(key, hashes.SHA256()))


def _issue(folder: Path, stem: str, authority: _Authority, names: list[str], addresses: list[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(names[0]), authority.certificate.subject, key)
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
    alternatives += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(issuer_key, critical=False)
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
    _private(folder / f"{stem}.crt", _pem(builder.sign(authority.key, hashes.SHA256())))
    _private(folder / f"{stem}.key", _key_pem(key))


def _key_pair(folder: Path, stem: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _private(folder / f"{stem}.key", _key_pem(key))
    _private(folder / f"{stem}.pub", public)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private(file: Path, content: bytes) -> None:
    """Write with mode 0600 from the first byte on."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
