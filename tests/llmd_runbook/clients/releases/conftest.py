"""Stand-ins for helm and helmfile: they record how they are called and answer what the test has set."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_PROGRAM = """#!{python} -SE
import json, os, sys
folder, tool, words = {folder!r}, os.path.basename(sys.argv[0]), sys.argv[1:]
call = {{"argv": words, "stdin": sys.stdin.read(), "postfix": os.environ.get("RELEASE_NAME_POSTFIX"),
        "kubeconfig": os.environ.get("KUBECONFIG")}}
with open(os.path.join(folder, tool + ".calls"), "a") as calls:
    calls.write(json.dumps(call) + "\\n")
file = os.path.join(folder, tool + ".answers")
answers = json.load(open(file))
for place, answer in enumerate(answers):
    if all(word in words for word in answer["words"]):
        if answer["once"]:
            json.dump(answers[:place] + answers[place + 1:], open(file, "w"))
        print(answer["stdout"], end="")
        print(answer["stderr"], end="", file=sys.stderr)
        sys.exit(answer["status"])
sys.exit("no answer to " + " ".join(words))
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but stand-ins for helm 3.18.0 and helmfile 1.1.0 on it; its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("helm", "helmfile"):
        program = folder / tool
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
    for tool, version in (("helm", "v3.18.0"), ("helmfile", "1.1.0")):
        answer = {"words": ["version"], "stdout": version, "stderr": "", "status": 0, "once": False}
        (folder / f"{tool}.answers").write_text(json.dumps([answer]))
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def answer(tools: Path) -> Callable[..., None]:
    """`answer(tool, *words, stdout="", stderr="", status=0, once=False)`: the newest that fits is given."""

    def add(tool: str, *words: str, stdout: str = "", stderr: str = "", status: int = 0, once: bool = False) -> None:
        file = tools / f"{tool}.answers"
        new = {"words": words, "stdout": stdout, "stderr": stderr, "status": status, "once": once}
        file.write_text(json.dumps([new, *json.loads(file.read_text())]))

    return add


@pytest.fixture
def calls(tools: Path) -> Callable[..., list[dict[str, Any]]]:
    """`calls(tool, word)`: how the tool was called with that word, in order; version questions left out."""

    def read(tool: str, word: str = "") -> list[dict[str, Any]]:
        file = tools / f"{tool}.calls"
        made = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in made if call["argv"][0] != "version" and (not word or word in call["argv"])]

    return read
