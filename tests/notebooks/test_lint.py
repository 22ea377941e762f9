"""Every notebook keeps to every rule, and every rule finds what it is for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nbformat import v4
from tests.notebooks.rules import RULES, Notebook, complaints, read

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CASES = [pytest.param(path, code, id=f"{path.stem}-{code}") for path in NOTEBOOKS for code in RULES]


@pytest.mark.parametrize(("path", "code"), CASES)
def test_notebooks_keep_to_the_rules(path: Path, code: str) -> None:
    found = complaints(read(path), code)
    assert not found, "\n".join(found)


def test_stages_are_numbered_without_gaps() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{n:02d}" for n in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 7


def good() -> Notebook:
    """A small notebook that breaks no rule."""
    ignored = {"tags": ["nbval-ignore-output"]}
    opening = 'from llmd_runbook.run import begin\n\nstage = begin("01_first", profile, run)'
    page = {"text/html": "<b>record</b>: outputs/first", "image/png": "aGk/tmp/home"}
    cells = [
        v4.new_markdown_cell("# 01 First\n\nWhat it is for. See `/v1/models` and https://llm-d.ai/docs."),
        v4.new_code_cell('profile = "sandbox"\nrun = ""', metadata={"tags": ["parameters"]}),
        v4.new_markdown_cell("Open the run."),
        v4.new_code_cell(opening, metadata=ignored, outputs=[v4.new_output("display_data", page)]),
        v4.new_markdown_cell("## Look\n\nIt listens on 127.0.0.1, an example is 192.0.2.7."),
        v4.new_code_cell("stage.look()", metadata=ignored, outputs=[v4.new_output("stream", text="fine\n")]),
        v4.new_code_cell("stage.verdicts()"),
    ]
    notebook = v4.new_notebook(cells=cells)
    for number, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
    return Notebook("01_first", notebook)


def source(index: int, text: str) -> Callable[[Any], None]:
    def doctor(content: Any) -> None:
        content.cells[index].source = text

    return doctor


def more(index: int, text: str) -> Callable[[Any], None]:
    def doctor(content: Any) -> None:
        content.cells[index].source += text

    return doctor


def tags(index: int, *words: str) -> Callable[[Any], None]:
    def doctor(content: Any) -> None:
        content.cells[index].metadata["tags"] = list(words)

    return doctor


def count(index: int, number: int | None) -> Callable[[Any], None]:
    def doctor(content: Any) -> None:
        content.cells[index].execution_count = number

    return doctor


def output(index: int, made: Any) -> Callable[[Any], None]:
    def doctor(content: Any) -> None:
        content.cells[index].outputs = [made]

    return doctor


def code_after(index: int, text: str) -> Callable[[Any], None]:
    def doctor(content: Any) -> None:
        content.cells.insert(index + 1, v4.new_code_cell(text))

    return doctor


def same_id(content: Any) -> None:
    content.cells[3]["id"] = content.cells[1]["id"]


def old_format(content: Any) -> None:
    content.nbformat_minor = 4


def no_outputs_key(content: Any) -> None:
    del content.cells[1]["outputs"]


BROKEN = [
    ("NB001", more(4, "\n\n# Another")),
    ("NB001", more(4, "\n\nAnother\n=======")),
    ("NB001", source(0, "# First\n\nWords.")),
    ("NB001", source(0, "Words.\n\n# 01 First")),
    ("NB001", source(0, "## 01 First\n\nWords.")),
    ("NB002", source(4, "## Look")),
    ("NB002", source(4, "  ")),
    ("NB002", code_after(6, "stage.again()")),
    ("NB003", source(5, "\n" * 20 + "stage.look()")),
    ("NB003", source(5, "a = 1\nb = 2\nc = 3\nd = 4\ne = 5\nf = 6")),
    ("NB003", source(5, "")),
    ("NB004", tags(1)),
    ("NB004", tags(3, "parameters", "nbval-ignore-output")),
    ("NB004", source(1, 'profile = "mine"\nrun = ""')),
    ("NB004", more(1, "\nextra = 1")),
    ("NB004", more(1, '\napprove = "yes"')),
    ("NB005", more(5, "\nimport json")),
    ("NB005", more(1, "\nfrom json import loads")),
    ("NB006", source(5, "for pod in stage.pods():\n    print(pod)")),
    ("NB006", source(5, "stage.look() if stage else None")),
    ("NB006", source(5, "def look():\n    return 1")),
    ("NB006", source(5, "try:\n    stage.look()\nexcept ValueError:\n    stage.end()")),
    ("NB006", source(5, "with stage.step('x'):\n    stage.look()")),
    ("NB006", source(5, "[pod for pod in stage.pods()]")),
    ("NB006", source(5, "while True:\n    pass")),
    ("NB006", source(5, "stage.look(")),
    ("NB007", tags(6, "nbval-ignore-output")),
    ("NB007", tags(5, "nbval-skip")),
    ("NB007", tags(5, "nbval-ignore-output", "raises-exception")),
    ("NB007", source(6, "# NBVAL_IGNORE_OUTPUT\nstage.verdicts()")),
    ("NB008", source(5, "stage.look('/" + "home/ann/kubeconfig')")),
    ("NB008", source(5, "stage.look('~/kubeconfig')")),
    ("NB008", source(4, "Words, and C:\\Users\\ann.")),
    ("NB008", source(4, "It listens on 10.128.0.7 here.")),
    ("NB008", source(4, "Ask the host vm-1.c.p.internal for it.")),
    ("NB008", source(4, "See http://buildhost:8080/ for it.")),
    ("NB008", source(4, "Write to ann@example.com about it.")),
    ("NB008", source(5, "stage.look('hf_abcdefghijklmnop')")),
    ("NB008", output(5, v4.new_output("stream", text="record: /" + "root/outputs/x\n"))),
    ("NB008", output(5, v4.new_output("stream", text="Bearer abcdefghijkl\n"))),
    ("NB008", output(5, v4.new_output("display_data", {"text/html": "<td>/tmp/x</td>"}))),
    ("NB008", output(5, v4.new_output("display_data", {"application/vnd.x+json": {"path": "/" + "work/x"}}))),
    ("NB009", more(3, '\nagain = begin("01_first", profile, run)')),
    ("NB009", source(3, 'stage = begin("02_second", profile, run)')),
    ("NB009", source(3, 'stage = begin("01_first", "sandbox", run)')),
    ("NB009", source(3, "stage = open_run()")),
    ("NB009", more(1, '\napprove = ""')),
    ("NB009", source(3, 'stage = begin("01_first", profile, run, approve)')),
    ("NB010", same_id),
    ("NB010", old_format),
    ("NB010", no_outputs_key),
    ("NB011", count(5, None)),
    ("NB011", count(5, 7)),
    ("NB011", output(5, v4.new_output("error", ename="E", evalue="no", traceback=["no"]))),
    ("NB012", source(5, "%time stage.look()")),
    ("NB012", source(5, "!ls")),
    ("NB012", source(5, "files = !ls")),
    ("NB012", source(5, "stage.look?")),
    ("NB012", source(5, "answer = input('Go on?')")),
    ("NB012", source(5, "sys.exit(1)")),
    ("NB012", source(5, "raise SystemExit(1)")),
    ("NB013", tags(5, "nbval-ignore-output", "plan")),
    ("NB013", more(1, '\napprove = ""')),
]


@pytest.mark.parametrize("code", RULES)
def test_a_good_notebook_breaks_no_rule(code: str) -> None:
    assert complaints(good(), code) == []


@pytest.mark.parametrize("code", ["NB004", "NB007", "NB009", "NB013"])
def test_a_notebook_with_something_to_approve_hands_it_on(code: str) -> None:
    notebook = good()
    more(1, '\napprove = ""')(notebook.content)
    source(3, 'from llmd_runbook.run import begin\n\nstage = begin("01_first", profile, run, approve)')(notebook.content)
    source(5, "stage.plan(stage)")(notebook.content)
    tags(5, "nbval-ignore-output", "plan")(notebook.content)
    assert complaints(notebook, code) == []


def test_the_plan_is_in_the_cell_that_is_tagged_so() -> None:
    notebook = good()
    more(1, '\napprove = ""')(notebook.content)
    tags(5, "nbval-ignore-output", "plan")(notebook.content)
    assert complaints(notebook, "NB013") == ["01_first: NB013 code cell " + _cell(notebook, 5) + " is tagged `plan` and shows none"]


def _cell(notebook: Notebook, index: int) -> str:
    cell = notebook.content.cells[index]
    return f"{cell.id} ({cell.source})"


@pytest.mark.parametrize(("code", "doctor"), BROKEN, ids=[f"{code}-{n}" for n, (code, _) in enumerate(BROKEN)])
def test_each_rule_finds_what_it_is_for(code: str, doctor: Callable[[Any], None]) -> None:
    notebook = good()
    content = copy.deepcopy(notebook.content)
    doctor(content)
    assert complaints(Notebook(notebook.name, content), code)


def test_no_rule_goes_untested() -> None:
    assert {code for code, _ in BROKEN} == set(RULES)
