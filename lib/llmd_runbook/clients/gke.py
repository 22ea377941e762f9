"""A GKE node pool through google-cloud-container: its state, its size, its autoscaling, and operations.

Credentials: Application Default Credentials. `CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER`, as for gcloud,
moves the endpoint; plain http is accepted for loopback addresses only, and without credentials.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from google.api_core import exceptions as api_exceptions
from google.auth import exceptions as auth_exceptions
from google.protobuf.json_format import ParseError

from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.loopback import is_loopback
from llmd_runbook.errors import (
    ApiError,
    ClusterError,
    Conflict,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    Unreachable,
    UsageError,
)

ENDPOINT_VARIABLE = "CLOUDSDK_API_ENDPOINT_OVERRIDES_CONTAINER"

SPOT_LABEL = "cloud.google.com/gke-spot"
"""Label that GKE gives the nodes of spot pools, with the value `true`."""
OURS_LABEL = "llmd-runbook/created"
"""Label of the nodes of pools that this program created, with the value `true`."""

_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_CALL_TIMEOUT_S = 30.0
_FIRST_INTERVAL_S, _LAST_INTERVAL_S, _INTERVAL_GROWTH = 0.2, 5.0, 1.5
LOGIN = (
    "run `gcloud auth application-default login`, or give the workload a Google identity "
    "(Workload Identity Federation for GKE)"
)


@dataclass(frozen=True)
class Bounds:
    """Autoscaling bounds as GKE takes them: nodes in each of the pool's zones or, with `totals`, of the whole pool."""

    least: int
    most: int
    zones: int = 1
    totals: bool = False

    @property
    def least_in_all(self) -> int:
        """The lower bound in nodes of the pool."""
        return self.least if self.totals else self.least * self.zones

    @property
    def most_in_all(self) -> int:
        """The upper bound in nodes of the pool."""
        return self.most if self.totals else self.most * self.zones

    def __str__(self) -> str:
        kind = "" if self.zones == 1 else " in all" if self.totals else f" in each of {self.zones} zones"
        return f"{self.least} to {self.most}{kind}"


@dataclass(frozen=True)
class PoolState:
    """A node pool as GKE describes it; its live size is not in it.

    Attributes:
        bounds: of its autoscaling; None where that is off.
        provisioning: how its machines are had: `standard`, `spot`, `preemptible`, `flex-start` or `queued`.
        reservation: whether it takes from reservations: GKE's name of the affinity; empty where none is said.
        ours: whether this program created it.
    """

    name: str
    status: str
    machine_type: str
    accelerator_type: str | None
    accelerator_count: int
    bounds: Bounds | None
    locations: tuple[str, ...]
    conditions: tuple[str, ...]
    version: str
    provisioning: str = "standard"
    reservation: str = ""
    ours: bool = False

    @property
    def autoscaling(self) -> str:
        """Its autoscaling in words."""
        return str(self.bounds) if self.bounds else "off"


@dataclass(frozen=True)
class OperationState:
    """An operation as GKE describes it; `started` is in GKE's own words, `error` is empty unless it failed."""

    name: str
    type: str
    status: str
    target: str
    started: str
    error: str

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status == "DONE"


@dataclass(frozen=True)
class ClusterState:
    """A cluster as GKE describes it.

    Attributes:
        endpoints: addresses of its control plane by kind, `public`, `private` and `dns`, of those that it has.
        authority: certificates (PEM) of the authority behind the public and the private one.
        autopilot: whether GKE alone makes and sizes its node pools.
    """

    name: str
    status: str
    version: str
    endpoints: Mapping[str, str]
    authority: str
    autopilot: bool = False


