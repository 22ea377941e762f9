"""What is replayed of the guide's Tests 2 to 4 is what it prints; `tests/data/guide_tests.txt` has its commands."""

from __future__ import annotations

import json
import re

import pytest

from llmd_runbook.analysis import guide
from llmd_runbook.profile import PROJECT_ROOT

TEXT = (PROJECT_ROOT / "tests" / "data" / "guide_tests.txt").read_text()
MODEL = "Qwen/Qwen2.5-3B-Instruct"


def printed(test: int) -> str:
    """The commands of a test."""
    return TEXT.split(f"### Test {test}\n")[1].split("###")[0]


def bodies(test: int) -> list[tuple[str, str, int]]:
    """Model, prompt and `max_tokens` of each request that is printed."""
    found = [json.loads(body) for body in re.findall(r"-d '(\{.*?\})'", printed(test), re.DOTALL)]
    assert {tuple(body) for body in found} == {("model", "prompt", "max_tokens")}
    return [tuple(body.values()) for body in found]


def test_test_2() -> None:
    assert bodies(2) == [(MODEL, guide.TEST2_PROMPT, guide.TEST2_TOKENS)]
    assert f"for i in {{1..{guide.TEST2_REQUESTS}}}; do" in printed(2)
    assert f"  sleep {guide.TEST2_PAUSE_S:g}\n" in printed(2)


def test_test_3() -> None:
    assert bodies(3) == [(MODEL, prompt, guide.TEST3_TOKENS) for prompt in guide.TEST3_PROMPTS]
    assert printed(3).count("}' &\n") == len(guide.TEST3_PROMPTS), "all at once"


def test_test_4() -> None:
    assert bodies(4) == [(MODEL, guide.TEST4_PROMPT, guide.TEST4_TOKENS)]
    assert f"time for i in {{1..{guide.TEST4_REQUESTS}}}; do" in printed(4)
    low, high = guide.TEST4_EXPECTED_S
    assert f"# Expected: ~{low:g}-{high:g} seconds ({guide.TEST4_REQUESTS} requests" in printed(4)


@pytest.mark.parametrize(("test", "prompts"), [(2, 1), (3, 3), (4, 1)])
def test_each_prompt_is_among_those_that_the_picker_is_asked_about(test: int, prompts: int) -> None:
    asked = [prompt for name, prompt in guide.GUIDE_PROMPTS if name.startswith(f"Test {test}")]
    assert asked == [prompt for _, prompt, _ in bodies(test)]
    assert len(asked) == prompts
