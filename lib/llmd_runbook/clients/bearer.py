"""A gateway's bearer token: read where it stands at the moment of sending, and kept nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from llmd_runbook.errors import UsageError

_REMEDY = "put the bearer token there, or name another place in the profile (`route.bearer_variable`, `bearer_file`)"


def authorization(variable: str, file: str) -> dict[str, str]:
    """The header for the token in an environment variable or in a file; none where neither is named.

    Raises:
        UsageError: the variable is not set, or the file cannot be read or is empty.
    """
    if not variable and not file:
        return {}
    where, reason = (f"environment variable {variable}", "it is not set") if variable else (file, "it is empty")
    try:
        token = (os.environ.get(variable, "") if variable else Path(file).read_text(encoding="utf-8")).strip()
    except (OSError, UnicodeError) as error:
        token, reason = "", str(error)
    if not token:
        raise UsageError("there is no token for the gateway", where=where, reason=reason, remedy=_REMEDY)
    return {"Authorization": f"Bearer {token}"}
