"""What an endpoint picker's log says of each request: who was chosen, by which scores, on which metrics.

Both generations' lines are read: v0.4's console form (`TIME LEVEL caller message {json}`, tab-separated) and the
JSON form (`--zap-encoder json`, and v0.10 always). At verbosity 3 the picker names the chosen endpoint, at 4 also
every score and the metrics they were computed from, at 5 (v0.4 only) the block hashes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llmd_runbook.analysis.scorers import MODELLED_SCORERS

REQUEST_ID = "x-request-id"
HANDLED, SCORE = "Request handled", "Calculated score"
CANDIDATES, TOTALS, HASHES = "Before running scorer plugins", "Candidate pods for picking", "prefix cached state"
_MESSAGES = (HANDLED, SCORE, CANDIDATES, TOTALS, HASHES)
_RANK = "-rank-"


@dataclass(frozen=True)
class Metrics:
    """One replica as the picker saw it: waiting requests, KV use (0 to 1), block size (tokens), blocks."""

    waiting: int
    kv_usage: float
    block_size: int
    num_blocks: int


@dataclass
class Decided:
    """What the log says of one request; replicas by pod name.

    Attributes:
        chosen: `ip:port` of every "Request handled" line; one, unless the id was used twice.
        scores: scorer type -> replica -> score before its weight; empty below verbosity 4.
        metrics: replica -> what was scored; empty below verbosity 4.
        totals: replica -> weighted sum; empty below verbosity 4.
        hashes: block hashes (v0.4 at verbosity 5); None where not logged.
        addresses: `ip:port` -> replica, where metrics are logged.
    """

    request_id: str
    chosen: list[str] = field(default_factory=list)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)
    hashes: list[int] | None = None
    addresses: dict[str, str] = field(default_factory=dict)


class PickerLines:
    """Takes log text in pieces and keeps what it says; a line that comes twice changes nothing.

    Attributes:
        decided: request id -> what was logged, in the order of the ids' first lines.
        unreadable: lines of interest that were cut or garbled.
    """

    def __init__(self) -> None:
        self.decided: dict[str, Decided] = {}
        self.unreadable = 0

    def feed(self, lines: Iterable[str]) -> None:
        """Read lines; those that say nothing of a decision are passed over."""
        for line in lines:
            if REQUEST_ID not in line or not any(message in line for message in _MESSAGES):
                continue
            try:
                message, fields = split(line)
                if message in _MESSAGES:
                    self._take(message, fields)
            except (ValueError, LookupError, TypeError, AttributeError):
                self.unreadable += 1

    @property
    def handled(self) -> list[Decided]:
        """Requests with a chosen endpoint, in the order of the log."""
        return [decided for decided in self.decided.values() if decided.chosen]

    def _take(self, message: str, fields: Mapping[str, Any]) -> None:
        request_id = str(fields[REQUEST_ID])
        decided = self.decided.setdefault(request_id, Decided(request_id))
        if message == HANDLED:
            chosen = str(fields["endpoint"])
            if chosen not in decided.chosen:
                decided.chosen.append(chosen)
        elif message == SCORE:
            replica = pod_of(str(fields["endpoint"]["name"]))
            decided.scores.setdefault(_scorer(str(fields["plugin"])), {})[replica] = float(fields["score"])
        elif message == CANDIDATES:
            for item in _listed(fields, "pods", "endpoints"):
                name = _name(item)
                decided.metrics[name] = _metrics(item)
                decided.addresses[f"{item['Address']}:{item['Port']}"] = name
        elif message == TOTALS:
            for item in _listed(fields, "pods-weighted-score", "endpoints-weighted-score"):
                decided.totals[_name(item.get("Pod") or item["Endpoint"])] = float(item["Score"])
        else:
            decided.hashes = [int(block) for block in fields["hashes"] or []]


def pod_of(endpoint: str) -> str:
    """The pod behind an endpoint's name.

    >>> pod_of("ms-pattern3-decode-77f4b89c85-z6p5r-rank-0")
    'ms-pattern3-decode-77f4b89c85-z6p5r'
    """
    pod, _, rank = endpoint.rpartition(_RANK)
    return pod if pod and rank.isdigit() else endpoint


def split(line: str) -> tuple[str, dict[str, Any]]:
    """Message and fields of a line in either form.

    Raises:
        ValueError: the line is in neither.
    """
    line = line.strip()
    if line.startswith("{"):
        fields = json.loads(line)
        return str(fields["msg"]), fields
    *_, message, text = line.split("\t")
    return message, json.loads(text)


def _scorer(plugin: str) -> str:
    """The type in `name/type`; a name that is a type says the same."""
    parts = plugin.split("/")
    return next((part for part in reversed(parts) if part in MODELLED_SCORERS), parts[-1])


def _listed(fields: Mapping[str, Any], *keys: str) -> list[Any]:
    return next(list(fields[key]) for key in keys if key in fields)


def _name(item: Mapping[str, Any]) -> str:
    """v0.4 says NamespacedName and PodName, v0.10 ID and Name."""
    return pod_of(str((item.get("NamespacedName") or item["ID"])["Name"]))


def _metrics(item: Mapping[str, Any]) -> Metrics:
    return Metrics(
        waiting=int(item["WaitingQueueSize"]),
        kv_usage=float(item["KVCacheUsagePercent"]),
        block_size=int(item["CacheBlockSize"]),
        num_blocks=int(item.get("CacheNumGPUBlocks", item.get("CacheNumBlocks", 0))),
    )