class GkePool:
    """One node pool of one cluster.

    Calls raise `Unreachable`, `Forbidden`, `NotFound`, `Conflict` (another operation runs) or `ApiError`; those that
    change something ask `before_change` first.
    """

    def __init__(
        self, project: str, location: str, cluster: str, pool: str, *, before_change: Guard = read_only
    ) -> None:
        self._before_change = before_change
        self._parent = f"projects/{project}/locations/{location}"
        self._cluster = f"{self._parent}/clusters/{cluster}"
        self.name = f"{self._cluster}/nodePools/{pool}"
        self._pool = pool
        self._endpoint, self._client = _connect(os.environ)

    def describe(self) -> PoolState:
        """The pool as it is now."""
        pool = self._call("read node pool", self.name, self._client.get_node_pool, name=self.name)
        accelerators = list(pool.config.accelerators)
        return PoolState(
            name=pool.name,
            status=pool.status.name,
            machine_type=pool.config.machine_type,
            accelerator_type=accelerators[0].accelerator_type if accelerators else None,
            accelerator_count=accelerators[0].accelerator_count if accelerators else 0,
            bounds=_bounds(pool),
            locations=tuple(pool.locations),
            conditions=tuple(f"{condition.code.name}: {condition.message}" for condition in pool.conditions),
            version=pool.version,
            provisioning=_provisioning(pool),
            reservation=_reservation(pool.config),
            ours=pool.config.labels.get(OURS_LABEL) == "true",
        )

    def cluster(self) -> ClusterState:
        """The cluster that holds the pool."""
        found = self._call("read cluster", self._cluster, self._client.get_cluster, name=self._cluster)
        return ClusterState(
            name=found.name,
            status=found.status.name,
            version=found.current_master_version,
            endpoints=_endpoints(found),
            authority=base64.b64decode(found.master_auth.cluster_ca_certificate).decode(),
            autopilot=found.autopilot.enabled,
        )

    def set_autoscaling(self, bounds: Bounds) -> str:
        """Switch autoscaling on with these bounds, as gcloud does; the operation's name."""
        total = "total_" if bounds.totals else ""
        wanted = {"enabled": True, f"{total}min_node_count": bounds.least, f"{total}max_node_count": bounds.most}
        update = {"desired_node_pool_id": self._pool, "desired_node_pool_autoscaling": wanted}
        request = {"name": self._cluster, "update": update}
        started = self._change("set autoscaling of", self.name, self._client.update_cluster, request=request)
        return str(started.name)

    def set_size(self, node_count: int) -> str:
        """Ask for this many nodes in each of the pool's zones; the operation's name."""
        request = {"name": self.name, "node_count": node_count}
        started = self._change("resize node pool", self.name, self._client.set_node_pool_size, request=request)
        return str(started.name)

    def find(self) -> PoolState | None:
        """The pool as it is now; None where there is none."""
        try:
            return self.describe()
        except NotFound:
            self.cluster()  # which says whether it is the pool that is not there
            return None

    def create_spot(self, like: str, zone: str, nodes: int) -> str:
        """Create the pool as a spot one in one zone; the operation's name.

        Machines, GPUs, disks, image and identity are those of the pool `like`. Nodes are tainted with the spot label:
        only pods that tolerate it come.
        """
        from google.cloud.container_v1 import NodeConfig

        self._before_change()
        name = f"{self._cluster}/nodePools/{like}"
        model = self._call("read node pool", name, self._client.get_node_pool, name=name).config
        config = NodeConfig(
            machine_type=model.machine_type,
            accelerators=model.accelerators,
            disk_size_gb=model.disk_size_gb,
            disk_type=model.disk_type,
            image_type=model.image_type,
            service_account=model.service_account,
            oauth_scopes=model.oauth_scopes,
            spot=True,
            labels={OURS_LABEL: "true"},
            taints=[{"key": SPOT_LABEL, "value": "true", "effect": "NO_SCHEDULE"}],
        )
        wanted = {
            "name": self._pool,
            "config": config,
            "initial_node_count": nodes,
            "locations": [zone],
            "management": {"auto_repair": True, "auto_upgrade": True},
        }
        request = {"parent": self._cluster, "node_pool": wanted}
        started = self._change("create node pool", self.name, self._client.create_node_pool, request=request)
        return str(started.name)

    def delete(self) -> str:
        """Delete the pool with its nodes; the operation's name."""
        request = {"name": self.name}
        started = self._change("delete node pool", self.name, self._client.delete_node_pool, request=request)
        return str(started.name)

    def operations(self) -> list[OperationState]:
        """Operations on this cluster that GKE remembers, whoever began them."""
        listed = self._call("list operations of", self._parent, self._client.list_operations, parent=self._parent)
        mine = f"/clusters/{self._cluster.rsplit('/', 1)[1]}/"
        return [_operation(item) for item in listed.operations if mine in f"{item.target_link}/"]

    def running_operations(self) -> list[OperationState]:
        """Operations on this cluster that have not ended; GKE admits no change beside one."""
        return [item for item in self.operations() if not item.done]

    def begun_since(self, known: Collection[str], within_s: float) -> list[OperationState]:
        """Operations on this cluster that are not among the known names; polled until there is one."""
        deadline = time.monotonic() + within_s
        while True:
            found = [item for item in self.operations() if item.name not in known]
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(min(_FIRST_INTERVAL_S, within_s))

    def operation(self, name: str) -> OperationState:
        """An operation as it is now."""
        full = f"{self._parent}/operations/{name}"
        return _operation(self._call("read operation", full, self._client.get_operation, name=full))

    def wait(
        self,
        name: str,
        timeout_s: float,
        on_progress: Callable[[OperationState, float], None] | None = None,
    ) -> OperationState:
        """Poll until the operation is done (GKE has no watch); `on_progress` gets its state and seconds.

        Raises:
            ApiError: it ended with an error.
            DeadlineExceeded: it is not done after `timeout_s`; it goes on running.
        """
        started, interval_s = time.monotonic(), _FIRST_INTERVAL_S
        while True:
            state = self.operation(name)
            waited_s = time.monotonic() - started
            if on_progress:
                on_progress(state, waited_s)
            if state.done:
                break
            if waited_s >= timeout_s:
                raise DeadlineExceeded(
                    f"GKE operation {state.type} is still {state.status} after {waited_s:.0f} s",
                    where=f"{self._parent}/operations/{name}",
                    remedy="it goes on running: wait for it to end, then run this stage again",
                )
            time.sleep(min(interval_s, timeout_s - waited_s))
            interval_s = min(interval_s * _INTERVAL_GROWTH, _LAST_INTERVAL_S)
        if state.error:
            raise ApiError(
                f"GKE operation {state.type} ended with an error",
                where=f"{self._parent}/operations/{name}",
                reason=state.error,
                remedy="for a stock-out or quota: later, another zone, fewer nodes; then run the stage again",
            )
        return state

    def _change(self, action: str, what: str, method: Callable[..., Any], **arguments: Any) -> Any:
        self._before_change()
        return self._call(action, what, method, **arguments)

    def _call(self, action: str, what: str, method: Callable[..., Any], **arguments: Any) -> Any:
        with _translated(f"cannot {action} {what}", self._endpoint):
            return method(**arguments, timeout=_CALL_TIMEOUT_S)


