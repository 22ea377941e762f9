"""What every client asks right before it changes something.

A client gets its guard when it is made; the one that it has by default refuses. Reads never ask.
"""

from __future__ import annotations

from collections.abc import Callable

from llmd_runbook.errors import LockLost

Guard = Callable[[], None]
"""Returns when a change may be made now.

Raises:
    LockLost: it may not.
"""


def read_only() -> None:
    """The guard of a client that was made to look.

    Raises:
        LockLost: always.
    """
    raise LockLost(
        "a change without the lock; nothing was changed",
        reason="this client was made to look, not to change",
        remedy="report this: it is a mistake in the runbook",
    )
