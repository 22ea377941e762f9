from __future__ import annotations

import hashlib
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\0path\tsome.org/x/cmd/epp\nmod\tsome.org/x\tv1.2.0\th1:abc=\n",
            "built from some.org/x/cmd/epp, v1.2.0, SHA",
        ),
        (
            b"\0path\tsome.org/x/cmd/epp\nmod\tsome.org/x\t(devel)\t\nbuild\t",
            "built from some.org/x/cmd/epp, a version that it does not tell, SHA",
        ),
        (b"#!/bin/sh", "which does not say what it was built from, SHA"),
    ],
)
def test_a_program_is_described_by_what_go_wrote_into_it(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "epp").write_bytes(content)
    described = given.described(tmp_path / "epp")
    assert described.startswith(f"epp, {said}-256 ")
    assert described.endswith(hashlib.sha256(content).hexdigest()[:16])
