"""The judgement on the picker's decisions, from what a real picker logged; and the recording of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmd_runbook.analysis.picker_log_lines import Decided, Metrics
from llmd_runbook.analysis.replay import read_header, replay
from llmd_runbook.analysis.scorers import KV_SCORER, Rules
from llmd_runbook.run import StageRun
from llmd_runbook.stages.routing import explained
from llmd_runbook.stages.routing.affinity_arm import Asked, Trail
from llmd_runbook.verdicts import Check, Verdict

GOLDEN = Path(__file__).parents[3] / "data" / "picker-golden-v0.4.jsonl.gz"
Open = Callable[[str], StageRun]


def recorded(requests: int = 40) -> tuple[Rules, Trail]:
    """The first decisions of a real picker, as one arm's trail."""
    with gzip.open(GOLDEN, "rt", encoding="utf-8") as lines:
        first, *rest = lines
    header, asked, logged, served = read_header(1, first), [], {}, {}
    for line in rest[:requests]:
        item = json.loads(line)
        sizes = {name: header.endpoints[name] for name in item["pods"]}
        seen = {
            name: Metrics(one["waiting"], one["kv"], sizes[name]["block_size"], sizes[name]["num_gpu_blocks"])
            for name, one in item["pods"].items()
        }
        asked.append(Asked(item["id"], item["body"], "g0"))
        logged[item["id"]] = Decided(item["id"], [item["picked"]], item["scores"], seen)
        served[item["id"]] = item["picked"]
    addresses = {name: name for name in header.endpoints}
    return header.rules, Trail(asked, logged, served, addresses, no_log="", restarted=False)


def judged(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, trail: Trail, rules: Rules | None, problem: str = ""
) -> tuple[StageRun, Check]:
    stage = open_stage("05_routing_affinity")
    monkeypatch.setattr(explained, "_rules", lambda _: (rules, problem))
    stage.kept["trails"] = [trail]
    explained.explain(stage)
    return stage, stage.finish().checks[-1]


def test_a_real_pickers_decisions_pass_and_are_kept_replayable(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, trail = recorded()
    stage, check = judged(open_stage, monkeypatch, trail, rules)
    assert check.verdict is Verdict.PASS
    assert "100.0%" in check.observed
    assert f"{KV_SCORER} 40 of 40" in check.observed
    with gzip.open(stage.folder / "05_routing.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = replay(lines)
    assert (found.whole, found.decisions) == (True, 40)
    assert len(stage.data["explained"]) == 40


def test_a_picker_mutated_in_one_scorer_fails(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, trail = recorded()
    for decided in trail.logged.values():
        decided.scores[KV_SCORER] = dict.fromkeys(decided.metrics, 1.0)
    _, check = judged(open_stage, monkeypatch, trail, rules)
    assert check.verdict is Verdict.FAIL
    assert f"{KV_SCORER}: " in check.evidence[0]


def test_choices_that_the_scores_do_not_give_fail(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are right, and somebody sends the requests elsewhere."""
    rules, trail = recorded()
    trail.served.update(dict.fromkeys(trail.served, "p3"))
    _, check = judged(open_stage, monkeypatch, trail, rules)
    assert check.verdict is Verdict.FAIL
    assert "served by p3" in check.evidence[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda trail: replace(trail, restarted=True), "restarted meanwhile"),
        (lambda trail: replace(trail, logged={}, no_log="the picker's log: not permitted"), "not permitted"),
        (lambda trail: replace(trail, logged={}), "or they did not pass through it"),
        (
            lambda trail: replace(
                trail, logged={name: Decided(name, one.chosen) for name, one in trail.logged.items()}
            ),
            "needs verbosity 4",
        ),
    ],
)
def test_without_the_pickers_scores_nothing_is_proved(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, change: Callable[[Trail], Trail], reason: str
) -> None:
    rules, trail = recorded()
    stage, check = judged(open_stage, monkeypatch, change(trail), rules)
    assert check.verdict is Verdict.INCONCLUSIVE
    assert reason in check.observed
    assert ("affinity.raise_log_level" in str(check.remedy)) == ("verbosity" in reason or "pass through" in reason)
    assert not list(stage.folder.glob("*.jsonl.gz"))


def test_a_configuration_that_is_not_modelled_or_too_few_decisions(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, trail = recorded(9)
    _, unknown = judged(open_stage, monkeypatch, trail, None, "line 3: the reference model does not have it")
    assert (unknown.verdict, "line 3" in unknown.observed) == (Verdict.INCONCLUSIVE, True)
    _, few = judged(open_stage, monkeypatch, trail, rules)
    assert (few.verdict, "too few" in few.observed) == (Verdict.INCONCLUSIVE, True)


def test_requests_of_somebody_else_are_counted_from_the_first_of_ours(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules, trail = recorded()
    mixed = {"before": Decided("before", ["p0"]), **trail.logged, "beside": Decided("beside", ["p0"])}
    stage, check = judged(open_stage, monkeypatch, replace(trail, logged=mixed), rules)
    assert check.verdict is Verdict.PASS
    [note] = [note for note in stage.finish().notes if note.title == "Requests of somebody else"]
    assert "has 1;" in note.text


def test_any_request_can_be_looked_at(open_stage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    rules, trail = recorded()
    stage, _ = judged(open_stage, monkeypatch, trail, rules)
    wanted = trail.asked[7].request_id
    explained.explain_request(stage, wanted)
    explained.explain_request(stage)
    chosen, interesting = stage.finish().tables[-2:]
    assert wanted in chosen.title
    [served] = [line for line in chosen.rows if line[-1] == "yes"]
    assert (served[0], served[-2]) == (trail.served[wanted], "yes")
    assert interesting.rows
