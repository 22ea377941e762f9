"""Recorded decisions of an endpoint picker, made again by the reference model: do they agree, and where not?

A recording is JSON lines. The first names picker, scorers' weights and replicas; each other line is a decision in
order, with the request's body, every replica's metrics, the scores, the pick, and (v0.4) the block hashes. State
carries over from line to line: the model starts empty and learns what the recorded picker picked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmd_runbook.analysis.scorers import (
    NO_HIT_SCORER,
    BadRequest,
    Decision,
    Endpoint,
    Generation,
    Picker,
    Rules,
)

TOLERANCE = 1e-9
"""Scores are decimal fractions of small integers, written out and read again."""

HASHES, PICK = "block hashes", "pick among the best"
_WEIGHT = re.compile(r"([a-z][a-z-]*-scorer)\s+([0-9.]+)")


class RecordingError(ValueError):
    """A file that is no recording; `line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(f"line {line}: {reason}")


@dataclass(frozen=True)
class Header:
    """What a recording's first line says."""

    picker: str
    rules: Rules
    endpoints: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Disagreement:
    """One decision on which model and recording differ, and how."""

    line: int
    request: str
    part: str
    detail: str


@dataclass
class Agreement:
    """How many decisions agree, by part: each scorer, the hashes, the pick."""

    header: Header
    decisions: int = 0
    agreed: dict[str, int] = field(default_factory=dict)
    compared: dict[str, int] = field(default_factory=dict)
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Everything that was compared agrees, and something was."""
        return self.decisions > 0 and not self.disagreements


def replay(lines: Iterable[str]) -> Agreement:
    """Make every recorded decision again.

    Raises:
        RecordingError: the lines are no recording.
    """
    numbered = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    first = next(numbered, None)
    if first is None:
        raise RecordingError(1, "the file is empty")
    header = read_header(*first)
    picker, result = Picker(header.rules), Agreement(header)
    for number, line in numbered:
        recorded = _json(number, line)
        try:
            candidates = _candidates(header, recorded)
            body = json.dumps(recorded["body"], ensure_ascii=False).encode()
            decision = picker.decide(body, candidates)
            _compare(result, number, recorded, decision)
            picked = next(endpoint for endpoint in candidates if endpoint.name == recorded["picked"])
        except BadRequest as error:
            raise RecordingError(number, f"the picker would have refused this request: {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordingError(number, f"not a decision: {error!r}") from None
        except StopIteration:
            raise RecordingError(number, f"{recorded['picked']!r} was picked and is no candidate") from None
        picker.learn(replace(decision, picked=picked))
    return result


def read_header(number: int, line: str) -> Header:
    """A recording's first line.

    Raises:
        RecordingError: it names no picker, weights or replicas that the model knows.
    """
    content = _json(number, line)
    try:
        name, config, endpoints = str(content["picker"]), str(content["config"]), dict(content["pods"])
    except (KeyError, TypeError, ValueError):
        raise RecordingError(number, "the first line must name picker, config and pods") from None
    weights = {scorer: float(weight) for scorer, weight in _WEIGHT.findall(config)}
    if not weights:
        raise RecordingError(number, f"no weights in config {config!r}; write: queue-scorer 2, prefix-cache-scorer 3")
    make = Rules.v0_10 if generation(name) is Generation.V0_10 else Rules.v0_4
    try:
        return Header(name, make(weights), endpoints)
    except ValueError as error:
        raise RecordingError(number, str(error)) from None


def generation(picker: str) -> Generation:
    """Which generation a picker's name speaks of: llm-d-router is the newer one's repository."""
    return Generation.V0_10 if "llm-d-router" in picker else Generation.V0_4


def _compare(result: Agreement, number: int, recorded: Mapping[str, Any], decision: Decision) -> None:
    result.decisions += 1
    request = str(recorded.get("id", number))
    for part, detail in _differences(recorded, decision):
        result.compared[part] = result.compared.get(part, 0) + 1
        if detail:
            result.disagreements.append(Disagreement(number, request, part, detail))
        else:
            result.agreed[part] = result.agreed.get(part, 0) + 1


def _differences(recorded: Mapping[str, Any], decision: Decision) -> Iterator[tuple[str, str]]:
    """Each part that was recorded, with an explanation where it differs and nothing where it agrees."""
    if "hashes" in recorded:
        made = [f"{block:016x}" for block in decision.hashes]
        yield HASHES, _first_hash(recorded["hashes"], made)
    for scorer, expected in recorded["scores"].items():
        made_scores = decision.scores.get(scorer)
        if made_scores is None:
            yield scorer, "the model does not run this scorer: it has no weight in the first line"
            continue
        wrong = [
            f"{name}: recorded {value:g}, model {made_scores.get(name, float('nan')):g}"
            for name, value in sorted(expected.items())
            if not abs(made_scores.get(name, float("nan")) - value) <= TOLERANCE
        ]
        yield scorer, "; ".join(wrong) + (_why(scorer, decision) if wrong else "")
    picked = recorded["picked"]
    totals = ", ".join(f"{name} {total:.3f}" for name, total in sorted(decision.totals.items()))
    yield PICK, "" if picked in decision.ties else f"recorded {picked}, the model's best: {decision.ties} of {totals}"


def _why(scorer: str, decision: Decision) -> str:
    if not decision.matched_blocks:
        return f" (the model knows none of the {len(decision.hashes)} blocks)" if "prefix" in scorer else ""
    known = ", ".join(f"{name} {blocks}" for name, blocks in sorted(decision.matched_blocks.items()))
    return f" (blocks known to the model, of {len(decision.hashes)}: {known})" if "queue" not in scorer else ""


def _first_hash(recorded: list[str], made: list[str]) -> str:
    if recorded == made:
        return ""
    if len(recorded) != len(made):
        return f"{len(recorded)} blocks recorded, {len(made)} by the model"
    index = next(i for i, (one, other) in enumerate(zip(recorded, made, strict=True)) if one != other)
    return f"block {index}: recorded {recorded[index]}, model {made[index]}"


def _candidates(header: Header, recorded: Mapping[str, Any]) -> list[Endpoint]:
    """The replicas as scored; their order shows only in how never-used ones rank, and is taken from there."""
    made = [
        Endpoint(
            name,
            metrics["waiting"],
            metrics["kv"],
            header.endpoints[name]["block_size"],
            header.endpoints[name]["num_gpu_blocks"],
        )
        for name, metrics in recorded["pods"].items()
    ]
    cold = recorded["scores"].get(NO_HIT_SCORER, {})
    return sorted(made, key=lambda endpoint: -cold.get(endpoint.name, 0))


def _json(number: int, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise RecordingError(number, f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RecordingError(number, "not a JSON object")
    return content
