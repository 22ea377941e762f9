"""What the Kubernetes API's refusals, and no answer at all, mean to an operator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3
from kubernetes.client.exceptions import ApiException

from llmd_runbook.errors import ApiError, ClusterError, Conflict, Forbidden, NotFound, Unreachable

MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
"""What reading JSON or YAML of another shape raises."""


@contextmanager
def translated(where: str) -> Iterator[None]:
    """What the official client raises inside, as ours; `where` is what was asked for.

    Raises:
        ClusterError: with the server's own reason.
    """
    try:
        yield
    except ApiException as error:
        raise _refusal(error, where) from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unreachable(
            "the Kubernetes API does not answer",
            where=where,
            reason=str(error.reason if isinstance(error, urllib3.exceptions.MaxRetryError) else error),
            remedy="check the network, the kubeconfig's server, and that the cluster is up",
        ) from None
    except MALFORMED as error:
        raise ApiError(
            "the Kubernetes API answered nonsense",
            where=where,
            reason=f"{type(error).__name__}: {error}",
            remedy="check what serves that address",
        ) from None


def may_have_been_made(error: Exception) -> bool:
    """Whether a change may have been made although this came in place of its answer.

    Not where no connection was made, nor where the API server refused. A gateway before it that gave up (502, 504), the
    API server's own time limit (504) and that of its store are no refusals.
    """
    if isinstance(error, ApiException):
        return error.status in (502, 504) or "etcdserver: request timed out" in str(error.body)
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason:
        error = error.reason
    never = urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ProxyError
    return not isinstance(error, never)


def _refusal(error: ApiException, where: str) -> ClusterError:
    try:
        reason = str(json.loads(error.body or "{}").get("message") or error.reason)
    except (ValueError, AttributeError):
        reason = f"{error.status} {error.reason}: {str(error.body)[:300]}"
    match error.status:
        case 401:
            return Forbidden(
                "the Kubernetes API refused the credentials",
                where=where,
                reason=reason,
                remedy="log in again",
            )
        case 403:
            return Forbidden(
                "not permitted",
                where=where,
                reason=reason,
                remedy="ask for that verb on that resource, or use another context",
            )
        case 404:
            return NotFound("not found", where=where, reason=reason, remedy="check name and namespace in the profile")
        case 409:
            return Conflict(
                "somebody else changed it",
                where=where,
                reason=reason,
                remedy="look at the object, then run again",
            )
        case 429:
            return ApiError(
                "the Kubernetes API has too much to do (429)",
                where=where,
                reason=reason,
                remedy="wait until `kubectl get --raw /readyz` is answered quickly, then run again",
            )
    remedy = "see the reason"
    if "webhook" in reason:
        remedy = (
            "find the webhook that the reason names (kubectl get validatingwebhookconfigurations,"
            "mutatingwebhookconfigurations), have its owner mend it, then run again"
        )
    return ApiError(f"the Kubernetes API refused ({error.status})", where=where, reason=reason, remedy=remedy)
