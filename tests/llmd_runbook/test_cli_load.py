"""`llmd-runbook load`: files of other tools and of a run's record."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook import cli
from llmd_runbook.manifest import How, Status
from llmd_runbook.profile import PROJECT_ROOT
from llmd_runbook.run.store import RunStore, create
from llmd_runbook.stages.throughput_and_cost import CLIENT
from llmd_runbook.verdicts import StageResult
from tests.llmd_runbook.stages.loads import load

FILES = PROJECT_ROOT / "tests/data/loads"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Call `llmd-runbook load WORDS` in this process: exit code, stdout, stderr."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmd-runbook", "load", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), " ".join(out.split()), err

    return call


def unpacked(name: str, folder: Path) -> Path:
    file = folder / f"{name}.json"
    file.write_bytes(gzip.decompress((FILES / f"{name}.json.gz").read_bytes()))
    return file


def recorded(bench: Any, ok: bool | None) -> RunStore:
    """A run whose stages 01 and 06 measured."""
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    for stage, data in (
        ("01_review_state", {"baseline": load(10).data()}),
        ("06_throughput_and_cost", {"same_load": load(20).data()}),
    ):
        store.add_attempt(stage, None, Status.RUNNING)
        checks = [CLIENT.judge(ok, expected="fast", observed="slow", evidence=["INVALID (client-bound)"])]
        with store.change() as run:
            attempt = run.stage(stage).attempts[0]
            attempt.status = Status.FINISHED
            attempt.result = StageResult(stage=stage, simulated=True, checks=checks, data=json.loads(json.dumps(data)))
    return store


def test_two_loads_of_a_run_are_exported_and_compared(bench: Any, command: Any, tmp_path: Path) -> None:
    store = recorded(bench, ok=True)
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert command("export", store.folder, one, "--load", "baseline")[0] == 0
    assert command("export", store.folder / "run.json", other)[0] == 0
    code, out, err = command("compare", one, other, "--usd-per-hour", "0.5", "1.5")
    assert (code, err) == (0, "")
    assert "throughput │ 2.000 [" in out
    assert "cost of a request │ 1.500 [" in out


def test_a_client_that_was_too_slow_proves_nothing(bench: Any, command: Any, tmp_path: Path) -> None:
    store = recorded(bench, ok=None)
    file = tmp_path / "one.json"
    command("export", store.folder, file)
    code, out, _ = command("compare", file, file)
    assert code == 3
    assert "client: INVALID (client-bound)" in out
    assert "no ratio" in out


def test_files_of_two_tools(command: Any, tmp_path: Path) -> None:
    one, other = unpacked("inference-perf-0.7.0", tmp_path), unpacked("vllm-0.32.0", tmp_path)
    code, out, _ = command("compare", one, other)
    assert code == 3
    assert "not stated by both: prompts; cache; models; context lengths; error of the client" in out
    changed = json.loads(other.read_text()) | {"max_concurrency": 16}
    other.write_text(json.dumps(changed))
    code, out, _ = command("compare", one, other)
    assert code == 1
    assert "differs: requests in flight 8 and 16" in out


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "no JSON"), ('{"a": 1}', "no result of vllm bench serve"), (None, "No such file"), ("[" * 10**5, "no JSON")],
)
def test_another_file_is_one_message(command: Any, tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "wrong.json"
    if content is not None:
        file.write_text(content)
    code, out, err = command("compare", file, file)
    assert (code, out) == (2, "")
    assert said in err
    assert str(file) in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("export", "RUN", "FILE", "--load", "another"), "there is no load 'another'"),
        (("export", "RUN", "FILE", "--load", "same-load-a-replica"), "the run has no same-load-a-replica"),
        (("export", "FILE", "FILE"), "no record of a run"),
        (("export", "RUN", "FOLDER"), "the file cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_one_message(
    bench: Any, command: Any, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    places = {"RUN": recorded(bench, ok=True).folder, "FILE": tmp_path / "out.json", "FOLDER": tmp_path}
    code, _, err = command(*(places.get(word, word) for word in words))
    assert code == 2
    assert said in err


def test_a_price_of_nothing_is_refused(command: Any, tmp_path: Path) -> None:
    file = unpacked("vllm-0.32.0", tmp_path)
    code, _, err = command("compare", file, file, "--usd-per-hour", "0", "1")
    assert code == 2
    assert "a price must be above zero" in err
