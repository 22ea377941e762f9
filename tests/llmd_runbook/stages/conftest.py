from __future__ import annotations

from collections.abc import Callable

import pytest

from llmd_runbook.run import StageRun, begin
from tests.llmd_runbook.conftest import Bench


@pytest.fixture
def open_stage(bench: Bench) -> Callable[[str], StageRun]:
    """Opens a stage of the bench's run, in plain Python, on a cluster that nobody asks."""

    def opened(name: str) -> StageRun:
        return begin(
            name,
            str(bench.profile_file),
            identify=lambda _: bench.cluster,
            output=bench.output,
            notebooks=bench.notebooks,
        )

    return opened
