"""What becomes of a lane, with small programs in the place of its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import lanes
import psutil
import pytest
from lanes import Lane, Result, Row, holds, reason_in, table

from llmd_sandbox.errors import NotToBeHad, SandboxError


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


PASSES, FAILS = python(""), python("raise SystemExit(1)")
WRITES = "from pathlib import Path; Path({!r}).touch()"
MESSAGE = NotToBeHad("It cannot be had.", where="here", reason="no network", remedy="get one")
LACKS = python(f"import sys; print({str(MESSAGE)!r}, file=sys.stderr); sys.exit({os.EX_UNAVAILABLE})")


def lane(tests: tuple[str, ...], needs: tuple[str, ...] = (), *, takes_s: float = 0, required: bool = False) -> Lane:
    return Lane("some", tests, takes_s, needs, required)


RUN = """
import json, sys, time
import lanes
given = json.loads(sys.argv[1])
lanes._LOOK_S, lanes.END_S = 0.05, given["end_s"]
row = lanes.run(lanes.Lane(**given["lane"]), time.monotonic() - given["elapsed_s"])
print(json.dumps([row.result, row.reason, row.peak_bytes]))
"""


def run(lane: Lane, *, elapsed_s: float = 0, end_s: float = lanes.END_S) -> Row:
    """Run it in a process of its own, whose children are the lane's and nobody else's."""
    given = json.dumps({"lane": vars(lane), "elapsed_s": elapsed_s, "end_s": end_s})
    own = {**os.environ, "PYTHONPATH": str(Path(lanes.__file__).parent)}
    done = subprocess.run([sys.executable, "-c", RUN, given], env=own, capture_output=True, text=True, check=True)
    result, reason, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    return Row(lane, Result(result), reason, peak_bytes=peak_bytes)


@pytest.mark.parametrize(
    ("tests", "needs", "result"),
    [
        (PASSES, (), Result.PASSED),
        (PASSES, PASSES, Result.PASSED),
        (FAILS, PASSES, Result.FAILED),
        (PASSES, FAILS, Result.FAILED),
        (PASSES, LACKS, Result.NOT_RUN),
        (python("raise SystemExit(2)"), (), Result.FAILED),
        (python(f"raise SystemExit({os.EX_UNAVAILABLE})"), (), Result.FAILED),
        (python("import os; os.kill(os.getpid(), 9)"), (), Result.FAILED),
    ],
)
def test_only_what_needs_say_can_leave_a_lane_out(
    tests: tuple[str, ...], needs: tuple[str, ...], result: Result
) -> None:
    assert run(lane(tests, needs)).result is result


def test_a_lane_that_cannot_be_had_says_why_and_runs_no_test(tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    row = run(lane(python(WRITES.format(str(sign))), LACKS))
    assert (row.result, row.reason) == (Result.NOT_RUN, "no network")
    assert not sign.exists()


def test_a_lane_that_cannot_end_in_time_is_not_begun(tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    tests = python(WRITES.format(str(sign)))
    row = run(lane(tests, takes_s=601), elapsed_s=lanes.END_S - 600)
    assert row.result is Result.NOT_RUN
    assert row.reason.startswith("it takes about 10:01 minutes, and ")
    assert not sign.exists()
    assert run(lane(tests, takes_s=500), elapsed_s=lanes.END_S - 600).result is Result.PASSED


def test_a_lane_that_is_cut_off_is_neither_passed_nor_failed_and_leaves_nothing(tmp_path: Path) -> None:
    sign = tmp_path / "pid"
    hangs = (
        f"import os, time; from pathlib import Path; Path({str(sign)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    row = run(lane(python(hangs)), end_s=3)
    assert row.result is Result.NOT_RUN
    assert "cut off" in row.reason
    assert not psutil.pid_exists(int(sign.read_text()))


def test_a_dead_orphan_is_buried_while_its_lane_goes_on() -> None:
    """As init does: tests that look for what a sandbox left must find nothing."""
    dies = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '']).pid)"
    code = (
        "import subprocess, sys, time; import psutil\n"
        f"done = subprocess.run([sys.executable, '-c', {dies!r}], capture_output=True, text=True, check=True)\n"
        "while psutil.pid_exists(int(done.stdout)): time.sleep(0.01)"
    )
    assert run(lane(python(code))).result is Result.PASSED


def test_no_status_is_lost_to_the_undertaker() -> None:
    """It sees the end of the lane's command too, and must leave the status to whoever asks."""
    assert [run(lane(FAILS)).result for _ in range(5)] == [Result.FAILED] * 5


