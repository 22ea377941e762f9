from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.clients.releases import Driver, HelmDriver, Outcome, ReleaseSpec, pending
from llmd_runbook.errors import ToolCutShort, ToolError
from tests.guards import anything

Answer = Callable[..., None]
Calls = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def driver(tools: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch) -> Driver:
    monkeypatch.setattr(pending, "_LOOK_AGAIN_S", 0.0)
    for words in (("uninstall",), ("rollback",), ("upgrade",)):
        answer("helm", *words)
    return HelmDriver([ReleaseSpec("a", "chart"), ReleaseSpec("b", "chart")], "llm-d", before_change=anything)


def listed(status: str, age_s: float, name: str = "a") -> str:
    updated = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    entry = {"name": name, "namespace": "llm-d", "revision": "2", "updated": updated, "status": status, "chart": "c-1"}
    return json.dumps([entry])


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        ("pending-install", "uninstall"),
        ("uninstalling", "uninstall"),
        ("pending-upgrade", "rollback"),
        ("pending-rollback", "rollback"),
    ],
)
def test_an_abandoned_change_is_finished_first(
    driver: Driver, answer: Answer, calls: Calls, status: str, remedy: str
) -> None:
    answer("helm", "list", stdout="[]")
    answer("helm", "list", stdout=listed(status, pending.ABANDONED_S + 1), once=True)
    lines: list[str] = []
    assert driver.apply(lines.append)[0] == Outcome("a", "changed")
    assert [call["argv"][0] for call in calls("helm") if call["argv"][0] != "list"] == [remedy, "upgrade", "upgrade"]
    assert lines[0].startswith(f"a was left {status}")


def test_a_change_under_way_is_waited_for_and_told_once(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout="[]")
    for _ in range(3):
        answer("helm", "list", stdout=listed("pending-install", 5), once=True)
    lines: list[str] = []
    driver.apply(lines.append)
    assert [line for line in lines if "a helm is at work on it" in line] == lines[:1]
    assert calls("helm", "uninstall") == []


def test_other_releases_are_left_alone(driver: Driver, answer: Answer, calls: Calls) -> None:
    answer("helm", "list", stdout=listed("pending-install", 1e6, "somebody-elses"))
    driver.apply(lambda line: None)
    assert calls("helm", "uninstall") == []


def test_what_was_recovered_counts_as_removed(driver: Driver, answer: Answer) -> None:
    answer("helm", "list", stdout="[]")
    answer("helm", "list", stdout=listed("pending-install", 1e6), once=True)
    assert driver.destroy(lambda line: None) == [Outcome("b", "skipped"), Outcome("a", "changed")]


def test_the_error_of_a_half_done_change_names_each_release(driver: Driver, answer: Answer) -> None:
    answer("helm", "list", stdout=listed("deployed", 1))
    answer("helm", "list", stdout="[]", once=True)
    answer("helm", "upgrade", "b", stderr="Error: no\n", status=1)
    with pytest.raises(ToolError) as caught:
        driver.apply(lambda line: None)
    assert caught.value.reason == "Error: no\nreleases now: a deployed, changed just now; b is not installed"


def test_a_tool_that_was_stopped_gives_no_reason_and_none_is_invented(
    driver: Driver, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("helm", "list", stdout=listed("deployed", 1))
    answer("helm", "list", stdout="[]", once=True)

    def hangs(*_: object, **__: object) -> None:
        raise ToolError("helm did not end within 1 s and was stopped")

    monkeypatch.setattr(driver, "_apply", hangs)
    with pytest.raises(ToolError) as caught:
        driver.apply(lambda line: None)
    assert caught.value.reason == "releases now: a deployed, changed just now; b is not installed"


def test_helms_record_of_what_is_there_is_settled_and_nothing_else_is_touched(
    driver: Driver, answer: Answer, calls: Calls
) -> None:
    for status in ("failed", "pending-install", "pending-upgrade", "deployed"):
        settled = status != "deployed"
        answer("helm", "list", stdout=listed(status, 5))
        before = len(calls("helm", "rollback"))
        driver.settle(["a"], lambda line: None)
        assert [call["argv"][:5] for call in calls("helm", "rollback")[before:]] == (
            [["rollback", "a", "2", "--namespace", "llm-d"]] if settled else []
        )
    driver.settle(["b"], lambda line: None)
    assert calls("helm", "uninstall") == calls("helm", "upgrade") == []


def test_the_error_of_a_change_that_was_cut_short_stays_one(driver: Driver, answer: Answer) -> None:
    answer("helm", "list", stdout="[]")
    answer("helm", "upgrade", "a", stderr="Error: INSTALLATION FAILED: context deadline exceeded\n", status=1)
    with pytest.raises(ToolCutShort) as caught:
        driver.apply(lambda line: None)
    assert "releases now: a is not installed" in str(caught.value.reason)
