"""Why the picker chose as it did: each decision made again by the reference model, and compared.

The model starts empty and learns, request by request, what was really chosen; it sees the replicas' metrics as the
picker logged them where it did, else as they were scraped just before the request. What it cannot know is what the
picker had learned before: prompts of the test are new, so that this matters for the no-hit order alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from scipy import stats

from llmd_runbook.analysis.latency import CONFIDENCE, Estimate
from llmd_runbook.analysis.picker_log_lines import Decided, Metrics
from llmd_runbook.analysis.scorers import (
    KV_SCORER,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Decision,
    Endpoint,
    Picker,
    Rules,
)

TOLERANCE = 1e-9
"""Scores are fractions of small integers, written out and read again."""
TOTAL = "weighted total"
_LOAD = {QUEUE_SCORER, KV_SCORER}


class Outcome(StrEnum):
    """How observation and model compare; all but the first two are disagreements, by their likely reason."""

    AGREES = "agrees"
    TIE = "tie"
    WEIGHTS = "other weights"
    STALE = "stale metrics"
    HISTORY = "unknown history"
    UNEXPLAINED = "unexplained"

    @property
    def meaning(self) -> str:
        """What it says, for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Outcome.AGREES: "the model has one best replica, and it served",
    Outcome.TIE: "several replicas are the model's best, and one of them served: neither for nor against",
    Outcome.WEIGHTS: "the picker's scores weighted as configured do not give its totals: it runs with other weights",
    Outcome.STALE: "the replica is the best by metrics scraped a moment later",
    Outcome.HISTORY: "the picker knows more or fewer of the prompt's blocks: evicted, forgotten, or learned elsewhere",
    Outcome.UNEXPLAINED: "none of these",
}


