"""What pods say while they start: their Events and their logs, as far as the caller may read them."""

from __future__ import annotations

from llmd_runbook.clients.kubernetes import EVENTS, Kubernetes, Object
from llmd_runbook.errors import ClusterError, Forbidden, Unreachable, redact
from llmd_runbook.stages.pool.scale_events import NOT_TRIGGERED, when
from llmd_runbook.stages.waiting import phases

_NO_PROGRESS = (NOT_TRIGGERED, "BackOff")
"""Events of type Normal that say that nothing goes on."""
_TAIL = 200
"""Lines of a log that are read each time."""


class Told:
    """Reads both. What is forbidden, or hangs, is not asked again: `missing` then says why it is not shown."""

    def __init__(self, kube: Kubernetes, namespace: str) -> None:
        self.missing: dict[str, str] = {}
        self._kube, self._namespace = kube, namespace
        self._events: dict[str, list[Object]] = {}
        self._logs: dict[str, list[str]] = {}
        self._ends: dict[str, str] = {}
        self._restarts: dict[str, int] = {}

    def read(self, pods: list[Object]) -> None:
        """Look at the Events of all pods, and at the logs of those that have a log and are not Ready."""
        self._read_events()
        for pod in pods:
            if phases.has_run(pod) and phases.phase_of(pod, None) < phases.Phase.READY:
                self._read_log(pod)

    def events(self, pod: Object) -> list[Object]:
        """Events about a pod, the latest last."""
        return self._events.get(pod["metadata"]["uid"], [])

    def last_event(self, pod: Object) -> str:
        """The latest of them, in words; empty where there is none."""
        return _words(self.events(pod)[-1]) if self.events(pod) else ""

    def log(self, pod: Object) -> list[str] | None:
        """The last lines of its container's log; None where there are none to be had."""
        return self._logs.get(pod["metadata"]["uid"])

    def end(self, pod: Object) -> str:
        """The cause that the container which ended last gave in its log, started again or not; empty where none did."""
        return self._ends.get(pod["metadata"]["uid"], "")

    def news(self, pod: Object, *, by_log: bool) -> list[str]:
        """What counts as progress when it is said for the first time: Events and, where it says so, the log's lines."""
        said = [
            _words(event)
            for event in self.events(pod)
            if event.get("type") == "Normal" and event.get("reason") not in _NO_PROGRESS
        ]
        return [*said, *filter(phases.advances, (self.log(pod) or []) if by_log else [])]

    def _read_events(self) -> None:
        if "Events" in self.missing:
            return
        try:
            found = self._kube.all(EVENTS, self._namespace, fields="involvedObject.kind=Pod")
        except ClusterError as error:
            self._note("Events", error)
            return
        self._events = {}
        for event in sorted(found, key=when):
            self._events.setdefault(event["involvedObject"].get("uid", ""), []).append(event)

    def _read_log(self, pod: Object) -> None:
        uid, restarts = pod["metadata"]["uid"], phases.restarts(pod)
        log = self._lines(pod)
        if log is not None:
            self._logs[uid] = log
        if not phases.runs(pod):
            self._ends[uid] = phases.cause(log or []) or self.end(pod)  # the log may be the next container's already
        elif restarts > self._restarts.get(uid, 0):
            self._ends[uid] = phases.cause(self._lines(pod, previous=True) or [])
            self._restarts[uid] = restarts

    def _lines(self, pod: Object, *, previous: bool = False) -> list[str] | None:
        if "logs" in self.missing:
            return None
        container = phases.server_container(pod)
        try:
            text = self._kube.logs(pod["metadata"]["name"], self._namespace, container, _TAIL, previous=previous)
        except ClusterError as error:
            self._note("logs", error)
            return None
        return phases.lines(redact(text))  # here: a line is cut later, and a token with it

    def _note(self, kind: str, error: ClusterError) -> None:
        """Any other refusal passes: the container ended just now, or its node does not answer; what was read stays."""
        if isinstance(error, Forbidden | Unreachable):
            self.missing[kind] = f"{kind} cannot be read ({error.in_short})"


def _words(event: Object) -> str:
    return redact(f"{event.get('reason', '')}: {event.get('message', '')}")
