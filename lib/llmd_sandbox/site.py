"""What one sandbox is: its name, its folder, its block of loopback addresses, and where everything lies.

Every sandbox owns 127.<octet>.0.0/16, so that ports are fixed and two sandboxes never meet.
The octet is owned by whoever listens on `guard_address`; the kernel frees it when the process dies.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

MARKER = "LLMD_SANDBOX_ID"
"""Environment variable that every process of a sandbox carries; its value is the sandbox's folder."""

GUARD_PORT = 6440

SIMULATOR, VLLM = "simulator", "vllm"
"""The engines: what a container of vLLM runs here, a simulated one or the real one on CPU."""

STARTUP_SCALE = {SIMULATOR: 0.02, VLLM: 0.25}
"""Start-up delays and probes' periods as a share of real ones; a real engine's own start cannot be compressed."""


def state_root() -> Path:
    """The folder that holds a folder for each sandbox of this user."""
    base = os.environ.get("LLMD_SANDBOX_STATE") or os.environ.get("XDG_STATE_HOME")
    folder = Path(base) if base else Path.home() / ".local" / "state"
    return folder.absolute() / "llmd-sandbox"


def cache_root() -> Path:
    """The folder that keeps what was built, for each version, between sandboxes of this user."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "llmd-sandbox"


@dataclass(frozen=True)
class Site:
    """One sandbox. Addresses are IPv4 loopback; ports are fixed within the block."""

    name: str
    octet: int
    engine: str = SIMULATOR
    startup_scale: float = STARTUP_SCALE[SIMULATOR]
    node_grace_s: float = 50.0
    """How long a node that says nothing counts as Ready."""
    route_lag_s: float = 0.0
    """How long requests follow a change of routes after its conditions, before `startup_scale`."""

    gpu_nodes: int = 1
    """Nodes of the GPU pool at first, in each of its zones."""

    gpu_zones: int = 1
    """Zones of the GPU pool."""

    autoscaler_idle_s: float | None = None
    """An autoscaler acts on pools that have autoscaling, and removes nodes idle for so long; None: nothing acts."""

    @property
    def directory(self) -> Path:
        """The sandbox's folder; `down` removes it whole."""
        return state_root() / self.name

    @property
    def logs(self) -> Path:
        """One log file a component."""
        return self.directory / "logs"

    @property
    def pods(self) -> Path:
        """One folder a pod, named by its uid: volumes and container logs."""
        return self.directory / "pods"

    @property
    def pki(self) -> Path:
        """Certificates and keys, mode 0600."""
        return self.directory / "pki"

    @property
    def authority(self) -> Path:
        """Certificate of the authority that signs the API server's."""
        return self.pki / "ca.crt"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig (context `llmd-sandbox`), mode 0600; what the user gets."""
        return self.directory / "kubeconfig"

    @property
    def component_kubeconfig(self) -> Path:
        """The same rights under another user name, for the sandbox's own components."""
        return self.directory / "component.kubeconfig"

    @property
    def env_file(self) -> Path:
        """Shell file to source: KUBECONFIG, GKE endpoint, PATH with kubectl and helm."""
        return self.directory / "env"

    def address(self, third: int, fourth: int) -> str:
        """127.<octet>.<third>.<fourth>."""
        return f"127.{self.octet}.{third}.{fourth}"

    @property
    def guard_address(self) -> tuple[str, int]:
        """Listening here owns the octet."""
        return self.address(255, 254), GUARD_PORT

    @property
    def api_server(self) -> tuple[str, int]:
        """kube-apiserver, https."""
        return self.address(0, 1), 6443

    @property
    def etcd(self) -> tuple[str, int]:
        """etcd's client port, https with client certificates; the next port is its peer port."""
        return self.address(0, 1), 2379

    @property
    def kubelet(self) -> tuple[str, int]:
        """The kubelet API of every node (logs), https."""
        return self.address(0, 2), 10250

    @property
    def gke(self) -> tuple[str, int]:
        """container.googleapis.com's stand-in, http."""
        return self.address(0, 3), 8080

    @property
    def envoy_admin(self) -> tuple[str, int]:
        """Envoy's admin interface, http."""
        return self.address(0, 4), 9901

    def gateway_ip(self, index: int) -> str:
        """Address of the index-th Gateway (from 0); its listeners' ports are the Gateway's own."""
        return self.address(1, index + 1)

    def pod_ip(self, index: int) -> str:
        """Address of the index-th pod (0 to 50,000)."""
        return self.address(16 + index // 250, index % 250 + 1)

    def save(self) -> None:
        """Write the description that `load` reads."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.directory / "site.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(name: str) -> Site:
        """Read a sandbox's description.

        Raises:
            FileNotFoundError: when there is no sandbox of that name.
        """
        return Site(**json.loads((state_root() / name / "site.json").read_text()))
