"""A Google API read over REST with google-auth, where its client library is no dependency of ours.

Credentials: Application Default Credentials. An address from the environment, as gcloud takes it, may stand in the
API's place; plain http is accepted for loopback addresses only, and without credentials.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
from google.auth import exceptions as auth_exceptions

from llmd_runbook.clients.loopback import is_loopback
from llmd_runbook.errors import ApiError, Forbidden, NotFound, Unreachable, UsageError

_CALL_TIMEOUT_S = 60.0
_LOGIN = "run `gcloud auth application-default login`"


@dataclass(frozen=True)
class Api:
    """Which API: what messages call it, its address, the variable that moves that, and what a caller needs."""

    name: str
    endpoint: str
    variable: str
    scope: str
    permission: str

    def nonsense(self, where: str, error: Exception) -> ApiError:
        """The error of an answer that is not in the API's documented form."""
        return ApiError(
            f"{self.name} answered nonsense",
            where=where,
            reason=f"{type(error).__name__}: {error}",
            remedy="check what serves that address",
        )


class GoogleRest:
    """Reads one API.

    Raises:
        UsageError: an override that is not a usable address.
        Forbidden: no credentials were found.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self.endpoint = os.environ.get(api.variable) or api.endpoint
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
            raise UsageError(
                f"{api.variable} is not an address",
                where=f"environment variable {api.variable}",
                remedy=f"give scheme and host, as in {api.endpoint}, or unset it",
            )
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise UsageError(
                f"{api.variable} is plain http to {parts.hostname}, which is not this machine",
                where=f"environment variable {api.variable}",
                reason="credentials must not travel unencrypted",
                remedy="use https, or a loopback address",
            )
        self._session = requests.Session() if parts.scheme == "http" else _authorized(api.scope)

    def close(self) -> None:
        """Close its connections."""
        self._session.close()

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The JSON that a path answers.

        Raises:
            Unreachable, Forbidden, NotFound: no answer, no permission, nothing there.
            ApiError: any other refusal, or no JSON.
        """
        url = f"{self.endpoint.rstrip('/')}/{path}"
        what = f"cannot read {self._api.name}"
        try:
            answer = self._session.get(url, params=query, timeout=_CALL_TIMEOUT_S)
        except (requests.RequestException, auth_exceptions.TransportError) as error:
            raise Unreachable(
                what, where=url, reason=str(error), remedy=f"check the network and {self._api.variable}"
            ) from None
        except auth_exceptions.GoogleAuthError as error:
            raise Forbidden(what, where=url, reason=str(error), remedy=_LOGIN) from None
        if answer.status_code in (401, 403):
            remedy = f"{self._api.permission}, or as somebody else: {_LOGIN}"
            raise Forbidden(what, where=url, reason=_words(answer), remedy=remedy)
        if answer.status_code != 200:
            kind = NotFound if answer.status_code == 404 else ApiError
            raise kind(
                f"{what} ({answer.status_code})", where=url, reason=_words(answer), remedy="act on the server's reason"
            )
        try:
            return answer.json()
        except ValueError as error:
            raise self._api.nonsense(url, error) from None


def _authorized(scope: str) -> requests.Session:
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    try:
        credentials, _ = google.auth.default(scopes=[scope])
    except auth_exceptions.DefaultCredentialsError as error:
        raise Forbidden("no Google credentials were found", reason=str(error), remedy=_LOGIN) from None
    session: requests.Session = AuthorizedSession(credentials)
    return session


def _words(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (LookupError, TypeError, ValueError):
        return f"{answer.status_code} {answer.reason}"
