from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmd_sandbox import terminal
from llmd_sandbox.terminal import BuildProgress


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


def build(log: io.StringIO, total: int | None) -> list[str]:
    with BuildProgress(Console(file=log, force_terminal=False)) as progress:
        progress.step("compiling", total)
        for number in range(3):
            progress.advance(f"package {number}")
    return log.getvalue().splitlines()


@pytest.mark.parametrize(("total", "told"), [(3, ["1 of 3", "2 of 3", "3 of 3"]), (None, ["1", "2", "3"])])
def test_a_log_hears_how_far_a_long_step_is(
    log: io.StringIO, total: int | None, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_TELL_S", 0.0)
    said = [line.strip() for line in build(log, total) if line.strip()]
    assert said[:4] == ["compiling", *told]


def test_a_short_step_has_one_line(log: io.StringIO) -> None:
    assert next(line for line in build(log, 3) if line.strip()) == "compiling"
    assert "of 3" not in log.getvalue()
