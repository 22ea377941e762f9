"""Pods on their way to Ready: each one's phase is shown, and one that comes no further is named with what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llmd_runbook.clients.kubernetes import Kubernetes, Object
from llmd_runbook.errors import DeadlineExceeded
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.run import StageRun, StepHandle
from llmd_runbook.stages.pool import scale_events
from llmd_runbook.stages.waiting import phases
from llmd_runbook.stages.waiting.phases import Phase
from llmd_runbook.stages.waiting.progress import Progress
from llmd_runbook.stages.waiting.told import Told
from llmd_runbook.topology import Replica, replica_view, trouble
from llmd_runbook.verdicts import Table

_LOOK_S = 10.0
"""Events and logs are read this often while the pods themselves do not change."""
_READ_AGAIN_S = 2.0
"""... and while they do, at most this often."""
_SHOWN = 160
"""Characters of an Event or a line of a log that are shown."""
_LAST_LINES = 3
Clock = Callable[[], float]


@dataclass(frozen=True)
class Awaited:
    """The pods of one Deployment, and how long each may come no further.

    Attributes:
        name: of the Deployment.
        replicas: how many pods there are to be.
        key: of the profile's section that has the deadlines.
        limits: longest time without progress, seconds, by phase.
        by_log: the log tells phases apart and what is new in it is progress, as of a model server; a picker's has
            something new with every request.
    """

    name: str
    replicas: int
    key: str
    limits: Mapping[Phase, float]
    by_log: bool


def key_of(profile: Profile, pattern: Pattern) -> str:
    """The section of the profile that a pattern is, whatever number of replicas it is given."""
    return "pattern3" if pattern.inference_pool == profile.pattern3.inference_pool else "pattern1"


class Start:
    """The pods of a Deployment on their way to Ready, as one wait sees them.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(
        self, kube: Kubernetes, profile: Profile, awaited: Awaited, step: StepHandle, clock: Clock | None
    ) -> None:
        self._profile, self._awaited, self._step, self._clock = profile, awaited, step, clock or time.monotonic
        self._waited = False
        self._told = Told(kube, profile.namespace)
        self._read_s: float | None = None
        self._pods: list[Object] = []
        self._progress: dict[str, Progress] = {}

    @property
    def look_s(self) -> float:
        """How often to look though nothing changes (s): often enough for the shortest deadline."""
        return max(1.0, min(_LOOK_S, *(limit / 2 for limit in self._awaited.limits.values())))

    def done(self, pods: list[Object]) -> list[Replica] | None:
        """The replicas, where all of them are Ready and there is no other pod."""
        views = sorted((replica_view(pod) for pod in pods), key=lambda view: view.name)
        settled = len(views) == self._awaited.replicas and all(view.ready and not view.terminating for view in views)
        return views if settled else None

    def state(self, pods: list[Object]) -> str:
        """Look at the pods, show each of them, and give that back in words.

        Raises:
            DeadlineExceeded: one of them came no further for as long as its phase allows.
        """
        self._pods = sorted(pods, key=_name)
        self._waited = self._waited or self.done(pods) is None
        fresh = self._read_s is None or self._clock() - self._read_s >= _READ_AGAIN_S
        if fresh:
            self._read()
        self._see()
        if self._stuck() and not fresh:  # what it says now decides, not what it said at the look before
            self._read()
            self._see()
        ready = sum(replica_view(pod).ready for pod in pods)
        words = f"{ready} of {self._awaited.replicas} replicas Ready"
        shown = " | ".join([words, *map(self._words, self._pods), *self._told.missing.values()])
        self._step.progress(shown, done=ready, total=self._awaited.replicas)
        if stuck := self._stuck():
            raise self._error(stuck[0], shown)
        return shown

    def keep(self, stage: StageRun) -> None:
        """Enter in the record how the pods came; nothing where none had to be waited for."""
        if self._waited:
            stage.table(self._table(f"How the pods of {self._awaited.name} started"))

    def _table(self, title: str) -> Table:
        """Every pod as it was last seen, with the seconds that it was seen in each phase."""
        now_s, rows = self._clock(), []
        for pod in self._pods:
            progress = self._progress.get(pod["metadata"]["uid"])
            if progress is None:
                continue  # the wait was interrupted before it looked
            spent = [f"{phase} {s:.0f} s" for phase, s in progress.spent_s(now_s).items() if phase < Phase.READY]
            row: list[str | int | float | None] = [
                _name(pod),
                str(progress.phase),
                progress.restarts,
                ", ".join(spent),
                self._event(pod)[:_SHOWN],
                self._line(pod)[:_SHOWN],
            ]
            rows.append(row)
        columns = ["pod", "phase", "restarts", "time, as seen", "last event", "last line of its log"]
        return Table(title=title, columns=columns, rows=rows)

    def _read(self) -> None:
        self._read_s = self._clock()
        self._told.read(self._pods)

    def _see(self) -> None:
        now_s = self._clock()
        for pod in self._pods:
            progress = self._progress.setdefault(pod["metadata"]["uid"], Progress(now_s))
            by_log = self._awaited.by_log
            phase = phases.phase_of(pod, self._told.log(pod) if by_log else None)
            progress.see(phase, replica_view(pod).restarts, self._told.news(pod, by_log=by_log), now_s)

    def _stuck(self) -> list[Object]:
        now_s, limits = self._clock(), self._awaited.limits
        return [pod for pod in self._pods if self._progress[pod["metadata"]["uid"]].overdue(limits, now_s)]

    def _words(self, pod: Object) -> str:
        progress = self._progress[pod["metadata"]["uid"]]
        if progress.phase is Phase.READY:
            return f"{_name(pod)}: Ready"
        said = f"{_name(pod)}: {progress.phase} {progress.in_phase_s(self._clock()):.0f} s"
        ended = self._told.end(pod) if phases.runs(pod) else ""
        before = f"its log before: {ended}" if ended else ""
        parts = [f"{said}, {progress.restarts} restarts", trouble(pod), self._event(pod), before, self._line(pod)]
        return "; ".join(part[:_SHOWN] for part in dict.fromkeys(parts) if part)

    def _event(self, pod: Object) -> str:
        """Its last Event; for one that waits for a node, the autoscaler's last word, where that makes the nodes."""
        waits = self._profile.pool.mode == "autoscale" and scale_events.waits_for_a_node(pod)
        return (scale_events.last_word(self._told.events(pod)) if waits else "") or self._told.last_event(pod)

    def _line(self, pod: Object) -> str:
        line = phases.telling(self._told.log(pod) or [], runs=phases.runs(pod))
        return f"log: {line}" if line else ""

    def _error(self, pod: Object, shown: str) -> DeadlineExceeded:
        progress, namespace = self._progress[pod["metadata"]["uid"]], self._profile.namespace
        log = self._told.log(pod) or []
        key = _KEYS[progress.phase] if self._awaited.by_log else _PICKER_KEYS[progress.phase]
        ends = f"its log ends: {' / '.join(log[-_LAST_LINES:])}" if log else ""
        what_ended_it = f"what ended it: {end}" if (end := self._told.end(pod)) else ""
        return DeadlineExceeded(
            f"pod {_name(pod)} showed no progress for {progress.still_s(self._clock()):.0f} s in its phase "
            f"{progress.phase}; {self._awaited.limits[progress.phase]:.0f} s are allowed",
            where=f"pod {namespace}/{_name(pod)} on {pod['spec'].get('nodeName') or 'no node'}",
            reason="; ".join(part for part in (shown, ends, what_ended_it) if part),
            remedy=f"{_REMEDIES[progress.phase]} (kubectl -n {namespace} describe pod {_name(pod)}, and logs); where "
            f"it only needs longer, raise {self._awaited.key}.progress_deadlines.{key}; then run the stage again",
        )


_KEYS = {
    Phase.CAPACITY: "capacity_s",
    Phase.IMAGE_PULL: "image_pull_s",
    Phase.START: "download_s",
    Phase.DOWNLOAD: "download_s",
    Phase.LOAD: "load_s",
    Phase.WARM_UP: "warm_up_s",
}
_PICKER_KEYS = {**_KEYS, Phase.START: "warm_up_s"}
_LOG = "see why its log stands still, or what ended its container"
_REMEDIES = {
    Phase.CAPACITY: "see why no node takes it: nodes missing (stage 02), a stock-out, a quota, a taint, or requests "
    "larger than a node has left",
    Phase.IMAGE_PULL: "see what it waits for: the image and its registry, or a Secret or volume that is not there",
    Phase.START: _LOG,
    Phase.DOWNLOAD: f"{_LOG}: the model hub must be reachable from its node, and the token good for that model",
    Phase.LOAD: f"{_LOG}: memory of GPU and node, or its disk",
    Phase.WARM_UP: f"{_LOG}: GPU memory for the KV cache, or a readiness probe that asks for something else",
}


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])
