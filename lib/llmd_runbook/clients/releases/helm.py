"""Releases by helm, 3.12 or newer: an ordered list of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.releases import charts, manifests, pending, process
from llmd_runbook.clients.releases.base import OnLine, Outcome, Release
from llmd_runbook.clients.releases.binary import Helm
from llmd_runbook.clients.releases.manifests import Manifest
from llmd_runbook.errors import UsageError


@dataclass(frozen=True)
class ReleaseSpec:
    """A release as it should be.

    Args:
        name: release name.
        chart: folder, `oci://` reference or `repository/chart`.
        version: chart version; empty for a folder.
        values: values files, later ones win.
        overrides: values over all files; they go through standard input, never onto the command line.
    """

    name: str
    chart: str
    version: str = ""
    values: tuple[Path, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)


class HelmDriver:
    """An ordered list of releases, each installed by one `helm upgrade --install`.

    Whether a release differs is decided by what helm has stored, its manifest and its values. What somebody
    changed in the cluster behind helm's back (`kubectl scale`) is not seen; change `overrides` instead.
    """

    def __init__(
        self,
        releases: Sequence[ReleaseSpec],
        namespace: str,
        *,
        kubeconfig: Path | None = None,
        context: str = "",
        timeout_s: float = 600.0,
        binary: str = "helm",
        before_change: Guard = read_only,
    ) -> None:
        self.releases = tuple(releases)
        self.namespace = namespace
        self._helm = Helm(kubeconfig, context, binary=binary, timeout_s=timeout_s, before_change=before_change)

    def names(self) -> list[str]:
        """Names of the driver's releases, in order of installation."""
        return [spec.name for spec in self.releases]

    def installed(self, namespace: str) -> list[Release]:
        """Every release in the namespace."""
        return self._helm.releases(namespace)

    def render(self, releases: Sequence[str] = ()) -> list[Manifest]:
        """Manifests of the named releases, or of all; secrets only as keys."""
        chosen = chosen_names(releases, self.names())
        return [
            manifests.without_secrets(manifest)
            for spec in self.releases
            if spec.name in chosen
            for manifest in self._template(spec)
        ]

    def apply(self, on_line: OnLine) -> list[Outcome]:
        """Install or upgrade, in order, what differs from what is installed; what was left half done, too."""
        installed, recovered = pending.recover(self._helm, self.namespace, self.names(), on_line)
        present = {release.name: release for release in installed}
        with pending.accounted(self, self.namespace, installed):
            outcomes = [self._apply(spec, present.get(spec.name), on_line) for spec in self.releases]
        return [Outcome(item.release, "changed") if item.release in recovered else item for item in outcomes]

    def settle(self, releases: Sequence[str], on_line: OnLine) -> None:
        """Record as deployed those of the named releases that a command left failed or half done."""
        pending.settle(self._helm, self.namespace, releases, on_line)

    def destroy(self, on_line: OnLine) -> list[Outcome]:
        """Uninstall in reverse order; what is not installed is skipped, what was left half done goes as well."""
        installed, recovered = pending.recover(self._helm, self.namespace, self.names(), on_line)
        present = {release.name for release in installed}
        outcomes = []
        with pending.accounted(self, self.namespace, installed):
            for spec in reversed(self.releases):
                if spec.name in present:
                    self._helm.run("uninstall", spec.name, "--namespace", self.namespace, on_line=on_line)
                outcomes.append(Outcome(spec.name, "changed" if spec.name in present.union(recovered) else "skipped"))
        return outcomes

    def charts(self) -> dict[str, str]:
        """Digest of each release's chart."""
        return {spec.name: charts.digest(self._helm, spec.chart, spec.version) for spec in self.releases}

    def stored(self, release: str) -> list[Manifest]:
        """Manifests of an installed release as helm has stored them; secrets only as keys."""
        return [manifests.without_secrets(item) for item in self._stored(release)]

    def differing(self) -> list[str]:
        """Names of the releases that `apply` would install or upgrade now."""
        deployed = {item.name for item in self.installed(self.namespace) if item.status == "deployed"}
        return [spec.name for spec in self.releases if spec.name not in deployed or not self._is_current(spec)]

    def versions(self) -> dict[str, str]:
        """The version of helm."""
        return {"helm": self._helm.version}

    def _apply(self, spec: ReleaseSpec, current: Release | None, on_line: OnLine) -> Outcome:
        if current and current.status == "deployed" and self._is_current(spec):
            on_line(f"{spec.name}: as wanted, revision {current.revision}")
            return Outcome(spec.name, "ok")
        arguments, stdin = self._source(spec)
        self._helm.run("upgrade", "--install", *arguments, stdin=stdin, on_line=on_line)
        return Outcome(spec.name, "changed")

    def _is_current(self, spec: ReleaseSpec) -> bool:
        where = [spec.name, "--namespace", self.namespace]
        text = self._helm.run("get", "values", *where, "-o", "json")
        with process.understood("helm get values"):
            stored = json.loads(text) or {}
        if stored != _values(spec):
            return False
        return manifests.same(self._stored(spec.name), self._template(spec, "--is-upgrade", "--no-hooks"))

    def _stored(self, release: str) -> list[Manifest]:
        text = self._helm.run("get", "manifest", release, "--namespace", self.namespace)
        return manifests.parse(text, f"helm get manifest {release}")

    def _template(self, spec: ReleaseSpec, *flags: str) -> list[Manifest]:
        arguments, stdin = self._source(spec)
        return manifests.parse(
            self._helm.run("template", *arguments, *flags, stdin=stdin), f"helm template {spec.name}"
        )

    def _source(self, spec: ReleaseSpec) -> tuple[list[str], str]:
        """Arguments that name release, chart and values, and what goes to standard input."""
        arguments = [spec.name, spec.chart, "--namespace", self.namespace]
        arguments += ["--version", spec.version] if spec.version else []
        for file in spec.values:
            arguments += ["--values", str(file)]
        if not spec.overrides:
            return arguments, ""
        return [*arguments, "--values", "-"], json.dumps(dict(spec.overrides))


def chosen_names(wanted: Sequence[str], known: Sequence[str]) -> set[str]:
    """The wanted names, or all known ones where none is given.

    Raises:
        UsageError: a wanted name is not known.
    """
    if unknown := sorted(set(wanted) - set(known)):
        raise UsageError(f"no release {', '.join(unknown)} here", remedy=f"choose among {', '.join(known) or 'none'}")
    return set(wanted or known)


def _values(spec: ReleaseSpec) -> dict[str, Any]:
    """The values that helm stores with the release: its files merged in order, then the overrides."""
    merged: dict[str, Any] = {}
    for file in spec.values:
        merged = _merge(merged, yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return _merge(merged, dict(spec.overrides))


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below` as helm does it: mappings key by key, everything else as a whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged
