"""The helm binary, 3.12 or newer, helm 4 included: only flags that both have."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import cached_property
from pathlib import Path

from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.releases import manifests, process
from llmd_runbook.clients.releases.base import OnLine, Release
from llmd_runbook.errors import ToolError

OLDEST = (3, 12)
_OLDEST_THAT_LOOKS_UP = (3, 13)
_IDENTITY = Path(__file__).parent / "identity"
_INSTALL = "install helm 3.12 or newer (https://helm.sh/docs/intro/install/) and put it on PATH"
_READS = ("get", "list", "pull", "template")
_RFC3339 = "2006-01-02T15:04:05Z07:00"  # Go's way of writing a time format


class Helm:
    """The helm binary, bound to one cluster; `before_change` is asked before a command that does not only read."""

    def __init__(
        self,
        kubeconfig: Path | None = None,
        context: str = "",
        *,
        binary: str = "helm",
        timeout_s: float = 600.0,
        before_change: Guard = read_only,
    ) -> None:
        self._binary = binary
        self._before_change = before_change
        self._timeout_s = timeout_s
        self._cluster = [*(["--kubeconfig", str(kubeconfig)] if kubeconfig else [])]
        self._cluster += ["--kube-context", context] if context else []

    @cached_property
    def version(self) -> str:
        """As helm writes it, `v3.18.0`."""
        argv = [self._binary, "version", "--template", "{{.Version}}"]
        return process.run(argv, timeout_s=self._timeout_s, install=_INSTALL).strip()

    def require(self) -> None:
        """Raise ToolError unless helm is there and new enough."""
        require(self.version, OLDEST, "helm", _INSTALL)

    def run(self, *arguments: str, stdin: str = "", on_line: OnLine | None = None) -> str:
        """Run helm against the cluster; its standard output."""
        self.require()
        argv = [self._binary, *arguments, *self._cluster]
        guard = None if arguments[0] in _READS else self._before_change
        return process.run(argv, timeout_s=self._timeout_s, stdin=stdin, on_line=on_line, install=_INSTALL, guard=guard)

    def releases(self, namespace: str) -> list[Release]:
        """Every release in the namespace that is not gone: deployed, failed, pending, uninstalling."""
        # `--all` is missing in helm 4, and without any of these helm 3 shows two states only
        states = ["--deployed", "--failed", "--pending", "--uninstalling"]
        text = self.run("list", *states, "--time-format", _RFC3339, "-o", "json", "--namespace", namespace)
        with process.understood("helm list", text):
            return [
                Release(
                    name=entry["name"],
                    namespace=entry["namespace"],
                    chart=entry["chart"],
                    revision=int(entry["revision"]),
                    status=entry["status"],
                    updated=datetime.fromisoformat(entry["updated"]),
                )
                for entry in json.loads(text)
            ]

    def cluster_uid(self, namespace: str) -> str | None:
        """UID of the namespace kube-system of the cluster that helm itself reaches, whatever its own variables
        (`HELM_KUBEAPISERVER` and others) make of what it was given; None for a helm that cannot tell (3.12).

        helm 4 also looks whether the ConfigMap that is rendered exists, so which its caller must be allowed to.
        """
        if not is_at_least(self.version, _OLDEST_THAT_LOOKS_UP):
            return None
        text = self.run("template", "identity", str(_IDENTITY), "--dry-run=server", "--namespace", namespace)
        with process.understood("helm template", text):
            return str(manifests.parse(text, "helm template identity")[0]["data"]["uid"])

    def plugins(self) -> dict[str, str]:
        """Versions of the installed plug-ins, by name."""
        lines = process.run([self._binary, "plugin", "list"], timeout_s=self._timeout_s, install=_INSTALL)
        rows = [line.split() for line in lines.splitlines()[1:] if line.strip()]
        with process.understood("helm plugin list", lines):
            return {row[0]: row[1] for row in rows}


def require(version: str, oldest: tuple[int, int], tool: str, remedy: str) -> None:
    """Raise ToolError if `version` is below `oldest`; a development build, which has no number, passes."""
    if not is_at_least(version, oldest):
        needed = ".".join(map(str, oldest))
        raise ToolError(f"{tool} {version} is too old: {needed} or newer is needed", remedy=remedy)


def is_at_least(version: str, oldest: tuple[int, int]) -> bool:
    """Whether a version is that one or newer; a development build, which has no number, is.

    >>> is_at_least("v3.9.4", (3, 12)), is_at_least("v4.0.0", (3, 12))
    (False, True)
    """
    found = re.search(r"(\d+)\.(\d+)", version)
    return found is None or (int(found[1]), int(found[2])) >= oldest
