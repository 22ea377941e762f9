"""container.googleapis.com v1 at `Site.gke`, as google-cloud-container's REST transport calls it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmd_sandbox.gke import replies
from llmd_sandbox.gke.autoscaler import Autoscaler
from llmd_sandbox.gke.machines import MACHINES
from llmd_sandbox.gke.nodes import Nodes
from llmd_sandbox.gke.operations import Operations
from llmd_sandbox.gke.reclaim import Reclaim
from llmd_sandbox.gke.replies import GoogleError, Json
from llmd_sandbox.gke.state import CLUSTER, LOCATION, PROJECT, ZONES, Autoscaling, Goal, Operation, Pool, State
from llmd_sandbox.kube import KubeApi
from llmd_sandbox.site import Site

log = logging.getLogger(__name__)

_MAX_NODES = 1000
_LOCATION = "/v1/projects/{project}/{scope:str}/{location}"
_CLUSTER = _LOCATION + "/clusters/{cluster}"
_POOL = _CLUSTER + "/nodePools/{pool}"
_OPERATION = _LOCATION + "/operations/{operation}"
_COMPUTE = "/compute/v1/projects/{project}"


class GkeServer:
    """Serves node pools and operations, and makes the cluster's nodes come and go.

    `ready` is set when the API answers and the nodes of the pools exist.
    """

    def __init__(self, site: Site, api: KubeApi) -> None:
        self.ready = asyncio.Event()
        self._site, self._api = site, api
        self._version = ""
        site.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = site.directory / "gke.json"
        self._state = State.load(file, site.gpu_nodes, site.gpu_zones)
        self._nodes = Nodes(api, site.startup_scale)
        self._operations = Operations(self._state, file, self._nodes, site.startup_scale)
        self._reclaim = Reclaim(api, self._nodes.known, site.startup_scale)
        self._autoscaler = Autoscaler(
            api, self._state, self._nodes, self._operations, idle_s=site.autoscaler_idle_s, scale=site.startup_scale
        )

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the address is taken.
        """
        listener = socket.create_server(self._site.gke)
        watch = asyncio.gather(self._nodes.watch(), self._reclaim.run(), self._refill(), self._autoscaler.run())
        try:
            self._version = (await self._api.get("/version"))["gitVersion"].removeprefix("v")
            await self._nodes.synced()
            await self._operations.settle()
            await serve(self._app(), listener, self.ready)
        finally:
            listener.close()
            watch.cancel()
            await asyncio.gather(watch, self._operations.close(), return_exceptions=True)

    async def _refill(self) -> None:
        while True:
            await self._operations.refill(await self._reclaim.lost.get())

    def _app(self) -> Starlette:
        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                Route(_POOL + ":setSize", self._set_size, methods=post),
                Route(_POOL + ":setAutoscaling", self._set_autoscaling, methods=post),
                Route(_OPERATION + ":cancel", self._cancel, methods=post),
                Route(_LOCATION + "/clusters", self._list_clusters, methods=get),
                Route(_CLUSTER, self._get_cluster, methods=get),
                Route(_CLUSTER, self._update_cluster, methods=["PUT"]),
                Route(_CLUSTER + "/nodePools", self._list_pools, methods=get),
                Route(_CLUSTER + "/nodePools", self._create_pool, methods=post),
                Route(_POOL, self._get_pool, methods=get),
                Route(_POOL, self._delete_pool, methods=["DELETE"]),
                Route(_LOCATION + "/operations", self._list_operations, methods=get),
                Route(_OPERATION, self._get_operation, methods=get),
                Route(_COMPUTE, self._get_project, methods=get),
                Route(_COMPUTE + "/regions/{location}", self._get_region, methods=get),
                Route(_COMPUTE + "/zones/{location}/reservations", self._list_reservations, methods=get),
                Route(_COMPUTE + "/zones/{location}/machineTypes/{machine}", self._get_machine_type, methods=get),
                Route("/faults", self._set_faults, methods=["PUT"]),
            ],
            exception_handlers={GoogleError: _refuse, HTTPException: _no_such_method},
        )

    def _cluster(self) -> Json:
        address, port = self._site.api_server  # GKE's own is always 443, which only root may open here
        return replies.cluster(
            self._state,
            endpoint=f"{address}:{port}",
            authority=self._site.authority.read_bytes(),
            version=self._version,
            node_count=self._nodes.total(),
        )

    async def _list_clusters(self, request: Request) -> Response:
        here = _in_project(request, "clusters.list")
        return JSONResponse({"clusters": [self._cluster()]} if here else {})

    async def _get_cluster(self, request: Request) -> Response:
        _require_cluster(request, "clusters.get")
        return JSONResponse(self._cluster())

    async def _update_cluster(self, request: Request) -> Response:
        _require_cluster(request, "clusters.update")
        update = (await _body(request)).get("update", {})
        if set(update) != {"desiredNodePoolId", "desiredNodePoolAutoscaling"}:
            raise GoogleError(
                "INVALID_ARGUMENT",
                f"The sandbox knows the update of desiredNodePoolAutoscaling of one pool only, not of "
                f"{', '.join(sorted(update)) or 'nothing'}.",
            )
        pool = self._pool(request, update["desiredNodePoolId"])
        return self._started("UPDATE_CLUSTER", _autoscaling_goal(pool, update["desiredNodePoolAutoscaling"]))

    async def _list_pools(self, request: Request) -> Response:
        _require_cluster(request, "clusters.get")
        return JSONResponse(
            {"nodePools": [replies.node_pool(pool, self._state, self._version) for pool in self._state.pools]}
        )

    async def _get_pool(self, request: Request) -> Response:
        _require_cluster(request, "clusters.get")
        pool = self._pool(request, request.path_params["pool"])
        return JSONResponse(replies.node_pool(pool, self._state, self._version))

    async def _create_pool(self, request: Request) -> Response:
        _require_cluster(request, "clusters.update")
        pool = _new_pool((await _body(request)).get("nodePool", {}))
        if self._state.pool(pool.name):
            name = f"{_cluster_name(request)}/nodePools/{pool.name}"
            raise GoogleError("ALREADY_EXISTS", f"Already exists: {name}.")
        goal = Goal(pool=pool.name, node_count=pool.initial_node_count, created=pool)
        return self._started("CREATE_NODE_POOL", goal)

    async def _delete_pool(self, request: Request) -> Response:
        _require_cluster(request, "clusters.update")
        pool = self._pool(request, request.path_params["pool"])
        return self._started("DELETE_NODE_POOL", Goal(pool=pool.name, deleted=True))

    async def _set_size(self, request: Request) -> Response:
        _require_cluster(request, "clusters.update")
        pool = self._pool(request, request.path_params["pool"])
        node_count = (await _body(request)).get("nodeCount", 0)  # protobuf leaves a zero out of its JSON
        if type(node_count) is not int or not 0 <= node_count <= _MAX_NODES:
            raise GoogleError("INVALID_ARGUMENT", f"Node_count must be from 0 to {_MAX_NODES}, not {node_count!r}.")
        return self._started("SET_NODE_POOL_SIZE", Goal(pool=pool.name, node_count=node_count))

    async def _set_autoscaling(self, request: Request) -> Response:
        _require_cluster(request, "clusters.update")
        pool = self._pool(request, request.path_params["pool"])
        return self._started("UPDATE_CLUSTER", _autoscaling_goal(pool, (await _body(request)).get("autoscaling", {})))

    async def _list_operations(self, request: Request) -> Response:
        if not _in_project(request, "operations.list") or not self._state.operations:
            return JSONResponse({})
        return JSONResponse({"operations": [replies.operation(op) for op in self._state.operations]})

    async def _get_operation(self, request: Request) -> Response:
        return JSONResponse(replies.operation(self._operation(request)))

    async def _cancel(self, request: Request) -> Response:
        self._operations.cancel(self._operation(request))
        return JSONResponse({})

    async def _get_project(self, request: Request) -> Response:
        _require_project(request, "compute.projects.get")
        return JSONResponse(replies.project(self._state))

    async def _get_region(self, request: Request) -> Response:
        _require_project(request, "compute.regions.get")
        if request.path_params["location"] != LOCATION.rsplit("-", 1)[0]:
            raise _no_such_resource(request)
        return JSONResponse(replies.region(self._state))

    async def _list_reservations(self, request: Request) -> Response:
        """None: a sandbox reserves nothing, and the API leaves an empty list out."""
        _require_project(request, "compute.reservations.list")
        return JSONResponse({"kind": "compute#reservationList"})

    async def _get_machine_type(self, request: Request) -> Response:
        _require_project(request, "compute.machineTypes.get")
        machine, zone = MACHINES.get(request.path_params["machine"]), request.path_params["location"]
        if machine is None or zone not in ZONES:
            raise _no_such_resource(request)
        return JSONResponse(replies.machine_type(machine, zone))

    async def _set_faults(self, request: Request) -> Response:
        """How many GPUs the zone can give and the project may have: no method of GKE's, but the door for faults."""
        wanted = await _body(request)
        if unknown := set(wanted) - {"gpu_stock", "gpu_quota"}:
            raise GoogleError("INVALID_ARGUMENT", f"No such fault: {', '.join(sorted(unknown))}.")
        self._operations.limit(**{name: int(count) for name, count in wanted.items()})
        return JSONResponse({"gpu_stock": self._state.gpu_stock, "gpu_quota": self._state.gpu_quota})

    def _started(self, kind: str, goal: Goal) -> Response:
        return JSONResponse(replies.operation(self._operations.start(kind, goal)))

    def _pool(self, request: Request, name: str) -> Pool:
        pool = self._state.pool(name)
        if pool is None:
            raise GoogleError("NOT_FOUND", f"Not found: {_cluster_name(request)}/nodePools/{name}.")
        return pool

    def _operation(self, request: Request) -> Operation:
        here = _in_project(request, "operations.get")
        operation = self._state.operation(request.path_params["operation"]) if here else None
        if operation is None:
            raise GoogleError("NOT_FOUND", f"Not found: {request.url.path.removeprefix('/v1/')}.")
        return operation


