"""Who served each request, by the best evidence at hand, and whether the replicas' own counters agree.

Three kinds of evidence, the best first: a response header that names the replica; the endpoint picker's log, by
request id; the one counter that moved while the request was alone under way. Whichever it was, the counters are
reconciled with everything that was sent. What does not add up is said and never guessed away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from llmd_runbook.analysis.picker_log_lines import Decided, pod_of


class Evidence(StrEnum):
    """What names the replica."""

    HEADER = "response header"
    PICKER_LOG = "picker's log"
    COUNTERS = "counters"

    @property
    def claim(self) -> str:
        """How strong the claim is that rests on it."""
        return _CLAIMS[self]


_CLAIMS = {
    Evidence.HEADER: "the answer itself names the replica that served it; true under any load",
    Evidence.PICKER_LOG: (
        "the picker's log names the replica chosen for each request id, and the replicas' counters agree; "
        "true under load, as far as the gateway obeys the picker"
    ),
    Evidence.COUNTERS: (
        "requests went one at a time and the one counter that moved names the replica: a weaker claim, "
        "for nothing ties a count to a request, and nothing is shown under load"
    ),
}


@dataclass(frozen=True)
class Replica:
    """A replica's pod and where it listens (`ip:port`)."""

    name: str
    address: str


@dataclass(frozen=True)
class Sent:
    """A request that was answered.

    Attributes:
        headers: of the response, names in small letters.
        moved: replicas whose request counter moved while it was alone under way, one entry a count;
            None when it was not alone.
    """

    request_id: str
    headers: Mapping[str, str]
    moved: Sequence[str] | None = None


@dataclass(frozen=True)
class Served:
    """Who served a request; `replica` is None where that is not known, and `reason` says why."""

    request_id: str
    replica: str | None
    evidence: Evidence | None
    reason: str = ""


@dataclass(frozen=True)
class Counts:
    """A replica's counter of answered requests before the first request and after the last; None: not there."""

    before: float | None
    after: float | None


@dataclass(frozen=True)
class Reconciliation:
    """Whether the counters' differences add up to what was sent.

    `ok` is False where fewer were counted than answered: others than these replicas answered. It is None where the
    difference may be somebody else's requests or a replica that began anew, which say nothing of who answered.
    """

    ok: bool | None
    sent: int
    counted: int
    reason: str


def in_headers(headers: Mapping[str, str], replicas: Sequence[Replica]) -> str | None:
    """The one replica that some response header names, by pod, endpoint or address; None for none or several."""
    names = {key: replica.name for replica in replicas for key in (replica.name, replica.address)}
    found = {names[value] for value in (pod_of(text.strip()) for text in headers.values()) if value in names}
    return found.pop() if len(found) == 1 else None


def attribute(
    sent: Sequence[Sent], replicas: Sequence[Replica], logged: Mapping[str, Decided] | None = None
) -> list[Served]:
    """For each request who served it.

    Args:
        sent: the requests.
        replicas: all that may serve.
        logged: what the picker's log says, by request id; None where it cannot be read.
    """
    return [_served(one, replicas, (logged or {}).get(one.request_id)) for one in sent]


def reconcile(
    counts: Mapping[str, Counts], answered: int, unanswered: int = 0, served: Sequence[Served] = (), changed: str = ""
) -> Reconciliation:
    """Compare the counters' differences with what was sent.

    Args:
        counts: by replica.
        answered: requests with an answer; each is counted by exactly one replica.
        unanswered: requests that failed: a replica may have counted them or not.
        served: who served each of all answered requests, where that is known; then it must agree by replica.
        changed: what became of the replicas between the two readings, so that a counter may lack some; empty where
            nothing did.
    """
    missing = [name for name, count in counts.items() if count.before is None or count.after is None]
    if missing:
        return Reconciliation(None, answered, 0, f"no counter of requests at {', '.join(missing)}")
    moved = {name: int((count.after or 0) - (count.before or 0)) for name, count in counts.items()}
    counted, sent = sum(moved.values()), answered + unanswered
    shown = ", ".join(f"{name} {count}" for name, count in moved.items())
    if fallen := [name for name, count in moved.items() if count < 0]:
        reason = f"the counter fell at {', '.join(fallen)}: the replica was restarted meanwhile"
        return Reconciliation(None, sent, counted, reason)
    if counted > sent:
        reason = f"{counted} counted for {sent} sent ({shown}): {counted - sent} of somebody else's requests"
        return Reconciliation(None, sent, counted, reason)
    if counted < answered:
        reason = (
            f"{counted} counted for {answered} answered ({shown}): {answered - counted} served by no replica of these"
        )
        if changed:
            return Reconciliation(None, sent, counted, f"{reason}, as far as one can tell: {changed}")
        return Reconciliation(False, sent, counted, reason)
    known = Counter(one.replica for one in served)
    if served and None not in known and not unanswered:
        wrong = [f"{name} counted {count} of {known[name]}" for name, count in moved.items() if count != known[name]]
        if wrong:
            reason = f"the replicas' counters contradict the {served[0].evidence}: {'; '.join(wrong)}"
            return Reconciliation(None, sent, counted, reason)
    return Reconciliation(True, sent, counted, f"{counted} counted for {sent} sent ({shown})")


def _served(one: Sent, replicas: Sequence[Replica], logged: Decided | None) -> Served:
    header = in_headers(one.headers, replicas)
    chosen, problem = _in_log(logged, replicas)
    if header and chosen and header != chosen:
        reason = f"the response names {header}, the picker's log {chosen}"
        return Served(one.request_id, None, None, reason)
    if header:
        return Served(one.request_id, header, Evidence.HEADER)
    if chosen:
        return Served(one.request_id, chosen, Evidence.PICKER_LOG)
    if one.moved is None:
        return Served(one.request_id, None, None, problem)
    if len(one.moved) == 1:
        return Served(one.request_id, one.moved[0], Evidence.COUNTERS)
    return Served(one.request_id, None, None, f"counters moved at {', '.join(one.moved) or 'no replica'}")


def _in_log(logged: Decided | None, replicas: Sequence[Replica]) -> tuple[str | None, str]:
    """The replica that the log says was chosen, else why that is not known."""
    if logged is None or not logged.chosen:
        return None, "the picker's log does not have this request"
    if len(logged.chosen) > 1:
        return None, f"the picker's log has this request at {' and '.join(logged.chosen)}"
    names = logged.addresses | {replica.address: replica.name for replica in replicas}
    known = {replica.name for replica in replicas}
    name = names.get(logged.chosen[0])
    if name not in known:
        return None, f"the picker chose {logged.chosen[0]}, which is none of the replicas"
    return name, ""
