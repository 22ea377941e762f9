from __future__ import annotations

import io
import json
import re

from llmd_runbook.analysis.scorers import Generation
from llmd_sandbox.images.picker.event_log import DEBUG, TRACE, VERBOSE, EventLog


def test_v0_4_writes_numbered_levels_up_to_the_verbosity() -> None:
    out = io.StringIO()
    log = EventLog(4, "json", Generation.V0_4, out)
    for level in (0, 1, VERBOSE, DEBUG, TRACE):
        log.event(level, "m", **{"x-request-id": "r"})
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["info", "debug", "Level(-3)", "Level(-4)"]
    assert lines[0]["x-request-id"] == "r"
    assert lines[0]["ts"].endswith("Z")


def test_v0_10_writes_json_by_default_and_v0_4_does_not() -> None:
    out = io.StringIO()
    log = EventLog(5, "", to=out)
    log.event(VERBOSE, "first", a=1)
    log.speak(Generation.V0_10)
    log.event(TRACE, "second")
    log.error("third", error="e")
    first, second, third = out.getvalue().splitlines()
    _, level, caller, message, about = first.split("\t")
    assert (level, message, about) == ("LEVEL(-3)", "first", '{"a": 1}')
    assert re.fullmatch(r"picker/test_event_log\.py:\d+", caller)
    assert json.loads(second)["caller"].startswith("picker/test_event_log.py:")
    assert json.loads(second)["level"] == "trace"
    assert json.loads(third)["error"] == "e"
