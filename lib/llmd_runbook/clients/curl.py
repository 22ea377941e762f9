"""The loop of the guide's Test 4, by bash and curl as it is written there."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.releases.process import run
from llmd_runbook.errors import ToolError, UsageError

_LOOP = """
TIMEFORMAT=%R
{{ time for i in {{1..{count}}}; do
  {command} > /dev/null &
done; }} 2>&1
wait
"""
_CURL = 'curl -s -X POST "$1/v1/completions" -H "Content-Type: application/json" -d "$2" "${@:3}"'


@dataclass(frozen=True)
class Timed:
    """What `time` printed for the loop, and how long it was until the last process had ended (s)."""

    loop_s: float
    ended_s: float


def loop(target: Endpoint, body: str, count: int, timeout_s: float) -> Timed:
    """Start so many curls at once, each with this body, and wait for all.

    Raises:
        UsageError: curl, as the guide calls it, cannot send such a request.
        ToolError: bash or curl is not here, or they did not end in time.
    """
    if target.bearer_variable or target.bearer_file:
        raise _cannot(target, "the gateway's token would stand on curl's command line, for everybody to read")
    if target.server_name and f"//{target.server_name}" not in target.url:
        raise _cannot(target, f"the certificate bears another name ({target.server_name}) than the address has")
    more = [word for name, value in target.headers.items() for word in ("-H", f"{name}: {value}")]
    more += ["--cacert", target.ca_file] if target.ca_file else []
    run(["curl", "--version"], timeout_s=timeout_s)  # else bash would say of each process that there is none
    return _timed(_CURL, count, [target.url, body, *more], timeout_s)


def starting(count: int, timeout_s: float) -> Timed:
    """The same loop with curls that send nothing: what so many processes cost this machine.

    Raises:
        ToolError: bash is not here, or the processes did not end in time.
    """
    return _timed("curl --version", count, [], timeout_s)


def _timed(command: str, count: int, words: Sequence[str], timeout_s: float) -> Timed:
    script = _LOOP.format(count=count, command=command)
    began = time.monotonic()
    printed = run(["bash", "-c", script, "test-4", *words], timeout_s=timeout_s)
    ended_s = time.monotonic() - began
    try:
        return Timed(float(printed.replace(",", ".")), ended_s)
    except ValueError:
        raise ToolError("bash did not print the time of the loop", where="bash -c", reason=printed[-300:]) from None


def _cannot(target: Endpoint, reason: str) -> UsageError:
    return UsageError("the guide's loop cannot be replayed here", where=target.url, reason=reason)
