"""Kubernetes through the official client: objects are the API server's own JSON, errors keep its own words.

Raised by every call: `Unreachable`, `Forbidden`, `NotFound`, `Conflict`, `ApiError`; by those that change
something, what their guard raises, and then nothing was sent.

A change whose answer is lost (a time-out, a broken connection) is looked up in the object and never sent again: where
it is there the call returns, and `tell` hears of it; else the error says that it is not, or that this is unknown.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config import incluster_config
from kubernetes.utils import retry
from kubernetes.watch import Watch

from llmd_runbook.clients import made
from llmd_runbook.clients.guard import Guard, read_only
from llmd_runbook.clients.made import Made
from llmd_runbook.clients.refusals import MALFORMED, may_have_been_made, translated
from llmd_runbook.errors import ClusterError, DeadlineExceeded, NotFound, Unreachable, UsageError

Object = dict[str, Any]
Tell = Callable[[str], None]
"""Hears in a sentence that an answer was lost, and that the change is there."""
T = TypeVar("T")

_CONNECT_S, READ_S = 5.0, 30.0
_WATCH_S = 60
_LEAST_WATCH_S = 0.5
"""A watch that ends sooner is opened again only after this time, whatever the server does."""
_FOLLOW_S = 300.0
_LOG_START_BYTES = 262_144
_LONGEST_PAUSE_S = 30
"""A server that asks for a longer pause before the next try (Retry-After) is not obeyed but reported."""
_LOOK_UP_S, _LOOK_AGAIN_S = 10.0, 0.5
"""How long, and how often, a change is looked for whose answer was lost: the API server may still be at it."""
_FIELD_MANAGER = "llmd-runbook"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own credentials."""


class Resource(NamedTuple):
    """A kind as the API server's paths name it."""

    api_version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, sub: str | None = None) -> str:
        """The URL path of a collection, an object or a subresource.

        >>> Resource("apps/v1", "deployments").path("llm-d", "web", "scale")
        '/apis/apps/v1/namespaces/llm-d/deployments/web/scale'
        """
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        parts = [root, *(["namespaces", namespace] if namespace else []), self.plural, name, sub]
        return "/".join(part for part in parts if part)


NODES = Resource("v1", "nodes")
NAMESPACES = Resource("v1", "namespaces")
PODS = Resource("v1", "pods")
SERVICES = Resource("v1", "services")
CONFIG_MAPS = Resource("v1", "configmaps")
EVENTS = Resource("v1", "events")
DEPLOYMENTS = Resource("apps/v1", "deployments")
AUTOSCALERS = Resource("autoscaling/v2", "horizontalpodautoscalers")
LEASES = Resource("coordination.k8s.io/v1", "leases")
_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
GATEWAYS = Resource("gateway.networking.k8s.io/v1", "gateways")
HTTP_ROUTES = Resource("gateway.networking.k8s.io/v1", "httproutes")
INFERENCE_POOLS = Resource("inference.networking.k8s.io/v1", "inferencepools")
HEALTH_CHECK_POLICIES = Resource("networking.gke.io/v1", "healthcheckpolicies")
SECRETS = Resource("v1", "secrets")


class _Target(NamedTuple):
    """The object that a change is for."""

    resource: Resource
    name: str
    namespace: str | None

    def path(self, sub: str | None = None) -> str:
        return self.resource.path(self.namespace, self.name, sub)


def _unheard(_: str) -> None:
    """For a caller who has nobody to tell."""


