"""01: whether Compute Engine's quota, and what is reserved, gives the machines to come. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llmd_runbook.clients.compute import Compute, Quota, Reservation
from llmd_runbook.clients.gke import PoolState
from llmd_runbook.errors import ClusterError
from llmd_runbook.profile import Pool
from llmd_runbook.run import StageRun
from llmd_runbook.verdicts import Check, declare

QUOTA = declare(
    "pool.quota",
    "Compute Engine's quotas leave room for the GPUs and CPUs of the nodes to come, or reservations hold them; whether "
    "the zone has such machines in stock shows only when they are asked for",
    "ask for a higher quota of the metric that is short, in that region: https://console.cloud.google.com/iam-admin/quotas",
)

_UNSAID = (
    "what was not read is not proved: give the caller roles/compute.viewer where it was refused, else look at it among "
    "the region's quotas in the console"
)
_ALL_REGIONS = "GPUS_ALL_REGIONS"
_SHARED_CPUS = ("n1", "e2", "f1", "g1", "custom")
"""Machine families that count in the quota CPUS; every later one has a metric of its own (allocation quotas)."""


@dataclass(frozen=True)
class Machines:
    """Nodes that a pool is to get, as quotas count them.

    Attributes:
        gpus_each: GPUs of a node.
        guest_cpus: CPUs of a node as Compute Engine says them, where they were asked for and said.
        unread: why they were not said.
    """

    machine_type: str
    accelerator: str
    gpus_each: int
    zones: tuple[str, ...]
    provisioning: str
    affinity: str = ""
    guest_cpus: int | None = None
    unread: str = "not asked for"

    @property
    def region(self) -> str:
        """The region of its zones."""
        return self.zones[0].rsplit("-", 1)[0]

    def needs(self, nodes: int) -> dict[str, float]:
        """What that many nodes take of each quota; of spot nodes the GPUs alone, for their CPUs may count in two."""
        model = self.accelerator.removeprefix("nvidia-").removeprefix("tesla-").replace("-", "_").upper()
        gpus = float(nodes * self.gpus_each)
        found = {f"{'PREEMPTIBLE_' if self.spot else ''}NVIDIA_{model}_GPUS": gpus, _ALL_REGIONS: gpus}
        family = self.machine_type.partition("-")[0]
        if self.cpus_each and not self.spot:
            found["CPUS" if family in _SHARED_CPUS else f"{family.upper()}_CPUS"] = float(nodes * self.cpus_each)
        return found

    @property
    def spot(self) -> bool:
        """Whether they may be taken back, which has quotas of its own."""
        return self.provisioning in ("spot", "preemptible")

    @property
    def cpus_each(self) -> int | None:
        """CPUs of a machine: what its type's name says (`n1-standard-4`, `n2-custom-8-32768`), else `guest_cpus`."""
        parts = self.machine_type.split("-")
        said = parts[parts.index("custom") + 1] if "custom" in parts[:-1] else parts[-1]
        return int(said) if said.isdigit() else self.guest_cpus


def machines(state: PoolState, *, spot: bool = False) -> Machines:
    """Those of the pool, or of the spot pool that is to be created like it."""
    return Machines(
        machine_type=state.machine_type,
        accelerator=state.accelerator_type or "",
        gpus_each=state.accelerator_count,
        zones=state.locations,
        provisioning="spot" if spot else state.provisioning,
        affinity="NO_RESERVATION" if spot else state.reservation,
    )


