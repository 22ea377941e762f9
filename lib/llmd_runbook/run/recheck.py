"""Looking again at what a stage brought about, without running it again."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

from llmd_runbook.manifest import Attempt, ClusterIdentity, ErrorRecord, How, Status
from llmd_runbook.profile import Profile
from llmd_runbook.run.stage import StageRun
from llmd_runbook.run.store import RunStore
from llmd_runbook.verdicts import StageResult, Verdict


class Recheck(StageRun):
    """Looks again at what an earlier attempt brought about; that attempt's record stays as it is.

    Args:
        tell: gets each progress message.
    """

    def __init__(
        self,
        stage: str,
        profile: Profile,
        cluster: ClusterIdentity,
        store: RunStore,
        attempt: Attempt,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__(stage, profile, cluster, store, attempt, None, How.CLI, "")
        atexit.unregister(self._process_ends)
        self.data = dict(attempt.result.data) if attempt.result else {}
        self._tell = tell

    def look(self, verify: Callable[[StageRun], object]) -> StageResult:
        """What the stage's `verify` finds now."""
        verify(self)
        return self._result()

    def _save(self, status: Status, *, verdict: Verdict | None = None, error: ErrorRecord | None = None) -> None:
        """Nothing: what is found goes to where the run was taken up again."""

    def _show_payload(self, payload: dict[str, Any], ended: bool) -> None:
        self._tell(payload)
