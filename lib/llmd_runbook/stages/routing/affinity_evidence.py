"""05, behind the verdicts: the picture of both arms, how strong the test was, warm against cold, the load's spread."""

from __future__ import annotations

from collections import Counter
from statistics import median

from llmd_runbook.analysis.affinity import affinity
from llmd_runbook.analysis.affinity_design import Design, design
from llmd_runbook.analysis.distribution import POWER, homes, requests_needed, spread
from llmd_runbook.analysis.hot_spot import hot_spot
from llmd_runbook.analysis.judgement import ALPHA
from llmd_runbook.analysis.warm_cold import Timed, warm_cold
from llmd_runbook.run import StageRun, display
from llmd_runbook.run.display import Shown
from llmd_runbook.stages.figures import Png
from llmd_runbook.stages.load.measurement import shown
from llmd_runbook.stages.routing.affinity_arm import Arm
from llmd_runbook.stages.routing.figures import affinity as drawn
from llmd_runbook.verdicts import Table

_UTILISATIONS = (0.5, 0.7, 0.9)
_UNEQUAL = ((0.6, 0.2, 0.2), (0.5, 0.25, 0.25), (0.4, 0.3, 0.3))
Row = list[str | int | float | None]


def plot(stage: StageRun) -> Png:
    """Who served which prefix beside the control arm; the first request of a prefix against its later ones."""
    groups, control = _arms(stage)
    ttfts_s: dict[str, list[float]] = {}
    for request in groups.requests:
        if request["ttft_s"] is not None:
            ttfts_s.setdefault(request["group"], []).append(request["ttft_s"])
    return drawn(_counts(groups), _counts(control), ttfts_s, groups.replicas, stamp=stage.cluster.stamp)


def warm_against_cold(stage: StageRun) -> Shown:
    """Time to first token of requests whose prefix was cached and of those whose was not, with the engines' count."""
    groups, _ = _arms(stage)
    timed = _timed(groups)
    found = warm_cold(timed)
    display.show(stage.table(_by_prefix(timed)))
    rows: list[Row] = [
        ["first token of a cold request (s, median)", shown(found.cold_s)],
        ["first token of a warm request (s, median)", shown(found.warm_s)],
        ["warm / cold, median over prefixes", shown(found.ratio, 2)],
        ["warm is told from cold by", found.by],
        ["repeats that met no cache", found.cold_repeats],
        ["tokens found in the caches", f"{groups.hit_ratio:.1%}"],
    ]
    return stage.table(Table(title="Warm against cold", columns=["what", "measured"], rows=rows))


def _timed(arm: Arm) -> list[Timed]:
    """The requests of an arm that have a time to first token, in the order of sending."""
    seen: Counter[str] = Counter()
    timed: list[Timed] = []
    for request in arm.requests:
        group = request["group"]
        if request["ttft_s"] is not None:
            cached, prompt = request["cached_tokens"], request["prompt_tokens"] or 0
            timed.append(Timed(group, seen[group], request["ttft_s"], cached, prompt))
        seen[group] += 1
    return timed


def _by_prefix(timed: list[Timed]) -> Table:
    rows: list[Row] = []
    for group in sorted({request.group for request in timed}):
        own = [request for request in timed if request.group == group]
        first = next((request for request in own if request.order == 0), None)
        later = [request for request in own if request.order > 0]
        rows.append(
            [
                group,
                None if first is None else round(1000 * first.ttft_s),
                round(1000 * median(request.ttft_s for request in later)) if later else None,
                len(later),
                "not said" if first is None or first.cached_tokens is None else first.cached_tokens,
                ", ".join("not said" if r.cached_tokens is None else str(r.cached_tokens) for r in later),
                max(request.prompt_tokens for request in own),
            ]
        )
    columns = [
        "prefix",
        "first request (ms)",
        "later ones, median (ms)",
        "n",
        "cached tokens, first",
        "cached tokens, later",
        "prompt tokens",
    ]
    return Table(title="Time to first token and cached tokens of each prefix", columns=columns, rows=rows)


