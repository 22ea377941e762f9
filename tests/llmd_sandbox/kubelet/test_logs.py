import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llmd_sandbox.kubelet.logs import ContainerLogs, LogFile, LogOptions

ALL = LogOptions()


async def text(logs: ContainerLogs, options: LogOptions = ALL, *, previous: bool = False) -> str:
    return b"".join([chunk async for chunk in logs.read(options, previous=previous)]).decode()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[ContainerLogs]:
    logs = ContainerLogs(tmp_path)
    yield logs
    if logs.current:
        logs.current.close()


async def test_lines_tail_and_limit(logs: ContainerLogs) -> None:
    logs.begin().feed(b"one\ntwo\nthr")
    assert await text(logs) == "one\ntwo\n"
    assert logs.current is not None
    logs.current.feed(b"ee\n")
    assert await text(logs) == "one\ntwo\nthree\n"
    assert await text(logs, LogOptions(tail_lines=1)) == "three\n"
    assert await text(logs, LogOptions(tail_lines=0)) == ""
    assert await text(logs, LogOptions(limit_bytes=5)) == "one\nt"


async def test_an_unfinished_last_line_is_kept(logs: ContainerLogs) -> None:
    log_file = logs.begin()
    log_file.feed(b"no newline")
    log_file.close()
    assert await text(logs) == "no newline\n"


async def test_times_and_since(logs: ContainerLogs) -> None:
    logs.begin().feed(b"a b\n")
    stamp, line = (await text(logs, LogOptions(timestamps=True))).split(" ", 1)
    assert line == "a b\n"
    written = datetime.fromisoformat(stamp)
    assert await text(logs, LogOptions(since=written)) == "a b\n"
    assert await text(logs, LogOptions(since=written + timedelta(microseconds=1))) == ""
    assert written.tzinfo == UTC


async def test_follow_sees_later_lines_and_ends_with_the_container(logs: ContainerLogs) -> None:
    log_file = logs.begin()
    log_file.feed(b"first\n")
    following = asyncio.create_task(text(logs, LogOptions(follow=True)))
    await asyncio.sleep(0)
    log_file.feed(b"second\n")
    await asyncio.sleep(0)
    assert not following.done()
    log_file.close()
    assert await following == "first\nsecond\n"


async def test_previous_is_the_run_before_and_no_older(logs: ContainerLogs) -> None:
    with pytest.raises(FileNotFoundError):
        await text(logs, previous=True)
    for run in (b"1\n", b"2\n", b"3\n"):
        logs.begin().feed(run)
    assert await text(logs, previous=True) == "2\n"
    assert await text(logs) == "3\n"


async def test_rotation_caps_the_file_and_followers_go_on(tmp_path: Path) -> None:
    logs = ContainerLogs(tmp_path)
    logs.current = log_file = LogFile(logs.current_file, limit_bytes=100)
    following = asyncio.create_task(text(logs, LogOptions(follow=True)))
    await asyncio.sleep(0)
    for number in range(10):
        log_file.feed(b"%d" % number + b"x" * 50 + b"\n")
        await asyncio.sleep(0)
    log_file.close()
    assert (await following).count("\n") == 10
    assert log_file.rotations >= 4
    assert logs.current_file.stat().st_size <= 200
