"""Which test shows that which check does not pass, and what it observed when it did.

`observed_faults.json` holds what the tests observed, by test and check. Each run is compared with it; with
`LLMD_RECORD_FAULTS` in its environment a run adds what it observed instead, several processes of it too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from filelock import FileLock

from llmd_runbook.verdicts import Check, Verdict, overall

COVERED: dict[str, str] = {}
"""Check -> the test in which it does not pass."""
OBSERVED = Path(__file__).with_name("observed_faults.json")
_RECORD = "LLMD_RECORD_FAULTS"
_seen: dict[str, Verdict] = {}

T = TypeVar("T", bound=Callable[..., None])
Observed = dict[str, dict[str, list[str]]]
"""Test -> check -> its verdicts, several where chance decides."""


def fails(*ids: str) -> Callable[[T], T]:
    """This test shows that these checks do not pass; it tells what it sees by `saw`."""

    def note(test: T) -> T:
        for name in ids:
            assert name not in COVERED, f"{name} has a case already"
            COVERED[name] = test.__name__

        @wraps(test)
        def watched(*args: Any, **named: Any) -> None:
            _seen.clear()
            test(*args, **named)
            _compare(test.__name__, ids, dict(_seen))

        return cast(T, watched)

    return note


def saw(checks: Iterable[Check], *also: str) -> None:
    """What a stage judged while the fault was there: those that do not pass, and those that the fault can reach too."""
    for check in checks:
        if check.verdict is not Verdict.PASS or check.id in also:
            _seen[check.id] = overall([check.verdict, _seen.get(check.id, Verdict.PASS)])


def observed() -> Observed:
    """What was observed, as it was recorded."""
    found: Observed = json.loads(OBSERVED.read_text())
    return found


def _compare(test: str, ids: Iterable[str], seen: dict[str, Verdict]) -> None:
    passed = [name for name in ids if seen.get(name, Verdict.PASS) is Verdict.PASS]
    assert not passed, f"nothing shows that these do not pass: {passed}"
    if os.environ.get(_RECORD):
        with FileLock(f"{OBSERVED}.lock"):
            _record(test, seen)
        return
    before = observed().get(test, {})
    other = {name: "fail" for name, verdict in seen.items() if name not in before and verdict is Verdict.FAIL}
    other |= {name: seen[name].value for name in ids if seen[name].value not in before.get(name, [])}
    assert not other, f"not in {OBSERVED.name}, which docs/checks.md is made from: {other}; record it with {_RECORD}=1"


def _record(test: str, seen: dict[str, Verdict]) -> None:
    stored = observed() if OBSERVED.exists() else {}
    known = stored.setdefault(test, {})
    for name, verdict in seen.items():
        known[name] = sorted({*known.get(name, []), verdict.value})
    OBSERVED.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