def _connect(environment: Mapping[str, str]) -> tuple[str, Any]:
    """The endpoint and a client for it.

    Raises:
        UsageError: an override that is not a usable address.
        Forbidden: no credentials were found.
    """
    # Here and not above: the import takes most of a second, and not every stage talks to GKE.
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.container_v1 import ClusterManagerClient
    from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerRestTransport

    override = urlsplit(environment.get(ENDPOINT_VARIABLE) or "https://container.googleapis.com/")
    if override.scheme not in ("http", "https") or not override.netloc or "@" in override.netloc:
        raise UsageError(
            f"{ENDPOINT_VARIABLE} is not an address",
            where=f"environment variable {ENDPOINT_VARIABLE}",
            remedy="give scheme and host, as in https://container.googleapis.com/, or unset it",
        )
    if override.scheme == "http":
        if not is_loopback(override.hostname or ""):
            raise UsageError(
                f"{ENDPOINT_VARIABLE} is plain http to {override.hostname}, which is not this machine",
                where=f"environment variable {ENDPOINT_VARIABLE}",
                reason="requests that change a cluster must not travel unencrypted",
                remedy="use https, or a loopback address",
            )
        credentials = AnonymousCredentials()
    else:
        credentials = default_credentials()
    transport = ClusterManagerRestTransport(host=override.netloc, url_scheme=override.scheme, credentials=credentials)
    return f"{override.scheme}://{override.netloc}", ClusterManagerClient(transport=transport)


def default_credentials() -> Any:
    """Application Default Credentials.

    Raises:
        Forbidden: there are none.
    """
    import google.auth

    try:
        credentials, _ = google.auth.default(scopes=_SCOPES)
    except auth_exceptions.DefaultCredentialsError as error:
        raise Forbidden("no Google credentials were found", reason=str(error), remedy=LOGIN) from error
    return credentials


def _endpoints(cluster: Any) -> dict[str, str]:
    """Newer clusters say them in `control_plane_endpoints_config`, older private ones in `private_cluster_config`."""
    configured, older = cluster.control_plane_endpoints_config, cluster.private_cluster_config
    ip = configured.ip_endpoints_config
    private = ip.private_endpoint or older.private_endpoint
    public = ip.public_endpoint or older.public_endpoint or (cluster.endpoint if cluster.endpoint != private else "")
    if older.enable_private_endpoint:
        public = ""  # it keeps its address, and is closed
    found = {"public": public, "private": private, "dns": configured.dns_endpoint_config.endpoint}
    return {kind: address for kind, address in found.items() if address}