@dataclass(frozen=True)
class Question:
    """A request whose decision is to be explained, or only learned.

    Attributes:
        body: as sent.
        observed: the replica that served; None where that is not known.
        group: what it shares its prefix with; empty for one that is only learned.
        logged: what the picker's log says of it.
        before, after: metrics scraped around it, by replica; may be empty where the log has them.
    """

    request_id: str
    body: Mapping[str, Any]
    observed: str | None
    group: str = ""
    logged: Decided | None = None
    before: Mapping[str, Metrics] = field(default_factory=dict)
    after: Mapping[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """One decision as the model sees it.

    Attributes:
        best: the replicas of maximal total; one of them is predicted.
        wrong: part (a scorer, or the weighted total) -> how the picker's log differs from the model, empty where
            it agrees; parts that were not logged are left out.
        detail: the numbers behind the outcome, for people.
    """

    request_id: str
    group: str
    observed: str
    best: list[str]
    decision: Decision
    outcome: Outcome
    detail: str
    wrong: Mapping[str, str]


@dataclass(frozen=True)
class Agreement:
    """How far model and picker agree.

    Attributes:
        outcomes: how many decisions of each.
        share: of the decisions in which the model has one best replica, the part that went there; None of none.
        parts: scorer, or the weighted total -> (decisions that agree, decisions logged).
    """

    outcomes: Mapping[Outcome, int]
    share: Estimate | None
    parts: Mapping[str, tuple[int, int]]


def explain(rules: Rules, questions: Sequence[Question]) -> list[Explanation]:
    """Make every decision again, in order; those with a group, an observed replica and metrics are explained."""
    picker, found = Picker(rules), []
    for question in questions:
        endpoints = _endpoints(question)
        if not endpoints:
            continue
        decision = picker.decide(question.body, endpoints)
        if question.group and question.observed in {endpoint.name for endpoint in endpoints}:
            found.append(_explained(picker, question, decision))
        chosen = next((endpoint for endpoint in endpoints if endpoint.name == question.observed), None)
        if chosen is not None:
            picker.learn(replace(decision, picked=chosen))
    return found


def agreement(explanations: Sequence[Explanation]) -> Agreement:
    """Count outcomes and parts; the interval is the exact binomial (Clopper-Pearson)."""
    outcomes = Counter(one.outcome for one in explanations)
    decided = len(explanations) - outcomes[Outcome.TIE]
    share = None
    if decided:
        interval = stats.binomtest(outcomes[Outcome.AGREES], decided).proportion_ci(CONFIDENCE, method="exact")
        share = Estimate(
            value=outcomes[Outcome.AGREES] / decided,
            low=float(interval.low),
            high=float(interval.high),
            n=decided,
            method="exact binomial (Clopper-Pearson)",
            caveat="takes decisions as independent",
        )
    parts: dict[str, tuple[int, int]] = {}
    for one in explanations:
        for part, difference in one.wrong.items():
            agreed, compared = parts.get(part, (0, 0))
            parts[part] = agreed + (not difference), compared + 1
    return Agreement(outcomes, share, parts)


@dataclass(frozen=True)
class Loaded:
    """How load bore on decisions.

    Attributes:
        decisions: all that were explained.
        differing: those in which queues or KV use differed between the replicas.
        against: those in which a replica served that knew blocks of the prompt and was not the least loaded.
    """

    decisions: int
    differing: int
    against: int


def under_load(rules: Rules, explanations: Sequence[Explanation]) -> Loaded:
    """Count decisions that load had a part in, by the queue and KV scores alone."""
    scorers = sorted(_LOAD & rules.weights.keys())
    differing = against = 0
    for one in explanations:
        load = {
            name: sum(rules.weights[scorer] * one.decision.scores[scorer][name] for scorer in scorers)
            for name in one.decision.totals
        }
        differing += max(load.values()) - min(load.values()) > TOLERANCE
        against += bool(one.decision.matched_blocks.get(one.observed)) and one.observed not in _best(load)
    return Loaded(len(explanations), differing, against)


def _endpoints(question: Question, *, after: bool = False) -> list[Endpoint]:
    """The replicas as scored; their order shows only in how never-used ones rank, and is taken from there."""
    logged = question.logged
    seen = logged.metrics if logged and logged.metrics else question.after if after else question.before
    made = [Endpoint(name, m.waiting, m.kv_usage, m.block_size, m.num_blocks) for name, m in seen.items()]
    cold = logged.scores.get(NO_HIT_SCORER, {}) if logged else {}
    return sorted(made, key=lambda endpoint: (-cold.get(endpoint.name, 0.0), endpoint.name))


def _explained(picker: Picker, question: Question, decision: Decision) -> Explanation:
    assert question.observed is not None
    best = _best(decision.totals)
    wrong = dict(_differences(decision, question.logged)) if question.logged else {}
    outcome, detail = _outcome(picker, question, decision, best, wrong)
    return Explanation(question.request_id, question.group, question.observed, best, decision, outcome, detail, wrong)


def _outcome(
    picker: Picker, question: Question, decision: Decision, best: list[str], wrong: Mapping[str, str]
) -> tuple[Outcome, str]:
    if question.observed in best:
        return (Outcome.AGREES, "") if len(best) == 1 else (Outcome.TIE, f"{len(best)} replicas are equal")
    scores_wrong = {part: text for part, text in wrong.items() if text and part != TOTAL}
    if wrong.get(TOTAL) and not scores_wrong:
        return Outcome.WEIGHTS, wrong[TOTAL]
    if scores_wrong.keys() == {PREFIX_SCORER}:
        known = ", ".join(f"{name} {blocks}" for name, blocks in sorted(decision.matched_blocks.items())) or "none"
        return (
            Outcome.HISTORY,
            f"{scores_wrong[PREFIX_SCORER]}; blocks the model knows of {len(decision.hashes)}: {known}",
        )
    if not (question.logged and question.logged.metrics) and question.after:
        later = picker.decide(question.body, _endpoints(question, after=True))
        if question.observed in _best(later.totals):
            return Outcome.STALE, f"totals a moment later: {_listed(later.totals)}"
    return Outcome.UNEXPLAINED, "; ".join(scores_wrong.values()) or f"totals: {_listed(decision.totals)}"


def _differences(decision: Decision, logged: Decided) -> list[tuple[str, str]]:
    """Each part that was logged, with what differs in it."""
    parts = [(scorer, decision.scores.get(scorer, {}), values) for scorer, values in logged.scores.items()]
    if logged.totals:
        parts.append((TOTAL, decision.totals, logged.totals))
    return [(part, _difference(part, made, seen)) for part, made, seen in parts]


def _difference(part: str, made: Mapping[str, float], seen: Mapping[str, float]) -> str:
    if not made:
        return f"{part}: the configuration does not have it"
    wrong = [
        f"{name} logged {value:g}, model {made.get(name, float('nan')):g}"
        for name, value in sorted(seen.items())
        if not abs(made.get(name, float("nan")) - value) <= TOLERANCE
    ]
    return f"{part}: {'; '.join(wrong)}" if wrong else ""


def _best(totals: Mapping[str, float]) -> list[str]:
    most = max(totals.values())
    return [name for name, total in totals.items() if total >= most - TOLERANCE]


def _listed(totals: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {total:.3f}" for name, total in sorted(totals.items()))
