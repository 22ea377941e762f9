"""What is known of the requests of one arm of stage 05: who served them, and all that explains why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from llmd_runbook.analysis.attribution import Evidence
from llmd_runbook.analysis.picker_log_lines import Decided, Metrics

Row = dict[str, Any]
"""A request in the record: JSON values."""


@dataclass
class Arm:
    """Requests of one kind, as the record keeps them.

    Attributes:
        counts: requests by group and replica.
        unclear: what keeps the arm from being judged: requests that nobody or several served, counters that do
            not add up. Empty when all is known.
        cached_tokens, prompt_tokens: the engines' counters of prefix lookups, background left out.
        evidence: kind of evidence -> requests that rest on it.
        reconciled: how the counters add up, in words.
        elsewhere: the counters show that others than these replicas answered.
        background: unrelated requests that ran beside.
        requests: one row a request, in the order of sending: request_id, group, order, replica, evidence, ttft_s,
            cached_tokens (None: the server does not say), prompt_tokens.
    """

    replicas: list[str]
    groups: list[str]
    counts: list[list[int]]
    unclear: list[str]
    cached_tokens: float
    prompt_tokens: float
    evidence: dict[str, int] = field(default_factory=dict)
    reconciled: str = ""
    elsewhere: bool = False
    background: int = 0
    requests: list[Row] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        replicas: list[str],
        requests: list[Row],
        *,
        unclear: list[str],
        cached_tokens: float,
        prompt_tokens: float,
        reconciled: str,
        elsewhere: bool,
        background: int,
    ) -> Arm:
        """Counted from its requests."""
        groups = sorted({row["group"] for row in requests})
        served = Counter((row["group"], row["replica"]) for row in requests)
        evidence = Counter(row["evidence"] for row in requests if row["evidence"])
        return cls(
            replicas=replicas,
            groups=groups,
            counts=[[served[group, replica] for replica in replicas] for group in groups],
            unclear=unclear,
            cached_tokens=cached_tokens,
            prompt_tokens=prompt_tokens,
            evidence=dict(evidence),
            reconciled=reconciled,
            elsewhere=elsewhere,
            background=background,
            requests=requests,
        )

    @property
    def hit_ratio(self) -> float:
        """Tokens found in the caches, of those looked up."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens > 0 else 0.0

    @property
    def repeats(self) -> float:
        """The part of the requests whose replica had served their group before, so that its cache can know it."""
        seen: set[tuple[str, str | None]] = set()
        again = 0
        for row in self.requests:
            served = (row["group"], row["replica"])
            again += served in seen
            seen.add(served)
        return again / len(self.requests) if self.requests else 0.0

    @property
    def claim(self) -> str:
        """What the weakest evidence used lets one say."""
        used = [kind for kind in Evidence if self.evidence.get(kind)]
        return used[-1].claim if used else "nothing is known of who served what"


@dataclass(frozen=True)
class Asked:
    """A request as sent, and the replicas' metrics as scraped around it; the log has better ones, where it has any."""

    request_id: str
    body: dict[str, Any]
    group: str = ""
    before: dict[str, Metrics] = field(default_factory=dict)
    after: dict[str, Metrics] = field(default_factory=dict)


@dataclass(frozen=True)
class Trail:
    """All that is known of an arm's decisions: what was sent, what the picker logged, who served.

    Attributes:
        asked: every answered request of ours, background first, then the arm in the order of sending.
        logged: what the picker says, by request id, in the order of its log; empty without a log.
        served: request id -> replica, where that is known.
        addresses: `ip:port` -> replica.
        no_log: why there is no log; empty where there is one.
        restarted: the picker began anew while the arm was sent.
    """

    asked: list[Asked]
    logged: dict[str, Decided]
    served: dict[str, str]
    addresses: dict[str, str]
    no_log: str
    restarted: bool
