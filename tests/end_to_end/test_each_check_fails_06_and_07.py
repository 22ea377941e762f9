"""For every check of stages 06 and 07 a cluster on which it does not pass, from Pattern 3 to the restored Pattern 1, in
the order of the tests. Each fault is undone by the test that made it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.clients.inference import Inference
from llmd_runbook.load.background import Background
from llmd_runbook.run import begin
from llmd_runbook.stages import cleanup, cleanup_plan, throughput_and_cost
from llmd_runbook.stages.review import state
from llmd_runbook.topology import endpoint
from llmd_runbook.verdicts import Verdict
from tests.end_to_end.bench import SERVERS1, Bench, all_pass, broken
from tests.end_to_end.callers import variant
from tests.end_to_end.cases import fails

pytestmark = pytest.mark.timeout(300)


def test_pattern_3_serves(bench: Bench) -> None:
    bench.swapped()


@fails("load.answers")
def test_a_load_that_nobody_answers(bench: Bench) -> None:
    """Without answers nothing is known of the client either."""
    with bench.without_picker("pattern3"):
        found = bench.judge("06_throughput_and_cost", throughput_and_cost.measure)
    assert "http_500" in str(broken(found, "load.answers", "load.client").evidence)
    assert found["load.client"].verdict is Verdict.INCONCLUSIVE


@fails("load.client")
def test_a_client_that_is_held_to_a_ten_thousandth(bench: Bench, tmp_path: Path) -> None:
    """No client is as exact as that, so that it is the client's own time that is measured."""
    other = variant(bench, tmp_path, {"client_tolerance: 0.1": "client_tolerance: 0.0001"})
    found = other.judge("06_throughput_and_cost", throughput_and_cost.measure)
    assert broken(found, "load.client", verdict=Verdict.INCONCLUSIVE).expected.startswith("at most 0%")


def baseline_on_pattern_3(bench: Bench, **load: Any) -> str:
    """A run whose baseline was measured on Pattern 3, as one replica's; which run."""
    stage = begin("01_review_state", str(bench.file), "new", output=bench.output)
    one = bench.profile.pattern3.model_copy(update={"replicas": 1})
    stage.profile = bench.profile.model_copy(
        update={"pattern1": one, "load": bench.profile.load.model_copy(update=load)}
    )
    state.baseline(stage)
    all_pass({check.id: check for check in stage.finish().checks})
    return stage.run_id


@fails("throughput.gain")
def test_replicas_that_take_one_request_at_a_time(bench: Bench) -> None:
    """The baseline is measured on the same three replicas while they batch; then each takes one request at a time."""
    run = baseline_on_pattern_3(bench)
    with bench.with_arguments("--max-num-seqs=1"):
        bench.answers(bench.profile.pattern3.model)
        calls = (throughput_and_cost.measure, throughput_and_cost.compare)
        found = bench.judge("06_throughput_and_cost", *calls, run=run)
    broken(found, "throughput.gain", "load.client", "comparison.same_load")  # too few answers to judge the client by


@fails("comparison.same_load")
def test_a_baseline_of_longer_answers(bench: Bench) -> None:
    run = baseline_on_pattern_3(bench, output_tokens=16)
    calls = (throughput_and_cost.measure, throughput_and_cost.compare)
    found = bench.judge("06_throughput_and_cost", *calls, run=run)
    check = broken(found, "comparison.same_load", "throughput.gain", "load.client")
    assert "tokens of an answer 16.0 and 8.0" in check.observed
    assert "not comparable" in found["throughput.gain"].observed


@fails("load.littles_law")
def test_a_load_beside_somebody_elses(bench: Bench) -> None:
    """More requests in the replicas than were asked for: what was measured is not what this load gets."""
    target, model = endpoint(bench.kube, bench.profile, bench.profile.pattern3.gateway), bench.profile.pattern3.model
    with Background(Inference(target, 60), model, in_flight=24, seed=1):
        calls = (throughput_and_cost.measure, throughput_and_cost.watched)
        found = bench.judge("06_throughput_and_cost", *calls)
    assert "somebody else's requests" in broken(found, "load.littles_law", "load.client").observed


def test_cleanup_passes(bench: Bench) -> None:
    all_pass(bench.judge("07_cleanup", cleanup_plan.plan, cleanup.apply, cleanup.verify))


@fails("cleanup.nodes")
def test_a_node_that_nobody_needs(bench: Bench) -> None:
    bench.resized(2)
    found = bench.judge("07_cleanup", cleanup.verify)
    bench.resized(1)
    assert "2 nodes" in broken(found, "cleanup.nodes").observed


@fails("cleanup.pods")
def test_a_pod_that_the_option_does_not_leave(bench: Bench) -> None:
    bench.scaled(SERVERS1, 2)
    bench.pods("llm-d.ai/model=gemma-2b-it", 2)
    found = bench.judge("07_cleanup", cleanup.verify)
    bench.scaled(SERVERS1, 1)
    bench.settled(SERVERS1)
    broken(found, "cleanup.pods")


@fails("cleanup.serves")
def test_nothing_leads_to_pattern_1(bench: Bench, tmp_path: Path) -> None:
    before = bench.saved("httproute", "llm-d-route")
    bench.kubectl("delete", "httproute", "llm-d-route")
    found = bench.judge("07_cleanup", cleanup.verify)
    bench.create(before, tmp_path)
    broken(found, "cleanup.serves")
    bench.answers(bench.profile.pattern1.model)
    all_pass(bench.judge("07_cleanup", cleanup.verify))
