"""The command line without kernels; runs that execute notebooks are in records/test_runner.py."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmd_runbook import cli
from llmd_runbook.errors import Unreachable
from llmd_runbook.manifest import ErrorRecord, How, Process, Status
from llmd_runbook.run.store import RunStore, all_runs, create
from llmd_runbook.verdicts import Approval, CheckSpec, StageResult, Verdict
from tests.llmd_runbook.conftest import Command


@pytest.fixture
def command(command: Command, bench: Any, monkeypatch: pytest.MonkeyPatch) -> Command:
    """... with the bench's folder of runs, and two stages."""
    monkeypatch.setenv("LLMD_RUNBOOK_OUTPUT", str(bench.output))
    monkeypatch.setattr(cli, "stage_names", lambda: ["01_first", "02_second"])
    return command


def a_run(bench: Any, *, checked: bool | None = False) -> RunStore:
    store = create(bench.output, bench.profile, bench.cluster, How.LAB)
    store.add_attempt("01_first", None, Status.RUNNING)
    check = CheckSpec("tiny.check", "that it is so", "mend it").judge(checked, expected="so", observed="not so")
    with store.change() as run:
        attempt = run.stage("01_first").attempts[0]
        attempt.status = Status.FINISHED
        attempt.result = StageResult(stage="01_first", simulated=True, checks=[check])
        attempt.verdict = attempt.result.verdict
    return store


def test_validate(bench: Any, command: Any) -> None:
    code, out, err = command("validate", str(bench.profile_file))
    assert (code, err) == (0, "")
    assert out.startswith(f"ok: {bench.profile_file}")
    bench.profile_file.write_text(bench.profile_file.read_text().replace("route:", "rout:"))
    code, out, err = command("validate", str(bench.profile_file))
    assert (code, out) == (2, "")
    assert "rout" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no profile 'nowhere'"),
        (["PROFILE", "--stages", "07"], "unknown stage '07'"),
        (["PROFILE", "--unknown"], "No such option"),
        ([], "Missing argument"),
    ],
)
def test_bad_usage_starts_nothing(bench: Any, command: Any, words: list[str], said: str) -> None:
    code, out, err = command("run", *[str(bench.profile_file) if w == "PROFILE" else w for w in words])
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert all_runs(bench.output) == []


def test_a_cluster_that_does_not_answer_starts_nothing(
    bench: Any, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_: object) -> None:
        raise Unreachable("no answer", where="https://s", remedy="start it")

    monkeypatch.setattr(cli, "identify_cluster", silent)
    code, out, err = command("run", str(bench.profile_file), "--json")
    assert (code, out) == (2, "")
    assert err == "no answer\n  where:  https://s\n  to do:  start it\n"
    assert all_runs(bench.output) == []


