"""Parts that the plans share: releases, objects before and after, clients' address and model, prices, durations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmd_runbook.analysis.manifest_diff import diff, name_of, shaped, title
from llmd_runbook.analysis.served_names import served_names
from llmd_runbook.clients.kubernetes import GATEWAYS, NODES, Kubernetes, Object
from llmd_runbook.clients.live import LiveObjects
from llmd_runbook.errors import Forbidden, NotFound, ProfileError
from llmd_runbook.plans import Change, Duration, Price
from llmd_runbook.profile import Profile
from llmd_runbook.run import StageRun
from llmd_runbook.stages import site
from llmd_runbook.stages.planning.facts import Rendered
from llmd_runbook.topology import NODE_POOL_LABEL, endpoint

NOT_PREVIEWED = [
    "What admission webhooks and defaults add to the objects, and what hooks of the charts do.",
    "Values of Secrets: they are neither shown nor part of the hash.",
    "Images are named by tag: which bytes a tag stands for is settled when a node pulls it.",
]


@dataclass(frozen=True)
class Looked:
    """A pattern's releases as they are now.

    Attributes:
        status: of each release that is there, as helm has it, by name.
        differing: releases that an installation would install or upgrade.
        pods: of the model servers.
        gpus: that those pods ask for.
    """

    rendered: Rendered
    status: Mapping[str, str]
    differing: list[str]
    pods: int
    gpus: int


def look(kube: Kubernetes, profile: Profile, found: Rendered, *, comes: bool) -> Looked:
    """Ask helm and the cluster what of a pattern is there; one that `comes` is compared with what is rendered."""
    status = {item.name: item.status for item in found.driver.installed(profile.namespace) if item.name in found.names}
    pods = site.server_pods(kube, profile.namespace, found.servers)
    return Looked(found, status, found.driver.differing() if comes else [], len(pods), sum(pod.gpus for pod in pods))


def release_changes(seen: Looked, *, keep: bool, replicas: int) -> list[Change]:
    """A pattern's releases and pods: installed with `replicas`; with none, its releases stay (`keep`) or go."""
    changes = []
    for name in seen.rendered.names:
        status = seen.status.get(name, "absent")
        now = "installed" if status == "deployed" else status
        if replicas:
            now = "installed, with other content" if now == "installed" and name in seen.differing else now
            changes.append(Change(f"release {name}", now, "installed"))
        else:
            changes.append(Change(f"release {name}", now, now if keep else "absent"))
    return [*changes, Change(f"pods serving {seen.rendered.pattern.model}", str(seen.pods), str(replicas))]


def gpu_change(seen: Sequence[Looked], replicas: int) -> Change:
    """GPUs that the model servers of these patterns ask for: one a replica."""
    return Change("GPUs of the model servers", str(sum(item.gpus for item in seen)), str(replicas))


@dataclass(frozen=True)
class Compared:
    """Rendered manifests against the live objects.

    Attributes:
        diffs: what the installation changes.
        drifted: what differs though helm sees nothing to change: somebody changed it behind helm's back.
        unread: objects that may not be read, with the server's reason.
    """

    diffs: list[str]
    drifted: list[str]
    unread: list[str]

    @property
    def warnings(self) -> list[str]:
        """What to say of objects that somebody changed behind helm's back."""
        said = "Changed behind helm's back, and left so (a Deployment's replicas excepted)"
        return [f"{said}: {title(text)}" for text in self.drifted]


def compare(kube: Kubernetes, profile: Profile, seen: Looked) -> Compared:
    """Compare what would be installed with what is there, of which only what the manifests speak of counts."""
    live, found, unread = LiveObjects(kube, profile.namespace), [], []
    for item in seen.rendered.manifests:
        name = name_of(item, profile.namespace)
        try:
            there = live.find(item)
        except Forbidden as error:
            unread.append(f"{name}, which may not be read: {error.reason}")
            continue
        if text := diff(name, shaped(there, item) if there else None, item):
            found.append(text)
    return Compared(found, [], unread) if seen.differing else Compared([], found, unread)


def removed_diffs(profile: Profile, seen: Looked) -> list[str]:
    """What goes with a pattern's releases, as helm has stored it."""
    stored = [item for name in seen.rendered.names if name in seen.status for item in seen.rendered.driver.stored(name)]
    return [diff(name_of(item, profile.namespace), item, None) for item in stored]


def object_diff(profile: Profile, before: Object | None, after: Object) -> list[str]:
    """One object that is applied as it stands."""
    text = diff(name_of(after, profile.namespace), shaped(before, after) if before else None, after)
    return [text] if text else []


def address(kube: Kubernetes, profile: Profile, gateway: str) -> str:
    """Where clients reach a Gateway, in words."""
    try:
        return f"{endpoint(kube, profile, gateway).url} (Gateway {gateway})"
    except NotFound:
        return f"Gateway {gateway}, whose address is known once it has one"


def fate(old: str, new: str, manifests: Sequence[Object]) -> str:
    """What clients that ask for the old model name get from the new servers."""
    if old in served_names(manifests):
        return f"Clients that ask for {old} are answered by {new}: its servers give that name as an alias."
    return f"Clients that ask for {old} are refused with 404 from then on; tell them to ask for {new}."


def prices(
    kube: Kubernetes,
    profile: Profile,
    *,
    nodes_now: int,
    nodes_then: int,
    gateways_more: int = 0,
    spot_then: int | None = None,
) -> list[Price]:
    """Everything that is paid for by the hour at the profile's prices; spot nodes stay as many where nothing is said.

    Raises:
        ProfileError: there is a spot pool, and no price of its nodes.
    """
    each = profile.prices
    pools = [item["metadata"].get("labels", {}).get(NODE_POOL_LABEL) for item in kube.all(NODES)]
    others = sum(pool not in (profile.pool.name, profile.pool.of_pattern3) for pool in pools)
    balancers = sum(bool(item.get("status", {}).get("addresses")) for item in kube.all(GATEWAYS))
    return [
        Price("GPU nodes", nodes_now, nodes_then, each.gpu_node_usd_per_hour),
        *_spot(profile, pools.count(profile.pool.spot), spot_then),
        Price("other nodes", others, others, each.cpu_node_usd_per_hour),
        Price(
            "Gateways with an address (load balancers)",
            balancers,
            max(0, balancers + gateways_more),
            each.load_balancer_usd_per_hour,
        ),
        Price("control plane", 1, 1, each.control_plane_usd_per_hour),
    ]


def spot_price(profile: Profile) -> float:
    """What a node of the spot pool costs (USD/h).

    Raises:
        ProfileError: the prices do not say.
    """
    price = profile.prices.gpu_node_spot_usd_per_hour
    if price is None:
        raise ProfileError(
            "the profile has a spot pool, and its prices say nothing of spot nodes; nothing was changed",
            where=f"{profile.path}: prices",
            remedy="name a price file whose assemblies have gpu_node_spot, as parameters/prices/us-central1.yaml has",
        )
    return price


def _spot(profile: Profile, now: int, then: int | None) -> list[Price]:
    if not profile.pool.spot:
        return []
    return [Price("GPU nodes, spot", now, now if then is None else then, spot_price(profile))]


def as_of(profile: Profile) -> str:
    """When the prices were right, and who says so."""
    return f"as of {profile.prices.as_of}: {profile.prices.source}"


def durations(stage: StageRun, parts: Sequence[tuple[str, float, str]]) -> list[Duration]:
    """Steps with their deadline (s) and its key in the profile, and what this run measured under the same name."""
    measured = stage.measured_s()
    return [Duration(step, at_most_s, source, measured.get(step)) for step, at_most_s, source in parts]
