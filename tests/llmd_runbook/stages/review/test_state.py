from __future__ import annotations

from collections.abc import Callable

import pytest

from llmd_runbook.run import StageRun
from llmd_runbook.stages.review import state
from llmd_runbook.verdicts import Verdict


@pytest.mark.parametrize(("answers", "verdict"), [(58, Verdict.FAIL), (59, Verdict.PASS)])
def test_a_p95_needs_59_answers(open_stage: Callable[[str], StageRun], answers: int, verdict: Verdict) -> None:
    stage = open_stage("01_review_state")
    stage.data["baseline"] = {"latencies_s": [1.0] * answers}
    state.samples(stage)
    (check,) = stage.finish().checks
    assert (check.verdict, check.observed) == (verdict, f"{answers} answers")
    assert check.expected == "59 answers, for p50 and p95"
