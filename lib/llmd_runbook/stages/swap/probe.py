"""A steady stream of requests through the gateway during a swap, under both names; each of them is accounted for."""

from __future__ import annotations

import gzip
import json
import math
import random
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from llmd_runbook.analysis.cutover import NEW, OLD, Announced, Asked
from llmd_runbook.clients.inference import Endpoint
from llmd_runbook.clients.kubernetes import Kubernetes
from llmd_runbook.errors import ClusterError
from llmd_runbook.load.plan import Open, Plan, Prompt
from llmd_runbook.load.probe import Probe
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import Sample
from llmd_runbook.profile import Pattern, Profile
from llmd_runbook.run import StageRun
from llmd_runbook.topology import endpoint

KEY = "probe"
"""Where `stage.data` has the probe's marks and figures."""
_TIMEOUT_S = 30.0
"""A probe's request that is not answered for so long is lost; also how long the probe may take to end."""
_PROMPT_TOKENS, _PROMPTS = 12, 50
_TOKENS = {True: 24, False: 4}
"""Of an answer, by whether it is streamed: streams last half a second or more, so that some are open at any time."""
_FIRST_ANSWERS_S = 20.0
LAST = 5
"""Requests, the last under a name, that say whether it is answered at the end of the swap."""


class SwapProbe:
    """The probe of one swap, from `with` to its end. What goes wrong with it stops no swap.

    Attributes:
        marks: moments by name, seconds on the samples' clock.
        trouble: why it says nothing, or not all; empty when it does.
    """

    def __init__(self, stage: StageRun, kube: Kubernetes) -> None:
        self.marks: dict[str, float] = {}
        self.trouble = ""
        self._stage, self._kube, self._probe = stage, kube, Probe()
        self._asked: list[str] = []
        self._phase_s = 0.0

    def __enter__(self) -> Self:
        profile = self._stage.profile
        self._probe.__enter__()
        try:
            target = endpoint(self._kube, profile, profile.pattern1.gateway)
        except ClusterError as error:
            self.trouble = f"the old address is not known: {error.what}"
            return self
        self.ask(OLD, target)
        if profile.pattern1.gateway == profile.pattern3.gateway:
            self.ask(NEW, target)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop and keep what was seen; an interrupted one is thrown away."""
        if kind is None or issubclass(kind, Exception):
            self._keep()
        self._probe.__exit__(kind, error, trace)

    def ask(self, name: str, target: Endpoint) -> None:
        """Begin to ask for a pattern's model there, unless that is done already."""
        if name in self._asked:
            return
        self._asked.append(name)
        profile = self._stage.profile
        pattern = profile.pattern1 if name == OLD else profile.pattern3
        shared = profile.pattern1.gateway == profile.pattern3.gateway
        rate_per_s = profile.swap.probe_requests_per_s / (4 if shared else 2)  # alone until the other's address exists
        for streamed in (True, False):
            self._probe.add(_plan(profile, pattern, name, target, streamed, rate_per_s), self._phase_s)
            self._phase_s += 1 / profile.swap.probe_requests_per_s

    def mark(self, name: str, *, ago_s: float = 0.0) -> None:
        """Note this moment, or one so long ago; the first of its name."""
        self.marks.setdefault(name, self._probe.now_s() - ago_s)

    def requests(self) -> list[Asked]:
        """Those that have ended."""
        return [_asked(sample) for sample in self._probe.so_far()]

    def wait_for(self, name: str, answers: int, *, since: str = "") -> bool:
        """Wait until so many requests of a name, sent since a moment, have ended; False where that takes too long."""
        since_s = self.marks.get(since, -math.inf)

        def enough(samples: list[Sample]) -> bool:
            return sum(sample.group.startswith(name) and sample.sent_s >= since_s for sample in samples) >= answers

        return self._probe.wait(enough, _FIRST_ANSWERS_S)

    def _keep(self) -> None:
        """Stop it; its figures go to `stage.data`, every request into a file beside the notebook."""
        with self._stage.step("end the probe") as step:
            requests = [_asked(sample) for sample in self._probe.stop()]
            self.trouble = self._probe.trouble or self.trouble
            file = self._stage.new_file("probe.jsonl.gz")
            with gzip.open(file, "wt", encoding="utf-8") as out:
                out.writelines(json.dumps(asdict(asked)) + "\n" for asked in requests)
            self._stage.data[KEY] = {
                "file": file.name,
                "requests": len(requests),
                "marks": {name: round(at_s, 3) for name, at_s in self.marks.items()},
                "trouble": self.trouble,
            }
            step.ok(self.trouble or f"{len(requests)} requests, each in {file.name}")


