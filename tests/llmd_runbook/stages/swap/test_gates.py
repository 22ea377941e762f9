"""What the gates are judged on: how many requests and from when on, and the whole interval of a ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from llmd_runbook.analysis.cutover import NEW, Asked
from llmd_runbook.analysis.latency import Estimate, percentile
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.errors import GateFailed
from llmd_runbook.run import StageRun
from llmd_runbook.stages.swap import gates, steps
from llmd_runbook.stages.swap.probe import SwapProbe
from llmd_runbook.topology import Replica
from llmd_runbook.verdicts import Check, Verdict
from tests.llmd_runbook.memory import Memory
from tests.llmd_runbook.stages.loads import load

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
    passed = gates.AFFINITY.judge(True, expected="", observed="")
    monkeypatch.setattr(gates, "_affinity", lambda *_: passed)
    monkeypatch.setattr(gates, "_readiness", lambda *_: passed)
    monkeypatch.setattr(steps, "pods_of", lambda *_: cast(list[Replica], []))
    probe: Any = Stream(marks, bad_s)
    if bad_s < 1e6:
        with pytest.raises(GateFailed, match=r"gate\.errors"):
            gates.hold(stage, Memory(), cast(SwapProbe, probe), cast(Endpoint, None), {})
    else:
        gates.hold(stage, Memory(), cast(SwapProbe, probe), cast(Endpoint, None), {})
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


def p95_gate(times: float, *, answers: int = 125, before: int = 125) -> Check:
    """Exponential latencies from 1 s on before, and `times` that after."""

    def latencies(n: int) -> list[float]:
        return [1 - math.log(1 - number / n) for number in range(n)]

    base = replace(load(20.0), latencies_s=latencies(before))
    found = replace(load(20.0), latencies_s=[times * one for one in latencies(answers)])
    return gates.judged(base, found, 2.0)


def test_a_p95_that_is_within_with_its_whole_interval_passes() -> None:
    found = p95_gate(1.2)
    assert (found.verdict, found.remedy) == (Verdict.PASS, None)
    assert found.observed == "1.20 times, 95 % interval 0.76 to 1.89"


def test_a_p95_that_is_above_with_its_whole_interval_fails() -> None:
    found = p95_gate(4.0)
    assert found.verdict is Verdict.FAIL
    assert found.observed == "4.00 times, 95 % interval 2.54 to 6.29"
    assert "stage 06" in (found.remedy or "")


@pytest.mark.parametrize("times", [1.6, 1.9, 2.1, 2.5])
def test_a_p95_whose_interval_has_the_permitted_ratio_in_it_proves_nothing_and_says_what_would(times: float) -> None:
    """A point estimate would say pass for the first two and fail for the others."""
    found = p95_gate(times)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.observed.startswith(f"{times:.2f} times, 95 % interval ")
    words = (found.remedy or "").split()
    needed = int(words[words.index("about") + 1])
    assert needed > 125
    assert p95_gate(times, answers=2 * needed, before=2 * needed).verdict is not Verdict.INCONCLUSIVE


def test_a_baseline_without_an_upper_end_fails_nothing_and_says_what_would() -> None:
    found = p95_gate(9.0, before=60)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "an open end to" in found.observed
    assert "about 86 answers a side" in (found.remedy or "")
    assert p95_gate(9.0, before=86).verdict is Verdict.FAIL


def test_one_slow_answer_by_chance_does_not_decide() -> None:
    bound = percentile([float(number) for number in range(1, gates._REQUESTS + 1)], 0.95, 0.975)
    assert isinstance(bound, Estimate)
    assert bound.high == gates._REQUESTS - 1
