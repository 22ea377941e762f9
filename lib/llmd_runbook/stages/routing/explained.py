"""Why each request of stage 05 went where it went: the reference model beside the picker, and a recording of both."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from itertools import dropwhile

from llmd_runbook.analysis.explain import Agreement, Explanation, Outcome, Question, agreement, under_load
from llmd_runbook.analysis.explain import explain as decide_again
from llmd_runbook.analysis.picker_config import ConfigError, parse
from llmd_runbook.analysis.picker_flags import MORE_IN_THE_LOG
from llmd_runbook.analysis.picker_log_lines import Decided
from llmd_runbook.analysis.recording import NotRecordable, recording
from llmd_runbook.analysis.scorers import Rules
from llmd_runbook.errors import ClusterError
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import Shown
from llmd_runbook.stages import site
from llmd_runbook.stages.routing.affinity_arm import Trail
from llmd_runbook.topology import picker, pool_view
from llmd_runbook.verdicts import Table, declare

AGREE = 0.95
"""Part of decisions, and of each scorer's logged scores, that must agree; metrics may change between log and score."""
_LEAST_DECISIONS = 10
_SHOWN = 5
_OWN_PICKER = "simulated"

_NO_SCORES = "the picker's log has no scores; it needs verbosity 4"
_NOT_THERE = "the picker's log has none of the requests: its verbosity is below 3, or they did not pass through it"
_REMEDIES = {
    _NO_SCORES: MORE_IN_THE_LOG,
    _NOT_THERE: f"{MORE_IN_THE_LOG}; with that flag set already, look at the HTTPRoute's backends",
}

EXPLAINED = declare(
    "affinity.explained",
    "the picker scores and chooses as the reference model does with the picker's ConfigMap",
    "restart the picker if its ConfigMap was edited after it started; else see which scorer differs, and its version",
)


def explain(stage: StageRun) -> Shown:
    """Judge all decisions of the arms, in `stage.kept["trails"]`; save them as a recording where scores are logged."""
    trails: list[Trail] = stage.kept["trails"]
    with stage.step("make the decisions again") as step:
        rules, problem = _rules(stage)
        found = decide_again(rules, [question for trail in trails for question in _questions(trail)]) if rules else []
        found_agreement = agreement(found)
        problem = problem or _no_scores(trails)
        step.ok(problem or f"{len(found)} decisions")
    stage.kept["explanations"] = {one.request_id: one for one in found}
    stage.data["explained"] = [_row(one) for one in found]
    ok, observed = _judge(found_agreement, problem)
    different = [one for one in found if one.outcome not in (Outcome.AGREES, Outcome.TIE) or any(one.wrong.values())]
    stage.check(
        EXPLAINED.judge(
            ok,
            expected=f"at least {AGREE:.0%} of choices, and of each scorer's scores",
            observed=observed,
            evidence=[_sentence(one) for one in different[:_SHOWN]],
            remedy=_REMEDIES.get(problem, ""),
        )
    )
    _notes(stage, trails)
    if rules and not problem:
        load = under_load(rules, found)
        stage.note(
            "How load bore on the choices",
            f"In {load.differing} of {load.decisions} choices queues or KV use differed between the replicas; in "
            f"{load.against} the replica that knew the prompt's blocks served although another was less loaded.",
        )
        _save(stage, rules, trails)
    return stage.table(_agreement_table(found_agreement))


def explain_request(stage: StageRun, request_id: str = "") -> Shown:
    """The scores of every replica for one request; without an id for one that disagrees, else for a repeated prefix."""
    found: dict[str, Explanation] = stage.kept["explanations"]
    one = found.get(request_id) or _interesting(list(found.values()))
    if one is None:
        return stage.table(Table(title="No decision could be explained", columns=["replica"], rows=[]))
    scorers = list(one.decision.scores)
    rows: list[list[str | int | float | None]] = [
        [
            name,
            *(round(one.decision.scores[scorer][name], 4) for scorer in scorers),
            round(total, 4),
            "yes" if name in one.best else "",
            "yes" if name == one.observed else "",
        ]
        for name, total in sorted(one.decision.totals.items())
    ]
    title = f"Request {one.request_id} of {one.group}, as the model sees it: {one.outcome}"
    return stage.table(Table(title=title, columns=["replica", *scorers, "total", "predicted", "served"], rows=rows))


def _rules(stage: StageRun) -> tuple[Rules | None, str]:
    """What the picker's ConfigMap makes it route by, else why that is not known."""
    profile = stage.profile
    kube = site.kubernetes(profile)
    try:
        pool = pool_view(kube, profile.namespace, profile.pattern3.inference_pool)
        if pool is None:
            return None, "there is no InferencePool"
        return parse(picker(kube, profile.namespace, pool).config_text).rules(), ""
    except (ClusterError, ConfigError) as error:
        return None, f"the picker's configuration is not known: {error}".splitlines()[0]


