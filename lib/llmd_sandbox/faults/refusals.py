"""Refusals in the words of the server that is asked: the API server's Status objects, Google's error bodies."""

from __future__ import annotations

from aiohttp import web

from llmd_sandbox.faults.declared import Fault, Kind

_TOO_MANY = "Too many requests, please try again later."
"""The API server's own words."""
_KUBERNETES = {
    Kind.CONFLICT: (409, "Conflict", "Operation cannot be fulfilled: the object has been modified"),
    Kind.BREAK: (500, "InternalError", "Internal error occurred: etcdserver: request timed out"),
}
_GOOGLE = {
    Kind.THROTTLE: (429, "RESOURCE_EXHAUSTED", "Quota exceeded for quota metric 'Requests' and limit 'per minute'."),
    Kind.CONFLICT: (400, "FAILED_PRECONDITION", "Cluster is running incompatible operation operation-elsewhere."),
    Kind.BREAK: (500, "INTERNAL", "Internal error encountered."),
}


def refusal(fault: Fault, path: str) -> web.Response:
    """The answer to a request that is refused before anything is done."""
    if path.startswith("/v1/projects/"):
        code, status, message = _GOOGLE[fault.kind]
        return web.json_response({"error": {"code": code, "status": status, "message": message}}, status=code)
    if fault.kind is Kind.THROTTLE:
        return web.Response(status=429, text=f"{_TOO_MANY}\n", headers={"Retry-After": str(fault.retry_after_s)})
    code, reason, message = _KUBERNETES[fault.kind]
    said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code}
    return web.json_response(said | {"reason": reason, "message": message}, status=code)
