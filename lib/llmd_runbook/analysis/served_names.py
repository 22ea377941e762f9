"""Under which model names a vLLM server answers, from its rendered command line. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

_FLAG = "--served-model-name"


def served_names(manifests: Sequence[dict[str, Any]]) -> list[str]:
    """Every name after `--served-model-name` (vLLM takes several) in the containers of the Deployments."""
    names: list[str] = []
    for item in manifests:
        if item.get("kind") == "Deployment":
            for container in item["spec"]["template"]["spec"]["containers"]:
                words = [*container.get("command", []), *container.get("args", [])]
                names += _names([part for word in map(str, words) for part in _split(word)])
    return list(dict.fromkeys(names))


def _names(words: Sequence[str]) -> list[str]:
    """The words from the last flag on to the next flag, as argparse reads them."""
    found: list[str] = []
    for place, word in enumerate(words):
        if word.startswith(f"{_FLAG}="):
            found = [word.partition("=")[2]]
        elif word == _FLAG:
            rest = words[place + 1 :]
            end = next((at for at, other in enumerate(rest) if other.startswith("-")), len(rest))
            found = list(rest[:end])
    return found


def _split(word: str) -> list[str]:
    """A word, or where it is a shell's script (`sh -c "vllm serve ..."`) the words in it."""
    if _FLAG not in word or not any(space in word for space in " \n"):
        return [word]
    try:
        return shlex.split(word)
    except ValueError:  # a script that shlex cannot read names nothing for certain
        return []
