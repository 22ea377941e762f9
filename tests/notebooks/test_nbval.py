"""The verdict cell of every notebook, by nbval itself: it passes as stored, and no verdict can be altered unseen.

The stage is left out: what the cell showed stands in a cell before it. With the stages nbval runs in end_to_end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LINE = re.compile(r"(\d\d_\w+|  [a-z0-9_]+\.[a-z0-9_]+): (pass|fail|inconclusive)")
STORED = """
import json
class Shown:
    def _repr_mimebundle_(self, **_):
        return json.loads({bundle!r})
result, verdicts = None, lambda _: Shown()
"""


def told(path: Path) -> dict[str, str]:
    """What the last cell of a notebook shows."""
    (output,) = nbformat.read(path, 4).cells[-1].outputs
    return dict(output.data)


def reduced(path: Path, to: Path, old: str = "", new: str = "") -> None:
    """The verdict cell as it is stored, with `old` become `new` in what it is compared with."""
    cell = nbformat.read(path, 4).cells[-1]
    before = STORED.format(bundle=json.dumps(told(path)))
    for kind, text in cell.outputs[0].data.items():
        assert old in text
        cell.outputs[0].data[kind] = text.replace(old, new)
    content = v4.new_notebook(cells=[v4.new_code_cell(before, metadata={"tags": ["nbval-ignore-output"]}), cell])
    nbformat.write(content, to / path.name)


def nbval(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    words = ["-c", folder / "pytest.ini", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-q", folder]
    command = [sys.executable, "-m", "pytest", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=300)


def test_as_stored_every_verdict_cell_passes_and_altered_every_one_fails(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.mkdir()
    wrong.mkdir()
    for path in NOTEBOOKS:
        last = told(path)["text/plain"].splitlines()[-1]  # the last check of many
        reduced(path, right)
        reduced(path, wrong, last, last.replace(": pass", ": fail"))
    passed, failed = nbval(right), nbval(wrong)
    assert passed.returncode == 0, passed.stdout
    assert failed.returncode == 1, failed.stdout
    for path in NOTEBOOKS:
        assert f"FAILED {path.name}::Cell 1" in failed.stdout, path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_compared_has_verdicts_and_neither_times_nor_names(path: Path) -> None:
    lines = told(path)["text/plain"].splitlines()
    assert lines[0].startswith(f"{path.stem}: ")
    assert len(lines) > 1
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert told(path)["text/html"] == f"<pre>{told(path)['text/plain']}</pre>"
