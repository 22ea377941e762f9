"""The run with exactly the roles that `llmd-runbook roles` prints: the operator changes, the observer only looks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmd_runbook.errors import Forbidden
from llmd_runbook.stages import verify
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.bench import Bench, all_pass
from tests.end_to_end.callers import REVIEW, called_by, printed_roles
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(300)

HIDDEN = {"pattern1.releases", "token.secret", "permissions.change"}
"""What an observer cannot prove: helm's record lies in Secrets, as the token does."""


@pytest.fixture(scope="module")
def bench(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sandbox.environment.items():
            patch.setenv(name, value)
        yield Bench(sandbox, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def observer(bench: Bench, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return called_by(bench, tmp_path_factory.mktemp("observer"), printed_roles(sandbox, "observer"))


@pytest.fixture(scope="module")
def operator(bench: Bench, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return called_by(bench, tmp_path_factory.mktemp("operator"), printed_roles(sandbox, "operator"))


def test_an_observer_reviews_and_says_what_it_cannot_see(observer: Bench) -> None:
    found = observer.judge("01_review_state", *REVIEW)
    assert {name for name, check in found.items() if check.verdict is Verdict.INCONCLUSIVE} == HIDDEN
    assert {check.verdict for name, check in found.items() if name not in HIDDEN} == {Verdict.PASS}
    assert 'cannot get resource "secrets"' in found["token.secret"].observed
    assert "only observes" in found["permissions.change"].observed
    assert "run as an operator" in str(found["pattern1.releases"].remedy)


def test_an_observer_changes_nothing_and_one_message_says_why(observer: Bench) -> None:
    with pytest.raises(Forbidden) as refused:
        observer.judge("02_scale_pool", scale.plan, scale.apply)
    said = str(refused.value)
    assert "llmd-runbook-observer" in said
    assert "is forbidden" in said
    assert "to do:" in said
    assert "Traceback" not in said


def test_an_operator_reviews_scales_and_swaps(operator: Bench) -> None:
    all_pass(operator.judge("01_review_state", *REVIEW[:-1]))
    all_pass(operator.judge("02_scale_pool", scale.plan, scale.apply, scale.verify))
    all_pass(operator.judge("03_swap_patterns", plan.plan, patterns.apply, patterns.verify))


def test_an_observer_verifies_what_the_operator_did(observer: Bench) -> None:
    calls = (verify.replicas_and_gpus, verify.answers, verify.prefix_caching, verify.scorer_weights)
    all_pass(observer.judge("04_verify", *calls))
