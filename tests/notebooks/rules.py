"""What every notebook of the project keeps to: rules with codes, each a function from a notebook to complaints."""

from __future__ import annotations

import ast
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from llmd_runbook.errors import redact
from llmd_runbook.run.notebooks import PLAN_TAG

MAX_LINES = 20
MAX_STATEMENT_LINES = 5
PARAMETERS = ['profile = "sandbox"', 'run = ""']
APPROVAL = 'approve = ""'
"""One more, where the stage has something to approve."""
STRICT_AGAINST = "nbval-ignore-output"
KNOWN_TAGS = frozenset({"parameters", PLAN_TAG, STRICT_AGAINST})

_BANNED: tuple[type[ast.AST], ...] = (
    *(ast.For, ast.AsyncFor, ast.While, ast.If, ast.IfExp, ast.Match, ast.Try, ast.TryStar, ast.With, ast.AsyncWith),
    *(ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.Assert, ast.Raise),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp),
)
_LEAVES = frozenset({"input", "exit", "quit", "sys.exit", "os._exit", "os.abort", "get_ipython", "eval", "exec"})

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} .*$|^.+\n(?:=+|-+)[ \t]*$", re.MULTILINE)
_H1 = re.compile(r"^# .*$|^.+\n=+[ \t]*$|<h1\b", re.MULTILINE | re.IGNORECASE)
_MAGIC = re.compile(r"^[ \t]*(?:[%!]|\w[\w, ]*=[ \t]*[%!])|^[ \t]*\?{1,2}\w|^[ \t]*[\w.]+\?{1,2}[ \t]*$", re.MULTILINE)
_PATH = re.compile(
    r"(?<![\w.~-])/(?:root|home|tmp|work|workspace|usr|opt|var|etc|mnt|srv|run|proc|dev|data|content|private|Users)(?:/|\b)"
    r"|\b[A-Za-z]:\\|(?<![\w~])~/"
)
_ADDRESS = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_HOST = re.compile(r"\b[\w-]+(?:\.[\w-]+)*\.(?:internal|local|localdomain|lan|corp|intra)\b", re.IGNORECASE)
_USER = re.compile(r"[\w.+-]+@[A-Za-z][\w.-]*")
_URL_HOST = re.compile(r"https?://(?:[^/\s@]*@)?([\w.-]+)")
_MAY_BE_NAMED = [
    ipaddress.ip_network(network)
    for network in ("127.0.0.0/8", "0.0.0.0/32", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")
]
_TEXT_TYPES = ("text/", "application/json", "application/vnd.")


@dataclass(frozen=True)
class Notebook:
    """A notebook under test: its name without the ending, and its content as stored."""

    name: str
    content: Any

    @property
    def code(self) -> list[Any]:
        """Its code cells."""
        return [cell for cell in self.content.cells if cell.cell_type == "code"]


Rule = Callable[[Notebook], Iterator[str]]
RULES: dict[str, Rule] = {}


def read(path: Path) -> Notebook:
    """A stored notebook, unconverted and unrepaired."""
    return Notebook(path.stem, nbformat.reads(path.read_text(encoding="utf-8"), as_version=nbformat.NO_CONVERT))


def complaints(notebook: Notebook, code: str) -> list[str]:
    """What one rule has to say, each line beginning with notebook and code."""
    return [f"{notebook.name}: {code} {line}" for line in RULES[code](notebook)]


def rule(code: str) -> Callable[[Rule], Rule]:
    """Enter a rule under its code."""

    def entered(function: Rule) -> Rule:
        RULES[code] = function
        return function

    return entered


@rule("NB001")
def one_title(notebook: Notebook) -> Iterator[str]:
    """Exactly one H1, in the first cell, which begins with it and with the stage's number."""
    cells = notebook.content.cells
    titles = [title for cell in cells if cell.cell_type == "markdown" for title in _H1.findall(_unfenced(cell.source))]
    if len(titles) != 1:
        yield f"has {len(titles)} H1 headings; exactly one is needed"
    number = notebook.name[:2]
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith(f"# {number} "):
        yield f"does not begin with the heading '# {number} ...'"


@rule("NB002")
def prose_first(notebook: Notebook) -> Iterator[str]:
    """Prose, not a mere heading, before each code cell; one code cell may directly follow another."""
    without = 2
    for cell in notebook.content.cells:
        if cell.cell_type == "markdown":
            without = 0 if _HEADING.sub("", _unfenced(cell.source)).strip() else 2
        elif cell.cell_type == "code":
            without += 1
            if without > 2:
                yield f"{_where(cell)} has no prose before it"


@rule("NB003")
def short_cells(notebook: Notebook) -> Iterator[str]:
    """At most 20 lines a code cell, and at most 5 that are neither imports nor blank."""
    for cell in notebook.code:
        lines = cell.source.splitlines()
        work = [
            line
            for node in ast.parse(cell.source).body
            if not isinstance(node, ast.Import | ast.ImportFrom)
            for line in lines[node.lineno - 1 : node.end_lineno]
        ]
        if not lines or len(lines) > MAX_LINES:
            yield f"{_where(cell)} has {len(lines)} lines; 1 to {MAX_LINES} are allowed"
        if len(work) > MAX_STATEMENT_LINES:
            yield f"{_where(cell)} has {len(work)} lines besides imports; {MAX_STATEMENT_LINES} are allowed"


@rule("NB004")
def parameters(notebook: Notebook) -> Iterator[str]:
    """Exactly one cell tagged `parameters`: the first code cell, with exactly the defaults."""
    tagged = [cell for cell in notebook.code if "parameters" in _tags(cell)]
    if len(tagged) != 1 or tagged[0] is not notebook.code[0]:
        yield f"{len(tagged)} cells are tagged `parameters`; exactly the first code cell must be"
    for cell in tagged:
        if cell.source.strip().splitlines() not in (PARAMETERS, [*PARAMETERS, APPROVAL]):
            yield f"{_where(cell)} must say exactly: {'; '.join(PARAMETERS)}"


@rule("NB005")
def imports_together(notebook: Notebook) -> Iterator[str]:
    """Imports only in the cell after the parameters."""
    for index, cell in enumerate(notebook.code):
        if index != 1 and any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in _nodes(cell)):
            yield f"{_where(cell)} imports; only the second code cell may"


