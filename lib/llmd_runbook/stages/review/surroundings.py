"""01: what else is on the cluster that decides whether the swap can work. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from llmd_runbook.analysis.owners import owner
from llmd_runbook.analysis.selector_overlaps import PodTemplate, Selecting, overlaps, own_labels
from llmd_runbook.clients.kubernetes import (
    DEPLOYMENTS,
    GATEWAYS,
    HEALTH_CHECK_POLICIES,
    HTTP_ROUTES,
    INFERENCE_POOLS,
    Object,
)
from llmd_runbook.errors import Forbidden, NotFound
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.load import traffic
from llmd_runbook.stages.review.configuration import Rendered, rendered
from llmd_runbook.verdicts import Check, Table, declare

SELECTORS = declare(
    "patterns.selectors",
    "no Deployment or InferencePool of one pattern selects pods of the other, or of anything else in the namespace",
    "give each pattern labels of its own, or a namespace: the same in `modelArtifacts.labels` of its model servers and "
    "in its pool's `inferencePool.modelServers.matchLabels` (chart inferencepool) or "
    "`router.modelServers.matchLabels` (chart llm-d-router-gateway)",
)
OWNERS = declare(
    "owners.none",
    "no GitOps tool and no controller owns what the run changes: it would undo the change",
    "commit the change where the owner takes it from, or take the object out of its care, and run again",
)
HEALTH_CHECK = declare(
    "healthcheck.policy",
    "behind a Gateway of GKE, Pattern 1's pool has a HealthCheckPolicy, and Pattern 3's release brings its own",
    "set `provider.name: gke` in the values of the InferencePool's release: without the policy the load balancer "
    "asks `/`, and finds no healthy backend",
)

OTHERS = "another workload"


def surroundings(stage: StageRun) -> Shown:
    """Selectors, owners and health checks, as they are and as they would be."""
    profile = stage.profile
    kube, here = site.kubernetes(profile), profile.namespace
    with stage.step("read what is installed, and render what would be") as step:
        wanted = rendered(profile)
        live: dict[str, list[Object]] = {}
        refused: dict[str, str] = {}
        for resource in (DEPLOYMENTS, INFERENCE_POOLS, GATEWAYS, HTTP_ROUTES, HEALTH_CHECK_POLICIES):
            try:
                live[resource.plural] = kube.all(resource, here)
            except NotFound:
                live[resource.plural] = []  # the cluster does not know the kind
            except Forbidden as error:
                refused[resource.plural] = error.in_short
        step.ok(", ".join(f"{len(items)} {plural}" for plural, items in live.items()))
    stage.check(judge_selectors(wanted, live, refused))
    stage.check(judge_owners(wanted, live, refused, profile))
    stage.check(judge_health_check(wanted, live, refused, profile))
    rows: list[list[str | int | float | None]] = [
        [item["kind"], item["metadata"]["name"], owner(item) or "nobody"]
        for plural in (GATEWAYS.plural, HTTP_ROUTES.plural, INFERENCE_POOLS.plural, DEPLOYMENTS.plural)
        for item in live.get(plural, [])
    ]
    return stage.table(Table(title="Who owns what is there", columns=["kind", "name", "owner"], rows=rows))


def judge_selectors(
    wanted: Mapping[str, Rendered], live: Mapping[str, Sequence[Object]], refused: Mapping[str, str]
) -> Check:
    """Both directions, over what the patterns render and what lives in the namespace."""
    kinds = ("Deployment", "InferencePool")
    known = {
        (item["kind"], item["metadata"]["name"]): title
        for title, pattern in wanted.items()
        for item in pattern.manifests
    }
    objects = [(title, item) for title, pattern in wanted.items() for item in pattern.manifests]
    alive = [item for plural in (DEPLOYMENTS.plural, INFERENCE_POOLS.plural) for item in live.get(plural, [])]
    objects += [(known.get((item["kind"], item["metadata"]["name"]), OTHERS), item) for item in alive]
    found = overlaps(
        [Selecting(_named(item), title, item["spec"]["selector"]) for title, item in objects if item["kind"] in kinds],
        [
            PodTemplate(_named(item), title, item["spec"]["template"]["metadata"].get("labels") or {})
            for title, item in objects
            if item["kind"] == "Deployment"
        ],
    )
    unknown = [f"{title}: {item.trouble}" for title, item in wanted.items() if item.trouble]
    unknown += [refused[plural] for plural in (DEPLOYMENTS.plural, INFERENCE_POOLS.plural) if plural in refused]
    labels = [f"{item.pattern.model}: {own_labels(item.pattern.model, _selected_by(item))}" for item in wanted.values()]
    return SELECTORS.judge(
        False if found else None if unknown else True,
        expected="each selector reaches its own pattern's pods only",
        observed="; ".join([*found, *unknown]) or f"no overlap among {len(objects)} objects",
        evidence=found,
        remedy=f"{SELECTORS.remedy}: {'; '.join(labels)}" if found else _ask(unknown),
    )


def judge_owners(
    wanted: Mapping[str, Rendered],
    live: Mapping[str, Sequence[Object]],
    refused: Mapping[str, str],
    profile: Profile,
) -> Check:
    """The HTTPRoute, and what the patterns' releases bring; a Gateway only where a pattern brings it."""
    ours = {(item["kind"], item["metadata"]["name"]) for each in wanted.values() for item in each.manifests}
    ours.add(("HTTPRoute", profile.route.name))
    plurals = (GATEWAYS.plural, HTTP_ROUTES.plural, INFERENCE_POOLS.plural, DEPLOYMENTS.plural)
    here = [item for plural in plurals for item in live.get(plural, [])]
    changed = [item for item in here if (item["kind"], item["metadata"]["name"]) in ours]
    owned = {_named(item): owner(item) for item in changed if owner(item)}
    unknown = [refused[plural] for plural in plurals if plural in refused]
    if f"HTTPRoute {profile.route.name}" in owned:
        patch = yaml.safe_dump(traffic.manifest(profile, profile.pattern3), sort_keys=False)
        to_do = f"{OWNERS.remedy}. What the swap would make of the route:\n{patch}"
    else:
        to_do = OWNERS.remedy
    return OWNERS.judge(
        False if owned else None if unknown else True,
        expected="owned by nobody: " + ", ".join(_named(item) for item in changed),
        observed="; ".join([*(f"{name}: {who}" for name, who in owned.items()), *unknown]) or "owned by nobody",
        remedy=to_do if owned else _ask(unknown),
    )