def test_interrupted_before_it_began(bench: Any, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt("SIGINT")

    monkeypatch.setattr(cli, "identify_cluster", interrupt)
    code, out, err = command("run", str(bench.profile_file))
    assert (code, out, err) == (130, "", "ended by SIGINT; no run was started\n")


def test_show_says_what_failed_and_what_to_do(bench: Any, command: Any) -> None:
    store = a_run(bench)
    for reference in (store.run_id, store.run_id[:20], "latest", str(store.folder)):
        code, out, _ = command("records", "show", reference)
        assert code == 0
        for words in ("tiny.check", "expected: so", "observed: not so", "mend it", str(store.folder)):
            assert words in out
    code, out, _ = command("records", "show", "latest", "--json")
    assert json.loads(out)["id"] == store.run_id


def test_show_needs_one_run(bench: Any, command: Any) -> None:
    assert command("records", "show", "latest")[0] == 2
    first, second = a_run(bench), a_run(bench)
    code, out, err = command("records", "show", "2")
    assert (code, out) == (2, "")
    assert first.run_id in err
    assert second.run_id in err


def test_list_tells_what_is_lost(bench: Any, command: Any) -> None:
    assert command("records", "list")[1] == f"no runs in {bench.output}\n"
    store = a_run(bench, checked=True)
    with store.change() as run:
        run.how, run.status = How.CLI, Status.RUNNING
        run.process = Process(pid=2**22 + 1, host=run.who.host, started_s=1.0)
    code, out, _ = command("records", "list")
    assert code == 0
    assert store.run_id in out
    assert "lost" in out
    lines = [json.loads(line) for line in command("records", "list", "--json")[1].splitlines()]
    assert [(line["run"], line["status"]) for line in lines] == [(store.run_id, "lost")]
    assert store.read().status is Status.RUNNING

    other = a_run(bench)
    (other.folder / "run.json").write_text("{")
    code, out, err = command("records", "list")
    assert (code, store.run_id in out) == (0, True)
    assert str(other.folder) in err


def test_show_says_how_a_stage_broke(bench: Any, command: Any) -> None:
    store = a_run(bench, checked=True)
    with store.change() as run:
        attempt = run.stage("01_first").attempts[0]
        attempt.status, attempt.verdict = Status.FAILED, Verdict.PASS
        attempt.error = ErrorRecord(kind="KernelDied", message="ended by SIGKILL", cell="measure()")
    _, out, _ = command("records", "show", "latest")
    assert "KernelDied: ended by SIGKILL" in out
    assert "measure()" in out
    assert "✘ failed" in out


def test_show_says_what_waits_for_approval(bench: Any, command: Any) -> None:
    waiting = Approval(hash="ab" * 32, intent="{}", by=None)
    store = a_run(bench, checked=True)
    with store.change() as run:
        attempt = run.stage("01_first").attempts[0]
        assert attempt.result is not None
        attempt.result = attempt.result.model_copy(update={"approvals": [waiting]})
        attempt.verdict = attempt.result.verdict
        run.status = Status.NEEDS_APPROVAL
    _, out, _ = command("records", "show", "latest")
    assert f"--stages 01 --approve 01={waiting.hash}\n" in out  # in one line, to be copied
    table = out.partition("profile tiny")[2]
    assert "! needs approval" in table
    assert "✔ pass" not in table
    with store.change() as run:
        attempt = run.stage("01_first").attempts[0]
        attempt.status, attempt.error = Status.FAILED, ErrorRecord(kind="KernelDied", message="ended by SIGKILL")
    _, out, _ = command("records", "show", "latest")
    assert "✘ failed" in out.partition("profile tiny")[2].partition("└")[0]


def test_help_is_everywhere(command: Any) -> None:
    for words in ([], ["run"], ["validate"], ["records"], ["records", "list"], ["records", "show"]):
        code, out, _ = command(*words, "--help")
        assert code == 0
        assert "Usage:" in out
    assert "130" in command("run", "-h")[1]


def test_checks_lists_every_check_of_every_stage(command: Any) -> None:
    code, out, err = command("checks", "--json")
    assert (code, err) == (0, "")
    found = [json.loads(line) for line in out.splitlines()]
    stages = {item["id"].split(".")[0] for item in found}
    assert {"pool", "pattern1", "pattern3", "verify", "affinity", "throughput", "cleanup"} <= stages
    assert all(item["proves"] and item["remedy"] for item in found)
    code, out, _ = command("checks")
    assert code == 0
    assert all(item["id"] in out for item in found)


def test_roles_are_printed_as_yaml_and_always_the_same(command: Any) -> None:
    code, out, err = command("roles", "sandbox")
    assert (code, err) == (0, "")
    assert command("roles", "sandbox", "--observer") == (code, out, err)
    found = list(yaml.safe_load_all(out))
    assert {item["metadata"]["name"] for item in found} == {"llmd-runbook-observer", "llmd-runbook-observer-llm-d"}
    assert "secrets" not in out
    code, _, err = command("roles", "nowhere")
    assert code == 2
    assert "no profile 'nowhere'" in err


def test_replay_exit_codes(command: Any, tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "data" / "picker-golden-v0.4.jsonl.gz"
    code, out, _ = command("routing", "replay", str(golden))
    assert code == 0
    assert "all agree" in out
    lines = gzip.decompress(golden.read_bytes()).decode().splitlines(keepends=True)[:3]
    spoilt = tmp_path / "spoilt.jsonl"
    spoilt.write_text("".join(lines).replace('"prefix-cache-scorer": {"p0": 0.0', '"prefix-cache-scorer": {"p0": 0.5'))
    code, out, _ = command("routing", "replay", str(spoilt))
    assert code == 1
    assert "recorded 0.5" in out
    for content, says in ((b"not a recording", f"{spoilt}:1"), (b"\xff\xfe", "cannot read")):
        spoilt.write_bytes(content)
        code, _, err = command("routing", "replay", str(spoilt))
        assert code == 2
        assert says in err
        assert "Traceback" not in err


TRACE = [{"timestamp": 1000 * n, "input_length": 1024, "output_length": 5, "hash_ids": [n % 3, 10]} for n in range(9)]


def test_what_if_tells_in_a_table_as_json_and_as_a_picture(command: Any, tmp_path: Path) -> None:
    file, picture = tmp_path / "trace.jsonl.gz", tmp_path / "plot.png"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, TRACE)).encode()))
    words = ("routing", "what-if", str(file), "--weights", "prefix=3,queue=2", "--weights", "queue=1")
    code, out, _ = command(*words, "--replicas", "1-2,4", "--cache-blocks", "200", "--plot", str(picture))
    assert code == 0
    assert out.count("prefix 3, queue 2") == 3
    assert "Predictions of a model, no measurements: 9 requests" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = command(*words, "--replicas", "2", "--json", "--generation", "v0.10", "--in-flight", "1")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [item["weights"] for item in found] == [{"prefix-cache-scorer": 3, "queue-scorer": 2}, {"queue-scorer": 1}]
    assert {(item["generation"], item["replicas"], item["predicted"]) for item in found} == {("v0.10", 2, True)}
    assert found[0]["requests"] == 9
    assert found[0]["moves"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--weights", "prefix=3,speed=1"], "unknown scorer 'speed'; known are prefix, kv, queue, no-hit"),
        (["--weights", "prefix"], "prefix needs a number"),
        (["--weights", "prefix=-1"], "0 or more"),
        (["--weights", "kv=1,kv=2"], "kv stands there twice"),
        (["--weights", "no-hit=2"], "for v0.10 only"),
        (["--replicas", "0-3"], "between 1 and 64"),
        (["--replicas", "3-1"], "between 1 and 64"),
        (["--replicas", "many"], "'many' is no number or range"),
        (["--cache-blocks", "0"], "--cache-blocks"),
        (["--generation", "v9"], "v9"),
        (["--plot", "NOWHERE"], "cannot write the plot"),
    ],
)
def test_what_if_refuses_bad_options_in_one_message(command: Any, tmp_path: Path, words: list[str], said: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(map(json.dumps, TRACE)))
    nowhere = str(tmp_path / "missing" / "plot.png")
    options = [nowhere if word == "NOWHERE" else word for word in words]
    code, out, err = command("routing", "what-if", str(file), "--replicas", "1", *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file holds no request"),
        (b'{"timestamp": 0}', "input_length: None: is missing"),
        (b"\xff\xfe", "cannot read the trace"),
        (None, "cannot read the trace"),
    ],
)
def test_what_if_refuses_a_file_that_is_no_trace(
    command: Any, tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "trace.jsonl"
    if content is not None:
        file.write_bytes(content)
    code, out, err = command("routing", "what-if", str(file))
    assert (code, out) == (2, "")
    assert said in err
    assert str(file) in err
    assert "Traceback" not in err


def test_what_if_refuses_a_broken_gzip_file(command: Any, tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(map(json.dumps, TRACE)).encode())
    file = tmp_path / "trace.jsonl.gz"
    for content in (whole[:30], whole[:12] + b"\xff" * 20 + whole[32:]):
        file.write_bytes(content)
        code, _, err = command("routing", "what-if", str(file))
        assert code == 2
        assert "cannot read the trace" in err