@rule("NB006")
def no_logic(notebook: Notebook) -> Iterator[str]:
    """No loops, branches, definitions, try or with: logic is in the library, where it is tested."""
    for cell in notebook.code:
        found = sorted({type(node).__name__ for node in _nodes(cell) if isinstance(node, _BANNED)})
        if found:
            yield f"{_where(cell)} holds logic: {', '.join(found)}"
        if _tree(cell) is None:
            yield f"{_where(cell)} is not Python"


@rule("NB007")
def compared(notebook: Notebook) -> Iterator[str]:
    """Every code cell runs in the regression test; the last one's output is compared, word for word."""
    for cell in notebook.code:
        unknown = _tags(cell) - KNOWN_TAGS
        if unknown or re.search(r"#\s*NBVAL_|#\s*PYTEST_VALIDATE", cell.source):
            yield f"{_where(cell)} is marked {', '.join(sorted(unknown)) or 'by a comment'}; known: {STRICT_AGAINST}"
    if not notebook.code or STRICT_AGAINST in _tags(notebook.code[-1]):
        yield "the last code cell must be compared strictly"


@rule("NB008")
def nothing_local(notebook: Notebook) -> Iterator[str]:
    """No path, host, user, address or token of somebody's machine in sources; no path or token in outputs."""
    for cell in notebook.content.cells:
        for finding in (*_local(cell.source), *_paths_and_tokens(cell.source)):
            yield f"{_where(cell)} names {finding}"
        for text in _output_texts(cell):
            for finding in _paths_and_tokens(text):
                yield f"{_where(cell)} has an output that names {finding}"


@rule("NB009")
def begins_itself(notebook: Notebook) -> Iterator[str]:
    """One call of begin(), with the notebook's own name and all of its parameters."""
    approves = any("parameters" in _tags(cell) and APPROVAL in cell.source.splitlines() for cell in notebook.code)
    wanted = f"begin({notebook.name!r}, profile, run{', approve' if approves else ''})"
    calls = [
        ast.unparse(node)
        for cell in notebook.code
        for node in _nodes(cell)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "begin"
    ]
    if calls != [wanted]:
        yield f"must call {wanted} once, and calls {', '.join(calls) or 'nothing of the kind'}"


