"""A deterministic tokenizer that needs no network, the chat template, and the text of the answers.

Words with the space before them are cut into pieces of at most six bytes: about 4.2 bytes a token for
English, near what the real tokenizers give. A token's id is a checksum of its piece, so equal text has
equal ids in every replica and, as with a real tokenizer, a common prefix of two texts is a common prefix of
their tokens but for the very end.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, product

MARK = "[simulated]"
"""What every answer begins with; one token."""

EOS_PIECE = "<|im_end|>"
_PIECE_BYTES = 6
_PIECES = re.compile(r"<\|\w+\|>|\[simulated\]| ?[^\W\d_]+| ?\d{1,3}| ?[^\w\s]{1,3}| ?_+|\s+")
_WORDS = [f" {''.join(letters)}" for letters in product("bdfklmnprstv", "aeiou", "lmnrst", "aeo")]
_SHORTEST, _LONGEST = 60, 512
"""Tokens after which an answer ends by itself; a limit of 100 then gives 98 on average."""


def split(text: str) -> list[str]:
    """The pieces of `text`, in order; joined again they are `text`."""
    pieces = []
    for piece in _PIECES.findall(text):
        if (len(piece) <= _PIECE_BYTES and piece.isascii()) or piece == MARK or piece.startswith("<|"):
            pieces.append(piece)
        else:
            pieces += _cut(piece)
    return pieces


def _cut(piece: str) -> list[str]:
    cut, size = [""], 0
    for character in piece:
        width = len(character.encode("utf-8", "surrogatepass"))
        if size + width > _PIECE_BYTES and cut[-1]:
            cut.append("")
            size = 0
        cut[-1] += character
        size += width
    return cut


@lru_cache(maxsize=16_384)
def token_id(piece: str, vocabulary: int) -> int:
    """The id of a piece, below `vocabulary`."""
    return zlib.crc32(piece.encode("utf-8", "surrogatepass")) % vocabulary


def encode(text: str, vocabulary: int) -> list[int]:
    """The token ids of `text`."""
    return [token_id(piece, vocabulary) for piece in split(text)]


def chat_text(messages: Sequence[tuple[str, str]]) -> str:
    """The prompt that (role, content) messages become: ChatML, with Qwen2.5's default system message."""
    turns = list(messages)
    if not turns or turns[0][0] != "system":
        turns.insert(0, ("system", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."))
    rendered = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return rendered + "<|im_start|>assistant\n"


@dataclass(frozen=True)
class Answer:
    """The answer, token by token; an empty piece shows nothing (end of text, part of a stop string)."""

    ids: list[int]
    pieces: list[str]
    finish_reason: str
    stop_reason: str | None


@dataclass(frozen=True)
class Limits:
    """When an answer ends; all of them as in the OpenAI and vLLM request fields."""

    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()


def answer(prompt: Sequence[int], seed: int | None, limits: Limits, vocabulary: int) -> Answer:
    """Pseudo-words chosen by the prompt and the seed alone: equal requests get equal answers everywhere."""
    rng = random.Random(zlib.crc32(repr((seed, prompt)).encode()))
    natural = max(rng.randint(_SHORTEST, _LONGEST), limits.min_tokens + 1)
    ends = not limits.ignore_eos and natural <= limits.max_tokens
    count = natural if ends else limits.max_tokens
    sources = [MARK, *rng.choices(_WORDS, k=count - 1)][:count]
    pieces = list(sources)
    if ends:
        sources[-1], pieces[-1] = EOS_PIECE, ""
    stopped = _stop(pieces, limits)
    if stopped is not None:
        pieces, stop = stopped
        return Answer(_ids(sources[: len(pieces)], vocabulary), pieces, "stop", stop)
    return Answer(_ids(sources, vocabulary), pieces, "stop" if ends else "length", None)


def _stop(pieces: list[str], limits: Limits) -> tuple[list[str], str] | None:
    """The pieces up to the first stop string, which is cut off, and that string."""
    text = "".join(pieces)
    ends = list(accumulate(len(piece) for piece in pieces))
    after = ends[limits.min_tokens - 1] if limits.min_tokens else 0
    found = [(text.find(stop, after) + len(stop), stop) for stop in limits.stop if text.find(stop, after) >= 0]
    if not found:
        return None
    end, stop = min(found)
    last = next(index for index, reached in enumerate(ends) if reached >= end)
    visible = end - len(stop)
    starts = [0, *ends[:last]]
    return [pieces[i][: max(visible - starts[i], 0)] for i in range(last + 1)], stop


def _ids(pieces: Sequence[str], vocabulary: int) -> list[int]:
    return [token_id(piece, vocabulary) for piece in pieces]