def judge_health_check(
    wanted: Mapping[str, Rendered],
    live: Mapping[str, Sequence[Object]],
    refused: Mapping[str, str],
    profile: Profile,
) -> Check:
    """Only GKE's Gateways need one; others ask the pods' readiness alone."""
    gateways = {item["metadata"]["name"]: item for item in live.get(GATEWAYS.plural, [])}
    gateway = gateways.get(profile.pattern1.gateway)
    expected = f"HealthCheckPolicies for {profile.pattern1.inference_pool} and {profile.pattern3.inference_pool}"
    unknown = [refused[plural] for plural in (GATEWAYS.plural, HEALTH_CHECK_POLICIES.plural) if plural in refused]
    if gateway is None or unknown:
        said = "; ".join(unknown) or f"no Gateway {profile.pattern1.gateway}: its class is not known"
        return HEALTH_CHECK.judge(None, expected=expected, observed=said, remedy=_ask(unknown))
    kind = gateway["spec"]["gatewayClassName"]
    if not kind.startswith("gke-"):
        return HEALTH_CHECK.judge(True, expected=f"{expected}, behind GKE's Gateways", observed=f"Gateway class {kind}")
    now = _targets(live[HEALTH_CHECK_POLICIES.plural])
    then = _targets(wanted["Pattern 3"].manifests)
    missing = [f"{profile.pattern1.inference_pool} has none"] if profile.pattern1.inference_pool not in now else []
    if wanted["Pattern 3"].trouble:
        missing.append(f"Pattern 3 cannot be rendered: {wanted['Pattern 3'].trouble}")
    elif profile.pattern3.inference_pool not in then:
        missing.append(f"Pattern 3's release renders none for {profile.pattern3.inference_pool}")
    return HEALTH_CHECK.judge(
        not missing,
        expected=expected,
        observed="; ".join(missing) or f"there is one for each, Gateway class {kind}",
        evidence=[f"now: {name}" for name in now] + [f"Pattern 3: {name}" for name in then],
    )


def _selected_by(pattern: Rendered) -> Mapping[str, str]:
    """The labels by which a pattern's InferencePool selects; none where it renders no such pool."""
    named = ("InferencePool", pattern.pattern.inference_pool)
    found = [item for item in pattern.manifests if (item["kind"], item["metadata"]["name"]) == named]
    return found[0]["spec"]["selector"].get("matchLabels") or {} if found else {}


def _targets(items: Sequence[Object]) -> list[str]:
    """The InferencePools that HealthCheckPolicies point at."""
    references = [item["spec"]["targetRef"] for item in items if item["kind"] == "HealthCheckPolicy"]
    return [reference["name"] for reference in references if reference["kind"] == "InferencePool"]


def _named(item: Object) -> str:
    return f"{item['kind']} {item['metadata']['name']}"


def _ask(unknown: Sequence[str]) -> str:
    return "ask for the permission that the reason names (`llmd-runbook roles` prints a role)" if unknown else ""
