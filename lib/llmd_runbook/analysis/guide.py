"""What the guide says, word for word, to be shown beside what is found."""

from __future__ import annotations

from llmd_runbook.analysis.scorers import KV_SCORER, PREFIX_SCORER, QUEUE_SCORER

GUIDE_WEIGHTS = {PREFIX_SCORER: 3.0, KV_SCORER: 2.0, QUEUE_SCORER: 2.0}
"""The weights that the guide states and the charts of both generations set."""

GUIDE_PROMPTS = (
    ("Test 1", "What is the capital of France?"),
    ("Test 2, five times", "You are a helpful assistant. Answer the following question: What is 2+2?"),
    ("Test 3", "Explain quantum physics"),
    ("Test 3", "Write a poem about cats"),
    ("Test 3", "Recipe for chocolate cake"),
    ("Test 4, fifty times", "Hello"),
)
"""The prompts of the guide's four tests, each with how often it is sent."""