def strength(stage: StageRun) -> Shown:
    """Effect size, p value, and what this test of this size can find and how often it would pass a blind router."""
    groups, control = _arms(stage)
    seed = stage.data["seed"]
    rows: list[Row] = []
    for name, arm in (("shared prefixes", groups), ("control", control)):
        try:
            found = affinity(arm.counts, seed=seed)
        except ValueError as error:
            rows.append([name, f"not tested: {error}"])
            continue
        rows += [
            [f"{name}: repeats on the prefix's replica", shown(found.share, 2)],
            [f"{name}: the same by chance", f"{found.share_by_chance:.2f}"],
            [f"{name}: chance that a request follows its prefix", shown(found.follow, 2)],
            [f"{name}: p value (permutation of labels)", f"{found.p_value:.2g}"],
        ]
    try:
        rows += _design_rows(design(groups.counts, seed=seed))
    except ValueError as error:
        rows.append(["what such a test can find", f"not known: {error}"])
    return stage.table(Table(title="How strong the test was", columns=["what", "value"], rows=rows))


def _design_rows(test: Design) -> list[Row]:
    rows: list[Row] = [["chance that it passes a router blind to prefixes", shown(test.false_pass, 4)]]
    rows += [
        [f"chance that it passes a router that follows prefixes {follow:.0%} of the time", shown(power, 2)]
        for follow, power in test.power.items()
    ]
    rows += [
        [f"the guide's rule, all of a prefix on one replica, passes: {router}", f"{chance:.2%}"]
        for router, chance in test.guide_rule.items()
    ]
    return rows


def distribution(stage: StageRun) -> Shown:
    """How evenly unrelated prompts and the prefixes' homes were spread, and what so few can show; hot spots ahead."""
    groups, control = _arms(stage)
    totals = [sum(column) for column in zip(*control.counts, strict=True)]
    rows: list[Row] = [_spread("unrelated requests", totals)]
    try:
        rows.append(_spread("homes of the shared prefixes", list(homes(groups.counts))))
    except ValueError as error:
        rows.append(["homes of the shared prefixes", None, None, None, str(error)])
    if len(totals) == len(_UNEQUAL[0]):
        needed = ", ".join(
            f"{requests_needed(shares)} for {'/'.join(f'{share:.0%}'.rstrip('%') for share in shares)}"
            for shares in _UNEQUAL
        )
        stage.note(
            f"Requests needed to find unequal shares {POWER:.0%} of the time at level {ALPHA}",
            f"{needed}. Requests of one prefix count as one: routing keeps them together.",
        )
    _warn_of_hot_spots(stage, len(totals))
    columns = ["what", "by replica", "p, equal shares", "test", f"found {POWER:.0%} of the time"]
    return stage.table(Table(title="How the load was spread", columns=columns, rows=rows))


def _spread(name: str, counts: list[int]) -> Row:
    by_replica = " / ".join(map(str, counts))
    try:
        found = spread(counts)
    except ValueError as error:
        return [name, by_replica, None, None, str(error)]
    share = f"one replica with {found.detectable_share:.0%}" if found.detectable_share else "no imbalance"
    return [name, by_replica, f"{found.p_value:.2g}", found.method, share]


def _warn_of_hot_spots(stage: StageRun, replicas: int) -> None:
    weights = stage.kept.get("weights")
    if not weights:
        stage.note("Hot spots", "Not known: the picker's configuration could not be read.")
        return
    if replicas < 2:
        return
    found = [hot_spot(weights, replicas, utilisation) for utilisation in _UTILISATIONS]
    shares = ", ".join(f"{one.hot_share:.0%} at {one.utilisation:.0%} use" for one in found if one.hot_share <= 1)
    stage.note(
        "Hot spots",
        f"{found[-1].warning} The traffic share at which one prefix overloads its replica: "
        f"{shares or 'none at these'} of the pattern's capacity.",
    )


def _arms(stage: StageRun) -> tuple[Arm, Arm]:
    groups, control = (Arm(**stage.data[name]) for name in ("groups", "independent"))
    return groups, control


def _counts(arm: Arm) -> dict[str, list[int]]:
    return dict(zip(arm.groups, arm.counts, strict=True))
