"""The matrix: which fault during which step, in an order in which each is met.

An attempt that does not finish is followed by the next one with the next fault, in the same run. What rolls back begins
from the start again; after a conflict the next attempt goes on where it was, so that later steps come later.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from llmd_sandbox.faults.declared import Fault, Kind
from tests.drills import breaking
from tests.drills.faults import Drill, api
from tests.drills.ground import PATTERN1, PATTERN3, RECREATE, SURGE

_BOUNDS, SIZE = r"/clusters/llm-d-cluster\?", ":setSize"
ROUTE, _OWN = "/httproutes/llm-d-route(\\?|$)", "/httproutes/llm-d-route-to-"
_MOVED = rf"(PATCH|PUT|POST) .*{ROUTE}"
_LOCKED = r"(POST|PUT|PATCH) .*/leases"
_HANDS = "/deployments/ms-pattern"


@dataclass(frozen=True)
class Group:
    """Cycles of 02, 03 and 07 by one strategy, until all drills of 03 and 07 have been."""

    strategy: str
    swap: list[Drill] = field(default_factory=list)
    cleanup: list[Drill] = field(default_factory=list)


def _throttled(step: str, *paths: str) -> Drill:
    return Drill("API 429", step, tuple(Fault(Kind.THROTTLE, path=path, changes=True) for path in paths))


def _full(step: str, trigger: str) -> Drill:
    return Drill("full disk under outputs/", step, trigger=trigger, act=breaking.disk_full, silences=True)


SCALING = [
    *api("02 autoscaling", _BOUNDS, "API 409", "API 429", "API 500", "answer lost", "time-out", method="PUT"),
    *api("02 size", SIZE, "API 409", "API 429", "API 500", "answer lost", "time-out"),
    Drill(
        "GKE stock-out",
        "02 size",
        before=breaking.limits(gpu_stock=1),
        after=breaking.limits(gpu_stock=8),
        shows="ZONE_RESOURCE_POOL_EXHAUSTED",
    ),
    Drill(
        "GKE quota",
        "02 size",
        before=breaking.limits(gpu_quota=1),
        after=breaking.limits(gpu_quota=8),
        shows="NVIDIA_T4_GPUS",
    ),
    Drill(
        "GKE operation of somebody else",
        "02",
        trigger=_LOCKED,
        act=breaking.busy_elsewhere,
        shows="after SET_NODE_POOL_SIZE|Conflict",
    ),
    Drill("node disappears", "02 size", trigger=f"POST .*{SIZE}", act=breaking.new_node_disappears),
    _full("02 size", f"POST .*{SIZE}"),
]


def _never_ready(fault: str, how: str, step: str, *, mended: bool = True, shows: str = "RolledBack") -> Drill:
    """Servers that do not start; mended when they are taken away again, or Pattern 1 would not start either."""
    return Drill(
        fault,
        step,
        before=breaking.servers_start(how),
        after=breaking.start_well if not mended else breaking.servers_start(""),
        trigger=f"DELETE .*{_HANDS}3" if mended else "",
        act=breaking.servers_start("") if mended else None,
        shows=shows,
    )


REPLICA_CRASHES = Drill(
    "replica crashes after the route moved",
    "03 route",
    trigger=_MOVED,
    act=breaking.replica_crashes(PATTERN3),
    harmful=True,
)
_DOWN = Drill("gateway down for 5 s", "03 route", trigger=_MOVED, act=breaking.gateway_down, harmful=True)
_SPOT = Drill("spot reclaim", "03 install", trigger=f"PATCH .*{_HANDS}3", act=breaking.spot_reclaim)
_GONE = Drill(
    "node disappears",
    "03 install",
    trigger=f"PATCH .*{_HANDS}3",
    act=breaking.node_disappears,
    after=breaking.scaled_again,
)

GROUPS: dict[str, Group] = {
    "recreate, APIs": Group(
        RECREATE,
        swap=[
            _throttled("03 remove, install, route", f"{_HANDS}1", f"{_HANDS}3", ROUTE),
            *api("03 remove", f"{_HANDS}1", "API 409", "API 500", "answer lost", "time-out", method="DELETE"),
            *api("03 install", f"{_HANDS}3", "API 409", "API 500", "answer lost", method="PATCH"),
            Drill("hanging helm", "03 install", helm_hangs='"upgrade --install ms-pattern3 "*'),
            *api("03 route", ROUTE, "API 500", "answer lost", "time-out", "API 409", method="PATCH"),
        ],
        cleanup=[
            _throttled("07 remove, install, route", f"{_HANDS}3", f"{_HANDS}1", ROUTE),
            Drill("hanging helm", "07 remove", helm_hangs='"uninstall ms-pattern3 "*'),
            *api("07 remove", f"{_HANDS}3", "API 409", "API 500", "answer lost", method="DELETE"),
            *api("07 install", f"{_HANDS}1", "API 409", "API 500", "answer lost", "time-out", method="PATCH"),
            *api("07 route", ROUTE, "API 409", "API 500", "answer lost", method="PATCH"),
            *api("07 autoscaling", _BOUNDS, "API 500", "answer lost", method="PUT"),
            *api(
                "07 shrink", SIZE, "API 500", "API 429", "answer lost"
            ),  # which ends the run: the route is to move again
            *api("07 route", ROUTE, "time-out", method="PATCH"),
        ],
    ),
    "recreate, machines": Group(
        RECREATE,
        swap=[
            _never_ready("pod never Ready", "hang", "03 install"),
            _never_ready("OOM on start", "oom", "03 install"),
            _never_ready("no pod gets Ready, of neither pattern", "hang", "03", mended=False, shows="RollbackFailed"),
            _SPOT,
            _GONE,
            REPLICA_CRASHES,
            _DOWN,
            _full("03 remove", f"DELETE .*{_HANDS}1"),
            _full("03 install", f"PATCH .*{_HANDS}3"),
            _full("03 route", _MOVED),
        ],
        cleanup=[
            _full("07 remove", f"DELETE .*{_HANDS}3"),
            Drill(
                "pod never Ready",
                "07 install",
                before=breaking.servers_start("hang"),
                after=breaking.start_well,
                shows="DeadlineExceeded",
            ),
            replace(_DOWN, step="07 route"),
            Drill(
                "GKE operation of somebody else",
                "07 shrink",
                trigger=_MOVED,
                act=breaking.busy_elsewhere,
                shows="after SET_NODE_POOL_SIZE|Conflict",
            ),
            replace(REPLICA_CRASHES, step="07 route", act=breaking.replica_crashes(PATTERN1)),
            _full("07 shrink", f"POST .*{SIZE}"),
        ],
    ),
    "surge, APIs": Group(
        SURGE,
        swap=[
            *api("03 install beside", f"{_HANDS}3", "API 500", method="PATCH"),
            Drill("hanging helm", "03 install beside", helm_hangs='"upgrade --install ms-pattern3 "*'),
            *api("03 own route", _OWN, "API 500", method="PATCH"),
            *api("03 route", ROUTE, "API 500", "answer lost", "time-out", "API 409", method="PATCH"),
            *api("03 own route goes", _OWN, "API 409", method="DELETE"),
            *api("03 removal", f"{_HANDS}1", "API 500", "answer lost", method="DELETE"),
            *api("03 shrink", SIZE, "API 500", "API 409", "answer lost", "time-out"),
        ],
        cleanup=api("07 shrink", SIZE, "API 409", "answer lost", "time-out"),
    ),
    "surge, machines": Group(
        SURGE,
        swap=[
            _never_ready("pod never Ready", "hang", "03 install beside"),
            _never_ready("OOM on start", "oom", "03 install beside"),
            replace(_SPOT, step="03 install beside"),
            replace(_GONE, step="03 install beside"),
            REPLICA_CRASHES,
            replace(
                REPLICA_CRASHES,
                fault="replica of Pattern 1 crashes while it drains",
                step="03 drain",
                act=breaking.replica_crashes(PATTERN1),
                harmful=False,
            ),
            _DOWN,
        ],
    ),
}
