from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmd_sandbox.images.picker.__main__ import main
from tests.llmd_sandbox.images.picker.conftest import CONFIG


def test_an_unknown_flag_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pool-nam", "p"]) == 2
    assert capsys.readouterr().err == "flag provided but not defined: -pool-nam\n"


@pytest.mark.parametrize(
    ("words", "config", "message"),
    [
        ([], CONFIG, "required pool-name"),
        (["--pool-name", "p", "--config-text", "x"], CONFIG, "one of --config-file and --config-text"),
        (["--pool-name", "p"], None, "No such file"),
        (["--pool-name", "p"], CONFIG.replace("weight: 3", "weight: 3.5"), "line 9: weight: 3.5"),
        (["--pool-name", "p"], CONFIG, "KUBECONFIG is not set"),
    ],
)
def test_what_stops_it_from_starting_is_logged(
    words: list[str],
    config: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    file = tmp_path / "plugins.yaml"
    if config is not None:
        file.write_text(config)
    assert main([*words, "--zap-encoder", "json", "--config-file", str(file)]) == 1
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "error"
    assert message in line["error"]
