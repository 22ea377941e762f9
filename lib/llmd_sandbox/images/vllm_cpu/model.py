"""A tiny model's folder: Qwen2's shape, a tokenizer trained on the spot, Qwen2.5's chat template, no weights.

Run by the engine's own Python, which has `tokenizers`; the weights are vLLM's `--load-format dummy`.

`python model.py FOLDER MAX_POSITION_EMBEDDINGS`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

_WORDS = """
the and for are but not you all any can had her was one our out day get has him his how man new now old see two way who
boy did its let put say she too use big end few got own run set top try yes act add age ago air arm art ask bad bag bed
bit box bus buy car cat cut dog eat eye far fly fun gas god hit hot ice job key kid law lay led leg lie lot low map may
men mix net oil pay per red rid sea sit six sky son sun tax tea ten tie about after again also back because been before
being between both call came come could down each even every find first from give good great hand have help here high
home into just keep kind know large last left life like line little long look made make many mean might more most move
much must name need never next number off often only open other over part people place point right said same seem
should show side small some sound still such take tell than that their them then there these they thing think this
those through time turn under very want water well went were what when where which while will with word work world
would write year your
"""
"""Common English words: with the space before it, each is one token, as to usual tokenizers."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(folder: Path, max_position_embeddings: int) -> None:
    """Write config.json, tokenizer.json and tokenizer_config.json."""
    tokenizer = _tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    start, end = (tokenizer.token_to_id(_SPECIAL[index]) for index in (0, 2))
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,  # heads of 64: the CPU's attention has none smaller
        "num_key_value_heads": 2,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": max_position_embeddings,
        "tie_word_embeddings": False,
        "bos_token_id": start,
        "eos_token_id": end,
        "dtype": "float32",
    }
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_position_embeddings,
        "bos_token": None,
        "eos_token": _SPECIAL[2],
        "pad_token": _SPECIAL[0],
        "chat_template": _TEMPLATE,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(words, indent=1))


def _tokenizer() -> Tokenizer:
    """Byte-level BPE of the words above; each also without the space before it, as at a text's beginning."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = _WORDS.split()
    tokenizer.train_from_iterator([" " + " ".join(words), *words], trainer)
    return tokenizer


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
