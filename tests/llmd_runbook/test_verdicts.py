from __future__ import annotations

import pytest
from pydantic import ValidationError

from llmd_runbook import verdicts
from llmd_runbook.verdicts import Check, CheckSpec, StageResult, Verdict, declare, overall

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
SPEC = CheckSpec("tiny.check", "that it is so", "mend it")


@pytest.mark.parametrize(
    ("found", "whole"),
    [
        ([], INCONCLUSIVE),
        ([PASS], PASS),
        ([PASS, INCONCLUSIVE], INCONCLUSIVE),
        ([INCONCLUSIVE, FAIL, PASS], FAIL),
        ([FAIL], FAIL),
    ],
)
def test_the_worst_verdict_counts_and_nothing_proves_nothing(found: list[Verdict], whole: Verdict) -> None:
    assert overall(iter(found)) is whole


@pytest.mark.parametrize(("ok", "verdict"), [(True, PASS), (False, FAIL), (None, INCONCLUSIVE)])
def test_judging(ok: bool | None, verdict: Verdict) -> None:
    check = SPEC.judge(ok, expected=3, observed=[1, 2], evidence=iter(["a", "b"]))
    assert (check.id, check.proves, check.verdict) == ("tiny.check", "that it is so", verdict)
    assert (check.expected, check.observed, check.evidence) == ("3", "[1, 2]", ["a", "b"])
    assert check.remedy == (None if ok else "mend it")
    assert SPEC.judge(ok, expected="", observed="", remedy="otherwise").remedy == (None if ok else "otherwise")


def test_no_text_of_a_check_holds_a_secret() -> None:
    token = "hf_abcdefghijklmnop"
    check = SPEC.judge(False, expected=token, observed=token, evidence=[token], remedy=token)
    assert token not in check.model_dump_json()


def test_a_stage_is_as_good_as_its_worst_check() -> None:
    checks = [SPEC.judge(True, expected=1, observed=1), SPEC.judge(None, expected=1, observed=1)]
    assert StageResult(stage="01_a", simulated=True, checks=checks).verdict is INCONCLUSIVE
    assert StageResult(stage="01_a", simulated=True, checks=[]).verdict is INCONCLUSIVE


def test_results_survive_json_and_refuse_unknown_keys() -> None:
    result = StageResult(
        stage="01_a", simulated=False, checks=[SPEC.judge(True, expected=1, observed=1)], data={"n": 1}
    )
    assert StageResult.model_validate_json(result.model_dump_json()) == result
    with pytest.raises(ValidationError):
        StageResult.model_validate({**result.model_dump(), "verdict": "pass"})


def test_judged_statements_do_not_change() -> None:
    check: Check = SPEC.judge(True, expected=1, observed=1)
    with pytest.raises(ValidationError):
        check.__setattr__("verdict", FAIL)


def test_a_check_that_never_fails_cannot_be_made_to() -> None:
    spec = CheckSpec("tiny.check", "that it is so", "mend it", never_fails="nothing would prove it")
    assert spec.judge(None, expected="so", observed="not seen").verdict is Verdict.INCONCLUSIVE
    with pytest.raises(ValueError, match="cannot fail: nothing would prove it"):
        spec.judge(False, expected="so", observed="not so")


def test_each_id_is_declared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "REGISTRY", {})
    spec = declare("a.b", "that", "do")
    assert {"a.b": spec} == verdicts.REGISTRY
    with pytest.raises(ValueError, match=r"'a\.b' is declared twice"):
        declare("a.b", "that", "do")
