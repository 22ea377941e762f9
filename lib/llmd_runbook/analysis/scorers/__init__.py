"""How llm-d's endpoint picker chooses a replica: an independent reference model, pure and without I/O.

Two generations are known: `v0.4` hashes blocks of bytes, `v0.10` hashes blocks of estimated tokens and may
spread cold requests over the replicas. A `Picker` starts empty, as the real one does after a restart::

    picker = Picker(Rules.v0_4({"queue-scorer": 2, "prefix-cache-scorer": 3}))
    decision = picker.decide({"model": "m", "prompt": "..."}, [Endpoint("a"), Endpoint("b")])
    picker.learn(decision)     # the real picker learns a moment after it answered
"""

from llmd_runbook.analysis.scorers.picker import Decision, Endpoint, Picker
from llmd_runbook.analysis.scorers.prefix_index import ColdOrder, PrefixIndex
from llmd_runbook.analysis.scorers.request import BadRequest, InferenceRequest, block_hashes, parse_request
from llmd_runbook.analysis.scorers.rules import (
    KV_SCORER,
    MODELLED_SCORERS,
    NO_HIT_SCORER,
    PREFIX_SCORER,
    QUEUE_SCORER,
    Generation,
    Rules,
    Ties,
)

__all__ = [
    "KV_SCORER",
    "MODELLED_SCORERS",
    "NO_HIT_SCORER",
    "PREFIX_SCORER",
    "QUEUE_SCORER",
    "BadRequest",
    "ColdOrder",
    "Decision",
    "Endpoint",
    "Generation",
    "InferenceRequest",
    "Picker",
    "PrefixIndex",
    "Rules",
    "Ties",
    "block_hashes",
    "parse_request",
]
