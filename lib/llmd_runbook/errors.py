"""The one error tree.

::

    RunbookError                 what, where, the server's own reason, what to do
    ├── UsageError               exit 2: arguments, files, an earlier run that does not fit
    │   └── ProfileError         exit 2: the parameter file, with file, line, key, value
    ├── ClusterError             exit 2 before a run starts, else the stage fails
    │   ├── Unreachable          no answer from an API, a gateway, a replica
    │   ├── Forbidden            the API refused: which verb on which object
    │   ├── NotFound             the object does not exist
    │   ├── Conflict             somebody else is changing the same thing
    │   └── ApiError             any other refusal
    ├── ToolError                helm, helmfile: exit status and what it printed last
    │   └── ToolCutShort         ... or a time-out or a lost answer: what it was to change may be there all the same
    ├── DeadlineExceeded         a wait ended before what it waited for came true
    ├── GateFailed               a new pattern did not hold what it must, so clients were not left to it
    ├── RolledBack               a change did not hold and was undone; what was before serves again
    ├── RollbackFailed           ... and could not be undone: state, and commands to finish by hand
    ├── ApprovalNeeded           exit 4: a plan that nobody approved
    └── Locked                   exit 5: somebody else changes this cluster and pool
        └── LockLost             exit 5: the lock is not held, or not any more; nothing more is changed

Every message is redacted when the error is made, so that no secret can travel in one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

EXIT_PASS, EXIT_FAIL, EXIT_USAGE, EXIT_INCONCLUSIVE = 0, 1, 2, 3
EXIT_APPROVAL, EXIT_LOCKED, EXIT_INTERRUPTED = 4, 5, 130

_SECRET_PATTERNS = [
    re.compile(r"hf_[A-Za-z0-9]{10,}"),
    re.compile(r"ya29\.[A-Za-z0-9_\-.]{10,}"),
    re.compile(r"eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/=]+"),  # base64 of "-----BEGIN", as kubeconfigs hold keys
    re.compile(r"(?i)(?<=bearer )\s*[A-Za-z0-9_\-.=+/~]{8,}"),
    re.compile(r"(?i)(?<=authorization: basic )\s*[A-Za-z0-9+/=]{8,}"),
    re.compile(r"(?i)(?<=://)[^/?#\s:@]*:[^/?#\s]+(?=@)"),
]
_SECRET_VARIABLE = re.compile(r"(?i)(token|secret|password|passwd|api_?key|credential)")
REDACTED = "[redacted]"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace credentials: by their form, each of `secrets`, and the values of secret-like variables."""
    known = [value.strip() for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)]
    for secret in sorted({*secrets, *known}, key=len, reverse=True):
        if len(secret) >= 8 and not os.path.exists(secret):
            text = text.replace(secret, REDACTED)
    for pattern in _SECRET_PATTERNS:
        text = pattern.sub(REDACTED, text)
    return text


class RunbookError(Exception):
    """An error with everything an operator needs to act on it.

    Args:
        what: what failed, one sentence.
        where: file and line, object, or address.
        reason: the server's or tool's own words.
        remedy: what to do now.
    """

    exit_code = EXIT_FAIL

    def __init__(
        self, what: str, *, where: str | None = None, reason: str | None = None, remedy: str | None = None
    ) -> None:
        self.what = redact(what)
        self.where = redact(where) if where else None
        self.reason = redact(reason) if reason else None
        self.remedy = redact(remedy) if remedy else None
        super().__init__(self.what)

    @property
    def in_short(self) -> str:
        """What failed, with the server's or tool's own words where there are any: one line for a check or a table."""
        return f"{self.what}: {self.reason}" if self.reason else self.what

    def __str__(self) -> str:
        parts = [self.what]
        parts += [f"  where:  {self.where}"] if self.where else []
        parts += [f"  reason: {self.reason}"] if self.reason else []
        parts += [f"  to do:  {self.remedy}"] if self.remedy else []
        return "\n".join(parts)

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(RunbookError):
    """Arguments or files that cannot be used; nothing was started."""

    exit_code = EXIT_USAGE


class ProfileError(UsageError):
    """A profile that cannot be used: file, line, key and value are in the message."""


class ClusterError(RunbookError):
    """The cluster, GKE or the gateway said no, or nothing at all."""


class Unreachable(ClusterError):
    """No answer."""


class Forbidden(ClusterError):
    """The caller's permissions do not suffice."""


class NotFound(ClusterError):
    """The object does not exist."""


class Conflict(ClusterError):
    """Somebody else is changing the same thing."""


class ApiError(ClusterError):
    """Any other refusal of an API."""


class ToolError(RunbookError):
    """A command line tool failed or is missing."""


class ToolCutShort(ToolError):
    """A changing command ended without knowing what became of it: its own time-out or ours, or a lost answer."""


class DeadlineExceeded(RunbookError):
    """A wait ended before what it waited for came true."""


class GateFailed(RunbookError):
    """A new pattern did not hold what it must before clients are left to it."""


class RolledBack(RunbookError):
    """A change did not hold and was undone; what was before serves again."""


class RollbackFailed(RunbookError):
    """A change did not hold and could not be undone; `where` is the state, `remedy` how to finish by hand."""


class ApprovalNeeded(RunbookError):
    """A plan would change something and nobody approved it."""

    exit_code = EXIT_APPROVAL


class Locked(RunbookError):
    """Somebody else holds the lock of this cluster and pool."""

    exit_code = EXIT_LOCKED


class LockLost(Locked):
    """The lock is not held, or not any more: the change was not made."""
