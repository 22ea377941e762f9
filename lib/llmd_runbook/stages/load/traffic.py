"""The HTTPRoute that carries the clients' traffic: moved by one apply, believed only when requests arrive.

Beside it a route of our own can lead to a pattern that no client uses yet: requests with our header, and no others.
"""

from __future__ import annotations

import time
from dataclasses import replace

from llmd_runbook.clients.inference import Completion, Endpoint, Inference
from llmd_runbook.clients.kubernetes import GATEWAYS, HTTP_ROUTES, Kubernetes, Object
from llmd_runbook.errors import ApiError, ClusterError, DeadlineExceeded, Forbidden
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.run import StepHandle
from llmd_runbook.topology import RouteView, endpoint, gateway_of, route_of, route_view, unmet

_POOL_GROUP = "inference.networking.k8s.io"
_PROBE_PAUSE_S = 0.25
OWN_HEADER = "x-llmd-runbook-pattern"
"""Requests that carry it, with the name of an InferencePool, go to that pool by a route of our own."""


def manifest(profile: Profile, pattern: Pattern) -> Object:
    """The HTTPRoute that sends everything to a pattern's InferencePool."""
    backend = {"group": _POOL_GROUP, "kind": "InferencePool", "name": pattern.inference_pool}
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": profile.route.name, "namespace": profile.namespace},
        "spec": {
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": pattern.gateway}],
            "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [backend]}],
        },
    }


def own_name(profile: Profile, pattern: Pattern) -> str:
    """The name of our own route to a pattern; always the same, so that a later attempt finds it."""
    return f"{profile.route.name}-to-{pattern.inference_pool}"


def own_manifest(profile: Profile, pattern: Pattern) -> Object:
    """The HTTPRoute that sends to a pattern's InferencePool what carries our header; it goes before every other."""
    made = manifest(profile, pattern)
    made["metadata"]["name"] = own_name(profile, pattern)
    header = {"type": "Exact", "name": OWN_HEADER, "value": pattern.inference_pool}
    made["spec"]["rules"][0]["matches"][0]["headers"] = [header]
    return made


def by_own_route(target: Endpoint, pattern: Pattern) -> Endpoint:
    """A Gateway's address, with the header that our own route asks for."""
    return replace(target, headers={**target.headers, OWN_HEADER: pattern.inference_pool})


def open_own(kube: Kubernetes, profile: Profile, pattern: Pattern, step: StepHandle) -> None:
    """Have our own route to a pattern, accepted by the gateway.

    Raises:
        DeadlineExceeded: with the route's conditions.
    """
    name = own_name(profile, pattern)
    before = route_view(kube, profile.namespace, name)
    if points_to(before, pattern) and accepted(before):
        step.ok("as it is")
        return
    kube.apply(HTTP_ROUTES, own_manifest(profile, pattern), profile.namespace, tell=step.remark)
    _until_accepted(kube, profile, pattern, name, step)
    step.changed(f"{name}: {OWN_HEADER}: {pattern.inference_pool}")


def close_own(kube: Kubernetes, profile: Profile, pattern: Pattern, step: StepHandle) -> None:
    """Remove our own route to a pattern, if it is there."""
    name = own_name(profile, pattern)
    found = kube.find(HTTP_ROUTES, name, profile.namespace)
    if found is None:
        step.ok("absent already")
        return
    kube.delete(HTTP_ROUTES, name, profile.namespace, uid=found["metadata"]["uid"], grace_s=0, tell=step.remark)
    step.changed(f"removed {name}")


def points_to(route: RouteView | None, pattern: Pattern) -> bool:
    """Whether an HTTPRoute sends traffic to that pattern, and to it alone."""
    wanted = [f"InferencePool/{pattern.inference_pool}"]
    return route is not None and route.backends == wanted and route.gateways == [pattern.gateway]


def accepted(route: RouteView | None) -> bool:
    """Accepted and ResolvedRefs, for the generation that is there now."""
    kinds = ("Accepted", "ResolvedRefs")
    return route is not None and all(route.conditions.get(kind, "").startswith("True") for kind in kinds)


