"""The exec credential plug-in of the kubeconfigs that `access` makes: a token of the Application Default Credentials.

The official client, helm, helmfile and kubectl all run it (`python -m llmd_runbook.clients.gke_credential`) whenever
they need a token, so none is ever written to a file. Format: client-go credential plugins, `ExecCredential` v1.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC
from typing import Any

from google.auth import exceptions

from llmd_runbook.clients.gke import LOGIN, default_credentials
from llmd_runbook.errors import EXIT_FAIL, Forbidden, RunbookError

API_VERSION = "client.authentication.k8s.io/v1"


def credential() -> dict[str, Any]:
    """A fresh token as an `ExecCredential`.

    Raises:
        Forbidden: there are no credentials, or they give no token.
    """
    from google.auth.transport.requests import Request

    found = default_credentials()
    try:
        found.refresh(Request())
    except exceptions.GoogleAuthError as error:
        raise Forbidden("the Google credentials give no token", reason=str(error), remedy=LOGIN) from error
    status = {"token": found.token}
    if found.expiry:
        status["expirationTimestamp"] = found.expiry.replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"apiVersion": API_VERSION, "kind": "ExecCredential", "status": status}


if __name__ == "__main__":
    try:
        print(json.dumps(credential()))
    except RunbookError as refused:
        print(refused, file=sys.stderr)
        sys.exit(EXIT_FAIL)