def _bounds(pool: Any) -> Bounds | None:
    scaling, zones = pool.autoscaling, max(1, len(pool.locations))
    if not scaling.enabled:
        return None
    if scaling.total_max_node_count:
        return Bounds(scaling.total_min_node_count, scaling.total_max_node_count, zones, totals=True)
    return Bounds(scaling.min_node_count, scaling.max_node_count, zones)


def _provisioning(pool: Any) -> str:
    config = pool.config
    kinds = {
        "queued": pool.queued_provisioning.enabled,
        "flex-start": config.flex_start,
        "spot": config.spot,
        "preemptible": config.preemptible,
    }
    return next((name for name, holds in kinds.items() if holds), "standard")


def _reservation(config: Any) -> str:
    """`ANY_RESERVATION`, `NO_RESERVATION`, or the names of those that it is bound to."""
    affinity = config.reservation_affinity
    if affinity.values:
        return ", ".join(affinity.values)
    kind = str(affinity.consume_reservation_type.name)
    return "" if kind == "UNSPECIFIED" else kind


def _operation(item: Any) -> OperationState:
    return OperationState(
        name=item.name,
        type=item.operation_type.name,
        status=item.status.name,
        target=item.target_link,
        started=item.start_time,
        error=item.error.message or item.status_message if item.status.name == "DONE" else "",
    )


@contextmanager
def _translated(what: str, endpoint: str) -> Iterator[None]:
    """Turn the library's errors into the runbook's, keeping the server's words."""
    try:
        yield
    except (
        requests.RequestException,
        auth_exceptions.TransportError,
        api_exceptions.RetryError,
        api_exceptions.ServiceUnavailable,
        api_exceptions.GatewayTimeout,
    ) as error:
        late = f"no answer within {_CALL_TIMEOUT_S:g} s: " if isinstance(error, requests.Timeout) else ""
        raise Unreachable(
            what,
            where=endpoint,
            reason=f"{late}{error}",
            remedy=f"check the network and {ENDPOINT_VARIABLE}; a private endpoint needs its VPN or proxy",
        ) from error
    except ParseError as error:
        raise ApiError(
            what,
            where=endpoint,
            reason=f"what answers is not GKE's API: {error}",
            remedy=f"look which proxy answers there, and at {ENDPOINT_VARIABLE}",
        ) from error
    except auth_exceptions.GoogleAuthError as error:
        raise Forbidden(what, where=endpoint, reason=str(error), remedy=LOGIN) from error
    except api_exceptions.GoogleAPICallError as error:
        raise _refusal(what, endpoint, error) from error


def _refusal(what: str, endpoint: str, error: Any) -> ClusterError:
    status, reason = _servers_words(error)
    if error.code == 409 or (error.code == 400 and status == "FAILED_PRECONDITION" and _names_operation(reason)):
        remedy = "wait until the operation named above has ended, then run the stage again"
        return Conflict(what, where=endpoint, reason=reason, remedy=remedy)
    if error.code == 404:
        remedy = "compare project, location, cluster and pool in the profile with `gcloud container clusters list`"
        return NotFound(what, where=endpoint, reason=reason, remedy=remedy)
    if error.code == 403 and "quota" in reason:
        return Forbidden(what, where=endpoint, reason=reason, remedy="ask for a higher quota, or for fewer nodes")
    if error.code in (401, 403):
        remedy = f"the caller needs roles/container.clusterAdmin in the project; as somebody else: {LOGIN}"
        return Forbidden(what, where=endpoint, reason=reason, remedy=remedy)
    remedy = "act on the server's reason, then run the stage again"
    return ApiError(what, where=endpoint, reason=reason, remedy=remedy)


def _names_operation(reason: str) -> bool:
    """GKE's two ways to say that another operation runs."""
    return "incompatible operation" in reason or "is currently" in reason


def _servers_words(error: Any) -> tuple[str, str]:
    """Status name and message of a Google error body; the library's message where the body is not one."""
    try:
        body = error.response.json()["error"]
        return str(body["status"]), str(body["message"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return "", str(error.message)
