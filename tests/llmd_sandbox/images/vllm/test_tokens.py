import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmd_sandbox.images.vllm.tokens import MARK, Limits, answer, chat_text, encode, split

VOCABULARY = 151_936
ENGLISH = (
    "A prefix cache keeps the keys and values of tokens that were computed before, so that a request whose "
    "prompt begins like an earlier one need not compute them again. Only whole blocks count, and the last "
    "token is always computed, for its logits give the next one."
)


@given(st.text())
def test_pieces_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


@given(st.text())
def test_pieces_are_short(text: str) -> None:
    assert all(len(piece) == 1 or len(piece.encode("utf-8", "surrogatepass")) <= 6 for piece in split(text))


def test_english_has_about_four_bytes_a_token() -> None:
    assert len(ENGLISH) / len(split(ENGLISH)) == pytest.approx(4.2, abs=0.4)


@given(st.integers(0, len(ENGLISH)))
def test_a_prefix_of_a_text_is_a_prefix_of_its_tokens_but_for_the_end(length: int) -> None:
    part = encode(ENGLISH[:length], VOCABULARY)[:-1]
    assert encode(ENGLISH, VOCABULARY)[: len(part)] == part


def test_a_chat_has_a_system_message_and_one_token_for_each_mark() -> None:
    text = chat_text([("user", "Hi")])
    assert text.startswith("<|im_start|>system\n")
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert split(text).count("<|im_start|>") == 3
    assert chat_text([("system", "Be brief."), ("user", "Hi")]).count("system") == 1


def ask(limits: Limits, prompt: int = 1, seed: int | None = None) -> tuple[str, int, str]:
    said = answer([prompt, 2, 3], seed, limits, VOCABULARY)
    assert len(said.ids) == len(said.pieces)
    return "".join(said.pieces), len(said.ids), said.finish_reason


def test_an_answer_says_that_it_is_simulated_and_is_always_the_same() -> None:
    first = ask(Limits(8))
    assert first == ask(Limits(8))
    assert first[0].startswith(MARK)
    assert first[1:] == (8, "length")
    assert ask(Limits(8), prompt=9) != first
    assert ask(Limits(8), seed=1) != first


def test_the_text_of_an_answer_has_the_tokens_of_the_answer() -> None:
    said = answer([1], None, Limits(50), VOCABULARY)
    assert encode("".join(said.pieces), VOCABULARY) == said.ids


def test_an_answer_ends_by_itself_unless_told_not_to() -> None:
    assert ask(Limits(2000))[1:][1] == "stop"
    assert ask(Limits(2000))[1] < 2000
    assert ask(Limits(2000, ignore_eos=True))[1:] == (2000, "length")
    assert ask(Limits(2000, min_tokens=1000))[1] > 1000


def test_one_token() -> None:
    assert ask(Limits(1)) == (MARK, 1, "length")


def test_a_stop_string_ends_the_answer_and_is_cut_off() -> None:
    text, _, _ = ask(Limits(40))
    stop = text[len(MARK) + 12 : len(MARK) + 20]  # begins and ends within words
    said = answer([1, 2, 3], None, Limits(40, stop=("nowhere", stop)), VOCABULARY)
    shown = "".join(said.pieces)
    assert shown == text[: text.index(stop)]
    assert (said.finish_reason, said.stop_reason) == ("stop", stop)
    assert len(said.ids) == len(split(text[: text.index(stop) + len(stop)]))


def test_a_stop_string_counts_only_after_min_tokens() -> None:
    text, _, _ = ask(Limits(40))
    stop = text[len(MARK) : len(MARK) + 3]
    assert ask(Limits(40, min_tokens=30, stop=(stop,)))[1] >= 30
    assert ask(Limits(40, stop=(stop,)))[1] == 2