def _questions(trail: Trail) -> Iterator[Question]:
    """In the order of the picker's log, where there is one."""
    asked = {one.request_id: one for one in trail.asked}
    order = [*(one for one in trail.logged if one in asked), *(one for one in asked if one not in trail.logged)]
    for request_id in order:
        one = asked[request_id]
        yield Question(
            request_id,
            one.body,
            trail.served.get(request_id),
            one.group,
            trail.logged.get(request_id),
            one.before,
            one.after,
        )


def _no_scores(trails: list[Trail]) -> str:
    """Why the choices alone prove nothing: they rest on metrics that the log shows and a scrape only approaches."""
    if any(trail.restarted for trail in trails):
        return "the picker was restarted meanwhile"
    if all(any(one.scores for one in trail.logged.values()) for trail in trails):
        return ""
    if unread := next((trail.no_log for trail in trails if trail.no_log), ""):
        return unread
    there = any(one.request_id in trail.logged for trail in trails for one in trail.asked)
    return _NO_SCORES if there else _NOT_THERE


def _judge(found: Agreement, problem: str) -> tuple[bool | None, str]:
    ties = found.outcomes.get(Outcome.TIE, 0)
    share = found.share
    shown = (
        f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {share.n} choices, {ties} more are ties"
        if share
        else f"no choice with one best replica, {ties} ties"
    )
    shown += "".join(f"; {part} {agreed} of {compared}" for part, (agreed, compared) in found.parts.items())
    if problem:
        return None, f"{problem} ({shown})"
    if any(agreed < AGREE * compared for agreed, compared in found.parts.values()):
        return False, shown
    if share is None or share.n < _LEAST_DECISIONS:
        return None, f"{shown}: too few"
    return share.value >= AGREE, shown


def _notes(stage: StageRun, trails: list[Trail]) -> None:
    if stage.cluster.real.get("picker", "").startswith(_OWN_PICKER):
        stage.note(
            "What this agreement is worth",
            "The sandbox's own picker is built on the same model, so that agreement with it proves little: it shows "
            "that configuration, log and order of requests are read rightly. With a real picker it counts.",
        )
    ours = {one.request_id for trail in trails for one in trail.asked}
    foreign = 0
    for trail in trails:
        since = dropwhile(lambda request_id: request_id not in ours, trail.logged)  # a reading begins a little early
        foreign += sum(request_id not in ours for request_id in since)
    if foreign:
        stage.note("Requests of somebody else", f"The picker's log has {foreign}; what it learned of them is unknown.")


def _save(stage: StageRun, rules: Rules, trails: list[Trail]) -> None:
    """Keep the decisions in the run's folder, replayable: their bodies are the suite's own synthetic prompts."""
    asked = [one for trail in trails for one in trail.asked]
    logged: dict[str, Decided] = {}
    for trail in trails:
        for request_id, decided in trail.logged.items():
            logged.setdefault(request_id, decided)  # readings overlap: it is whole in the first
    lines = recording(
        rules,
        logged.values(),
        {one.request_id: one.body for one in asked},
        {address: name for trail in trails for address, name in trail.addresses.items()},
        what=f"decisions of run {stage.run_id}; every prompt is synthetic",
    )
    file = stage.new_file("routing.jsonl.gz")
    with stage.step("record the decisions") as step:
        try:
            text = "".join(lines)
        except NotRecordable as reason:
            step.skipped(str(reason))
            return
        with gzip.open(file, "wt", encoding="utf-8") as out:
            out.write(text)
        step.ok(f"{text.count(chr(10)) - 1} decisions in {file.name}; llmd-runbook routing replay reads it")


def _row(one: Explanation) -> dict[str, object]:
    return {
        "request_id": one.request_id,
        "group": one.group,
        "observed": one.observed,
        "best": one.best,
        "outcome": one.outcome.value,
        "detail": one.detail,
        "totals": one.decision.totals,
        "scores": one.decision.scores,
        "matched_blocks": one.decision.matched_blocks,
        "blocks": len(one.decision.hashes),
    }


def _sentence(one: Explanation) -> str:
    differences = "; ".join(text for text in one.wrong.values() if text)
    why = f"{one.outcome}: {one.detail}" if one.detail else str(one.outcome)
    return f"{one.request_id}: served by {one.observed}, model {' or '.join(one.best)}; {why}" + (
        f"; {differences}" if differences and differences not in why else ""
    )


def _interesting(found: list[Explanation]) -> Explanation | None:
    different = [one for one in found if one.outcome not in (Outcome.AGREES, Outcome.TIE)]
    warm = [one for one in found if one.decision.matched_blocks]
    return next(iter([*different, *warm, *found]), None)


def _agreement_table(found: Agreement) -> Table:
    rows: list[list[str | int | float | None]] = [
        [outcome.value, count, outcome.meaning] for outcome in Outcome if (count := found.outcomes.get(outcome, 0))
    ]
    return Table(title="The picker's choices beside the model's", columns=["outcome", "requests", "meaning"], rows=rows)
