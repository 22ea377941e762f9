"""The command line of each server of the control plane.

The flags are those of a small cluster with RBAC and service accounts on. Left out is what costs start-up time
or needs a network: leader election, the controller that hands out pod CIDRs, and the endpoints of the Service
`kubernetes`, which may not be loopback addresses. GKE has ExtendedResourceToleration on: it gives pods that
ask for GPUs the toleration that GPU nodes want.
"""

from __future__ import annotations

from pathlib import Path

from llmd_sandbox.control_plane import pki
from llmd_sandbox.site import Site


def command(server: str, binary: Path, site: Site) -> list[str]:
    """The argv of `server`, one of `versions.SERVERS`."""
    flags = {
        "etcd": _etcd,
        "kube-apiserver": _api_server,
        "kube-controller-manager": _controller_manager,
        "kube-scheduler": _scheduler,
    }[server](site)
    return [str(binary), *(f"--{name}={value}" for name, value in flags.items())]


def _etcd(site: Site) -> dict[str, str]:
    host, port = site.etcd
    own = {"cert-file": "server.crt", "key-file": "server.key", "trusted-ca-file": "ca.crt"}
    client = f"https://{host}:{port}"
    peer = f"https://{host}:{port + 1}"
    return {
        "name": "sandbox",
        "data-dir": str(site.directory / "etcd"),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"sandbox={peer}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
        "client-cert-auth": "true",
        "peer-client-cert-auth": "true",
        **{name: str(site.pki / file) for name, file in own.items()},
        **{f"peer-{name}": str(site.pki / file) for name, file in own.items()},
    }


def _api_server(site: Site) -> dict[str, str]:
    host, port = site.api_server
    etcd_host, etcd_port = site.etcd
    return {
        "bind-address": host,
        "advertise-address": host,
        "secure-port": str(port),
        "endpoint-reconciler-type": "none",
        "tls-cert-file": str(site.pki / "server.crt"),
        "tls-private-key-file": str(site.pki / "server.key"),
        "etcd-servers": f"https://{etcd_host}:{etcd_port}",
        "etcd-cafile": str(site.pki / "ca.crt"),
        "etcd-certfile": str(site.pki / "etcd-client.crt"),
        "etcd-keyfile": str(site.pki / "etcd-client.key"),
        "token-auth-file": str(site.pki / "tokens.csv"),
        "authorization-mode": "RBAC",
        "enable-admission-plugins": "ExtendedResourceToleration",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": str(site.pki / "service-account.pub"),
        "service-account-signing-key-file": str(site.pki / "service-account.key"),
        "service-cluster-ip-range": "10.96.0.0/16",
        "kubelet-preferred-address-types": "InternalIP",
        "profiling": "false",
    }


def _controller_manager(site: Site) -> dict[str, str]:
    return {
        "kubeconfig": str(pki.kubeconfigs(site)["controller-manager"]),
        "bind-address": site.api_server[0],
        "cert-dir": str(site.pki / "controller-manager"),
        "leader-elect": "false",
        "controllers": "*,-node-ipam-controller",
        "use-service-account-credentials": "true",
        "node-monitor-grace-period": f"{site.node_grace_s:g}s",
        "node-monitor-period": f"{site.node_grace_s / 10:g}s",
        "service-account-private-key-file": str(site.pki / "service-account.key"),
        "root-ca-file": str(site.pki / "ca.crt"),
        # Its thirty controllers each fetch a token at start; at the default 20 requests/s that takes seconds.
        "kube-api-qps": "300",
        "kube-api-burst": "600",
        "profiling": "false",
    }


def _scheduler(site: Site) -> dict[str, str]:
    return {
        "kubeconfig": str(pki.kubeconfigs(site)["scheduler"]),
        "bind-address": site.api_server[0],
        "cert-dir": str(site.pki / "scheduler"),
        "leader-elect": "false",
        "profiling": "false",
    }