def check(stage: StageRun, pool: Pool, state: PoolState | None, *, live: int, wanted: int, spot: int) -> None:
    """Judge it for `wanted` nodes of the pool, `live` of which are there, and for `spot` nodes of a spot pool."""
    if state is None or not state.locations:
        stage.check(unread("the pool could not be read", wanted - live + spot))
        return
    asked = [(machines(state), max(0, wanted - live))]
    asked += [(machines(state, spot=True), spot)] if spot else []
    region = asked[0][0].region
    with stage.step("read quotas and reservations") as step:
        try:
            with Compute(pool.project) as compute:
                quotas = compute.quotas(region)
                held = [item for zone in state.locations for item in compute.reservations(zone)]
                asked = [(with_cpus(compute, kind) if count else kind, count) for kind, count in asked]
        except ClusterError as error:
            step.ok(f"not read: {error.what}")
            stage.check(unread(error.in_short, sum(count for _, count in asked)))
            return
        step.ok(f"{len(quotas)} quotas of {region}, {len(held)} reservations")
    stage.check(judge(asked, quotas, held))


def with_cpus(compute: Compute, kind: Machines) -> Machines:
    """With the CPUs that Compute Engine says, where a quota counts them and the type's name does not say them."""
    if kind.spot or kind.cpus_each is not None:
        return kind
    try:
        return replace(kind, guest_cpus=compute.guest_cpus(kind.zones[0], kind.machine_type))
    except ClusterError as error:
        return replace(kind, unread=error.in_short)


def unread(why: str, to_come: int) -> Check:
    """Without the quotas nothing is proved."""
    return QUOTA.judge(
        None,
        expected=f"quotas of Compute Engine that leave room for the {max(0, to_come)} nodes to come",
        observed=f"quota not read: {why}",
        remedy="give the caller roles/compute.viewer in the project, or look yourself: "
        "`gcloud compute regions describe REGION`, `gcloud compute reservations list`",
    )


def judge(
    asked: Sequence[tuple[Machines, int]], quotas: Mapping[str, Quota], reservations: Sequence[Reservation]
) -> Check:
    """For each kind of machines so many nodes to come; those that a reservation holds take nothing more of a quota.

    A machine that runs from a reservation was counted in the quota when it was reserved
    (https://cloud.google.com/compute/docs/instances/reservations-overview).
    """
    needed: dict[str, float] = {}
    evidence: list[str] = []
    told: list[str] = []
    untold: list[str] = []
    for kind, count in asked:
        usable = [item for item in reservations if _takes_from(kind, item)]
        held = min(count, sum(item.free for item in usable))
        evidence += [f"reservation {item.name}: {item.free} machines free" for item in usable]
        told += [f"{kind.machine_type}: {kind.guest_cpus} CPUs"] if kind.guest_cpus else []
        if count > held and kind.cpus_each is None and not kind.spot:
            untold.append(f"CPUs of {kind.machine_type}: {kind.unread}")
        for metric, amount in kind.needs(count - held).items():
            needed[metric] = needed.get(metric, 0) + amount
    short = [name for name, amount in needed.items() if name in quotas and amount > max(0, quotas[name].left)]
    unsaid = [f"{name} is not said" for name in needed if name not in quotas] + untold
    to_come = sum(count for _, count in asked)
    lines = {name: _line(name, amount, quotas.get(name)) for name, amount in needed.items()}
    if short:
        observed = "short: " + "; ".join(lines[name] for name in short)
    else:
        observed = "quota not read: " + "; ".join(unsaid) if unsaid else "; ".join(lines.values())
    return QUOTA.judge(
        False if short else None if unsaid else True,
        expected=f"room for the {to_come} nodes to come in " + ", ".join(needed),
        observed=observed,
        evidence=[*lines.values(), *told, *(evidence or ["no reservation of such machines"])],
        remedy="" if short else _UNSAID,
    )


def _takes_from(kind: Machines, item: Reservation) -> bool:
    """Whether the pool's nodes would be made from a reservation, by its affinity; where GKE says none, they are not
    counted on.
    """
    if item.machine_type != kind.machine_type or kind.accelerator not in item.accelerators:
        return False
    named = item.name in kind.affinity.split(", ")
    return named or (kind.affinity == "ANY_RESERVATION" and not item.by_name)


def _line(metric: str, amount: float, quota: Quota | None) -> str:
    if quota is None:
        return f"{metric} is not said"
    return f"{metric}: {amount:g} to come, {quota.usage:g} of {quota.limit:g} in use"