class Kubernetes:
    """One cluster, as one kubeconfig context names it.

    Args:
        before_change: asked right before every request that is no GET.
        read_s: how long an answer may take, seconds.
    """

    def __init__(
        self,
        api: client.ApiClient,
        context: str,
        kubeconfig: Path | None,
        before_change: Guard = read_only,
        read_s: float = READ_S,
    ) -> None:
        self._api, self.context, self.kubeconfig = api, context, kubeconfig
        self._before_change, self._read_s = before_change, read_s

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self._api.configuration.host)

    @property
    def authority(self) -> str:
        """Certificates (PEM) that the API server's is verified with; empty where the system's are."""
        file = self._api.configuration.ssl_ca_cert
        return Path(file).read_text(encoding="utf-8") if file else ""

    def get(self, resource: Resource, name: str, namespace: str | None = None, sub: str | None = None) -> Object:
        """Read one object."""
        return self._call("GET", resource.path(namespace, name, sub))

    def find(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """Read one object; None where there is none (or where its kind is unknown to the cluster)."""
        try:
            return self.get(resource, name, namespace)
        except NotFound:
            return None

    def all(
        self, resource: Resource, namespace: str | None = None, selector: str = "", fields: str = ""
    ) -> list[Object]:
        """The objects of a collection, in the server's order; `selector` by labels, `fields` by field selector."""
        return self._list(resource, namespace, selector, fields)[0]

    def create(self, resource: Resource, manifest: Object, namespace: str) -> Object:
        """Make an object; a `Conflict` where there is one of that name, so that the caller may safely ask again."""
        at = _Target(resource, manifest["metadata"]["name"], namespace)
        path = resource.path(namespace)
        return self._change("POST", path, at, made.applied(manifest), _unheard, look_for_s=0, body=manifest)

    def replace(self, resource: Resource, manifest: Object, namespace: str) -> Object:
        """Put this in place of the object whose resourceVersion it names; a `Conflict` where that has moved, so that
        the caller may safely ask again.
        """
        at = _Target(resource, manifest["metadata"]["name"], namespace)
        return self._change("PUT", at.path(), at, made.replaced(manifest), _unheard, look_for_s=0, body=manifest)

    def apply(
        self, resource: Resource, manifest: Object, namespace: str | None = None, *, tell: Tell = _unheard
    ) -> Object:
        """Server-side apply as field manager `llmd-runbook`, forced."""
        at = _Target(resource, manifest["metadata"]["name"], namespace)
        return self._change(
            "PATCH",
            at.path(),
            at,
            made.applied(manifest),
            tell,
            body=manifest,
            content_type="application/apply-patch+yaml",
            query={"fieldManager": _FIELD_MANAGER, "force": "true"},
        )

    def scale(self, deployment: str, namespace: str, replicas: int, *, tell: Tell = _unheard) -> None:
        """Set a Deployment's replicas through its scale subresource, under our own name as field manager."""
        at = _Target(DEPLOYMENTS, deployment, namespace)
        self._change(
            "PATCH",
            at.path("scale"),
            at,
            made.scaled(replicas),
            tell,
            body={"spec": {"replicas": replicas}},
            content_type="application/merge-patch+json",
            query={"fieldManager": _FIELD_MANAGER},
        )

    def patch(
        self, resource: Resource, name: str, namespace: str, operations: list[Object], *, tell: Tell = _unheard
    ) -> Object:
        """JSON Patch (RFC 6902): all of its operations or none; a `test` that fails is an `ApiError`."""
        return self._patch(_Target(resource, name, namespace), operations, made.patched(operations), tell)

    def disown(self, resource: Resource, item: Object, namespace: str, *, tell: Tell = _unheard) -> None:
        """Give up the fields that `patch` and `scale` made ours: helm 4 would meet a conflict when it applies them."""
        operations: list[Object] = []
        for index, entry in reversed([*enumerate(item["metadata"].get("managedFields", []))]):
            if entry.get("manager") == _FIELD_MANAGER:
                path = f"/metadata/managedFields/{index}"
                same: Object = {"op": "test", "path": f"{path}/manager", "value": _FIELD_MANAGER}
                operations += [same, {"op": "remove", "path": path}]
        if operations:

            def disowned(found: Object | None) -> bool:
                return found is not None and _FIELD_MANAGER not in _managers(found)

            at = _Target(resource, item["metadata"]["name"], namespace)
            self._patch(at, operations, disowned, tell)

    def delete(
        self, resource: Resource, name: str, namespace: str, *, uid: str, grace_s: int, tell: Tell = _unheard
    ) -> None:
        """Delete exactly the object with that UID, with that grace period (s); a `Conflict` where it is another."""
        at = _Target(resource, name, namespace)
        options = {"gracePeriodSeconds": grace_s, "preconditions": {"uid": uid}}
        self._change("DELETE", at.path(), at, made.deleted(uid), tell, body=options)

    def raw(self, path: str) -> str:
        """GET of any path of the API server, as text (`/version`, a pod's proxy)."""
        with translated(f"GET {path}"):
            return _text(self._request("GET", path))

    def may(self, spec: Object) -> bool:
        """Whether the caller may do what the `spec` of a SelfSubjectAccessReview names; everybody may ask that."""
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        with translated(f"POST {_ACCESS_REVIEWS}"):
            return bool(self._call("POST", _ACCESS_REVIEWS, body=review)["status"]["allowed"])

    def logs(self, pod: str, namespace: str, container: str, tail: int = 200, *, previous: bool = False) -> str:
        """The last lines of a container's log; with `previous` of the one that ended before it."""
        query = {"container": container, "tailLines": str(tail), **({"previous": "true"} if previous else {})}
        with translated(f"logs of {namespace}/{pod}"):
            path = PODS.path(namespace, pod, "log")
            return _text(self._request("GET", path, query))

    def log_start(self, pod: str, namespace: str, container: str) -> str:
        """The first lines of a container's log, as far back as the node still has them: its rotated part is gone."""
        query = {"container": container, "limitBytes": str(_LOG_START_BYTES)}
        with translated(f"logs of {namespace}/{pod}"):
            return _text(self._request("GET", PODS.path(namespace, pod, "log"), query))

    def follow(self, pod: str, namespace: str, container: str, since_s: float) -> urllib3.BaseHTTPResponse:
        """A container's log from `since_s` seconds ago on, as it grows and across rotations; to be closed.

        Its stream breaks after `_FOLLOW_S` seconds without a line.
        """
        query = {"container": container, "follow": "true", "sinceSeconds": str(max(1, math.ceil(since_s)))}
        with translated(f"logs of {namespace}/{pod}"):
            opened: urllib3.BaseHTTPResponse = self._open(
                "GET", PODS.path(namespace, pod, "log"), query, read_s=_FOLLOW_S
            ).response
            return opened

    def wait(
        self,
        resource: Resource,
        done: Callable[[list[Object]], T | None],
        *,
        what: str,
        timeout_s: float,
        remedy: str,
        namespace: str | None = None,
        selector: str = "",
        on_change: Callable[[list[Object]], str] | None = None,
        look_s: float = _WATCH_S,
    ) -> T:
        """Watch a collection until `done(objects)` is neither None nor False; changes wake it, no clock.

        Args:
            done: judges the collection as it now is.
            what: completes "waited for ...", for the error.
            timeout_s: deadline, seconds.
            remedy: what to do when the deadline passes.
            on_change: told of every state; the sentence it returns is quoted when the deadline passes.
            look_s: told of the state again after so many whole seconds, though nothing changed.

        Raises:
            DeadlineExceeded: with the last state.
        """
        deadline = time.monotonic() + timeout_s
        state = "nothing"
        while (left := deadline - time.monotonic()) > 0:
            again = time.monotonic() + _LEAST_WATCH_S
            try:
                for items in self._states(resource, namespace, selector, min(left, look_s)):
                    state = on_change(items) if on_change else f"{len(items)} {resource.plural}"
                    found = done(items)
                    if found is not None and found is not False:
                        return found
                    if time.monotonic() >= deadline:
                        break
            except Unreachable as error:
                if time.monotonic() < deadline:
                    raise
                state += f", and then no answer: {error.reason}"
            time.sleep(max(0.0, min(again, deadline) - time.monotonic()))
        raise DeadlineExceeded(
            f"waited {timeout_s:.0f} s for {what}",
            where=resource.path(namespace) + (f" ({selector})" if selector else ""),
            reason=f"last state: {state}",
            remedy=remedy,
        )

    def _states(self, resource: Resource, namespace: str | None, selector: str, for_s: float) -> Iterator[list[Object]]:
        """The collection now, and again after every change, for at most `for_s` seconds."""
        items, version = self._list(resource, namespace, selector)
        objects = {item["metadata"]["uid"]: item for item in items}
        yield list(objects.values())

        def opened(**query: Any) -> Any:
            query.pop("_preload_content")
            text = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items()}
            return self._open("GET", resource.path(namespace), _query(selector) | text, read_s=for_s).response

        with translated(f"watch of {resource.path(namespace)}"):
            try:
                stream = Watch(return_type="object").stream(
                    opened, resourceVersion=version, timeoutSeconds=max(1, int(for_s)), timeout_seconds=1
                )
                for event in stream:
                    if event is None:
                        return  # a line that is no event: the caller lists anew
                    if event["type"] == "BOOKMARK":
                        continue
                    uid = event["raw_object"]["metadata"]["uid"]
                    if event["type"] == "DELETED":
                        objects.pop(uid, None)
                    else:
                        objects[uid] = event["raw_object"]
                    yield list(objects.values())
            except ApiException as error:
                if error.status != 410:
                    raise
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
                return  # the stream was cut, or is silent past its end: the caller lists anew

    def _list(
        self, resource: Resource, namespace: str | None, selector: str, fields: str = ""
    ) -> tuple[list[Object], str]:
        path = resource.path(namespace)
        answer = self._call("GET", path, query=_query(selector) | ({"fieldSelector": fields} if fields else {}))
        with translated(f"GET {path}"):
            kind = answer["kind"].removesuffix("List")
            items = [{"apiVersion": answer["apiVersion"], "kind": kind, **item} for item in answer["items"]]
            return items, answer["metadata"]["resourceVersion"]

    def _patch(self, at: _Target, operations: list[Object], is_made: Made, tell: Tell) -> Object:
        return self._change(
            "PATCH",
            at.path(),
            at,
            is_made,
            tell,
            body=operations,
            content_type="application/json-patch+json",
            query={"fieldManager": _FIELD_MANAGER},
        )

    def _change(
        self,
        method: str,
        path: str,
        at: _Target,
        is_made: Made,
        tell: Tell,
        *,
        body: Object | list[Object],
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
        look_for_s: float | None = None,
    ) -> Object:
        """Ask for a change once; where the answer is lost, find out whether it was made."""
        unsure = False
        try:
            with translated(f"{method} {path}"):
                try:
                    return _object(self._request(method, path, query, body, content_type))
                except (urllib3.exceptions.HTTPError, OSError, ApiException, ValueError) as error:
                    unsure = may_have_been_made(error)
                    raise
        except ClusterError as error:
            if not unsure:
                raise
            return self._looked_up(error, at, is_made, tell, _LOOK_UP_S if look_for_s is None else look_for_s)

    def _looked_up(self, lost: ClusterError, at: _Target, is_made: Made, tell: Tell, for_s: float) -> Object:
        """The object that a change was for, which is there although its answer is not; empty where that is gone.

        Raises:
            ClusterError: of the same kind, where it is not there or cannot be told.
        """
        until = time.monotonic() + for_s
        while True:
            state = "it was looked up, and the change is not there"
            try:
                found = self.find(at.resource, at.name, at.namespace)
                there = is_made(found)
                if there:
                    tell(f"no answer to {lost.where} ({lost.reason}): looked up, and the change is there")
                    return found or {}
                if there is None:
                    state = f"whether it was made is unknown: {at.name} as it is now does not tell"
            except Unreachable as error:  # an API server that starts again is back in seconds
                state = f"whether it was made is unknown: {error.in_short}"
            except ClusterError as error:
                state, until = f"whether it was made is unknown: {error.in_short}", 0.0
            if time.monotonic() >= until:
                raise type(lost)(
                    f"the answer to a change was lost; {state.partition(':')[0]}",
                    where=lost.where,
                    reason=f"{lost.in_short}; {state}",
                    remedy=f"{lost.remedy}; then run the stage again: it looks first, and does what is missing",
                )
            time.sleep(_LOOK_AGAIN_S)

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Object:
        with translated(f"{method} {path}"):
            return _object(self._request(method, path, query, body, content_type))

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        data: bytes = self._open(method, path, query or {}, body, content_type).read()
        return data

    def _open(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Object | list[Object] | None = None,
        content_type: str = "application/json",
        read_s: float = 0.0,
    ) -> Any:
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if body is not None else {})
        request = self._api.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )

        def ask() -> Any:
            if method != "GET" and path != _ACCESS_REVIEWS:  # a review is asked by POST and changes nothing
                self._before_change()
            answer = self._api.call_api(*request, _request_timeout=(_CONNECT_S, read_s or self._read_s))
            if not 200 <= answer.status <= 299:
                refused = ApiException(status=answer.status, reason=answer.reason, body=_text(answer.read()))
                refused.headers = answer.getheaders()
                raise refused
            return answer

        # as client-go: the pause is the server's, and there are at most ten
        return retry.on_retry_after_error(retry.DEFAULT_RETRY_AFTER_BACKOFF, lambda e: _asks_to_wait(e, method), ask)