@rule("NB010")
def valid(notebook: Notebook) -> Iterator[str]:
    """Valid nbformat 4.5 or later with cell ids, each once."""
    content = notebook.content
    if (content.nbformat, content.nbformat_minor) < (4, 5):
        yield f"is nbformat {content.nbformat}.{content.nbformat_minor}; 4.5 or later has cell ids"
    ids = [str(cell.get("id", "none")) for cell in content.cells]
    if len(set(ids)) < len(ids) or "none" in ids:  # which validation would repair, and say nothing
        yield f"has cells without an id of their own: {', '.join(ids)}"
        return
    try:
        nbformat.validate(content)
    except nbformat.ValidationError as error:
        yield f"is not valid: {error.message}"


@rule("NB011")
def executed(notebook: Notebook) -> Iterator[str]:
    """All code cells ran in order, once each, from a new kernel, and none failed."""
    counts = [cell.execution_count for cell in notebook.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"was not run from top to bottom: execution counts {counts}"
    for cell in notebook.code:
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"{_where(cell)} holds an error"


@rule("NB012")
def plain_python(notebook: Notebook) -> Iterator[str]:
    """No magics, shell escapes or help marks; nothing that asks, ends the kernel or evaluates text."""
    for cell in notebook.code:
        if _MAGIC.search(cell.source):
            yield f"{_where(cell)} uses a magic, a shell escape or a help mark"
        called = {ast.unparse(node.func) for node in _nodes(cell) if isinstance(node, ast.Call)}
        raised = {ast.unparse(node.exc) for node in _nodes(cell) if isinstance(node, ast.Raise) and node.exc}
        for name in sorted((called & _LEAVES) | {name for name in raised if name.startswith("SystemExit")}):
            yield f"{_where(cell)} calls {name}"


@rule("NB013")
def plan_shown(notebook: Notebook) -> Iterator[str]:
    """Exactly one cell tagged `plan` where there is something to approve, none elsewhere: `--plan-only` ends with it."""
    approves = any("parameters" in _tags(cell) and APPROVAL in cell.source.splitlines() for cell in notebook.code)
    tagged = [cell for cell in notebook.code if PLAN_TAG in _tags(cell)]
    if len(tagged) != int(approves):
        yield f"{len(tagged)} cells are tagged `{PLAN_TAG}`; {int(approves)} must be"
    for cell in tagged:
        if ".plan(stage)" not in cell.source:
            yield f"{_where(cell)} is tagged `{PLAN_TAG}` and shows none"


def _where(cell: Any) -> str:
    first = (cell.source.strip().splitlines() or ["(empty)"])[0]
    return f"{cell.cell_type} cell {cell.get('id', '?')} ({first[:40]})"


def _tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _unfenced(source: str) -> str:
    return _FENCE.sub("", source)


def _tree(cell: Any) -> ast.Module | None:
    try:
        return ast.parse(str(cell.source))
    except SyntaxError:
        return None


def _nodes(cell: Any) -> Iterator[ast.AST]:
    tree = _tree(cell)
    return iter(()) if tree is None else ast.walk(tree)


def _local(text: str) -> Iterator[str]:
    for match in _ADDRESS.finditer(text):
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            continue
        if not any(address in network for network in _MAY_BE_NAMED):
            yield f"the address {address}"
    for pattern, kind in ((_HOST, "the host"), (_USER, "the user")):
        for match in pattern.finditer(text):
            if not match[0].endswith("svc.cluster.local"):
                yield f"{kind} {match[0]}"
    for match in _URL_HOST.finditer(text):
        if "." not in match[1] and match[1] != "localhost":
            yield f"the host {match[1]}"


def _paths_and_tokens(text: str) -> Iterator[str]:
    for match in _PATH.finditer(text):
        yield f"the path {text[match.start() : match.start() + 40].split()[0]}"
    if redact(text) != text:
        yield "a credential"


def _output_texts(cell: Any) -> Iterator[str]:
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield "\n".join(output.traceback)
        else:
            for kind, value in output.data.items():
                if kind.startswith(_TEXT_TYPES) or kind == "image/svg+xml":
                    yield value if isinstance(value, str) else repr(value)
