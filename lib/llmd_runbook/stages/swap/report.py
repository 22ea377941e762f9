"""What the probe of a swap proves: nothing lost that was not announced; how long the gap was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmd_runbook.analysis.cutover import (
    NEW,
    OLD,
    Announced,
    Asked,
    Gap,
    Outcome,
    counts,
    gap,
    longest_silence_s,
    open_streams,
    outcome,
    rate_per_s,
    share_at_most,
)
from llmd_runbook.run import StageRun
from llmd_runbook.run.display import lines
from llmd_runbook.stages.swap.probe import KEY, LAST, announced, kept
from llmd_runbook.verdicts import Check, Table, declare

LEAST_RATE_PER_S = 20.0
_LONGEST_SILENCE_S = 2.0

LOSSES = declare(
    "swap.losses",
    "of the requests that a probe sent during the swap, streams across it included, none was lost that the plan did "
    "not announce",
    "see when, under which name and how they were lost; clients met the same",
)
GAP = declare(
    "swap.gap",
    "the time in which neither name was served is known, and afterwards the new name was answered, or after a way back "
    "the old one",
    "see the replicas and the route: at the end of the swap nothing answered under that name",
)


def judge(stage: StageRun) -> None:
    """Judge the probe of this attempt, if there was one."""
    if KEY not in stage.data:
        return
    requests, said = kept(stage), announced(stage.profile, stage.data[KEY])
    found = gap(requests, said)
    stage.check(losses(requests, said, stage.data[KEY], strategy=stage.profile.swap.strategy))
    if found.before_s is None and found.after_s is not None:
        stage.note("The gap was not seen", "Pattern 1 had stopped serving before this attempt: see the one before.")
    else:
        stage.check(service_gap(requests, found, stage.data[KEY]))
    stage.data[KEY] |= {
        "rate_per_s": round(rate_per_s(requests), 2),
        "gap_at_least_s": round(found.at_least_s, 3),
        "gap_at_most_s": None if found.at_most_s is None else round(found.at_most_s, 3),
        "lost_in_outage": found.lost,
        "by_name": {
            name: {kind.value: count[kind] for kind in Outcome} for name, count in counts(requests, said).items()
        },
    }
    stage.table(_table(requests, said))


def losses(requests: Sequence[Asked], said: Sequence[Announced], data: dict[str, Any], *, strategy: str) -> Check:
    """Whether anything was lost that was not announced; inconclusive where the probe did not see enough."""
    lost = [one for one in requests if outcome(one, said) is Outcome.LOST]
    marks: dict[str, float] = data["marks"]
    rate, silence_s = rate_per_s(requests), longest_silence_s(requests)
    across = open_streams(requests, min(marks.get(name, math.inf) for name in ("removed", "moved")))
    blind = [str(data["trouble"])] if data["trouble"] else []
    if rate < LEAST_RATE_PER_S:
        blind.append(f"{rate:.1f} requests/s, {LEAST_RATE_PER_S:g} are needed")
    if silence_s > _LONGEST_SILENCE_S:
        blind.append(f"it was silent for {silence_s:.1f} s")
    if strategy == "surge" and not across:
        blind.append("no stream was open when the route moved")
    seen = f"{len(lost)} of {len(requests)} lost at {rate:.1f} requests/s; {across} streams open at the cutover"
    if not lost and requests:
        seen += f"; at 95 % confidence fewer than {share_at_most(0, len(requests)):.2%} are lost"
    return LOSSES.judge(
        False if lost else None if blind else True,
        expected=f"none lost but as announced; at least {LEAST_RATE_PER_S:g} requests/s, without a pause",
        observed="; ".join([seen, *blind]),
        evidence=[f"{item.why}: {item.model} name, {_span(item)}" for item in said]
        + [_words(one) for one in lost[:20]],
        remedy="" if lost or not blind else "run the swap where the probe can keep its schedule",
    )


def service_gap(requests: Sequence[Asked], found: Gap, data: dict[str, Any]) -> Check:
    """The gap; fails where, at the end, the new name is not answered, or the old one where a way back was begun."""
    name = OLD if "rolling back" in data["marks"] else NEW
    last = [one for one in requests if one.model == name][-LAST:]
    served = len(last) == LAST and all(one.ok for one in last)
    if found.at_most_s is None:
        seen = "nothing was answered " + ("before it" if found.before_s is None else "after it")
    else:
        seen = f"between {found.at_least_s:.2f} and {found.at_most_s:.2f} s"
    seen += f"; lost in it: {found.lost[OLD]} under the old name, {found.lost[NEW]} under the new one"
    known = found.at_most_s is not None and not data["trouble"]
    return GAP.judge(
        False if last and not served else True if known else None,
        expected=f"a gap with both ends, and answers under the {name} name from then on",
        observed=seen,
        evidence=[f"the probe's last requests under the {name} name: {[one.error or 'answered' for one in last]}"],
        remedy="" if last and not served else "run the swap from a serving Pattern 1, through one known address",
    )


def plot(stage: StageRun) -> object:
    """The probe's requests over time, by name and outcome, with the moments of the swap."""
    if KEY not in stage.data:
        return lines(["No probe ran: there was nothing to swap."])
    from llmd_runbook.stages.swap.figure import requests_over_time  # matplotlib takes a second to load

    data, profile, requests = stage.data[KEY], stage.profile, kept(stage)
    said = announced(profile, data)
    lost = sum(outcome(one, said) is Outcome.LOST for one in requests)
    return requests_over_time(
        requests,
        said,
        data["marks"],
        title=f"{profile.swap.strategy}: {len(requests):,} requests, {lost:,} lost without being announced",
        names={OLD: f"{profile.pattern1.model} (Pattern 1)", NEW: f"{profile.pattern3.model} (Pattern 3)"},
        stamp=stage.cluster.stamp,
    )


def _table(requests: Sequence[Asked], said: Sequence[Announced]) -> Table:
    rows: list[list[str | int | float | None]] = []
    for name, streamed in ((OLD, True), (OLD, False), (NEW, True), (NEW, False)):
        own = [one for one in requests if one.model == name and one.streamed is streamed]
        found = counts(own, said)[name]
        how = "streamed" if streamed else "whole"
        row: list[str | int | float | None] = [f"{name} name, {how}", len(own), *(found[kind] for kind in Outcome)]
        rows.append([*row, sum(one.events for one in own) if streamed else None, sum(one.body_bytes for one in own)])
    columns = ["requests", "sent", *(kind.value for kind in Outcome), "events", "bytes"]
    return Table(title="The probe's requests", columns=columns, rows=rows)


def _span(item: Announced) -> str:
    start = "from the beginning" if item.from_s == -math.inf else f"from {item.from_s:.2f} s"
    end = "to the end" if item.until_s == math.inf else f"to {item.until_s:.2f} s"
    return f"{start} {end}" + (", refusals only" if item.refusals_only else "")


def _words(one: Asked) -> str:
    how = f"{one.model} name, {'stream' if one.streamed else 'whole'}"
    return f"{one.error}: {how}, sent at {one.sent_s:.2f} s, ended at {one.done_s:.2f} s, {one.request_id}"