def current_context(kubeconfig: str = "") -> str:
    """Name of the current context.

    Raises:
        UsageError: no kubeconfig, or none is current in it.
    """
    with _usable(kubeconfig, ""):
        return str(config.list_kube_config_contexts(config_file=_file(kubeconfig))[1]["name"])


_shared: dict[tuple[str, str], client.ApiClient] = {}


def connect(
    context: str = "",
    kubeconfig: str = "",
    *,
    before_change: Guard = read_only,
    read_s: float = READ_S,
    shared: bool = False,
) -> Kubernetes:
    """The cluster that a kubeconfig context names (the current one when empty), to look unless a guard is given.

    Args:
        before_change: asked right before every request that is no GET.
        read_s: how long an answer may take, seconds.
        shared: have all clients of this process for the same file and context use one credential, so that a plug-in
            runs once and not for each of them; for a file that does not change.

    Raises:
        UsageError: no kubeconfig, no such context in it, or its plug-in gives no credentials.
    """
    file, name = _file(kubeconfig), context or current_context(kubeconfig)
    api = _shared.get((file or "", name)) if shared else None
    if api is None:
        api = _api(file, name, kubeconfig)
        if shared:
            _shared[(file or "", name)] = api
    return Kubernetes(api, name, Path(file) if file else None, before_change, read_s)


