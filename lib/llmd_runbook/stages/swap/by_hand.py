"""Where a swap stands, in words, and the commands that bring Pattern 1 back without this program."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from llmd_runbook.clients.kubernetes import HTTP_ROUTES, Kubernetes
from llmd_runbook.errors import RunbookError
from llmd_runbook.profile import HelmReleases, Pattern, Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.swap import steps
from llmd_runbook.topology import route_view


def state(stage: StageRun, kube: Kubernetes) -> str:
    """Releases, pods and routes as they are now; what cannot be read is said."""
    profile = stage.profile
    found = [_pattern(stage, kube, pattern) for pattern in (profile.pattern1, profile.pattern3)]
    try:
        route = route_view(kube, profile.namespace, profile.route.name)
        found.append(f"HTTPRoute {profile.route.name} {route}" if route else f"no HTTPRoute {profile.route.name}")
        own = traffic.own_name(profile, profile.pattern3)
        if kube.find(HTTP_ROUTES, own, profile.namespace):
            found.append(f"HTTPRoute {own} is there too")
    except RunbookError as error:
        found.append(f"the routes cannot be read ({error.what})")
    return "; ".join(found)


def commands(profile: Profile, context: str) -> list[str]:
    """What brings Pattern 1 back from whatever state: each may be run again, in this order.

    The route first, which ends the outage where Pattern 1 still runs; then Pattern 3, whose GPUs Pattern 1 may need.
    """
    kubectl = ["kubectl", *_kubeconfig(profile), *_context(profile, "--context", context)]
    kubectl += ["--namespace", profile.namespace]
    route = json.dumps(traffic.manifest(profile, profile.pattern1))
    own = traffic.own_name(profile, profile.pattern3)
    moved = shlex.join([*kubectl, "apply", "--server-side", "--force-conflicts", "--field-manager=llmd-runbook"])
    return [
        *_credentials(profile),
        f"echo {shlex.quote(route)} | {moved} -f -",
        shlex.join([*kubectl, "delete", "httproute", own, "--ignore-not-found"]),
        *_removal(profile, profile.pattern3, context),
        *_installation(profile, profile.pattern1, context),
    ]


def _pattern(stage: StageRun, kube: Kubernetes, pattern: Pattern) -> str:
    try:
        driver = site.driver(stage.profile, pattern)
        present = {item.name: item.status for item in driver.installed(stage.profile.namespace)}
        releases = ", ".join(f"{name} {present.get(name, 'absent')}" for name in driver.names())
        pods = steps.pods_of(stage, kube, pattern)
        ready = sum(pod.ready and not pod.terminating for pod in pods)
        return f"{pattern.model}: releases {releases}; {ready} of {len(pods)} pods Ready, {pattern.replicas} wanted"
    except RunbookError as error:
        return f"{pattern.model} cannot be read ({error.what})"


def _kubeconfig(profile: Profile) -> list[str]:
    named = profile.cluster.kubeconfig
    return ["--kubeconfig", str(Path(named).expanduser())] if named else []  # a quoted ~ stays one


def _context(profile: Profile, flag: str, context: str) -> list[str]:
    """Nothing in a pod: there the tools find its service account by themselves."""
    return [] if profile.cluster.access == "in_cluster" else [flag, context]


def _credentials(profile: Profile) -> list[str]:
    """What makes the context that the other commands name, where this program made one of its own."""
    pool, cluster = profile.pool, profile.cluster
    if cluster.access != "gke":
        return []
    words = ["gcloud", "container", "clusters", "get-credentials", pool.cluster]
    words += ["--location", pool.location, "--project", pool.project]
    kind = {"public": [], "private": ["--internal-ip"], "dns": ["--dns-endpoint"]}[cluster.endpoint]
    proxy = ["kubectl", "config", "set-cluster", f"gke_{pool.project}_{pool.location}_{pool.cluster}"]
    behind = [shlex.join([*proxy, "--proxy-url", cluster.proxy])] if cluster.proxy else []
    return [shlex.join([*words, *kind]), *behind]


def _removal(profile: Profile, pattern: Pattern, context: str) -> list[str]:
    releases = pattern.releases
    if not isinstance(releases, HelmReleases):
        return [_helmfile(profile, pattern, context, "destroy")]
    names = [item.name for item in reversed(releases.releases)]
    where = ["--namespace", profile.namespace, *_kubeconfig(profile), *_context(profile, "--kube-context", context)]
    return [shlex.join(["helm", "uninstall", *names, "--ignore-not-found", "--wait", *where])]


def _installation(profile: Profile, pattern: Pattern, context: str) -> list[str]:
    releases = pattern.releases
    if not isinstance(releases, HelmReleases):
        return [_helmfile(profile, pattern, context, "sync")]
    where = ["--namespace", profile.namespace, *_kubeconfig(profile), *_context(profile, "--kube-context", context)]
    found = []
    for item in releases.releases:
        chart = item.chart if "://" in item.chart else str(profile.resolve(item.chart))
        words = [
            "helm",
            "upgrade",
            "--install",
            item.name,
            chart,
            *(["--version", item.version] if item.version else []),
        ]
        for value in item.values:
            words += ["--values", str(profile.resolve(value))]
        found.append(shlex.join([*words, "--wait", *where]))
    return found


def _helmfile(profile: Profile, pattern: Pattern, context: str, verb: str) -> str:
    releases = pattern.releases
    assert not isinstance(releases, HelmReleases)
    variables = [f"RELEASE_NAME_POSTFIX={releases.postfix}"]
    variables += [f"KUBECONFIG={file}" for file in _kubeconfig(profile)[1:]]
    words = ["helmfile", "-f", str(profile.resolve(releases.file)), "-e", releases.environment]
    words += ["-n", profile.namespace, *_context(profile, "--kube-context", context)]
    return shlex.join([*variables, *words, verb])
