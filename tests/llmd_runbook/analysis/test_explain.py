"""Decisions explained: all that real pickers recorded agree, and each kind of disagreement is told apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmd_runbook.analysis.explain import (
    TOTAL,
    Agreement,
    Explanation,
    Loaded,
    Outcome,
    Question,
    agreement,
    explain,
    under_load,
)
from llmd_runbook.analysis.picker_log_lines import Decided, Metrics
from llmd_runbook.analysis.replay import read_header
from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER, Generation, Rules

DATA = Path(__file__).parents[2] / "data"
WEIGHTS = {QUEUE_SCORER: 2.0, KV_SCORER: 2.0, PREFIX_SCORER: 3.0}
RULES = Rules.v0_4(WEIGHTS)
LONG, OTHER = "x" * 640, "y" * 640


def golden(generation: Generation) -> tuple[Rules, list[Question]]:
    """What a real picker logged, as questions."""
    with gzip.open(DATA / f"picker-golden-{generation}.jsonl.gz", "rt", encoding="utf-8") as lines:
        first, *rest = lines
    header, questions = read_header(1, first), []
    for line in rest:
        item = json.loads(line)
        metrics = {
            name: Metrics(seen["waiting"], seen["kv"], **_sizes(header.endpoints[name]))
            for name, seen in item["pods"].items()
        }
        logged = Decided(item["id"], [item["picked"]], item["scores"], metrics)
        questions.append(Question(item["id"], item["body"], item["picked"], "g", logged))
    return header.rules, questions


def _sizes(endpoint: object) -> dict[str, int]:
    assert isinstance(endpoint, dict)
    return {"block_size": endpoint["block_size"], "num_blocks": endpoint["num_gpu_blocks"]}


def metrics(**kv_usage: float) -> dict[str, Metrics]:
    return {name: Metrics(0, value, 16, 1000) for name, value in kv_usage.items()}


def ask(
    text: str,
    observed: str,
    seen: dict[str, Metrics],
    *,
    logged: Decided | None = None,
    after: dict[str, Metrics] | None = None,
) -> Question:
    return Question("r", {"model": "m", "prompt": text}, observed, "g", logged, seen, after or {})


def log(
    seen: dict[str, Metrics],
    prefix: dict[str, float] | None = None,
    kv: dict[str, float] | None = None,
    totals: dict[str, float] | None = None,
) -> Decided:
    scores = {
        QUEUE_SCORER: dict.fromkeys(seen, 1.0),
        KV_SCORER: kv or {name: 1 - one.kv_usage for name, one in seen.items()},
        PREFIX_SCORER: prefix or dict.fromkeys(seen, 0.0),
    }
    return Decided("r", ["ip"], scores, dict(seen), totals or {})


def last(*questions: Question, rules: Rules = RULES) -> Explanation:
    return explain(rules, questions)[-1]


@pytest.mark.parametrize("generation", list(Generation))
def test_all_recorded_decisions_of_the_real_pickers_agree(generation: Generation) -> None:
    rules, questions = golden(generation)
    found = agreement(explain(rules, questions))
    assert set(found.outcomes) == {Outcome.AGREES, Outcome.TIE}
    assert sum(found.outcomes.values()) == 400
    assert found.share is not None
    assert (found.share.value, found.share.n) == (1.0, found.outcomes[Outcome.AGREES])
    assert set(found.parts.values()) == {(400, 400)}


@pytest.mark.parametrize("scorer", [QUEUE_SCORER, KV_SCORER, PREFIX_SCORER])
def test_a_picker_mutated_in_one_scorer_is_caught(scorer: str) -> None:
    """The real picker's log with one scorer's best and worst exchanged, and picks made by those scores."""
    rules, questions = golden(Generation.V0_4)
    for question in questions:
        assert question.logged is not None
        scores = question.logged.scores
        scores[scorer] = {name: 1.0 - value for name, value in scores[scorer].items()}
    found = agreement(explain(rules, questions))
    agreed, compared = found.parts[scorer]
    assert agreed < 0.95 * compared
    assert all(found.parts[other] == (400, 400) for other in found.parts if other != scorer)


def test_a_sole_best_replica_agrees_and_equal_ones_are_a_tie() -> None:
    assert last(ask(LONG, "a", metrics(a=0.1, b=0.2))).outcome is Outcome.AGREES
    tie = last(ask(LONG, "a", metrics(a=0.1, b=0.1)))
    assert (tie.outcome, tie.best) == (Outcome.TIE, ["a", "b"])


def test_what_was_sent_before_is_learned_even_without_a_group() -> None:
    background = Question("b", {"model": "m", "prompt": LONG}, "b", before=metrics(a=0, b=0))
    [found] = explain(RULES, [background, ask(LONG, "b", metrics(a=0, b=0.5))])
    assert (found.outcome, found.decision.matched_blocks) == (Outcome.AGREES, {"b": 10})


def test_metrics_of_a_moment_later() -> None:
    found = last(ask(LONG, "b", metrics(a=0.1, b=0.2), after=metrics(a=0.3, b=0.2)))
    assert found.outcome is Outcome.STALE
    assert "b 3.600" in found.detail
    assert last(ask(LONG, "b", metrics(a=0.1, b=0.2), after=metrics(a=0.1, b=0.2))).outcome is Outcome.UNEXPLAINED


def test_blocks_that_the_picker_has_forgotten() -> None:
    seen = metrics(a=0.5, b=0)
    first = ask(LONG, "a", seen)
    found = last(first, ask(LONG, "b", seen, logged=log(seen)))
    assert found.outcome is Outcome.HISTORY
    assert "a logged 0, model 1" in found.detail
    assert "of 10: a 10" in found.detail


def test_other_weights_than_the_configuration_says() -> None:
    seen = metrics(a=0.5, b=0)
    first = ask(LONG, "a", seen)
    logged = log(seen, prefix={"a": 1, "b": 0}, totals={"a": 6.0, "b": 4.0})
    assert last(first, ask(LONG, "a", seen, logged=logged)).outcome is Outcome.AGREES
    blind = Rules.v0_4(WEIGHTS | {PREFIX_SCORER: 0.0})
    found = last(first, ask(LONG, "a", seen, logged=logged), rules=blind)
    assert found.outcome is Outcome.WEIGHTS
    assert "a logged 6, model 3" in found.detail


def test_a_scorer_that_reads_a_metric_that_is_gone() -> None:
    """The KV score is 1 for all, whatever the metrics say."""
    seen = metrics(a=0.1, b=0.2)
    logged = log(seen, kv={"a": 1.0, "b": 1.0})
    found = last(ask(OTHER, "b", seen, logged=logged))
    assert found.outcome is Outcome.UNEXPLAINED
    assert "a logged 1, model 0.9" in found.wrong[KV_SCORER]
    assert not found.wrong[QUEUE_SCORER]


def test_a_scorer_that_the_configuration_lacks() -> None:
    seen = metrics(a=0, b=0)
    found = last(ask(LONG, "a", seen, logged=log(seen)), rules=Rules.v0_4({QUEUE_SCORER: 1.0}))
    assert "does not have it" in found.wrong[PREFIX_SCORER]


def test_nothing_is_explained_without_metrics_or_without_knowing_who_served() -> None:
    unseen = Question("r", {"model": "m", "prompt": LONG}, "a", "g")
    unknown = Question("r", {"model": "m", "prompt": LONG}, None, "g", before=metrics(a=0, b=0))
    assert explain(RULES, [unseen, unknown]) == []
    assert agreement([]) == Agreement({}, None, {})


def test_ties_count_neither_for_nor_against() -> None:
    tie, clear, not_best = metrics(a=0, b=0), metrics(a=0.5, b=0), metrics(a=0, b=0.5)
    questions = [ask("t" * 64, "a", tie), ask("u" * 64, "b", clear), ask("v" * 64, "b", not_best)]
    found = agreement(explain(RULES, questions))
    assert found.outcomes == {Outcome.TIE: 1, Outcome.AGREES: 1, Outcome.UNEXPLAINED: 1}
    assert found.share is not None
    assert (found.share.value, found.share.n) == (0.5, 2)
    assert TOTAL not in found.parts
    assert all(outcome.meaning for outcome in Outcome)


def test_affinity_against_load_is_counted() -> None:
    even, uneven = metrics(a=0.1, b=0.1), metrics(a=0.5, b=0)
    cold, warm, other = ask(LONG, "a", even), ask(LONG, "a", uneven), ask(OTHER, "b", uneven)
    assert under_load(RULES, explain(RULES, [cold, warm, other])) == Loaded(decisions=3, differing=2, against=1)
    assert under_load(RULES, []) == Loaded(0, 0, 0)
