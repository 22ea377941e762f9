"""When one shared prefix overloads its replica: a full match beats any queue difference, by the weights themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER


@dataclass(frozen=True)
class HotSpot:
    """What the weights let one prefix do to one replica.

    Attributes:
        binding_match: share of a prompt's blocks above which its replica wins whatever the queues are, KV use
            being equal; None when a queue can always win.
        releasing_kv: a fully matched replica with the longest queue still wins until its KV use exceeds another's
            by this; None when it never lets go, 0 or less when the queue alone is enough.
        hot_share: traffic share of one prefix from which its replica gets more than it can carry, the other
            traffic being spread evenly; above 1 when no prefix can.
        certain_share: the same when all other traffic avoids that replica: from there no routing of the rest helps.
        utilisation: of the whole pattern, as given.
    """

    binding_match: float | None
    releasing_kv: float | None
    hot_share: float
    certain_share: float
    utilisation: float
    replicas: int

    @property
    def warning(self) -> str:
        """One sentence for people."""
        if self.binding_match is None:
            return "The queue scorer outweighs the prefix scorer: a longer queue sends a shared prefix elsewhere."
        held = f"Prompts that match in more than {self.binding_match:.0%} of their blocks stay whatever the queues are"
        if self.hot_share > 1:
            return f"{held}; at {self.utilisation:.0%} use of {self.replicas} replicas no single prefix overloads one."
        return (
            f"{held}: at {self.utilisation:.0%} use of {self.replicas} replicas a prefix with {self.hot_share:.0%} of "
            f"the traffic overloads its replica (from {self.certain_share:.0%} even if all other traffic avoids it)."
        )


def hot_spot(weights: Mapping[str, float], replicas: int, utilisation: float) -> HotSpot:
    """From facts of the scorers alone: prefix score m, queue score 0 to 1 by min-max, KV score 1 - use.

    A matched replica with the longest queue wins iff P m > K (kv - kv') + Q, weights P, K, Q. A prefix with share s
    of the traffic loads its home with s + (1 - s) / k of it, or s when the rest avoids it; one replica carries
    1 / (k u) at utilisation u of all k.

    Raises:
        ValueError: fewer than two replicas, or a utilisation outside 0 (exclusive) to 1.
    """
    if replicas < 2 or not 0 < utilisation <= 1:
        raise ValueError(f"no hot spot among {replicas} replicas at utilisation {utilisation:g}")
    prefix, queue, kv = (weights.get(scorer, 0.0) for scorer in (PREFIX_SCORER, QUEUE_SCORER, KV_SCORER))
    return HotSpot(
        binding_match=queue / prefix if prefix > queue else None,
        releasing_kv=(prefix - queue) / kv if kv and prefix - queue < kv else None,
        hot_share=(1 / utilisation - 1) / (replicas - 1),
        certain_share=1 / (replicas * utilisation),
        utilisation=utilisation,
        replicas=replicas,
    )


def home_load(share: float, replicas: int) -> float:
    """Part of all traffic that a prefix's home gets, the other traffic being spread evenly: s + (1 - s) / k."""
    return share + (1 - share) / replicas
