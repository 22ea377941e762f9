from __future__ import annotations

from llmd_runbook.analysis.access import needs
from llmd_runbook.stages.review.permissions import judge_changes, judge_reads
from llmd_runbook.verdicts import Verdict

READS = needs("llm-d", "", "get list", "pods")
CHANGES = [*needs("llm-d", "", "get", "secrets"), *needs("llm-d", "apps", "create patch", "deployments")]


def test_all_is_permitted() -> None:
    assert judge_reads(dict.fromkeys(READS, True)).verdict is Verdict.PASS
    assert judge_changes(dict.fromkeys(CHANGES, True)).verdict is Verdict.PASS


def test_one_verb_is_missing() -> None:
    read = judge_reads({**dict.fromkeys(READS, True), READS[1]: False})
    assert (read.verdict, read.observed) == (Verdict.FAIL, "1 missing: list pods in llm-d")
    change = judge_changes({**dict.fromkeys(CHANGES, True), CHANGES[1]: False})
    assert (change.verdict, change.observed) == (Verdict.FAIL, "1 missing: create deployments.apps in llm-d")
    assert "--operator" in str(change.remedy)


def test_who_only_observes_says_nothing_of_the_operator() -> None:
    answers = {need: need.verb == "get" for need in CHANGES}
    check = judge_changes(answers)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "only observes" in check.observed


def test_what_nobody_asked_is_not_permitted() -> None:
    assert judge_reads({}).verdict is Verdict.FAIL
    check = judge_changes({}, "what helm would do is not known: helm failed")
    assert (check.verdict, check.observed) == (Verdict.INCONCLUSIVE, "what helm would do is not known: helm failed")