async def serve(app: Starlette, listener: socket.socket, ready: asyncio.Event) -> None:
    """Serve `app` on `listener` in this loop until cancelled; open connections get a second to finish."""
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.timeout_graceful_shutdown = 1
    server = _Server(config, ready)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)


class _Server(uvicorn.Server):
    """A server among other tasks of one process: signals are not its business."""

    def __init__(self, config: uvicorn.Config, ready: asyncio.Event) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the process's signal handlers alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self._ready.set()


def _require_project(request: Request, permission: str) -> None:
    """Compute Engine's way to refuse another project."""
    project = request.path_params["project"]
    if project != PROJECT:
        raise GoogleError("PERMISSION_DENIED", f"Required '{permission}' permission for 'projects/{project}'")


def _no_such_resource(request: Request) -> GoogleError:
    """Compute Engine's way to say that something is not there."""
    return GoogleError("NOT_FOUND", f"The resource '{request.url.path.removeprefix('/compute/v1/')}' was not found")


def _in_project(request: Request, permission: str) -> bool:
    """Whether the request's location is the cluster's; `-` stands for all of them.

    Raises:
        GoogleError: another project (PERMISSION_DENIED): Google does not say whether it exists.
    """
    project, location = request.path_params["project"], request.path_params["location"]
    if project != PROJECT:
        raise GoogleError(
            "PERMISSION_DENIED",
            f'Required "container.{permission}" permission(s) for "{request.url.path.removeprefix("/v1/")}".',
        )
    return location in (LOCATION, "-")


