"""What the guide says, word for word, to be shown beside what is found."""

from __future__ import annotations

from collections.abc import Mapping

from llmd_runbook.analysis.scorers import KV_SCORER, NO_HIT_SCORER, PREFIX_SCORER, QUEUE_SCORER

GUIDE_WEIGHTS = {PREFIX_SCORER: 3.0, KV_SCORER: 2.0, QUEUE_SCORER: 2.0}
"""The weights that the guide states and the charts of both generations set."""


def weighed_as_the_guide_says(weights: Mapping[str, float]) -> bool:
    """Whether a picker has exactly these weights. The newest layout's scorer of cold requests may stand beside them: it
    gives every replica the same where a prefix is cached.

    >>> weighed_as_the_guide_says(GUIDE_WEIGHTS | {"no-hit-lru-scorer": 2})
    True
    >>> weighed_as_the_guide_says(GUIDE_WEIGHTS | {"session-affinity-scorer": 2})
    False
    """
    return {name: weight for name, weight in weights.items() if name != NO_HIT_SCORER} == GUIDE_WEIGHTS


TEST2_PROMPT, TEST2_REQUESTS, TEST2_TOKENS, TEST2_PAUSE_S = (
    "You are a helpful assistant. Answer the following question: What is 2+2?",
    5,
    20,
    1.0,
)
"""Test 2: one prompt, one request after another, `max_tokens`, and the `sleep` after each (s)."""

TEST3_PROMPTS, TEST3_TOKENS = ("Explain quantum physics", "Write a poem about cats", "Recipe for chocolate cake"), 30
"""Test 3: all at once."""

TEST4_PROMPT, TEST4_REQUESTS, TEST4_TOKENS, TEST4_EXPECTED_S = "Hello", 50, 10, (18.0, 22.0)
"""Test 4: all at once, and the range of seconds that the guide expects of Pattern 3."""

GUIDE_PROMPTS = (
    ("Test 1", "What is the capital of France?"),
    ("Test 2, five times", TEST2_PROMPT),
    *(("Test 3", prompt) for prompt in TEST3_PROMPTS),
    ("Test 4, fifty times", TEST4_PROMPT),
)
"""The prompts of the guide's four tests, each with how often it is sent."""