def kept(stage: StageRun) -> list[Asked]:
    """Every request of the stage's probe, from its file."""
    with gzip.open(stage.folder / stage.data[KEY]["file"], "rt", encoding="utf-8") as lines:
        return [Asked(**json.loads(line)) for line in lines]


def announced(profile: Profile, data: dict[str, Any]) -> list[Announced]:
    """What the plan says of requests, put on the probe's clock.

    With `surge` each name is refused by the pattern that does not serve it, and nothing else may happen. With
    `recreate` everything may happen from Pattern 1's removal until Pattern 3 answers. On a way back the new name is
    given up, and with `recreate` there is an outage until Pattern 1 answers again.
    """
    marks: dict[str, float] = data["marks"]
    settled_s = max(marks.get("serving", math.inf), marks.get("drained", 0.0))
    gone_s = min(marks.get("removed", math.inf), marks.get("moved", math.inf))
    back_s = marks.get("restored", math.inf)
    other_address = profile.pattern1.gateway != profile.pattern3.gateway
    found = [Announced("Pattern 1 refuses the new name", NEW, -math.inf, settled_s, refusals_only=True)]
    if other_address or profile.pattern1.model not in profile.names(profile.pattern3):
        why = "the old address is left" if other_address else "Pattern 3 refuses the old name"
        found.append(Announced(why, OLD, gone_s, back_s, refusals_only=not other_address))
    recreate = profile.swap.strategy == "recreate"
    if recreate and "removed" in marks:
        end_s = marks.get("serving", back_s)
        found += [
            Announced("outage: neither pattern serves", name, marks["removed"], end_s, refusals_only=False)
            for name in (OLD, NEW)
        ]
    if "rolling back" in marks:
        given_up = {NEW: math.inf, **({OLD: back_s} if recreate else {})}
        found += [
            Announced("the way back to Pattern 1", name, marks["rolling back"], end_s, refusals_only=False)
            for name, end_s in given_up.items()
        ]
    return found


def _plan(profile: Profile, pattern: Pattern, name: str, target: Endpoint, streamed: bool, rate_per_s: float) -> Plan:
    seed = random.SystemRandom().randrange(2**31)
    texts = unique(_PROMPTS, _PROMPT_TOKENS, seed=seed)
    return Plan(
        **asdict(target),
        model=pattern.model,
        prompts=[Prompt(group=f"{name} {'stream' if streamed else 'whole'}", text=one.text) for one in texts],
        output_tokens=_TOKENS[streamed],
        arrival=Open(rate_per_s=rate_per_s, gaps="constant"),
        streamed=streamed,
        request_timeout_s=_TIMEOUT_S,
    )


def _asked(sample: Sample) -> Asked:
    name, _, how = sample.group.partition(" ")
    return Asked(
        model=name,
        streamed=how == "stream",
        due_s=round(sample.due_s, 4),
        sent_s=round(sample.sent_s, 4),
        done_s=round(sample.done_s, 4),
        status=sample.status,
        error=sample.error,
        request_id=sample.request_id,
        events=sample.events,
        body_bytes=sample.body_bytes,
    )