def _api(file: str | None, name: str, given: str) -> client.ApiClient:
    said = _Said()
    with _usable(given, name), said:
        settings = _settings()
        api = config.new_client_from_config(file, name, persist_config=False, client_configuration=settings)
        if said.lines and not (settings.api_key or settings.cert_file):
            raise config.ConfigException("; ".join(said.lines))
    return api


def connect_as_pod(context: str, *, before_change: Guard = read_only, read_s: float = READ_S) -> Kubernetes:
    """The cluster that this process runs in, as its pod's service account, whose token is read anew every minute.

    Args:
        context: what to call it.

    Raises:
        UsageError: it runs in no pod, or in one without a service account.
    """
    with _usable(str(SERVICE_ACCOUNT), context):
        settings, files = _settings(), [str(SERVICE_ACCOUNT / name) for name in ("token", "ca.crt")]
        incluster_config.InClusterConfigLoader(*files).load_and_set(settings)
    return Kubernetes(client.ApiClient(settings), context, None, before_change, read_s)


def _file(kubeconfig: str) -> str | None:
    # the client reads KUBECONFIG when it is imported, and never again
    return str(Path(kubeconfig).expanduser()) if kubeconfig else os.environ.get("KUBECONFIG")


def _settings() -> client.Configuration:
    settings = client.Configuration()
    # a change whose answer was lost may have been made: only reads are repeated
    settings.retries = urllib3.Retry(
        total=1, backoff_factor=0.2, allowed_methods={"GET"}, respect_retry_after_header=False
    )
    return settings


