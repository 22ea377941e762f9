"""What counts as a prefix hit: the same prompts, one after another, to both engines, block by block."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.vllm.conftest import Pair
from tests.vllm.servers import BLOCK_TOKENS, BLOCKS, CONTEXT_TOKENS, MODEL

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

_FIRST_ID, _IDS = 3, 900
_COUNTED_WITHIN_S, _LOOK_S = 5.0, 0.02
_COUNTERS = ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total")


@dataclass(frozen=True)
class Ask:
    """A prompt as token ids, how many tokens to answer, and the tenant whose cache it may use."""

    prompt: list[int]
    answer: int = 1
    salt: str | None = None


@dataclass(frozen=True)
class Seen:
    """Tokens of the prompt that came from the cache, by the answer, and what the two counters moved by."""

    cached: int
    queried: float
    hit: float


def tokens(seed: int, count: int) -> list[int]:
    """`count` token ids that both engines' vocabularies have."""
    rng = random.Random(seed)
    return [rng.randrange(_FIRST_ID, _IDS) for _ in range(count)]


def walk(seed: int, asks: int) -> list[Ask]:
    """Prompts that branch: each goes on from a prefix of one before, or begins anew; sizes fall everywhere in a block.

    Together they need several times the blocks that there are, so that each request evicts another's.
    """
    rng = random.Random(seed)
    made: list[list[int]] = []
    walked = []
    for index in range(asks):
        start = rng.choice(made) if made and rng.random() < 0.7 else []
        kept = start[: rng.randrange(len(start) + 1)] if rng.random() < 0.5 else start
        prompt = (kept + tokens(seed * 1000 + index, rng.randrange(1, 150)))[: CONTEXT_TOKENS - 60]
        made = [*made, prompt][-6:]
        walked.append(Ask(prompt, rng.choice([1, 1, 1, 2, 40]), rng.choice([None, None, None, "tenant"])))
    return walked


def put(client: httpx.Client, asks: list[Ask]) -> list[Seen]:
    """Send them one after another."""
    before = _counters(client)
    seen = []
    for ask in asks:
        body: dict[str, object] = {"model": MODEL, "prompt": ask.prompt, "max_tokens": ask.answer, "ignore_eos": True}
        body |= {"cache_salt": ask.salt} if ask.salt else {}
        answer = client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        assert usage["prompt_tokens"] == len(ask.prompt)
        assert usage["completion_tokens"] == ask.answer
        now = _counted(client, before, len(ask.prompt))
        details = usage["prompt_tokens_details"] or {}
        seen.append(Seen(details.get("cached_tokens", 0), now[0] - before[0], now[1] - before[1]))
        before = now
    return seen


def both(pair: Pair, asks: list[Ask]) -> list[Seen]:
    """What both engines saw, which is the same."""
    simulated, real = (put(client, asks) for client in (pair.simulated, pair.real))
    for index, (ask, one, other) in enumerate(zip(asks, simulated, real, strict=True)):
        assert one == other, f"request {index}, {len(ask.prompt)} tokens: simulated {one}, real {other}"
    return real


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 96, 181])
def test_a_prompt_sent_again_hits_its_whole_blocks_but_never_its_last_token(pair: Pair, length: int) -> None:
    prompt = tokens(length, length)
    first, again = both(pair, [Ask(prompt), Ask(prompt)])
    assert first.cached == 0
    assert again.cached == again.hit == (length - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    assert again.queried == length


@pytest.mark.parametrize("changed", [0, 31, 32, 100])
def test_a_changed_token_ends_the_hit_at_its_block(pair: Pair, changed: int) -> None:
    prompt = tokens(500 + changed, 160)
    other = [*prompt[:changed], prompt[changed] % (_IDS - 1) + 1, *prompt[changed + 1 :]]
    _, seen = both(pair, [Ask(prompt), Ask(other)])
    assert seen.cached == changed // BLOCK_TOKENS * BLOCK_TOKENS


def test_a_salt_keeps_tenants_apart(pair: Pair) -> None:
    prompt = tokens(650, 100)
    seen = both(pair, [Ask(prompt), Ask(prompt, salt="a"), Ask(prompt, salt="a"), Ask(prompt, salt="b")])
    assert [each.cached for each in seen] == [0, 0, 96, 0]


def test_the_least_recently_used_blocks_go_first_and_the_end_of_a_prefix_before_its_beginning(pair: Pair) -> None:
    old, young = tokens(700, 320), tokens(701, 320)
    fill = tokens(702, (BLOCKS - 1) * BLOCK_TOKENS - 2 * 320 + 5 * BLOCK_TOKENS)[: CONTEXT_TOKENS - 1]
    seen = both(pair, [Ask(old), Ask(young), Ask(fill), Ask(tokens(703, 256)), Ask(old), Ask(young)])
    assert 0 < seen[4].cached < 319 // BLOCK_TOKENS * BLOCK_TOKENS


@pytest.mark.parametrize("seed", range(3))
def test_long_random_walks_agree_in_every_request(pair: Pair, seed: int) -> None:
    seen = both(pair, walk(seed, 60))
    hits = [each for each in seen if each.cached]
    assert 10 < len(hits) < 50


def _counted(client: httpx.Client, before: tuple[float, ...], queried: int) -> tuple[float, ...]:
    """The counters once they show the request: an answer can be a moment ahead of them."""
    deadline = time.monotonic() + _COUNTED_WITHIN_S
    while (now := _counters(client))[0] < before[0] + queried and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return now


def _counters(client: httpx.Client) -> tuple[float, ...]:
    totals = dict.fromkeys(_COUNTERS, 0.0)
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    return tuple(totals[name] for name in _COUNTERS)
