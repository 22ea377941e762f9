"""Releases by helmfile 1.1 or newer: the guide's layout, one stack a `RELEASE_NAME_POSTFIX`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llmd_runbook.clients.access import Access
from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.releases import charts, manifests, pending, process
from llmd_runbook.clients.releases.base import OnLine, Outcome, Release
from llmd_runbook.clients.releases.binary import Helm, require
from llmd_runbook.clients.releases.helm import chosen_names
from llmd_runbook.clients.releases.manifests import Manifest
from llmd_runbook.errors import ToolError
from llmd_runbook.profile import HelmfileReleases, Profile

OLDEST = (1, 1)
_READS = {"build", "repos", "list", "template"}
_FLAGS_OF_HELM = ("args", "diffArgs", "syncArgs", "templateArgs")
"""Of `helmDefaults`: they stand behind helmfile's own flags, and helm obeys the last of two."""
TO_STAY = "take these out of the helmfile: kubeconfig and context are handed to helmfile as the profile says"
_INSTALL = "install helmfile 1.1 or newer (https://helmfile.readthedocs.io/) and put it on PATH"


class HelmfileDriver:
    """The releases that one helmfile renders for one environment and postfix.

    What is installed is asked of helm, for helmfile knows only what should be.
    """

    def __init__(
        self,
        file: Path,
        environment: str,
        postfix: str,
        namespace: str,
        *,
        kubeconfig: Path | None = None,
        context: str = "",
        timeout_s: float = 900.0,
        binary: str = "helmfile",
        helm: str = "helm",
        before_change: Guard = read_only,
    ) -> None:
        self._before_change = before_change
        self.namespace = namespace
        self._file, self._environment, self._postfix = file, environment, postfix
        self._binary = binary
        self._timeout_s = timeout_s
        self._context = context
        self._global = [
            "-f",
            str(file),
            "-e",
            environment,
            "-n",
            namespace,
            "--no-color",
            "--helm-binary",
            helm,
        ]
        self._global += ["--kube-context", context] if context else []
        # else it asks GitHub for a newer helmfile, and `version` fails where GitHub cannot be reached
        self._env = {"RELEASE_NAME_POSTFIX": postfix, "HELMFILE_UPGRADE_NOTICE_DISABLED": "1"}
        if kubeconfig:
            self._env["KUBECONFIG"] = str(kubeconfig)  # helmfile's own flag for it is newer than 1.1
        self._helm = Helm(kubeconfig, context, binary=helm, timeout_s=timeout_s, before_change=before_change)

    def names(self) -> list[str]:
        """Names of the releases in alphabetical order, as helmfile lists them; it installs by their `needs`.

        Raises:
            ToolError: also when there is none.
        """
        return [entry["name"] for entry in self._listed()]

    def _listed(self) -> list[dict[str, Any]]:
        text = self._run("list", "--output", "json")
        with process.understood("helmfile list", text):
            found = [entry for entry in json.loads(text) or [] if entry["enabled"] and entry["installed"]]
        if not found:
            raise ToolError(
                f"the helmfile has no release for environment {self._environment} and postfix {self._postfix}",
                where=str(self._file),
                remedy="correct `environment` and `postfix` in the profile, or the helmfile's own conditions",
            )
        return found

    def elsewhere(self) -> list[str]:
        """What in the helmfile, or in one that it includes, has helm reach another cluster than this driver's.

        `kubeContext` does not, for `--kube-context` goes before it; flags of helm's in `helmDefaults` do.
        """
        text = self._run("build")
        with process.understood("helmfile build"):
            states = [state for state in yaml.safe_load_all(text) if state]
            flags = [
                f"helmDefaults.{key} has {word.partition('=')[0]}"
                for state in states
                for key in _FLAGS_OF_HELM
                for word in (state.get("helmDefaults") or {}).get(key) or []
                if word.startswith("--kube")
            ]
            releases = [release for state in states for release in state.get("releases") or []]
            contexts = [(release["name"], release.get("kubeContext", "")) for release in releases]
            if not contexts:
                raise ValueError("no release")
        return [*flags, *(f"release {name} has the context {at}" for name, at in contexts if at != self._context)]

    def installed(self, namespace: str) -> list[Release]:
        """Every release in the namespace."""
        return self._helm.releases(namespace)

    def render(self, releases: Sequence[str] = ()) -> list[Manifest]:
        """Manifests of the named releases, or of all; secrets only as keys."""
        names = sorted(chosen_names(releases, self.names())) if releases else []
        text = self._run(*_selectors(names), "template")
        return [manifests.without_secrets(found) for found in manifests.parse(text, "helmfile template")]

    def apply(self, on_line: OnLine) -> list[Outcome]:
        """Install or upgrade what differs: helm-diff finds it, or where there is no helm-diff, what helm has stored."""
        names = self.names()
        installed, recovered = pending.recover(self._helm, self.namespace, names, on_line)
        before = {name: revision for name, revision in _revisions(installed).items() if name not in recovered}
        with pending.accounted(self, self.namespace, installed):
            if "diff" in self._helm.plugins():
                self._run("apply", "--suppress-secrets", on_line=on_line)
            elif wanted := [name for name in names if self._differs(name, installed)]:
                self.render(wanted)  # helm-diff does: a chart that cannot be rendered is found before anything is done
                self._run(*_selectors(wanted), "sync", on_line=on_line)
        after = _revisions(self.installed(self.namespace))
        return [Outcome(name, "ok" if before.get(name) == after.get(name) else "changed") for name in names]

    def settle(self, releases: Sequence[str], on_line: OnLine) -> None:
        """Record as deployed those of the named releases that a command left failed or half done."""
        pending.settle(self._helm, self.namespace, releases, on_line)

    def destroy(self, on_line: OnLine) -> list[Outcome]:
        """Uninstall; where none of the releases is installed, helmfile is not run."""
        names = self.names()
        installed, recovered = pending.recover(self._helm, self.namespace, names, on_line)
        present = _revisions(installed).keys() & set(names)
        if present:
            with pending.accounted(self, self.namespace, installed):
                self._run("destroy", on_line=on_line)
        return [Outcome(name, "changed" if name in present.union(recovered) else "skipped") for name in names]

    def charts(self) -> dict[str, str]:
        """Digest of each release's chart; a folder is relative to the helmfile."""
        self._run("repos")  # makes the helmfile's chart repositories known to helm
        return {entry["name"]: self._chart(entry["chart"], entry["version"]) for entry in self._listed()}

    def stored(self, release: str) -> list[Manifest]:
        """Manifests of an installed release as helm has stored them; secrets only as keys."""
        return [manifests.without_secrets(item) for item in self._stored(release)]

    def differing(self) -> list[str]:
        """Names of the releases that are not deployed as rendered; helm-diff is not asked."""
        installed = self.installed(self.namespace)
        return [name for name in self.names() if self._differs(name, installed)]

    def versions(self) -> dict[str, str]:
        """Versions of helmfile, helm and, where it is installed, helm-diff."""
        found = {"helmfile": self.version, "helm": self._helm.version}
        plugins = self._helm.plugins()
        return {**found, "helm-diff": plugins["diff"]} if "diff" in plugins else found

    @cached_property
    def version(self) -> str:
        """As helmfile writes it, `1.1.0`."""
        argv = [self._binary, "version", "-o", "short"]
        return process.run(argv, timeout_s=self._timeout_s, env=self._env, install=_INSTALL).strip()

    def _differs(self, name: str, installed: Sequence[Release]) -> bool:
        """Whether the release is not deployed, or not with the manifests that the helmfile renders."""
        if not any(release.name == name and release.status == "deployed" for release in installed):
            return True
        wanted = self._run(*_selectors([name]), "template", "--no-hooks")
        return not manifests.same(self._stored(name), manifests.parse(wanted, "helmfile template"))

    def _stored(self, release: str) -> list[Manifest]:
        text = self._helm.run("get", "manifest", release, "--namespace", self.namespace)
        return manifests.parse(text, f"helm get manifest {release}")

    def _chart(self, chart: str, version: str) -> str:
        folder = self._file.parent / chart
        return charts.digest(self._helm, str(folder) if "://" not in chart and folder.is_dir() else chart, version)

    def _run(self, *arguments: str, on_line: OnLine | None = None) -> str:
        require(self.version, OLDEST, "helmfile", _INSTALL)
        self._helm.require()
        changes = not _READS & set(arguments)
        if changes and (found := self.elsewhere()):
            raise ToolError(
                "the helmfile means another cluster than the profile, and was not run",
                where=str(self._file),
                reason="; ".join(found),
                remedy=TO_STAY,
            )
        return process.run(
            [self._binary, *self._global, *arguments],
            timeout_s=self._timeout_s,
            env=self._env,
            on_line=on_line,
            install=_INSTALL,
            guard=self._before_change if changes else None,
        )


def of(
    profile: Profile, releases: HelmfileReleases, reached: Access, before_change: Guard = read_only
) -> HelmfileDriver:
    """The driver for the helmfile that a profile names for one of its patterns, on the cluster reached so."""
    return HelmfileDriver(
        profile.resolve(releases.file),
        releases.environment,
        releases.postfix,
        profile.namespace,
        kubeconfig=Path(reached.kubeconfig).expanduser() if reached.kubeconfig else None,
        context=reached.context,
        before_change=before_change,
    )


def _selectors(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--selector", f"name={name}")]


def _revisions(releases: Sequence[Release]) -> dict[str, int]:
    return {release.name: release.revision for release in releases}