class _Said(logging.Handler):
    """Hears what the official client says of a credential plug-in: it logs why there is no token, and goes on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> None:
        logging.getLogger().addHandler(self)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


@contextmanager
def _usable(kubeconfig: str, context: str) -> Iterator[None]:
    """What the official client raises for a kubeconfig, as ours."""
    try:
        yield
    except (config.ConfigException, yaml.YAMLError, OSError, ImportError, *MALFORMED) as error:
        raise UsageError(
            f"cannot use the kubeconfig context {context or '(current)'!r}",
            where=kubeconfig or "KUBECONFIG, or ~/.kube/config",
            reason=f"{type(error).__name__}: {error}",
            remedy="set KUBECONFIG, and `cluster.context` to one of `kubectl config get-contexts`; a credential "
            "plug-in that is named must be on PATH and logged in",
        ) from None


def _asks_to_wait(error: Exception, method: str) -> bool:
    """Whether a refusal may be tried again after a pause: 429 comes before anything is done, 5xx may come after."""
    pause_s = retry.retry_after_seconds(error)
    harmless = method == "GET" or retry.is_too_many_requests(error)
    return harmless and retry.is_retry_after_response(error) and pause_s is not None and pause_s <= _LONGEST_PAUSE_S


def _object(data: bytes) -> Object:
    answer = json.loads(data)
    if not isinstance(answer, dict):
        raise ValueError(f"no JSON object: {answer!r:.100}")
    return answer


def _managers(item: Object) -> list[Any]:
    return [entry.get("manager") for entry in item["metadata"].get("managedFields", [])]


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _query(selector: str) -> dict[str, str]:
    return {"labelSelector": selector} if selector else {}
