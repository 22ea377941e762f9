"""The table of drills, as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drills import table
from tests.drills.table import Row


def row(place: int, happened: str) -> Row:
    return Row((0, place), "fault", "step", happened, 1, 20, "finished")


def test_rows_are_kept_as_they_come_and_written_in_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / "one", tmp_path / "other"]
    for file, rows in zip(files, ([row(2, "late")], [row(1, "a | b\nc"), row(2, "later")]), strict=True):
        monkeypatch.setenv(table.VARIABLE, str(file))
        for each in rows:
            table.add(each)
    kept = table.kept(files)
    assert kept == [row(1, "a | b\nc"), row(2, "later")]
    text = table.text(kept, "## Found\n")
    assert "| fault | step | a \\| b c | 1 of 20 | finished |\n| fault | step | later |" in text
    assert text.endswith("\n\n## Found\n")


def test_nothing_is_kept_where_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(table.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    table.add(row(1, "x"))
    assert list(tmp_path.iterdir()) == []