def _require_cluster(request: Request, permission: str) -> None:
    if not _in_project(request, permission) or request.path_params["cluster"] != CLUSTER:
        raise GoogleError("NOT_FOUND", f"Not found: {_cluster_name(request)}.")


def _cluster_name(request: Request) -> str:
    names = request.path_params
    return f"projects/{names['project']}/zones/{names['location']}/clusters/{names['cluster']}"


def _autoscaling_goal(pool: Pool, wanted: Json) -> Goal:
    names = {
        "enabled": "enabled",
        "minNodeCount": "min_nodes",
        "maxNodeCount": "max_nodes",
        "totalMinNodeCount": "total_min_nodes",
        "totalMaxNodeCount": "total_max_nodes",
    }
    try:
        bounds = Autoscaling(**{names[name]: value for name, value in wanted.items() if name in names})
    except ValidationError as error:
        raise GoogleError("INVALID_ARGUMENT", f"Invalid autoscaling: {error.errors()[0]['msg']}.") from error
    if bounds.totals and (bounds.min_nodes or bounds.max_nodes):
        raise GoogleError(
            "INVALID_ARGUMENT", "Autoscaling is bounded by node counts a zone or by total node counts, not by both."
        )
    if bounds.enabled and not 0 <= bounds.least <= bounds.most >= 1:
        raise GoogleError(
            "INVALID_ARGUMENT",
            f"Autoscaling needs 0 <= min_node_count <= max_node_count and max_node_count >= 1, "
            f"not {bounds.least} and {bounds.most}.",
        )
    return Goal(pool=pool.name, autoscaling=bounds)


def _new_pool(wanted: Json) -> Pool:
    """A pool as its creation asks for it; machines start when the operation runs."""
    config = wanted.get("config", {})
    accelerators = config.get("accelerators") or [{}]
    zones, count = wanted.get("locations") or [LOCATION], wanted.get("initialNodeCount", 0)
    if not wanted.get("name") or not set(zones) <= set(ZONES) or not 0 <= count <= _MAX_NODES:
        raise GoogleError(
            "INVALID_ARGUMENT", f"A node pool needs a name, zones of {', '.join(ZONES)} and a node count."
        )
    machine = config.get("machineType", "e2-medium")
    if machine not in MACHINES:
        raise GoogleError(
            "INVALID_ARGUMENT", f'Machine type with name "{machine}" does not exist in zone "{zones[0]}".'
        )
    return Pool(
        name=wanted["name"],
        machine_type=machine,
        initial_node_count=count,
        targets=dict.fromkeys(zones, 0),
        accelerator=accelerators[0].get("acceleratorType"),
        accelerator_count=int(accelerators[0].get("acceleratorCount", 0)),
        spot=config.get("spot", False),
        labels=config.get("labels", {}),
        taints=[taint | {"effect": "NoSchedule"} for taint in config.get("taints", [])],
    )


async def _body(request: Request) -> Json:
    try:
        body: Any = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise GoogleError("INVALID_ARGUMENT", "Invalid JSON payload received.") from error
    if not isinstance(body, dict):
        raise GoogleError("INVALID_ARGUMENT", "Invalid JSON payload received. Root must be an object.")
    return body


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, GoogleError)
    return JSONResponse(error.body(), status_code=error.http_status)


async def _no_such_method(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"The sandbox has no method {request.method} {request.url.path}."
    status = "UNIMPLEMENTED" if error.status_code == 405 else "NOT_FOUND"
    body = {"error": {"code": error.status_code, "message": message, "status": status}}
    return JSONResponse(body, status_code=error.status_code)
