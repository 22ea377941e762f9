"""The run with exactly the roles that `llmd-runbook roles` prints: the operator changes, the observer only looks."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmd_runbook.errors import Forbidden
from llmd_runbook.stages import cleanup, cleanup_plan, throughput_and_cost, verify
from llmd_runbook.stages.cost import advice
from llmd_runbook.stages.load import guide_loop
from llmd_runbook.stages.pool import scale
from llmd_runbook.stages.routing import (
    affinity,
    changes,
    configuration,
    explained,
    guide_tests,
    picker_log_level,
    replica_failure,
)
from llmd_runbook.stages.swap import patterns, plan
from llmd_runbook.verdicts import Check, Verdict
from tests.end_to_end.bench import Bench, all_pass
from tests.end_to_end.callers import REVIEW, called_by, printed_roles, variant
from tests.end_to_end.conftest import Sandbox

pytestmark = pytest.mark.timeout(300)

HIDDEN = {"pattern1.releases", "token.secret", "permissions.change"}
"""What an observer cannot prove: helm's record lies in Secrets, as the token does."""


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


VERIFY = (verify.replicas_and_gpus, verify.answers, verify.prefix_caching, verify.scorer_weights)
ROUTING = (
    changes.plan,
    picker_log_level.raise_level,
    configuration.configuration,
    affinity.measure_groups,
    affinity.measure_independent,
    affinity.judge,
    explained.explain,
    guide_tests.replay,
    replica_failure.measure,
    replica_failure.judge,
    changes.restore,
)
LOAD = (throughput_and_cost.measure, throughput_and_cost.watched, guide_loop.replay, advice.scaling)
"""Stages 04 to 06 as far as they ask the cluster for something, each kind of request once."""


def nothing_refused(found: dict[str, Check]) -> None:
    """Every check passes, or the client was late on this machine, which says nothing of permissions."""
    assert found
    left = [check for check in found.values() if check.verdict is not Verdict.PASS]
    assert [check for check in left if check.id not in LATE or check.verdict is Verdict.FAIL] == []
    assert "forbidden" not in str(left)


LATE = {"load.client", "load.littles_law"}


def test_an_observer_verifies_what_the_operator_did(observer: Bench) -> None:
    all_pass(observer.judge("04_verify", *VERIFY))


def test_an_observer_looks_at_the_routing(observer: Bench) -> None:
    all_pass(observer.judge("05_routing_affinity", *ROUTING))


def test_an_observer_measures(observer: Bench) -> None:
    nothing_refused(observer.judge("06_throughput_and_cost", *LOAD))


def test_an_observer_kills_no_replica(observer: Bench, tmp_path: Path) -> None:
    with pytest.raises(Forbidden, match="llmd-runbook-observer"):
        killing(observer, tmp_path).judge("05_routing_affinity", *ROUTING)


def test_an_operator_verifies_breaks_a_replica_measures_and_goes_back(operator: Bench, tmp_path: Path) -> None:
    all_pass(operator.judge("04_verify", *VERIFY))
    found = killing(operator, tmp_path).judge("05_routing_affinity", *ROUTING)
    all_pass(found)
    assert "failure.recovers" in found
    nothing_refused(operator.judge("06_throughput_and_cost", *LOAD))
    all_pass(operator.judge("07_cleanup", cleanup_plan.plan, cleanup.apply, cleanup.verify))


def killing(bench: Bench, folder: Path) -> Bench:
    """The bench with a stage 05 that deletes a replica; groups enough that not all prefixes are at one by chance."""
    return variant(bench, folder, {"  groups: 8": "  groups: 10\n  kill_replica: true"})