def test_memory_of_what_runs_on_in_the_background_is_counted_and_it_is_ended(tmp_path: Path) -> None:
    """A sandbox's supervisor is such a process: its parent has ended, and it has a session of its own."""
    sign = tmp_path / "pid"
    supervisor = tmp_path / "supervisor.py"
    supervisor.write_text(
        "import os, time; from pathlib import Path\n"
        "data = b'x' * 200_000_000\n"
        f"Path({str(sign)!r}).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    starter = (
        "import subprocess, sys; "
        f"subprocess.Popen([sys.executable, {str(supervisor)!r}], stdout=subprocess.DEVNULL, start_new_session=True)"
    )
    code = (
        "import subprocess, sys, time; from pathlib import Path\n"
        f"subprocess.run([sys.executable, '-c', {starter!r}], check=True)\n"
        f"while not Path({str(sign)!r}).exists(): time.sleep(0.01)"
    )
    row = run(lane(python(code)))
    assert row.result is Result.PASSED
    assert row.peak_bytes > 200e6
    assert not psutil.pid_exists(int(sign.read_text()))


@pytest.mark.parametrize(
    ("result", "required", "expected"),
    [
        (Result.PASSED, True, True),
        (Result.NOT_RUN, False, True),
        (Result.NOT_RUN, True, False),
        (Result.FAILED, False, False),
        (Result.FAILED, True, False),
    ],
)
def test_all_of_it_holds(result: Result, required: bool, expected: bool) -> None:
    good = Row(lane(PASSES, required=True), Result.PASSED)
    assert holds([good, Row(lane(PASSES, required=required), result)]) is expected


MAIN = """
import json, sys
import lanes
lanes.LANES = [lanes.Lane(**each) for each in json.loads(sys.argv[1])]
sys.exit(lanes.main(0))
"""


def run_all(*all_lanes: Lane) -> subprocess.CompletedProcess[str]:
    given = json.dumps([vars(each) for each in all_lanes])
    own = {**os.environ, "PYTHONPATH": str(Path(lanes.__file__).parent)}
    return subprocess.run([sys.executable, "-c", MAIN, given], env=own, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("last", "status"), [(PASSES, 0), (FAILS, 1)])
def test_every_lane_is_run_and_the_table_comes_last(last: tuple[str, ...], status: int) -> None:
    done = run_all(lane(PASSES, required=True), lane(PASSES, LACKS), lane(last))
    assert done.returncode == status, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[-5:]] == ["lane", "some", "some", "some", "in"]
    assert done.stdout.splitlines()[-3].endswith("NOT RUN: no network")


def test_after_a_required_lane_that_did_not_pass_no_other_is_run(tmp_path: Path) -> None:
    sign = tmp_path / "ran"
    done = run_all(lane(PASSES), lane(FAILS, required=True), lane(python(WRITES.format(str(sign)))))
    assert done.returncode == 1
    assert "NOT RUN: some did not pass" in done.stdout.splitlines()[-2]
    assert not sign.exists()


def test_the_table_has_a_line_a_lane() -> None:
    rows = [
        Row(Lane("one", PASSES, 60), Result.PASSED, duration_s=65.4, peak_bytes=1_500_000_000),
        Row(Lane("two", PASSES, 60), Result.NOT_RUN, "no network"),
    ]
    assert [line.split() for line in table(rows, 70).splitlines()[1:]] == [
        ["one", "1:05", "1.5", "GB", "passed"],
        ["two", "0:00", "-", "NOT", "RUN:", "no", "network"],
        ["in", "all", "1:10"],
    ]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (str(MESSAGE).splitlines(), "no network"),
        (str(SandboxError("It broke.")).splitlines(), "It broke."),
        (["", " "], "it did not say why"),
    ],
)
def test_the_reason_is_the_messages_own(said: list[str], reason: str) -> None:
    assert reason_in(said) == reason


def test_the_lanes_are_the_makefiles() -> None:
    targets = (Path(lanes.__file__).parents[1] / "Makefile").read_text()
    assert [each.name for each in lanes.LANES if each.required] == ["build", "check", "test"]
    for each in lanes.LANES[1:]:
        assert f"\n{each.tests[2]}:" in targets
