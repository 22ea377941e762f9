"""What the stage says of the picker's log beside its checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from llmd_runbook.analysis.routing_facts import PickerFacts, Unread
from llmd_runbook.run import StageRun
from llmd_runbook.stages.routing import configuration
from llmd_runbook.verdicts import StageResult, Verdict
from tests.llmd_runbook.analysis.test_routing_lint import FACTS, PICKER

TITLE = "What the picker logs of a decision"
Open = Callable[[str], StageRun]


def judged(open_stage: Open, monkeypatch: pytest.MonkeyPatch, picker: PickerFacts | Unread) -> StageResult:
    monkeypatch.setattr(configuration, "_facts", lambda _: replace(FACTS, picker=picker))
    stage = open_stage("05_routing_affinity")
    configuration.configuration(stage)
    return stage.finish()


@pytest.mark.parametrize(
    ("words", "said", "more"),
    [(("-v=4",), "-v 4: every score and choice.", False), (("-v=1",), "-v 1: no scores, no choices. To have", True)],
)
def test_a_low_log_level_is_said_and_is_no_verdict(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str, more: bool
) -> None:
    found = judged(open_stage, monkeypatch, replace(PICKER, arguments=(*PICKER.arguments[:2], *words)))
    assert {check.verdict for check in found.checks} == {Verdict.PASS}
    [text] = [note.text for note in found.notes if note.title == TITLE]
    assert text.startswith(said)
    assert ("affinity.raise_log_level" in text) is more


def test_without_a_picker_nothing_is_said_of_its_log(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(open_stage, monkeypatch, Unread("no permission to look"))
    assert TITLE not in {note.title for note in found.notes}
