"""A run's decisions written as a recording, the JSON lines that `analysis.replay` reads.

A decision needs the metrics as the picker saw them. Its log has them beside the scores at verbosity 4; where a
picker logs scores alone they follow from these, exactly where it matters: the queue score is a min-max ratio, so
that any waiting counts of the same ratio give it again, and KV use is 1 minus its score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from llmd_runbook.analysis.picker_log_lines import Decided
from llmd_runbook.analysis.scorers import KV_SCORER, QUEUE_SCORER, Generation, Rules

_MOST_WAITING = 10_000
_PICKERS = {Generation.V0_4: "llm-d v0.4", Generation.V0_10: "llm-d-router v0.10"}


class NotRecordable(ValueError):
    """This run cannot be said in the recording's form; the text says why."""


def recording(
    rules: Rules,
    decided: Iterable[Decided],
    bodies: Mapping[str, Mapping[str, Any]],
    addresses: Mapping[str, str],
    *,
    what: str,
) -> Iterator[str]:
    """The lines of a recording.

    Args:
        rules: the picker's; only weights may differ from its generation's defaults, for the form has no more.
        decided: the picker's log, in its order; requests without scores or without a body are left out.
        bodies: request id -> body as sent.
        addresses: `ip:port` -> replica.
        what: what was recorded, for people.

    Raises:
        NotRecordable: other rules than the form can say, or no decision with scores.
    """
    default = Rules.v0_4 if rules.generation is Generation.V0_4 else Rules.v0_10
    if rules != default(rules.weights):
        raise NotRecordable("the picker's configuration differs from the defaults in more than weights")
    whole = [one for one in decided if one.scores and len(one.chosen) == 1 and one.request_id in bodies]
    picked = {one.request_id: one.addresses.get(one.chosen[0], addresses.get(one.chosen[0])) for one in whole}
    whole = [one for one in whole if picked[one.request_id] in _replicas(one)]
    if not whole:
        raise NotRecordable("the picker's log has no scores; it needs verbosity 4")
    sizes: dict[str, dict[str, int]] = {}
    for one in whole:
        for name in _replicas(one):
            seen = one.metrics.get(name)
            size = {"block_size": seen.block_size, "num_gpu_blocks": seen.num_blocks} if seen else {}
            sizes.setdefault(name, size or {"block_size": 0, "num_gpu_blocks": 0})
    weights = ", ".join(f"{scorer} {weight:g}" for scorer, weight in rules.weights.items())
    yield _line(
        {
            "what": what,
            "picker": _PICKERS[rules.generation],
            "config": f"{weights}, defaults otherwise",
            "pods": sizes,
            "order": "as the picker logged them; ties are random",
        }
    )
    for one in whole:
        yield _line(_decision(one, bodies[one.request_id], picked[one.request_id]))


def _decision(one: Decided, body: Mapping[str, Any], picked: str | None) -> dict[str, Any]:
    made: dict[str, Any] = {"id": one.request_id, "path": "/v1/completions", "body": body}
    waiting, kv_usage = _implied(one)
    made["pods"] = {
        name: {"waiting": seen.waiting, "kv": seen.kv_usage}
        if (seen := one.metrics.get(name))
        else {"waiting": waiting.get(name, 0), "kv": kv_usage.get(name, 0.0)}
        for name in _replicas(one)
    }
    made["picked"] = picked
    if one.hashes is not None:
        made["hashes"] = [f"{block:016x}" for block in one.hashes]
    made["scores"] = one.scores
    return made


def _replicas(one: Decided) -> list[str]:
    return list(one.metrics) or list(dict.fromkeys(name for scores in one.scores.values() for name in scores))


def _implied(one: Decided) -> tuple[dict[str, int], dict[str, float]]:
    """Waiting counts and KV use that give the logged scores."""
    ratios = {n: 1 - Fraction(s).limit_denominator(_MOST_WAITING) for n, s in one.scores.get(QUEUE_SCORER, {}).items()}
    scale = math.lcm(*(ratio.denominator for ratio in ratios.values()))
    waiting = {name: int(ratio * scale) for name, ratio in ratios.items()}
    return waiting, {name: 1.0 - score for name, score in one.scores.get(KV_SCORER, {}).items()}


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"
