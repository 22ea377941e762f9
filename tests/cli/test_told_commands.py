"""No text of ours tells a kubectl command that the lane does not run. Needs no cluster, so `make test` has it too."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import commands

ROOT = Path(__file__).parents[2]
_VERBS = (
    "annotate|apply|auth|config|cordon|create|delete|describe|drain|edit|exec|explain|get|label|logs|patch|"
    "port-forward|proxy|rollout|scale|set|top|uncordon|version|wait"
)
_TOLD = re.compile(rf"kubectl (?=(?:-|(?:{_VERBS})\b))[^`;,)#\n]*?(?=\s\(|[`;,)#\n]|$)")


def told_in(text: str) -> list[str]:
    """The kubectl commands in a text; prose around them ends at a bracket, comma, backtick or line's end."""
    return [found.strip() for found in _TOLD.findall(text)]


def python_texts(source: str) -> Iterator[str]:
    """String literals that a program may show: docstrings left out, placeholders of f-strings as one word."""
    tree = ast.parse(source)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr):
            inner.add(id(node.body[0].value))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def all_told() -> dict[str, str]:
    """Each command that we tell, with the file that tells it."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / "lib" / "llmd_runbook").rglob("*.py")):
        found |= {each: file.name for text in python_texts(file.read_text()) for each in told_in(text)}
    for file in [ROOT / "README.md", *sorted((ROOT / "parameters").rglob("*.*"))]:
        found |= dict.fromkeys(told_in(file.read_text()), file.name)
    for file in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = ["".join(cell["source"]) for cell in json.loads(file.read_text())["cells"]]
        found |= {each: file.name for text in cells for each in told_in(text)}
    return found


def test_every_told_command_is_in_the_list() -> None:
    told = all_told()
    assert len(told) >= 5
    assert {each: file for each, file in told.items() if not commands.known(each)} == {}


def test_nothing_is_promised_that_no_command_of_the_list_does() -> None:
    """Prose can promise a stream without a command; the sandbox serves none of them."""
    streams = re.compile(r"port-forward|kubectl (?:exec|attach|cp|proxy)\b")
    files = [*(ROOT / "parameters").rglob("*.*"), *(ROOT / "notebooks").glob("*.ipynb")]
    files += (ROOT / "lib" / "llmd_runbook").rglob("*.py")
    assert len(files) > 50
    assert [file.name for file in files if streams.search(file.read_text())] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see it (kubectl describe pod), then", ["kubectl describe pod"]),
        ("`kubectl -n a get pods` and `kubectl version`", ["kubectl -n a get pods", "kubectl version"]),
        ("kubectl and helm on PATH; kubectl, helm", []),
        ("kubectl get pods -A   # all of them\n", ["kubectl get pods -A"]),
        ("kubectl get nodes (all of them)", ["kubectl get nodes"]),
    ],
)
def test_commands_are_found_in_prose(text: str, found: list[str]) -> None:
    assert told_in(text) == found


def test_commands_are_found_in_messages_and_not_in_docstrings() -> None:
    source = '"""kubectl get a"""\ndef f(n):\n    """kubectl get b"""\n    return f"kubectl -n {n} get c"\n'
    assert [each for text in python_texts(source) for each in told_in(text)] == ["kubectl -n X get c"]


def test_an_unknown_command_is_noticed() -> None:
    assert not commands.known("kubectl get modelservice -n default")
    assert not commands.known("kubectl -n X describe nonsense Y")
    assert commands.known("kubectl -n X describe deployment Y")
