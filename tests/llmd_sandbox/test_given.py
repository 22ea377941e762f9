from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmd_sandbox import given
from llmd_sandbox.errors import NotToBeHad


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (given.EPP_BINARY, given.HELM_DIFF_BINARY, "HELM_PLUGINS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def program(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o755)
    return file


@pytest.mark.parametrize(
    ("variable", "ask"), [(given.EPP_BINARY, given.picker), (given.HELM_DIFF_BINARY, given.helm_diff)]
)
def test_what_is_named_is_taken_and_what_is_no_program_is_refused(
    variable: str, ask: Callable[[], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotToBeHad, match=f"{variable} names no program: it is not set"):
        ask()
    (tmp_path / "text").touch(mode=0o644)
    for wrong in ("absent", "text", "."):
        monkeypatch.setenv(variable, str(tmp_path / wrong))
        with pytest.raises(NotToBeHad, match=f"{variable} names no program: {tmp_path}") as caught:
            ask()
        assert f"{variable}=/path/to/" in str(caught.value.remedy)
    monkeypatch.setenv(variable, str(program(tmp_path / "there")))
    assert ask() == tmp_path / "there"


def test_helm_diff_is_found_among_the_users_plug_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = program(tmp_path / "helm" / "plugins" / "helm-diff" / "bin" / "diff")
    assert given.helm_diff() == installed
    monkeypatch.setenv("HELM_PLUGINS", str(tmp_path / "others"))
    with pytest.raises(NotToBeHad):
        given.helm_diff()
    other = program(tmp_path / "others" / "diff" / "bin" / "diff")
    assert given.helm_diff() == other