def move(kube: Kubernetes, profile: Profile, pattern: Pattern, step: StepHandle) -> None:
    """Point the HTTPRoute at a pattern and watch until the gateway has accepted it.

    Raises:
        DeadlineExceeded: with the route's conditions.
    """
    before = route_view(kube, profile.namespace, profile.route.name)
    if points_to(before, pattern) and accepted(before):
        step.ok("as it is")
        return
    kube.apply(HTTP_ROUTES, manifest(profile, pattern), profile.namespace, tell=step.remark)
    _until_accepted(kube, profile, pattern, profile.route.name, step)
    step.changed(f"{' '.join(before.backends) if before else 'none'} to InferencePool/{pattern.inference_pool}")


def _until_accepted(kube: Kubernetes, profile: Profile, pattern: Pattern, name: str, step: StepHandle) -> None:
    """Watch until a route points to a pattern and the gateway has accepted that."""

    def here(items: list[Object]) -> RouteView | None:
        return next((route_of(item) for item in items if item["metadata"]["name"] == name), None)

    def state(items: list[Object]) -> str:
        route = here(items)
        step.progress("waiting for Accepted and ResolvedRefs")
        return str(route) if route else "no such HTTPRoute"

    kube.wait(
        HTTP_ROUTES,
        lambda items: points_to(here(items), pattern) and accepted(here(items)),
        what=f"HTTPRoute {name} to be accepted",
        timeout_s=profile.route.ready_timeout_s,
        remedy=f"kubectl -n {profile.namespace} describe httproute {name}",
        namespace=profile.namespace,
        on_change=state,
    )


def wait_programmed(kube: Kubernetes, profile: Profile, pattern: Pattern, step: StepHandle) -> Endpoint:
    """Watch until the pattern's Gateway is programmed and has an address; where clients send requests.

    Raises:
        DeadlineExceeded: with the Gateway's conditions, and the messages of those that do not hold.
    """

    def here(items: list[Object]) -> Object | None:
        return next((item for item in items if item["metadata"]["name"] == pattern.gateway), None)

    def programmed(items: list[Object]) -> bool:
        gateway = here(items)
        view = gateway_of(gateway) if gateway else None
        return view is not None and view.programmed and view.address is not None

    def state(items: list[Object]) -> str:
        gateway = here(items)
        if gateway is None:
            shown = "no such Gateway"
        else:
            status = gateway.get("status", {})
            shown = "; ".join([str(gateway_of(gateway)), *unmet(status)])
        step.progress(f"waiting for Gateway {pattern.gateway}: {shown}")
        return shown

    kube.wait(
        GATEWAYS,
        programmed,
        what=f"Gateway {pattern.gateway} to be programmed",
        timeout_s=profile.route.ready_timeout_s,
        remedy=f"kubectl -n {profile.namespace} describe gateway {pattern.gateway}",
        namespace=profile.namespace,
        on_change=state,
    )
    return endpoint(kube, profile, pattern.gateway)


def wait_for_answer(target: Endpoint, profile: Profile, model: str, step: StepHandle) -> Completion:
    """Ask until the gateway answers for that model: conditions come before the load balancer's data path.

    Only answers that a lagging data path explains are asked again; a refusal of the request itself is not.

    Raises:
        DeadlineExceeded: with the last answer.
        Forbidden: the gateway wants a bearer token, or another one.
        ApiError: it answered 400.
    """
    client = Inference(target, timeout_s=profile.load.request_timeout_s)
    deadline = time.monotonic() + profile.route.ready_timeout_s
    asked, last = 0, ""
    while True:
        asked += 1
        step.progress(f"request {asked} to {target.url}{last}")
        try:
            return client.complete(model, "Say hello.", max_tokens=8)
        except Forbidden:
            raise
        except ClusterError as error:
            if isinstance(error, ApiError) and " 400" in error.what:
                raise
            last = f"; before: {error.in_short}"
            if time.monotonic() >= deadline:
                raise DeadlineExceeded(
                    f"no answer for {model} within {profile.route.ready_timeout_s:.0f} s ({asked} requests)",
                    where=target.url,
                    reason=error.in_short,
                    remedy="see the HTTPRoute's conditions and the endpoint picker's log",
                ) from None
            time.sleep(_PROBE_PAUSE_S)
