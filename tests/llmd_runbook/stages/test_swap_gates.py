"""How many requests the error rate of Pattern 3 is judged on, and from when on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from llmd_runbook.analysis.cutover import NEW, Asked
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.errors import GateFailed
from llmd_runbook.run import StageRun
from llmd_runbook.stages import swap_gates, swap_steps
from llmd_runbook.stages.swap_probe import SwapProbe
from llmd_runbook.topology import Replica
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.memory import Memory

Open = Callable[[str], StageRun]


class Stream:
    """A request under the new name every second, which fails from `bad_s` on; time passes while it is waited for."""

    def __init__(self, marks: dict[str, float], bad_s: float) -> None:
        self.marks, self.trouble, self._bad_s = marks, "", bad_s
        self._now_s = max(marks.values())

    def wait_for(self, name: str, answers: int, *, since: str = "") -> bool:
        assert name == NEW
        while sum(one.sent_s >= self.marks[since] for one in self.requests()) < answers:
            self._now_s += 1
        return True

    def requests(self) -> list[Asked]:
        return [self._asked(float(at)) for at in range(int(self._now_s))]

    def _asked(self, at_s: float) -> Asked:
        error = "http_500" if at_s >= self._bad_s else None
        return Asked(NEW, False, at_s, at_s, at_s, 500 if error else 200, error, f"r{at_s:g}", 4, 10)


def errors(open_stage: Open, monkeypatch: pytest.MonkeyPatch, marks: dict[str, float], bad_s: float) -> Check:
    stage = open_stage("03_swap_patterns")
    passed = swap_gates.AFFINITY.judge(True, expected="", observed="")
    monkeypatch.setattr(swap_gates, "_affinity", lambda *_: passed)
    monkeypatch.setattr(swap_gates, "_readiness", lambda *_: passed)
    monkeypatch.setattr(swap_steps, "pods_of", lambda *_: cast(list[Replica], []))
    probe: Any = Stream(marks, bad_s)
    if bad_s < 1e6:
        with pytest.raises(GateFailed, match=r"gate\.errors"):
            swap_gates.hold(stage, Memory(), cast(SwapProbe, probe), cast(Endpoint, None), {})
    else:
        swap_gates.hold(stage, Memory(), cast(SwapProbe, probe), cast(Endpoint, None), {})
    (found,) = [check for check in stage.finish().checks if check.id == "gate.errors"]
    return found


MARKS = [{"serving": 10.0}, {"serving": 10.0, "drained": 90.0}, {"serving": 90.0, "drained": 60.0}]


@pytest.mark.parametrize("marks", MARKS, ids=["recreate", "a drain of its own time", "one that began before"])
def test_enough_requests_are_waited_for_after_pattern_1_is_idle(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, marks: dict[str, float]
) -> None:
    found = errors(open_stage, monkeypatch, marks, bad_s=1e9)
    assert found.verdict is Verdict.PASS
    assert found.observed == "0 of 40 failed"


def test_errors_from_then_on_fail_it(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    found = errors(open_stage, monkeypatch, {"serving": 10.0, "drained": 90.0}, bad_s=100.0)
    assert (found.verdict, found.observed) == (Verdict.FAIL, "30 of 40 failed")
